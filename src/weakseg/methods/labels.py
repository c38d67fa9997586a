"""Label maps from score maps, boxes, truth and other label maps: the steps between the methods.

`ir_label` is the seed recipe of IRN (Ahn et al., CVPR 2019; methods.md 4), which AMN and others share.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from weakseg.ops.crf import crf_from_labels, recipe
from weakseg.ops.labels import box_fill, merge, threshold
from weakseg.types import BACKGROUND, IGNORE, LABELS, SCORES, Outputs, Sample, WeaksegError


@dataclass(frozen=True, slots=True)
class Threshold:
    """The class of the largest score, or background where none is above the constant `background`."""

    background: float = 0.2  # EPS 0.20, IRN 0.15, AMN 0.25: sec. 1.5

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """Label map of ``scores``, at the photograph's size."""
        return {LABELS: threshold(sample.scores[SCORES], self.background, sample.size)}


@dataclass(frozen=True, slots=True)
class IrLabel:
    """Seeds that know what they do not know: confident foreground, confident background, 255 between (sec. 4)."""

    conf_fg: float = 0.30
    conf_bg: float = 0.05
    recipe: str = "irn_label"
    confidence: float = 0.7

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """The class where the high threshold keeps one, 0 where even the low one keeps none, 255 elsewhere."""
        ids = torch.cat([torch.tensor([BACKGROUND], dtype=torch.uint8), sample.present])

        def refined(background: float) -> Tensor:
            labels = threshold(sample.scores[SCORES], background, sample.size)
            image = sample.image.as_subclass(Tensor)
            return crf_from_labels(image, labels, ids, recipe(self.recipe), self.confidence)

        foreground, background = refined(self.conf_fg), refined(self.conf_bg)
        labels = foreground.clone()
        labels[foreground == BACKGROUND] = IGNORE
        labels[(foreground == BACKGROUND) & (background == BACKGROUND)] = BACKGROUND
        return {LABELS: labels}


@dataclass(frozen=True, slots=True)
class BoxFill:
    """Every box filled with its class, smaller boxes on top; the first baseline of BANA (sec. 7.6)."""

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """Label map of the boxes."""
        if sample.boxes is None or sample.box_labels is None:
            raise WeaksegError(f"{sample.id} has no boxes; annotate it, or leave it out of the list")
        return {LABELS: box_fill(sample.boxes.as_subclass(Tensor), sample.box_labels, sample.size)}


@dataclass(frozen=True, slots=True)
class Truth:
    """The true masks as seeds, for the supervised reference or for corrected masks; the manifest counts them."""

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """The photograph's true mask."""
        if sample.mask is None:
            raise WeaksegError(f"{sample.id} has no true mask; leave it out of the list")
        return {LABELS: sample.mask.as_subclass(Tensor).clone()}


@dataclass(frozen=True, slots=True)
class Merge:
    """Label map ``over`` laid over ``base``; where ``over`` is 255, or missing for the photograph, ``base`` stays."""

    needs: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[tuple[str, ...]] = (LABELS,)
    optional: ClassVar[frozenset[str]] = frozenset({"over"})

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """The merged label map."""
        if "base" not in sample.seeds:
            raise WeaksegError(f"labels.merge reads seeds {{base: step, over: step}}; it got {sorted(sample.seeds)}")
        base = sample.seeds["base"].as_subclass(Tensor)
        over = sample.seeds.get("over")
        return {LABELS: base.clone() if over is None else merge(base, over.as_subclass(Tensor))}


METHODS = {
    "threshold": Threshold(),
    "ir_label": IrLabel(),
    "box_fill": BoxFill(),
    "truth": Truth(),
    "merge": Merge(),
}
