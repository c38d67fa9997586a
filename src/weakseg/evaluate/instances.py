"""Instances against true instances: average precision by COCO's rule (pycocotools) and by VOC's (IRN's numbers).

COCO: of each class the predictions of the list, highest score first, each take the best object that is left in their
photograph at the IoU asked for; precision is read at 101 recalls; the mean runs over the classes that occur and, for
AP50:95, over the IoUs 0.50, 0.55 .. 0.95. VOC: a prediction looks at the object it overlaps most and is wrong if that
one is taken; the area below the whole curve of precision counts. The two differ in the first decimal: both are given.
"""

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.types import Instances, WeaksegError

Truth: TypeAlias = tuple[Instances, Tensor]
"""True instances, and bool (K,): which of them are crowds."""
MOST = 100
"""Predictions of a class and photograph that COCO's rule looks at, best first."""


class Found(NamedTuple):
    """One photograph: masks as run lengths, with the numbers that the two rules need.

    Attributes:
        size: (H, W), pixels.
        true: (class id, crowd, run lengths) of each object.
        predicted: (class id, score, run lengths) of each prediction.
    """

    size: tuple[int, int]
    true: list[tuple[int, bool, dict[str, Any]]]
    predicted: list[tuple[int, float, dict[str, Any]]]


def evaluate_instances(
    read_pred: Callable[[str], Instances],
    read_truth: Callable[[str], Truth | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    threads: int = 2,
) -> dict[str, Any]:
    """Average precision of instance masks; all fractions 0-1, all JSON-able (None = a class without a true object).

    Args:
        read_pred: id -> instances at the photograph's size.
        read_truth: id -> true instances and which are crowds, or None: that photograph is left out and counted.
        ids: the list.
        classes: the C foreground names.
        threads: photographs read and encoded at once.

    Returns:
        ``ap50_voc`` (VOC's rule), ``ap50``, ``ap75``, ``ap`` (COCO's, the last over IoUs 0.50 to 0.95), the same by
        class under ``per_class``; ``ap_at`` for each of ``ious``; ``instances`` true and ``predictions``; ``images``,
        ``without_truth``; ``conventions`` in words; ``seconds``.

    Raises:
        WeaksegError: there is nothing to judge, the source holds no instances, or sizes differ.
    """

    def encode(id: str) -> Found | None:
        truth = read_truth(id)
        return None if truth is None else _encoded(read_pred(id), truth)

    start = time.perf_counter()
    judged = [(id, found) for id, found in each(encode, ids, threads, "judge") if found is not None]
    photographs = [found for _, found in judged]
    count = sum(not crowd for found in photographs for _, crowd, _ in found.true)
    if not count:
        raise WeaksegError(f"nothing to judge: none of {len(ids)} photographs has a true instance")
    ious, precision = coco_precision(photographs, len(classes))
    voc = [voc_average_precision(photographs, k) for k in range(1, len(classes) + 1)]
    at50, at75 = (_by_class(precision[ious.index(iou)]) for iou in (0.5, 0.75))
    return {
        "kind": "instances",
        "ap50_voc": _mean(voc),
        "ap50": _mean(at50),
        "ap75": _mean(at75),
        "ap": _mean(_by_class(precision.mean(axis=0))),
        "classes": list(classes),
        "per_class": {"ap50_voc": voc, "ap50": at50, "ap75": at75, "ap": _by_class(precision.mean(axis=0))},
        "ious": ious,
        "ap_at": [_mean(_by_class(row)) for row in precision],
        "instances": count,
        "predictions": sum(len(found.predicted) for found in photographs),
        "images": len(judged),
        "without_truth": len(ids) - len(judged),
        "conventions": {
            "AP of VOC": "area below the monotone precision curve at IoU 0.5; a prediction is judged by the object it "
            "overlaps most (methods.md 4; IRN's numbers)",
            "AP of COCO": f"pycocotools: 101 recalls, at most {MOST} predictions of a class and photograph, crowds "
            "neither right nor wrong",
            "true 255": "belongs to no object; a prediction that covers it has so much more area",
            "class without objects": "skipped",
        },
        "seconds": time.perf_counter() - start,
    }


def coco_precision(photographs: Sequence[Found], num_classes: int) -> tuple[list[float], np.ndarray]:
    """pycocotools' average precision: the IoUs, and an array (IoUs, classes), -1 for a class without a true object."""
    categories = [{"id": k} for k in range(1, num_classes + 1)]
    images = [{"id": n, "height": f.size[0], "width": f.size[1]} for n, f in enumerate(photographs)]
    true = [
        _annotation(n, label, runs, iscrowd=int(crowd))
        for n, found in enumerate(photographs)
        for label, crowd, runs in found.true
    ]
    predicted = [
        _annotation(n, label, runs, iscrowd=0, score=score)
        for n, found in enumerate(photographs)
        for label, score, runs in found.predicted
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        judge = COCOeval(_coco(images, categories, true), _coco(images, categories, predicted), "segm")
        judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [MOST], [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 0, 0].mean(axis=1)  # IoUs, classes; -1 everywhere where there is no truth
    return [round(float(iou), 2) for iou in judge.params.iouThrs], precision


def voc_average_precision(photographs: Sequence[Found], label: int, iou: float = 0.5) -> float | None:
    """VOC's average precision of one class: the area below the precision that is monotone in recall.

    Predictions of the whole list come highest score first (equal ones in the order of the list). One is right if the
    object of its class that it overlaps most, by at least `iou`, has not been found yet. Crowds count as absent.
    """
    scores, right, total = [], [], 0
    for found in photographs:
        true = [runs for k, crowd, runs in found.true if k == label and not crowd]
        mine = sorted(((s, runs) for k, s, runs in found.predicted if k == label), key=lambda p: -p[0])
        total += len(true)
        scores += [score for score, _ in mine]
        right += _hits([runs for _, runs in mine], true, iou)
    if not total:
        return None
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.cumsum(np.array(right, bool)[order])
    precision = hits / np.arange(1, len(hits) + 1)
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(hits, prepend=0) * monotone).sum() / total)


def _hits(predicted: list[dict[str, Any]], true: list[dict[str, Any]], least: float) -> list[bool]:
    """Which predictions, in order, are the first to claim the object that they overlap most."""
    if not predicted or not true:
        return [False] * len(predicted)
    overlaps = np.asarray(coco_mask.iou(predicted, true, [0] * len(true)))
    taken: set[int] = set()
    hits = []
    for row in overlaps:
        best = int(row.argmax())
        hits.append(bool(row[best] >= least) and best not in taken)
        if row[best] >= least:
            taken.add(best)
    return hits


def _encoded(predicted: Instances, truth: Truth) -> Found:
    if not isinstance(predicted, Instances):
        raise WeaksegError(
            "instances were wanted, something else came: name a step's instances, such as `seeds: irn/instances` of a "
            "step with `set: {instances: true}`"
        )
    true, crowd = truth
    size = (int(true.masks.shape[1]), int(true.masks.shape[2]))
    if tuple(predicted.masks.shape[1:]) != size:
        raise WeaksegError(f"predicted masks are {tuple(predicted.masks.shape[1:])}, true ones {size} (height, width)")
    return Found(
        size,
        list(zip(true.labels.tolist(), crowd.tolist(), _runs(true.masks), strict=True)),
        list(zip(predicted.labels.tolist(), predicted.scores.tolist(), _runs(predicted.masks), strict=True)),
    )


def _runs(masks: Tensor) -> list[dict[str, Any]]:
    return [coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in masks]


def _annotation(image: int, label: int, runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    area = float(coco_mask.area(runs))
    return {"image_id": image, "category_id": label, "segmentation": runs, "area": area, **more}


def _coco(images: list[Any], categories: list[Any], annotations: list[dict[str, Any]]) -> Any:
    """pycocotools' data set in memory; its annotations count from 1 (it takes 0 for "no object")."""
    data = COCO()
    numbered = [{**a, "id": k} for k, a in enumerate(annotations, start=1)]
    data.dataset = {"images": images, "categories": categories, "annotations": numbered}
    data.createIndex()
    return data


def _by_class(values: np.ndarray) -> list[float | None]:
    return [float(v) if v >= 0 else None for v in values]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
