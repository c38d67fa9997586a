"""mIoU of score maps at every background threshold, from one pass over the pixels.

A background threshold t puts a constant channel t before the maps and takes the argmax, so a pixel is background where
no score is above t (ties go to channel 0), else its highest map wins whatever t is. A pixel is therefore told by three
numbers: the bin of its winning score among the thresholds, its winning class, its true class. Their joint histogram
holds the confusion matrix of every threshold as cumulative sums, exactly the same integers as a naive sweep.

The sweep looks at the truth: report the threshold fixed beforehand beside the best one (methods.md 1.5, 11).
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from weakseg.ops.metrics import AbsentClass, iou_table
from weakseg.types import BACKGROUND, IGNORE, LabelMap, ScoreMap, WeaksegError, check_label_map

ONE_POINT = 0.01
"""Drop in mIoU that bounds the plateau around the best threshold (AMN Fig. 6)."""


@dataclass(frozen=True, slots=True, eq=False)
class JointHistogram:
    """Pixels of one photograph by (bin of the winning score, winning map, true class).

    Attributes:
        counts: int64 (n + 1, K, J) for n thresholds; bin b = number of thresholds below the winning score, so the
            pixel is foreground at threshold i exactly if b > i.
        winners: class id of each of the K maps; one entry, 0, if there is none.
        truths: the J sorted true classes of the photograph, without 255.
    """

    counts: np.ndarray
    winners: tuple[int, ...]
    truths: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """mIoU against the background threshold; fractions 0-1.

    Attributes:
        thresholds: float64 (n,), sorted.
        miou: float64 (n,).
        iou: float64 (n, C + 1), nan where a class is skipped.
        best_threshold: the first threshold of the highest mIoU. It was chosen on the truth.
        best: the mIoU there.
        plateau: first and last threshold around the best with mIoU >= best - 1 point, without a gap.
        area: area under the curve over the swept range (trapezes).
    """

    thresholds: Tensor
    miou: Tensor
    iou: Tensor
    best_threshold: float
    best: float
    plateau: tuple[float, float]
    area: float

    @property
    def plateau_width(self) -> float:
        """Width of the plateau in units of the threshold."""
        return self.plateau[1] - self.plateau[0]

    def at(self, threshold: float) -> float:
        """The mIoU at a threshold that was swept.

        Raises:
            WeaksegError: it was not; the nearest one is named.
        """
        index = int((self.thresholds - threshold).abs().argmin())
        if abs(float(self.thresholds[index]) - threshold) > 1e-6:
            raise WeaksegError(
                f"threshold {threshold} was not swept, the nearest is {float(self.thresholds[index]):.4f}; "
                "add it to the thresholds of the sweep"
            )
        return float(self.miou[index])


def even_thresholds(count: int = 256) -> Tensor:
    """float32 (count,), from 0 to 1 in even steps: k/255 for 256 of them.

    >>> even_thresholds(5).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if count < 2:
        raise WeaksegError(f"a sweep has at least 2 thresholds; got {count}")
    return (torch.arange(count, dtype=torch.float64) / (count - 1)).float()


def joint_histogram(score_map: ScoreMap, truth: LabelMap, thresholds: Tensor) -> JointHistogram:
    """Read each pixel of one photograph once; a background map (id 0) takes no part, the constant replaces it.

    Args:
        score_map: at the truth's own size. Of equal scores the lower class id wins, as in an argmax over channels.
        truth: uint8 (H, W), 255 is not counted.
        thresholds: (n,), sorted, compared as float32 because the scores are.

    Raises:
        WeaksegError: another size, unsorted thresholds, or a score that is nan.
    """
    check_label_map(truth)
    if score_map.scores.shape[1:] != truth.shape:
        raise WeaksegError(
            f"the score maps are {tuple(score_map.scores.shape[1:])} and the truth {tuple(truth.shape)} "
            "(height, width); resize the maps to the photograph's size first (key 'full')"
        )
    levels = _levels(thresholds)
    order = [k for k in np.argsort(score_map.ids.cpu().numpy(), kind="stable") if score_map.ids[k] != BACKGROUND]
    scores = np.ascontiguousarray(score_map.scores.detach().flatten(1).cpu().numpy())
    labels = np.ascontiguousarray(truth.detach().cpu().numpy()).ravel()
    truths = np.flatnonzero(np.bincount(labels, minlength=256)[:IGNORE])
    place = np.full(256, -1, np.int64)
    place[truths] = np.arange(len(truths))
    counts = np.zeros((len(levels) + 1, max(1, len(order)), len(truths)), np.int64)
    if _accumulate(scores, np.array(order, np.int64), labels, place, levels, counts):
        raise WeaksegError("the score maps hold nan; the network that made them diverged, train it again")
    winners = tuple(int(score_map.ids[k]) for k in order) or (BACKGROUND,)
    return JointHistogram(counts, winners, tuple(truths.tolist()))


class Sweep:
    """Sums the joint histograms of a list of photographs.

    >>> maps = ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.tensor([[[0.2, 0.6, 0.9]]]), (1, 3))
    >>> sweep = Sweep(2, even_thresholds(5))
    >>> sweep.update(maps, torch.tensor([[0, 0, 1]], dtype=torch.uint8))
    >>> sweep.scores().miou.tolist(), sweep.scores().best_threshold
    ([0.16666666666666666, 0.5, 0.5, 1.0, 0.3333333333333333], 0.75)
    """

    def __init__(self, num_classes: int, thresholds: Tensor | int = 256) -> None:
        """Start from zero; `num_classes` is C + 1, `thresholds` their number (even in 0..1) or (n,), sorted."""
        self.num_classes = num_classes
        self.thresholds = even_thresholds(thresholds) if isinstance(thresholds, int) else thresholds.float().cpu()
        levels = _levels(self.thresholds)
        # (bin, winner, truth): bin b = how many thresholds lie below the winning score
        self.histogram = np.zeros((len(levels) + 1, num_classes, num_classes), np.int64)

    def update(self, score_map: ScoreMap, truth: LabelMap) -> None:
        """Count one photograph."""
        self.add(joint_histogram(score_map, truth, self.thresholds))

    def add(self, joint: JointHistogram) -> None:
        """Count a photograph whose histogram was made elsewhere, in a thread for example."""
        largest = max((*joint.winners, *joint.truths), default=0)
        if largest >= self.num_classes:
            raise WeaksegError(
                f"class id {largest} in a score map or mask, but ids go from 0 to {self.num_classes - 1}"
            )
        truths = np.array(joint.truths, np.int64)
        for k, winner in enumerate(joint.winners):  # ids may repeat: one map a box
            self.histogram[:, winner, truths] += joint.counts[:, k]

    def matrices(self) -> Tensor:
        """int64 (n, C + 1, C + 2), the confusion matrix of each threshold (no prediction is 255)."""
        return torch.from_numpy(_matrices(self.histogram, np.arange(self.num_classes), self.num_classes))

    def scores(self, absent: AbsentClass = "irn") -> Curve:
        """The whole curve; see `Curve`.

        Raises:
            WeaksegError: nothing was counted.
        """
        if not self.histogram.any():
            raise WeaksegError("no pixel was counted: no photograph has both score maps and truth")
        table = iou_table(self.matrices(), absent=absent)
        levels, miou = self.thresholds.double(), table.mean
        best = int(miou.argmax())
        area = float(torch.trapezoid(miou, levels))
        return Curve(levels, miou, table.iou, float(levels[best]), float(miou[best]), plateau(levels, miou), area)


def plateau(thresholds: Tensor, values: Tensor, drop: float = ONE_POINT) -> tuple[float, float]:
    """First and last threshold around the (first) best value that cost at most `drop`, without a gap.

    Args:
        thresholds: float (n,), sorted.
        values: float (n,), such as the mIoU or the IoU of one class at each of them.
        drop: what the plateau may lie below its best; one point is 0.01.

    >>> plateau(torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8]), torch.tensor([0.5, 0.1, 0.5, 0.495, 0.4]))
    (0.0, 0.0)
    >>> plateau(torch.tensor([0.0, 0.25, 0.5, 0.75]), torch.tensor([0.1, 0.495, 0.5, 0.3]))
    (0.25, 0.5)
    """
    best = int(values.argmax())
    first, last = _run_around(best, (values >= values[best] - drop).tolist())
    return float(thresholds[first]), float(thresholds[last])


def best_threshold(score_map: ScoreMap, truth: LabelMap, thresholds: Tensor | None = None) -> float:
    """The background threshold that suits one photograph best; nan if all its truth is 255.

    ``argmax_t`` of the mean IoU over the classes its truth holds, background included; where several thresholds are
    equally good, the midpoint of their (longest) interval.

    Reference: AMN (Lee et al., CVPR 2022) Fig. 1a; methods.md 11 for what the paper leaves open.

    >>> maps = ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.tensor([[[0.2, 0.6, 0.9]]]), (1, 3))
    >>> round(best_threshold(maps, torch.tensor([[0, 1, 1]], dtype=torch.uint8), even_thresholds(11)), 4)
    0.35
    """
    levels = even_thresholds() if thresholds is None else thresholds
    return best_of_histogram(joint_histogram(score_map, truth, levels), levels)


def best_of_histogram(joint: JointHistogram, thresholds: Tensor) -> float:
    """`best_threshold` of a photograph whose histogram is at hand."""
    if not joint.truths:
        return float("nan")
    classes = sorted({BACKGROUND, *joint.winners, *joint.truths})  # few: the matrices stay small
    place = {k: i for i, k in enumerate(classes)}
    counts = np.zeros((len(joint.counts), len(classes), len(joint.truths)), np.int64)
    for k, winner in enumerate(joint.winners):
        counts[:, place[winner]] += joint.counts[:, k]
    matrices = _matrices(counts, np.array([place[k] for k in joint.truths]), len(classes))
    miou = iou_table(torch.from_numpy(matrices), absent="skip_truthless").mean
    first, last = _longest_run((miou == miou.max()).tolist())
    return (float(thresholds[first]) + float(thresholds[last])) / 2


def _levels(thresholds: Tensor) -> np.ndarray:
    levels = thresholds.detach().cpu().numpy().astype(np.float32)
    if levels.ndim != 1 or len(levels) < 1 or not np.isfinite(levels).all() or (np.diff(levels) < 0).any():
        raise WeaksegError("thresholds are a sorted list of finite numbers, at least one")
    return levels


@numba.njit(nogil=True, cache=True)
def _accumulate(
    scores: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    place: np.ndarray,
    levels: np.ndarray,
    counts: np.ndarray,
) -> bool:
    """Fill counts (n + 1, K, J); True if a counted score is nan. `place`: label to column, -1 = not counted."""
    n = levels.size
    low, high = levels[0], levels[n - 1]
    slope = np.float32((n - 1) / (high - low)) if high > low else np.float32(0.0)
    for i in range(labels.size):
        column = place[labels[i]]
        if column < 0:
            continue
        best, winner = np.float32(-np.inf), 0
        for k in range(order.size):
            score = scores[order[k], i]
            if score != score:
                return True
            if score > best:  # strictly: of equal scores the first, lowest id stays
                best, winner = score, k
        if best <= low:
            b = 0
        elif best > high:
            b = n
        else:  # a guess that is right for even steps, walked to the exact bin for any
            b = int((best - low) * slope)
            while b > 0 and levels[b - 1] >= best:
                b -= 1
            while b < n and levels[b] < best:
                b += 1
        counts[b, winner, column] += 1
    return False


def _matrices(histogram: np.ndarray, truth_rows: np.ndarray, num_classes: int) -> np.ndarray:
    """(n + 1, C + 1 winners, J truths) counts to (n, C + 1, C + 2) confusion matrices."""
    below = histogram.cumsum(0)[:-1]  # bins b <= i: background at threshold i
    above = histogram.sum(0) - below  # bins b > i: the winner is predicted
    matrices = np.zeros((len(below), num_classes, num_classes + 1), np.int64)
    matrices[:, truth_rows, :num_classes] = above.transpose(0, 2, 1)
    matrices[:, truth_rows, BACKGROUND] += below.sum(1)
    return matrices


def _run_around(index: int, flags: list[bool]) -> tuple[int, int]:
    """First and last index of the run of true flags that holds `index`."""
    first = last = index
    while first > 0 and flags[first - 1]:
        first -= 1
    while last + 1 < len(flags) and flags[last + 1]:
        last += 1
    return first, last


def _longest_run(flags: list[bool]) -> tuple[int, int]:
    """First and last index of the longest run of true flags; the first of equal ones."""
    runs = [_run_around(i, flags) for i, flag in enumerate(flags) if flag and (i == 0 or not flags[i - 1])]
    return max(runs, key=lambda run: run[1] - run[0])
