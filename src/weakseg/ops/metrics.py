"""Numbers of this field: one confusion matrix over a whole list of masks, and the average precision of tags.

VOC mIoU is the mean of ``TP / (TP + FP + FN)`` over ONE matrix of all pixels; averaging over images gives another
number. Papers' tools differ in how they count a predicted 255 and a class without pixels, by tens of points on maps of
few classes (methods.md 1.5), so both conventions are arguments here and `TOOL_RULES` names those of known tools.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numba
import numpy as np
import torch
from torch import Tensor

from weakseg.types import BACKGROUND, IGNORE, WeaksegError

IgnoredPrediction: TypeAlias = Literal["miss", "drop", "background", "class"]
"""How a predicted 255 counts: ``miss`` for the true class and a false positive of none; ``drop``: the pixel is left
out; ``background``: as if class 0 were predicted; ``class``: a miss, and if there is any, 255 is one class more in the
mean, with IoU 0."""
AbsentClass: TypeAlias = Literal["irn", "zero", "skip_truthless"]
"""IoU of a class without true pixels: ``irn``: skipped if nobody predicted it, else 0; ``zero``: always 0;
``skip_truthless``: always skipped."""

TOOL_RULES: dict[str, tuple[IgnoredPrediction, AbsentClass]] = {
    "weakseg": ("miss", "irn"),
    "IRN": ("background", "irn"),
    "IRN eval_cam": ("class", "irn"),  # without remapping: of 21 classes the mean is 21/22 of what it would be
    "BANA": ("miss", "irn"),  # its masks hold no 255 where it evaluates, any rule gives its number
    "EPS": ("drop", "irn"),
    "SEAM": ("miss", "zero"),
    "AEFT": ("miss", "zero"),
    "deeplab-pytorch": ("miss", "skip_truthless"),  # a network predicts no 255
}
"""(ignored_prediction, absent) of the evaluators behind published numbers, methods.md 1.5."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What one confusion matrix (or a stack of them, `...`) says; all float64 fractions 0-1.

    Attributes:
        iou: (..., C + 1), nan where the class is skipped.
        mean: (...), the mean of the classes that are not skipped; nan if all are.
        precision: (..., C + 1), nan where the class was never predicted.
        recall: (..., C + 1), nan where the class has no true pixel.
    """

    iou: Tensor
    mean: Tensor
    precision: Tensor
    recall: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TagScores:
    """Average precision of image tags, fractions 0-1.

    Attributes:
        per_class: float64 (C,), nan for a class without a positive image.
        per_class_chance: float64 (C,), what random scores would reach in the long run: the share of positive images.
        mean: mAP, over the classes with a positive image; nan if there is none.
        chance: the mean chance of the same classes.
    """

    per_class: Tensor
    per_class_chance: Tensor
    mean: float
    chance: float


def confusion_matrix(pred: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of one mask by true and predicted class.

    Args:
        pred: uint8 (H, W), 0..C or 255.
        truth: uint8 (H, W), 0..C or 255; pixels of truth 255 are not counted.
        num_classes: C + 1, background included.

    Returns:
        int64 (C + 1, C + 2) on the CPU: rows truth, columns prediction, last column predicted 255.

    Raises:
        WeaksegError: sizes differ, or a mask holds an id beyond C that is not 255.

    >>> pred, truth = torch.tensor([[[0, 1, 255]], [[0, 0, 1]]], dtype=torch.uint8)
    >>> confusion_matrix(pred, truth, 2)
    tensor([[1, 1, 0],
            [0, 0, 1]])
    """
    for name, labels in (("prediction", pred), ("truth", truth)):
        if labels.dtype != torch.uint8 or labels.ndim != 2:
            raise WeaksegError(f"the {name} is uint8 (H, W); got {labels.dtype} {tuple(labels.shape)}")
    if pred.shape != truth.shape:
        raise WeaksegError(
            f"the prediction is {tuple(pred.shape)} and the truth {tuple(truth.shape)} (height, width); "
            "predict at the photograph's own size, or resize the prediction by nearest neighbour"
        )
    place = np.full(256, num_classes + 1)  # ids, then 255, then whatever should not be there
    place[:num_classes], place[IGNORE] = np.arange(num_classes), num_classes
    counts = np.zeros((num_classes + 2, num_classes + 2), np.int64)
    _count_pairs(_flat(pred), _flat(truth), place, counts)
    if counts[-1].any() or counts[:num_classes, -1].any():
        _refuse(_flat(pred), _flat(truth), num_classes)
    return torch.from_numpy(counts[:num_classes, : num_classes + 1].copy())


def iou_table(matrix: Tensor, ignored_prediction: IgnoredPrediction = "miss", absent: AbsentClass = "irn") -> Scores:
    """IoU, precision and recall per class from a confusion matrix.

    ``IoU_c = TP / (TP + FP + FN)``; the arguments say how a predicted 255 and a class without pixels count; see
    `TOOL_RULES` for the pairs that published numbers used.

    Args:
        matrix: int64 (..., C + 1, C + 2) of `confusion_matrix`; sums of them over a list; or a stack.
        ignored_prediction: ``miss``, ``drop``, ``background`` or ``class``.
        absent: ``irn``, ``zero`` or ``skip_truthless``.

    Raises:
        WeaksegError: an unknown convention, or a matrix of another shape.

    >>> scores = iou_table(torch.tensor([[2, 1, 0, 0], [0, 1, 0, 2], [0, 0, 0, 0]]))
    >>> [round(x, 2) for x in scores.iou.tolist()], round(scores.mean.item(), 3)
    ([0.67, 0.25, nan], 0.458)
    """
    if ignored_prediction not in get_args(IgnoredPrediction) or absent not in get_args(AbsentClass):
        raise WeaksegError(
            f"conventions are ignored_prediction = {' | '.join(get_args(IgnoredPrediction))} and "
            f"absent = {' | '.join(get_args(AbsentClass))}; got {ignored_prediction!r} and {absent!r}"
        )
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] + 1:
        raise WeaksegError(f"a confusion matrix is (..., C + 1, C + 2); got {tuple(matrix.shape)}")
    square, ignored = matrix[..., :-1].double(), matrix[..., -1].double()
    if ignored_prediction == "background":
        square = square.clone()
        square[..., BACKGROUND] += ignored
    true_positives = square.diagonal(dim1=-2, dim2=-1)
    predicted = square.sum(-2)
    true = square.sum(-1) + (ignored if ignored_prediction in ("miss", "class") else 0)
    iou = true_positives / (predicted + true - true_positives)  # 0 / 0 = nan: neither true nor predicted
    if absent == "zero":
        iou = iou.nan_to_num(0.0)
    elif absent == "skip_truthless":
        iou = iou.masked_fill(true == 0, torch.nan)
    mean = iou.nanmean(-1)
    if ignored_prediction == "class":
        counted = (~iou.isnan()).sum(-1)
        mean = mean * counted / (counted + ignored.any(-1))
    return Scores(iou, mean, true_positives / predicted, true_positives / true)


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Area under the precision-recall steps of one class: ``sum_n (R_n - R_(n-1)) P_n`` over distinct scores.

    Args:
        scores: (N,), higher = more likely; equal scores are one threshold.
        labels: bool or 0/1 (N,).

    Returns:
        0-1; nan without a positive label.

    Raises:
        WeaksegError: a score that is not finite, or other shapes.

    >>> average_precision(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, False, True]))
    0.8333333333333333
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise WeaksegError(f"scores and labels are (N,); got {tuple(scores.shape)} and {tuple(labels.shape)}")
    if not bool(torch.isfinite(scores).all()):
        raise WeaksegError("average precision needs finite scores; these hold nan or infinity: the training diverged")
    order = torch.argsort(scores, descending=True, stable=True)
    ranked = scores[order]
    hits = labels[order].double().cumsum(0)
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    last = torch.ones_like(ranked, dtype=torch.bool)  # last image of each group of equal scores
    last[:-1] = ranked[1:] != ranked[:-1]
    rank = torch.arange(1, len(ranked) + 1, dtype=torch.float64, device=ranked.device)
    precision, recall = (hits / rank)[last], (hits / hits[-1])[last]
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())


def tag_map(logits: Tensor, tags: Tensor) -> TagScores:
    """Mean average precision of a classifier's tags, beside what chance would give.

    Args:
        logits: (N, C), any monotone score.
        tags: bool or 0/1 (N, C).

    Raises:
        WeaksegError: shapes differ, or a logit is not finite.

    >>> result = tag_map(torch.tensor([[2.0, -1.0], [1.0, 3.0]]), torch.tensor([[True, False], [False, True]]))
    >>> result.per_class.tolist(), result.mean, result.chance
    ([1.0, 1.0], 1.0, 0.5)
    """
    if logits.ndim != 2 or logits.shape != tags.shape:
        raise WeaksegError(f"logits and tags are (N, C); got {tuple(logits.shape)} and {tuple(tags.shape)}")
    columns = zip(logits.unbind(1), tags.unbind(1), strict=True)
    per_class = torch.tensor([average_precision(s, t) for s, t in columns], dtype=torch.float64)
    share = tags.double().cpu().mean(0)
    return TagScores(per_class, share, float(per_class.nanmean()), float(share[~per_class.isnan()].mean()))


def _flat(labels: Tensor) -> np.ndarray:
    return np.ascontiguousarray(labels.detach().cpu().numpy()).ravel()


@numba.njit(nogil=True, cache=True)
def _count_pairs(pred: np.ndarray, truth: np.ndarray, place: np.ndarray, counts: np.ndarray) -> None:
    """Blocks of one label each are counted at once: most of a mask is."""
    block = 32
    whole = pred.size // block * block
    for start in range(0, whole, block):
        p, t = pred[start], truth[start]
        differs = np.uint8(0)
        for i in range(start, start + block):
            differs |= (pred[i] ^ p) | (truth[i] ^ t)
        if differs:
            for i in range(start, start + block):
                counts[place[truth[i]], place[pred[i]]] += 1
        else:
            counts[place[t], place[p]] += block
    for i in range(whole, pred.size):
        counts[place[truth[i]], place[pred[i]]] += 1


def _refuse(pred: np.ndarray, truth: np.ndarray, num_classes: int) -> None:
    """Name the ids that are none; a prediction counts only where the truth is not 255."""
    for name, labels in (("prediction", pred[truth != IGNORE]), ("truth", truth)):
        strange = [k for k in np.unique(labels).tolist() if num_classes <= k < IGNORE]
        if strange:
            raise WeaksegError(
                f"the {name} holds class id {', '.join(map(str, strange[:5]))}, but ids go from 0 to "
                f"{num_classes - 1} (and 255 = ignore); is the class list the one these masks were made with?"
            )
