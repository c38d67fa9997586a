"""Label maps against true masks: one confusion matrix over the list, and one number a photograph to pick some by."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.evaluate.conventions import conventions, names, plain
from weakseg.ops.metrics import AbsentClass, IgnoredPrediction, confusion_matrix, iou_table
from weakseg.types import BACKGROUND, LabelMap, WeaksegError


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Pixels of a list of masks.

    Attributes:
        matrix: int64 (C + 1, C + 2), see `ops.metrics.confusion_matrix`.
        per_image: mIoU of each photograph over the classes in its truth or prediction, 0-1.
        without_truth: photographs that could not be judged.
        with_ignored: photographs in which some counted pixel is predicted 255.
        seconds: wall time.
    """

    matrix: Tensor
    per_image: dict[str, float]
    without_truth: int
    with_ignored: int
    seconds: float


def evaluate_masks(
    read_pred: Callable[[str], LabelMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    ignored_prediction: IgnoredPrediction = "miss",
    absent: AbsentClass = "irn",
    threads: int = 2,
) -> dict[str, Any]:
    """mIoU and what is behind it; all fractions 0-1, all JSON-able (None = a class that is skipped).

    Args:
        read_pred: id -> label map at the photograph's size.
        read_truth: id -> true mask, or None: that photograph is left out and counted in ``without_truth``.
        ids: the list.
        classes: the C foreground names.
        ignored_prediction, absent: conventions, see `ops.metrics.iou_table`.
        threads: photographs read and counted at once.

    Returns:
        ``miou``; ``classes`` (background first) with ``iou``, ``precision``, ``recall`` beside; ``confusion``
        (rows truth, last column predicted 255); ``pixel_accuracy``; ``background_share`` and
        ``truth_background_share`` of the counted pixels; ``ignored_share`` of them predicted 255, in
        ``ignored_images`` photographs; ``all_background_miou``, what an empty mask would score; ``per_image`` mIoU by
        id; ``images``, ``without_truth``; ``conventions`` in words; ``seconds``, ``images_per_second``.

    Raises:
        WeaksegError: no photograph has truth; sizes differ; an id that the class list lacks (the photograph is named).
    """
    counts = count_masks(read_pred, read_truth, ids, len(classes) + 1, threads=threads)
    return summarise(counts, classes, ignored_prediction=ignored_prediction, absent=absent)


def count_masks(
    read_pred: Callable[[str], LabelMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    num_classes: int,
    *,
    threads: int = 2,
) -> Counts:
    """One pass over the files; `num_classes` is C + 1."""

    def count(id: str) -> tuple[Tensor, float] | None:
        truth = read_truth(id)
        if truth is None:
            return None
        matrix = confusion_matrix(read_pred(id), truth, num_classes)
        return matrix, float(iou_table(matrix).mean)

    start = time.perf_counter()
    total = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
    per_image: dict[str, float] = {}
    without_truth = with_ignored = 0
    for id, found in each(count, ids, threads, "judge"):
        if found is None:
            without_truth += 1
            continue
        matrix, miou = found
        total += matrix
        with_ignored += bool(matrix[:, -1].any())
        if miou == miou:  # nan: the whole truth is 255
            per_image[id] = miou
    if not total.any():
        raise WeaksegError(
            f"nothing to judge: none of {len(ids)} photographs has a true mask with a pixel other than 255"
        )
    return Counts(total, per_image, without_truth, with_ignored, time.perf_counter() - start)


def summarise(
    counts: Counts,
    classes: Sequence[str],
    *,
    ignored_prediction: IgnoredPrediction = "miss",
    absent: AbsentClass = "irn",
) -> dict[str, Any]:
    """The numbers of `evaluate_masks` from its counts."""
    matrix, pixels = counts.matrix, int(counts.matrix.sum())
    scores = iou_table(matrix, ignored_prediction, absent)
    empty = torch.zeros_like(matrix)
    empty[:, BACKGROUND] = matrix.sum(1)
    judged = int(pixels - matrix[:, -1].sum()) if ignored_prediction == "drop" else pixels
    right = int(matrix.diagonal().sum())
    if ignored_prediction == "background":
        right += int(matrix[BACKGROUND, -1])
    images = len(counts.per_image)
    return {
        "kind": "masks",
        "miou": float(scores.mean),
        "classes": names(list(classes)),
        "iou": plain(scores.iou),
        "precision": plain(scores.precision),
        "recall": plain(scores.recall),
        "pixel_accuracy": right / judged if judged else None,
        "background_share": int(matrix[:, BACKGROUND].sum()) / pixels,
        "truth_background_share": int(matrix[BACKGROUND].sum()) / pixels,
        "ignored_share": int(matrix[:, -1].sum()) / pixels,
        "ignored_images": counts.with_ignored,
        "all_background_miou": float(iou_table(empty, ignored_prediction, absent).mean),
        "confusion": matrix.tolist(),
        "per_image": counts.per_image,
        "images": images,
        "without_truth": counts.without_truth,
        "conventions": conventions(ignored_prediction, absent),
        "seconds": counts.seconds,
        "images_per_second": images / max(counts.seconds, 1e-9),
    }
