"""How much of an activation lies on its object, and how much of the object it covers: precision and recall of maps.

The ablation of AEFT (Yoon et al., ECCV 2022, poster; methods.md 9.7 and 11): precision = true activation / all
activation, recall = true activation / object. Erasing raises recall at the cost of precision, repulsion gives it back.
BANA's CAM precision (Oh et al., CVPR 2021, supplement, Table 2) is that of its maps u_c with ``count = "soft"``; with
``"above"`` and a threshold of 0 their pixels are counted. Of several boxes of a class the highest u_c counts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.evaluate.conventions import plain
from weakseg.ops.labels import threshold as threshold_labels
from weakseg.types import BACKGROUND, IGNORE, LabelMap, ScoreMap, WeaksegError, check_label_map

Count: TypeAlias = Literal["mask", "above", "soft"]

WORDS: Mapping[str, str] = {
    "mask": "pixels of the class in the mask at the background threshold",
    "above": "pixels where the class' own map exceeds the threshold, whatever other maps say",
    "soft": "sums of the maps' values",
}


class Coverage(NamedTuple):
    """Activation of one class.

    Attributes:
        true: on the object.
        all: anywhere but where the truth is 255.
        object: pixels of the object.
    """

    true: float
    all: float
    object: float


def coverage(score_map: ScoreMap, truth: LabelMap, threshold: float, count: Count = "mask") -> dict[int, Coverage]:
    """Activation on and beside the objects of one photograph, by class id.

    Args:
        score_map: 0-1, at the truth's size; a background map takes no part.
        truth: uint8 (H, W); 255 is not counted.
        threshold: of the background, in 0..1; not read if `count` is ``soft``.
        count: what activation is: ``mask``: a pixel of the class in the mask that the threshold makes, so that
            precision, recall and mIoU are of the same masks; ``above``: a pixel where its map exceeds the threshold;
            ``soft``: the map's value.

    Returns:
        for the foreground classes that have a map or an object.

    Raises:
        WeaksegError: maps of another size than the truth.

    >>> maps = ScoreMap(torch.tensor([2], dtype=torch.uint8), torch.tensor([[[0.1, 0.5, 0.9, 1.0]]]), (1, 4))
    >>> coverage(maps, torch.tensor([[0, 0, 2, 255]], dtype=torch.uint8), 0.3)
    {2: Coverage(true=1.0, all=2.0, object=1.0)}
    """
    check_label_map(truth)
    if score_map.scores.shape[1:] != truth.shape:
        raise WeaksegError(
            f"the score maps are {tuple(score_map.scores.shape[1:])} and the truth {tuple(truth.shape)} "
            "(height, width); resize the maps to the photograph's size first (key 'full')"
        )
    valid, found = truth != IGNORE, {}
    for id, active in _activations(score_map, truth, threshold, count).items():
        inside = truth == id
        parts = (active * inside, active * valid, inside)
        found[id] = Coverage(*(float(part.sum(dtype=torch.float64)) for part in parts))
    return found


def evaluate_coverage(
    read_scores: Callable[[str], ScoreMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    threshold: float = 0.2,
    count: Count = "mask",
    threads: int = 2,
) -> dict[str, Any]:
    """Precision and recall of activation over a list; fractions 0-1, all JSON-able.

    Args:
        read_scores: id -> score map at the photograph's size (key ``full``).
        read_truth: id -> true mask, or None: that photograph is left out and counted in ``without_truth``.
        ids: the list.
        classes: the C foreground names.
        threshold, count: see `coverage`.
        threads: photographs in work at once.

    Returns:
        ``precision`` and ``recall``, means over the classes that have one; ``per_class`` with a list for each, C
        entries, None where nothing is activated or no object is; ``classes``, ``threshold``, ``count`` in words,
        ``images``, ``without_truth``.

    Raises:
        WeaksegError: a threshold outside 0..1; no photograph has truth; a class id beyond C.
    """
    if not 0 <= threshold <= 1:
        raise WeaksegError(f"the background threshold lies in 0..1 as the scores do; got {threshold}")

    def judge(id: str) -> dict[int, Coverage] | None:
        truth = read_truth(id)
        return None if truth is None else coverage(read_scores(id), truth, threshold, count)

    sums, images = torch.zeros(len(classes), 3, dtype=torch.float64), 0
    for _, found in each(judge, ids, threads, "judge"):
        images += found is not None
        for id, parts in (found or {}).items():
            if id > len(classes):
                raise WeaksegError(f"class id {id} in a score map or mask, but ids go from 0 to {len(classes)}")
            sums[id - 1] += torch.tensor(parts, dtype=torch.float64)
    if not images:
        raise WeaksegError(f"nothing to judge: none of {len(ids)} photographs has a true mask")
    true, everywhere, objects = sums.unbind(1)
    rows = {"precision": _share(true, everywhere), "recall": _share(true, objects)}
    return {
        "kind": "coverage",
        **{name: None if math.isnan(mean := float(row.nanmean())) else mean for name, row in rows.items()},
        "per_class": {name: plain(row) for name, row in rows.items()},
        "classes": list(classes),
        "threshold": None if count == "soft" else threshold,
        "count": WORDS[count],
        "images": images,
        "without_truth": len(ids) - images,
    }


def _activations(score_map: ScoreMap, truth: LabelMap, threshold: float, count: Count) -> dict[int, Tensor]:
    """id -> (H, W), 0-1 or bool; zeros for a class that has an object but no map."""
    ids = {id for id in (*score_map.ids.tolist(), *torch.unique(truth).tolist()) if id not in (BACKGROUND, IGNORE)}
    if count == "mask":
        labels = threshold_labels(score_map, threshold, (truth.shape[0], truth.shape[1]))
        return {id: labels == id for id in sorted(ids)}
    maps = score_map.dense(max(ids, default=0) + 1)
    return {id: maps[id] > threshold if count == "above" else maps[id] for id in sorted(ids)}


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """float64 (C,), nan where there is no whole."""
    return torch.where(whole > 0, part / whole.clamp(min=1e-12), torch.nan)
