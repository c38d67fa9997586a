"""How activations lie inside the objects, and which background threshold suits each class and each photograph.

The analyses of AMN (Lee et al., CVPR 2022, Figs. 1a, 6, A.1 to A.4; methods.md 11): a method whose maps are near one on
whole objects and near zero beside them does not care for the threshold. They look at the truth; nothing here chooses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weakseg.evaluate.conventions import plain
from weakseg.ops.thresholds import Curve, plateau
from weakseg.types import BACKGROUND, IGNORE, LabelMap, ScoreMap, WeaksegError, check_label_map

BINS = 20
"""Bars of a histogram of best thresholds."""
ACTIVATION_BINS = 5
"""Bars of the histogram of foreground activations: each 0.2 wide, as in AMN's Fig. A.2."""


def foreground_activation(score_map: ScoreMap, truth: LabelMap, bins: int = ACTIVATION_BINS) -> dict[int, Tensor]:
    """How high each object's own map is on the pixels of that object (AMN, Fig. A.2).

    Args:
        score_map: 0-1, at the truth's size; a background map takes no part. A class of the truth that has no map counts
            as activation zero, which is what the map would hold.
        truth: uint8 (H, W); background and 255 are not counted.
        bins: even ones in 0..1, the last closed; values beyond count in the first or last.

    Returns:
        class id -> int64 (bins,), pixels, for the foreground classes of the truth.

    Raises:
        WeaksegError: maps of another size than the truth.

    >>> maps = ScoreMap(torch.tensor([2], dtype=torch.uint8), torch.tensor([[[0.1, 0.2, 0.9, 1.0]]]), (1, 4))
    >>> foreground_activation(maps, torch.tensor([[0, 2, 2, 2]], dtype=torch.uint8))
    {2: tensor([0, 1, 0, 0, 2])}
    """
    check_label_map(truth)
    if score_map.scores.shape[1:] != truth.shape:
        raise WeaksegError(
            f"the score maps are {tuple(score_map.scores.shape[1:])} and the truth {tuple(truth.shape)} "
            "(height, width); resize the maps to the photograph's size first (key 'full')"
        )
    objects = [id for id in torch.unique(truth).tolist() if id not in (BACKGROUND, IGNORE)]
    return {id: _counted(_inside(score_map, truth, id), bins) for id in objects}


def per_class(curve: Curve, best: Sequence[tuple[float, Sequence[int]]]) -> dict[str, Any]:
    """What each class says of the threshold (AMN, Figs. A.3 and A.4); lists of C + 1 entries, background first.

    Args:
        curve: of the whole list.
        best: for each photograph its own best threshold (`ops.thresholds.best_threshold`) and the classes of its truth.

    Returns:
        ``curves``: IoU at each threshold; ``best_threshold``, ``best_iou``, ``plateau_width``: of that curve, the best
        chosen on the truth; ``per_image_best``: `threshold_histogram` of the photographs that hold the class.
        None for a class that no truth holds.
    """
    held = [[t for t, classes in best if k in classes] for k in range(curve.iou.shape[1])]
    rows = [_class_row(curve, k, own) for k, own in enumerate(held)]
    return {key: [None if row is None else row[key] for row in rows] for key in _CLASS_KEYS}


def threshold_histogram(best: Sequence[float], bins: int = BINS) -> dict[str, Any]:
    """Histogram of photographs' own best thresholds (AMN, Figs. 1a and A.1), even bins in 0..1.

    >>> found = threshold_histogram([0.1, 0.3, 1.0], bins=2)
    >>> found["edges"], found["counts"], round(found["mean"], 4)
    ([0.0, 0.5, 1.0], [2, 1], 0.4667)
    """
    values = torch.tensor(best)
    return {
        "edges": _edges(bins),
        "counts": [int(c) for c in torch.histc(values, bins=bins, min=0.0, max=1.0).tolist()],
        "mean": float(values.mean()) if len(values) else None,
        "std": float(values.std(correction=0)) if len(values) else None,
    }


def activation_histogram(counts: Mapping[int, Tensor], num_classes: int) -> dict[str, Any]:
    """Pixels of `foreground_activation`, added up over a list, for a report.

    Args:
        counts: class id -> int64 (bins,).
        num_classes: C.

    Returns:
        ``edges`` (bins + 1); ``counts`` (bins,) and ``share`` (bins,), of all objects' pixels; ``per_class``: ``share``
        of each of C + 1 classes, None for background and for a class that no truth holds.
    """
    bins = len(next(iter(counts.values()))) if counts else ACTIVATION_BINS
    total = sum(counts.values(), torch.zeros(bins, dtype=torch.int64))
    return {
        "edges": _edges(bins),
        "counts": total.tolist(),
        "share": _share(total),
        "per_class": [_share(counts[id]) if id in counts else None for id in range(num_classes + 1)],
    }


def random_share(ids: Sequence[str], share: float, seed: int = 0) -> list[str]:
    """A random part of a list in its order: AMN's Fig. A.1 takes 10 % of COCO, 8,278 of 82,783 photographs.

    Raises:
        WeaksegError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise WeaksegError(f"a share of a list lies in (0, 1]; got {share}")
    count = max(1, int(share * len(ids) + 1e-9)) if ids else 0
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    return [ids[k] for k in sorted(order[:count].tolist())]


_CLASS_KEYS = ("curves", "best_threshold", "best_iou", "plateau_width", "per_image_best")


def _class_row(curve: Curve, k: int, own: Sequence[float]) -> dict[str, Any] | None:
    if not own:
        return None
    iou = curve.iou[:, k]
    best, (first, last) = int(iou.argmax()), plateau(curve.thresholds, iou)
    return {
        "curves": plain((iou * 1e5).round() / 1e5),
        "best_threshold": round(float(curve.thresholds[best]), 6),
        "best_iou": float(iou[best]),
        "plateau_width": last - first,
        "per_image_best": threshold_histogram(own),
    }


def _inside(score_map: ScoreMap, truth: LabelMap, id: int) -> Tensor:
    """Values of the maps of class `id` (the highest of them) on its pixels, float32 (n,)."""
    pixels = truth == id
    maps = score_map.scores[score_map.ids == id][:, pixels]
    return maps.amax(dim=0) if len(maps) else torch.zeros(int(pixels.sum()))


def _counted(values: Tensor, bins: int) -> Tensor:
    return torch.from_numpy(np.histogram(values.double().clamp(0, 1).cpu().numpy(), bins, (0.0, 1.0))[0])


def _share(counts: Tensor) -> list[float]:
    return [float(c) for c in counts.double() / counts.sum().clamp(min=1)]


def _edges(bins: int) -> list[float]:
    return [round(k / bins, 4) for k in range(bins + 1)]
