"""DenseCRF as a refiner. Krähenbühl and Koltun, NIPS 2011, with the numbers of the papers that use it.

Supervision: image tags. `crf.labels` refines a label map over the photograph's own classes, as IRN does with its
seeds; `crf.scores` refines score maps under a background of (1 - max)^alpha, as PSA does. The numbers are those of a
named recipe (`weakseg.ops.crf.RECIPES`), each of which can be overridden.
"""

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weakseg.ops.crf import CrfImage, CrfParams, crf_from_labels, crf_from_scores, crf_image, crf_with_alpha, recipe
from weakseg.types import BACKGROUND, IGNORE, LABELS, SCORES, SEEDS, MapsOf, Outputs, Sample, ScoreMap, WeaksegError


@dataclass(frozen=True)
class _Crf:
    """The kernels: a recipe's, number by number replaced where a field is not None.

    Attributes:
        recipe: a name in `RECIPES`.
        scale_factor: every sxy is divided by it.
        image: ``rgb``, or ``wrapped_bgr`` for the image-argument bug of BANA's and deeplab-pytorch's scripts.
        iterations, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat: as in `CrfParams`.
    """

    recipe: str
    scale_factor: float = 1.0
    image: CrfImage = "rgb"
    iterations: int | None = None
    gaussian_sxy: float | None = None
    gaussian_compat: float | None = None
    bilateral_sxy: float | None = None
    bilateral_srgb: float | None = None
    bilateral_compat: float | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})

    def __post_init__(self) -> None:
        assert self.params  # raises here, not at the first photograph, if the recipe or a width is impossible
        if self.image not in ("rgb", "wrapped_bgr"):
            raise WeaksegError(f"the CRF's image is rgb or wrapped_bgr; got {self.image!r}")

    @property
    def params(self) -> CrfParams:
        """The recipe with its overrides."""
        overrides = {f.name: getattr(self, f.name) for f in fields(CrfParams) if getattr(self, f.name) is not None}
        return replace(recipe(self.recipe), **overrides)

    def _photograph(self, sample: Sample) -> Tensor:
        return crf_image(sample.image, self.image)


@dataclass(frozen=True)
class CrfLabels(_Crf):
    """Label map in, label map out: IRN's CRF over the photograph's own labels (methods.md 4, 1.4).

    Reads `sample.seeds["seeds"]`. The classes to choose from are background, the tags, and whatever else the seeds
    hold; with background alone the labels stay as they are. Unknown pixels (255) get the CRF's answer.

    Attributes:
        confidence: how far to trust the labels, g.
    """

    recipe: str = "irn_label"
    confidence: float = 0.7

    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """The refined label map, uint8 (H, W), under ``labels``."""
        labels = sample.seeds[SEEDS].as_subclass(Tensor)
        seen = torch.unique(labels)
        ids = torch.unique(torch.cat([seen.new_tensor([BACKGROUND]), sample.present, seen[seen != IGNORE]]))
        refined = crf_from_labels(
            self._photograph(sample), labels, ids, self.params, self.confidence, scale_factor=self.scale_factor
        )
        return {LABELS: refined}


@dataclass(frozen=True)
class CrfScores(_Crf):
    """Score maps in, probabilities with background and their label map out: PSA's CRF with alpha (methods.md 3, 1.4).

    Reads `sample.scores["scores"]`, resized (bilinear) to the photograph if smaller.

    Attributes:
        alpha: exponent of the background; small = much background. PSA makes its labels with 4 and 32, SEAM 4 and 24,
            AEFT 2 and 21. None: the maps hold their background (after a random walk, or a network's probabilities).
    """

    recipe: str = "psa"
    alpha: float | None = 4.0

    writes: ClassVar[tuple[str, ...]] = (SCORES, LABELS)

    @property
    def reads(self) -> MapsOf:
        """Maps that hold their background if no alpha makes it."""
        return "background" if self.alpha is None else "tags"

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """``scores``: ScoreMap with ids [0, present...]; ``labels``: its argmax, uint8 (H, W)."""
        maps, image = _full_size(sample.scores[SCORES], sample.size), self._photograph(sample)
        if self.alpha is None:
            refined = crf_from_scores(image, maps, self.params, scale_factor=self.scale_factor)
        else:
            refined = crf_with_alpha(image, maps, self.alpha, self.params, scale_factor=self.scale_factor)
        return {SCORES: refined, LABELS: refined.ids[refined.scores.argmax(0)]}


def _full_size(maps: ScoreMap, size: tuple[int, int]) -> ScoreMap:
    """The score maps at `size` (height, width)."""
    if tuple(maps.scores.shape[1:]) == size or len(maps.ids) == 0:
        return maps
    scores = F.interpolate(maps.scores[None], size, mode="bilinear", align_corners=False)[0]
    return replace(maps, scores=scores)


METHODS = {"labels": CrfLabels(), "scores": CrfScores()}
