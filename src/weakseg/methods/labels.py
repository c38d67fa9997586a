"""Label maps without a network: threshold, IRN's confident seeds, filled boxes, the truth, one map over another.

``ir_label`` is IRN's preparation of seeds (Ahn et al., "Weakly Supervised Learning of Instance Segmentation with
Inter-pixel Relations", CVPR 2019; methods.md 4), which AMN shares. Each makes one label map under the key ``labels``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from weakseg.ops.crf import crf_from_labels, recipe
from weakseg.ops.labels import box_fill, foreground, merge, threshold, winners
from weakseg.types import BACKGROUND, IGNORE, LABELS, SCORES, LabelMap, Sample, ScoreMap, WeaksegError

T = TypeVar("T")


def confident_labels(foreground: LabelMap, background: LabelMap) -> LabelMap:
    """Labels where two opinions are sure: class where `foreground` says so, 0 where both say background, else 255.

    Args:
        foreground: uint8 (H, W), found with a high background score: what is not background here surely is not.
        background: uint8 (H, W), found with a low one: what is background here surely is.

    Returns:
        uint8 (H, W).

    >>> fg, bg = torch.tensor([[3, 0, 0]], dtype=torch.uint8), torch.tensor([[3, 3, 0]], dtype=torch.uint8)
    >>> confident_labels(fg, bg)
    tensor([[  3, 255,   0]], dtype=torch.uint8)
    """
    labels = torch.where(foreground == BACKGROUND, IGNORE, foreground)
    return torch.where((foreground == BACKGROUND) & (background == BACKGROUND), BACKGROUND, labels)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Winner among the tagged classes and a constant background score, or the maps' own background."""

    needs: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    background: float | None = 0.2  # sec. 2.1 and 6.5; IRN's maps 0.15, AMN's 0.25 (sec. 1.5). None: map 0 (AMN, PSA)

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the score maps ``scores``."""
        scores = _scores(sample)
        if self.background is None:
            return {LABELS: winners(scores, sample.size)}
        return {LABELS: threshold(scores, self.background, sample.size)}


@dataclass(frozen=True, slots=True)
class IrLabel:
    """Confident seeds: two thresholds, a CRF on the labels of each, 255 where the two disagree (methods.md 4)."""

    needs: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    conf_fg: float = 0.30  # IRN; AdvCAM and RIB 0.35, AMN's maps 0.45
    conf_bg: float = 0.05  # IRN; AdvCAM and AMN 0.15, RIB 0.17
    crf: str = "irn_label"  # sec. 1.4
    confidence: float = 0.7  # sec. 1.4, of a label in the CRF's unary

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the score maps ``scores``; a photograph without tags is background.

        A background map of theirs (AMN's) takes no part: `conf_fg` and `conf_bg` stand in its place (methods.md 8.5).
        """
        scores = foreground(_scores(sample))
        opinions = (self._opinion(scores, sample, at) for at in (self.conf_fg, self.conf_bg))
        return {LABELS: confident_labels(*opinions)}

    def _opinion(self, scores: ScoreMap, sample: Sample, background: float) -> LabelMap:
        labels = threshold(scores, background, sample.size)
        ids = torch.cat([scores.ids.new_zeros(1), scores.ids])
        return crf_from_labels(sample.image.as_subclass(Tensor), labels, ids, recipe(self.crf), self.confidence)


@dataclass(frozen=True, slots=True)
class BoxFill:
    """Every box filled with its class, smaller boxes on top: the naive baseline of box supervision."""

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the boxes."""
        if sample.boxes is None or sample.box_labels is None:
            raise WeaksegError(f"{sample.id} has no boxes: labels.box_fill needs an annotation for every photograph")
        return {LABELS: box_fill(sample.boxes.as_subclass(Tensor), sample.box_labels, sample.size)}


@dataclass(frozen=True, slots=True)
class Truth:
    """The true mask as a seed: the only door through which truth reaches training, and the manifest counts it."""

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` = the true mask."""
        if sample.mask is None:
            raise WeaksegError(f"{sample.id} has no true mask: give labels.truth a list of photographs that have one")
        return {LABELS: sample.mask.as_subclass(Tensor).clone()}


@dataclass(frozen=True, slots=True)
class Merge:
    """The seeds ``over`` laid on the seeds ``base``; a photograph without ``over`` keeps its ``base``."""

    needs: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[tuple[str, ...]] = (LABELS,)
    optional: ClassVar[frozenset[str]] = frozenset({"over"})

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the seeds ``base`` and, where they exist, ``over``."""
        base = _input(sample, sample.seeds, "base", "seeds").as_subclass(Tensor)
        over = sample.seeds.get("over")
        return {LABELS: base.clone() if over is None else merge(base, over.as_subclass(Tensor))}


def _scores(sample: Sample) -> ScoreMap:
    return _input(sample, sample.scores, SCORES, "scores")


def _input(sample: Sample, inputs: Mapping[str, T], name: str, kind: str) -> T:
    if name not in inputs:
        raise WeaksegError(
            f"{sample.id}: this step reads the {kind} {name!r} and got {sorted(inputs) or 'none'}: "
            f"name an earlier step under `{kind}` in the recipe"
        )
    return inputs[name]


METHODS = {
    "threshold": Threshold(),
    "ir_label": IrLabel(),
    "box_fill": BoxFill(),
    "truth": Truth(),
    "merge": Merge(),
}
