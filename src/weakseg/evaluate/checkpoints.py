"""Which of the networks that a training kept scores best: a choice that some published runs make on the truth.

AEFT keeps the epoch whose maps score best on the training list, from epoch 17 on, at the best threshold in 0.10..0.29,
and the AffinityNet whose masks do, every 200 steps after step 1,590 (methods.md 9.4, 9.5 and 9.8, row 12).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from weakseg.evaluate._threads import each
from weakseg.evaluate.masks import count_masks
from weakseg.ops.metrics import AbsentClass, iou_table
from weakseg.ops.thresholds import JointHistogram, Sweep, joint_histogram
from weakseg.types import LabelMap, ScoreMap

FINAL = "final"
"""Name of the weights that the training ended with."""


class Judged(NamedTuple):
    """One network: mIoU (0-1), and the threshold that its score maps reach it at; None of label maps."""

    miou: float
    threshold: float | None


def evaluate_checkpoints(
    judge: Callable[[nn.Module], Judged], networks: Mapping[str, Callable[[], nn.Module]], final: nn.Module
) -> dict[str, Any]:
    """The mIoU of each kept network and of the final one; all JSON-able.

    Args:
        judge: `judge_scores` or `judge_masks` of what a network makes.
        networks: name -> what loads it, in the order of training; one is held at a time, beside the final one.
        final: the weights that the training ended with.

    Returns:
        ``checkpoints``: for each ``name``, ``miou``, ``threshold``, the last of them `FINAL`; ``best``: the first of
        those with the highest mIoU among the kept ones, or the final one if none was kept; ``final``.
    """
    found = {name: judge(load()) for name, load in networks.items()}
    rows = [{"name": name, **judged._asdict()} for name, judged in found.items()]
    last = {"name": FINAL, **judge(final)._asdict()}
    best = max(rows or [last], key=lambda row: row["miou"])
    return {"checkpoints": [*rows, last], "best": best, "final": last}


def judge_scores(
    read_scores: Callable[[str], ScoreMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    num_classes: int,
    thresholds: Tensor,
    *,
    absent: AbsentClass = "irn",
    threads: int = 1,
) -> Judged:
    """The highest mIoU over `thresholds` (n,), sorted; `num_classes` is C + 1. Photographs without truth are left out.

    Raises:
        WeaksegError: no photograph has truth.
    """

    def count(id: str) -> JointHistogram | None:
        truth = read_truth(id)
        return None if truth is None else joint_histogram(read_scores(id), truth, thresholds)

    sweep = Sweep(num_classes, thresholds)
    for _, joint in each(count, ids, threads, "judge"):
        if joint is not None:
            sweep.add(joint)
    curve = sweep.scores(absent)
    return Judged(curve.best, round(curve.best_threshold, 6))


def judge_masks(
    read_pred: Callable[[str], LabelMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    num_classes: int,
    *,
    absent: AbsentClass = "irn",
    threads: int = 1,
) -> Judged:
    """The mIoU of label maps; `num_classes` is C + 1. Photographs without truth are left out.

    Raises:
        WeaksegError: no photograph has truth.
    """
    counts = count_masks(read_pred, read_truth, ids, num_classes, threads=threads)
    return Judged(float(iou_table(counts.matrix, absent=absent).mean), None)
