"""Score maps against true masks at every background threshold; the fixed and the best one are told apart."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.evaluate.activation import activation_histogram, foreground_activation, per_class, threshold_histogram
from weakseg.evaluate.conventions import conventions, names, plain
from weakseg.ops.metrics import AbsentClass, iou_table
from weakseg.ops.thresholds import JointHistogram, Sweep, best_of_histogram, even_thresholds, joint_histogram
from weakseg.types import LabelMap, ScoreMap, WeaksegError


def evaluate_scores(
    read_scores: Callable[[str], ScoreMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    thresholds: int = 256,
    fixed: float = 0.2,
    absent: AbsentClass = "irn",
    threads: int = 2,
) -> dict[str, Any]:
    """The threshold curve of score maps; all fractions 0-1, all JSON-able (None = a class that is skipped).

    Args:
        read_scores: id -> score map at the photograph's size (key ``full``).
        read_truth: id -> true mask, or None: that photograph is left out and counted in ``without_truth``.
        ids: the list.
        classes: the C foreground names.
        thresholds: so many, even in 0..1; `fixed` is added if it is not among them.
        fixed: the background threshold that was chosen without the truth.
        absent: how a class without pixels counts, see `ops.metrics.iou_table`.
        threads: photographs read and counted at once.

    Returns:
        ``fixed`` and ``best``: each ``threshold``, ``miou``, ``iou``, ``precision``, ``recall``; ``classes``
        (background first); ``curve``: ``thresholds``, ``miou``; ``plateau`` [first, last] threshold around the best
        within one point of it, ``plateau_width``; ``area`` under the curve; ``per_image_best``: ``edges`` and
        ``counts`` of a histogram of each photograph's own best threshold, ``mean``, ``std``; ``per_class``: curve,
        best and histogram of each class (`activation.per_class`); ``foreground_activation``: how high the maps are on
        their objects (`activation.activation_histogram`); ``images``, ``without_truth``; ``conventions`` in words;
        ``seconds``, ``images_per_second``.

    Raises:
        WeaksegError: no photograph has truth; maps of another size; a threshold outside 0..1.
    """
    levels = _thresholds(thresholds, fixed)

    def count(id: str) -> tuple[JointHistogram, float, dict[int, Tensor]] | None:
        truth = read_truth(id)
        if truth is None:
            return None
        maps = read_scores(id)
        joint = joint_histogram(maps, truth, levels)
        return joint, best_of_histogram(joint, levels), foreground_activation(maps, truth)

    start = time.perf_counter()
    sweep = Sweep(len(classes) + 1, levels)
    own: list[tuple[float, tuple[int, ...]]] = []
    activations: dict[int, Tensor] = {}
    without_truth = 0
    for _, found in each(count, ids, threads, "judge"):
        if found is None:
            without_truth += 1
            continue
        joint, best, inside = found
        sweep.add(joint)
        activations |= {k: activations.get(k, 0) + pixels for k, pixels in inside.items()}
        if best == best:  # nan: the whole truth is 255
            own.append((best, joint.truths))
    seconds = time.perf_counter() - start
    curve = sweep.scores(absent)
    return {
        "kind": "sweep",
        "classes": names(list(classes)),
        "fixed": _at(sweep, fixed, absent),
        "best": _at(sweep, curve.best_threshold, absent),
        "curve": {"thresholds": [round(t, 7) for t in curve.thresholds.tolist()], "miou": curve.miou.tolist()},
        "plateau": list(curve.plateau),
        "plateau_width": curve.plateau_width,
        "area": curve.area,
        "per_image_best": threshold_histogram([best for best, _ in own]),
        "per_class": per_class(curve, own),
        "foreground_activation": activation_histogram(activations, len(classes)),
        "images": len(own),
        "without_truth": without_truth,
        "conventions": conventions("miss", absent),
        "seconds": seconds,
        "images_per_second": len(own) / max(seconds, 1e-9),
    }


def _thresholds(count: int, fixed: float) -> Tensor:
    if not 0 <= fixed <= 1:
        raise WeaksegError(f"the fixed background threshold lies in 0..1 as the scores do; got {fixed}")
    return torch.from_numpy(np.union1d(even_thresholds(count).numpy(), np.float32(fixed)))


def _at(sweep: Sweep, threshold: float, absent: AbsentClass) -> dict[str, Any]:
    index = int((sweep.thresholds.double() - threshold).abs().argmin())
    scores = iou_table(sweep.matrices()[index], absent=absent)
    return {
        "threshold": round(threshold, 6),
        "miou": float(scores.mean),
        "iou": plain(scores.iou),
        "precision": plain(scores.precision),
        "recall": plain(scores.recall),
    }
