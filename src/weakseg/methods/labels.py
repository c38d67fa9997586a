"""Label maps without a network: threshold, IRN's confident seeds, boxes filled or cut out, the truth, one upon another.

``ir_label`` is IRN's preparation of seeds (Ahn et al., "Weakly Supervised Learning of Instance Segmentation with
Inter-pixel Relations", CVPR 2019; methods.md 4), which AMN shares. Each makes one label map under the key ``labels``.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from weakseg.ops.box_labels import labels_in_boxes
from weakseg.ops.boxes import box_masks, boxes_of, class_masks, definite_background, filling_prior, pixel_boxes
from weakseg.ops.crf import crf_from_labels, dense_crf, recipe, unary_from_probabilities
from weakseg.ops.labels import box_fill, foreground, merge, threshold, winners
from weakseg.types import BACKGROUND, IGNORE, LABELS, SCORES, LabelMap, MapsOf, Sample, ScoreMap, WeaksegError

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


def ir_label(
    image: Tensor,
    score_map: ScoreMap,
    conf_fg: float = 0.30,
    conf_bg: float = 0.05,
    *,
    crf: str = "irn_label",
    confidence: float = 0.7,
) -> LabelMap:
    """IRN's seeds: a CRF on the labels that each of two thresholds leaves, then `confident_labels` (methods.md 4).

    Args:
        image: uint8 (3, H, W), RGB.
        score_map: maps of the classes present, 0-1; a background map (AMN's) takes no part. Maps of another resolution
            than the photograph are resized first, bilinearly.
        conf_fg: background score under which a class is sure: IRN 0.30, AdvCAM and RIB 0.35, AMN's maps 0.45.
        conf_bg: background score over which background is sure: IRN 0.05, AdvCAM and AMN 0.15, RIB 0.17.
        crf: name of the CRF's numbers (`weakseg.ops.crf.RECIPES`).
        confidence: of a label in the CRF's unary, 0-1.

    Returns:
        uint8 (H, W), present ids, 0 and 255; all background without a class.
    """
    maps, size = foreground(score_map), (int(image.shape[1]), int(image.shape[2]))
    ids = torch.cat([maps.ids.new_zeros(1), maps.ids])

    def opinion(background: float) -> LabelMap:
        labels = threshold(maps, background, size)
        return crf_from_labels(image.as_subclass(Tensor), labels, ids, recipe(crf), confidence)

    return confident_labels(opinion(conf_fg), opinion(conf_bg))


@dataclass(frozen=True, slots=True)
class Threshold:
    """Winner among the tagged classes and a constant background score, or the maps' own background."""

    needs: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    background: float | None = 0.2  # sec. 2.1 and 6.5; IRN's maps 0.15, AMN's 0.25 (sec. 1.5). None: map 0 (AMN, PSA)

    @property
    def reads(self) -> MapsOf:
        """Maps that hold their background if no constant takes its place."""
        return "background" if self.background is None else "tags"

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
        return {
            LABELS: ir_label(
                sample.image, _scores(sample), self.conf_fg, self.conf_bg, crf=self.crf, confidence=self.confidence
            )
        }


@dataclass(frozen=True, slots=True)
class BoxFill:
    """Every box filled with its class, smaller boxes on top: the naive baseline of box supervision."""

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the boxes."""
        return {LABELS: box_fill(*boxes_of(sample), sample.size)}


@dataclass(frozen=True, slots=True)
class GrabCut:
    """The foreground of each box by GrabCut, smaller boxes on top (Rother et al., SIGGRAPH 2004; BANA, Table 1).

    Wants OpenCV, the extra ``weakseg[grabcut]``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    iterations: int = 5
    min_filling: float = 0.0  # a box of which less is left is filled: GrabCut has found nothing in it

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the boxes and the photograph."""
        boxes, labels = boxes_of(sample)
        image = sample.image.as_subclass(Tensor).cpu()
        masks = [grab_cut(image, box, self.iterations, self.min_filling) for box in boxes]
        return {LABELS: _stacked(masks, boxes, labels, sample.size)}


@dataclass(frozen=True, slots=True)
class BoxCrf:
    """A dense CRF from boxes alone: outside is background, the centre of a box its class (WSSL's Bbox-Seg).

    Papandreou et al., ICCV 2015, sec. 3.4. They choose their numbers on true masks and print none; these are ours, the
    CRF is BANA's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    centre: float = 0.2  # share of a box's area
    filling: float = 0.5  # probability of an object in the rest of its box
    crf: str = "bana_stage2"  # sec. 1.4
    scale_factor: float = 1.0  # every sxy is divided by it

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the boxes and the photograph; a class stays in its boxes."""
        boxes, labels = boxes_of(sample)
        if not len(boxes):
            return {LABELS: torch.zeros(sample.size, dtype=torch.uint8)}
        ids = torch.cat([labels.new_zeros(1), labels.unique()])
        prior = filling_prior(boxes, labels, ids, sample.size, centre=self.centre, filling=self.filling)
        image = sample.image.as_subclass(Tensor)
        energies = unary_from_probabilities(prior)
        probabilities = dense_crf(image, energies, recipe(self.crf), scale_factor=self.scale_factor).cpu()
        possible = class_masks(boxes, labels, ids, sample.size)
        told = bool(definite_background(boxes, sample.size).any())
        return {LABELS: labels_in_boxes(probabilities, possible, ids.to(torch.uint8), told=told)}


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
    added: ClassVar[Mapping[str, Any]] = {"opaque": False}  # since runs exist, and what stands for "as before"

    opaque: bool = False  # 255 of ``over`` stays 255, as in a true mask; False: ``base`` shows through

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, LabelMap]:
        """``labels`` from the seeds ``base`` and, where they exist, ``over``."""
        base = _input(sample, sample.seeds, "base", "seeds").as_subclass(Tensor)
        over = sample.seeds.get("over")
        if over is None:
            return {LABELS: base.clone()}
        return {LABELS: (over.clone() if self.opaque else merge(base, over)).as_subclass(Tensor)}


def grab_cut(image: Tensor, box: Tensor, iterations: int = 5, min_filling: float = 0.0) -> Tensor:
    """The foreground of one box.

    A box of which nothing is left, or less than `min_filling`, is filled; so is one that covers the photograph or one
    pixel, where there is nothing to tell apart.

    Args:
        image: uint8 (3, H, W), RGB, on the CPU.
        box: float (4,), XYXY pixels, half-open.
        iterations: of GrabCut.
        min_filling: share of the box, 0-1.

    Returns:
        bool (H, W), within the box.

    Raises:
        WeaksegError: OpenCV is not installed.
    """
    cv2 = _opencv()
    size = (int(image.shape[1]), int(image.shape[2]))
    inside = box_masks(box[None], size)[0]
    if bool(inside.all()) or int(inside.sum()) < 2:
        return inside
    left, top, right, bottom = pixel_boxes(box[None], size)[0].tolist()
    marks, models = np.zeros(size, np.uint8), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.setRNGSeed(0)  # of this thread; k-means draws from it
    pixels, rectangle = (
        np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy()),
        (left, top, right - left, bottom - top),
    )
    try:
        cv2.grabCut(pixels, marks, rectangle, *models, iterations, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # too few pixels for its five Gaussians on either side
        return inside
    found = torch.from_numpy((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)) & inside
    return found if int(found.sum()) > min_filling * int(inside.sum()) else inside


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError:
        raise WeaksegError(
            "labels.grabcut works with OpenCV, which is not installed: pip install 'weakseg[grabcut]'"
        ) from None


def _stacked(masks: Sequence[Tensor], boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> LabelMap:
    """One label map of one mask a box, smaller boxes on top; uint8 (H, W)."""
    out = torch.zeros(size, dtype=torch.uint8)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for k in area.argsort(descending=True, stable=True).tolist():
        out[masks[k]] = int(labels[k])
    return out


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
    "grabcut": GrabCut(),
    "box_crf": BoxCrf(),
    "truth": Truth(),
    "merge": Merge(),
}
