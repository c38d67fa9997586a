"""Analyses of labels made from boxes: how full boxes are, where two label maps disagree, whether boxes are told apart.

Oh et al., "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA), CVPR
2021, fig. 4b, Table 1 and the supplement; methods.md 7.6 and 11. The precision of activation maps, also there, is
`evaluate.coverage`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.evaluate.conventions import names, plain
from weakseg.evaluate.masks import count_masks, summarise
from weakseg.ops.boxes import box_confusion, filling_rates
from weakseg.types import LabelMap, WeaksegError

Boxes: TypeAlias = tuple[Tensor, Tensor]
"""Boxes float (K, 4), XYXY pixels, half-open, and their labels int64 (K,), ids 1..C."""
TRUTH = "truth"
MOST = 2000
"""Filling rates kept of a class and source; of more boxes, so many of even rank."""


def evaluate_filling(
    read_labels: Mapping[str, Callable[[str], LabelMap]],
    read_truth: Callable[[str], LabelMap | None],
    read_boxes: Callable[[str], Boxes | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    threads: int = 2,
) -> dict[str, Any]:
    """Filling rates of boxes in label maps, whoever made them, beside those in the true masks (BANA, fig. 4b).

    Args:
        read_labels: name of each source -> (id -> label map at the photograph's size).
        read_truth: id -> true mask, or None: that photograph is left out and counted in ``left_out``.
        read_boxes: id -> boxes and labels, or None: likewise.
        ids: the list.
        classes: the C foreground names.
        threads: photographs read and measured at once.

    Returns:
        ``sources``: the names, ``truth`` last; ``boxes`` measured; by source ``mean`` over boxes and, but for the
        truth, ``error``: mean absolute difference to the truth, box by box; ``per_class`` of lists of C entries:
        ``boxes``, ``mean`` and ``values`` by source, sorted, at most `MOST`; ``images``, ``left_out``.
        All rates 0-1; None where there is no box.

    Raises:
        WeaksegError: no photograph with boxes has truth; a label map of another size.
    """

    def measure(id: str) -> tuple[Tensor, Tensor] | None:
        truth, known = read_truth(id), read_boxes(id)
        if truth is None or known is None:
            return None
        boxes, labels = known
        maps = [*(read(id) for read in read_labels.values()), truth]
        if any(one.shape != truth.shape for one in maps):
            raise WeaksegError(f"label maps of {[tuple(one.shape) for one in maps]}; one size was wanted, the truth's")
        return torch.stack([filling_rates(one, boxes, labels) for one in maps]), labels

    found = [result for _, result in each(measure, ids, threads, "judge") if result is not None]
    if not found:
        raise WeaksegError(f"nothing to judge: none of {len(ids)} photographs has a true mask and boxes")
    rates, labels = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    known = ~rates.isnan().any(dim=0)  # a box all of whose pixels are 255 somewhere
    rates, labels = rates[:, known].double(), labels[known]
    sources, of_class = (*read_labels, TRUTH), [rates[:, labels == k] for k in range(1, len(classes) + 1)]
    errors = (rates - rates[-1:]).abs().mean(dim=1)
    return {
        "kind": "filling",
        "classes": list(classes),
        "sources": list(sources),
        "boxes": len(labels),
        "mean": dict(zip(sources, plain(rates.mean(dim=1)), strict=True)),
        "error": dict(zip(read_labels, plain(errors[:-1]), strict=True)),
        "per_class": {
            "boxes": [own.shape[1] for own in of_class],
            "mean": _by_source(sources, [plain(own.mean(dim=1)) for own in of_class]),
            "values": _by_source(sources, [[_values(row) for row in own] for own in of_class]),
        },
        "images": len(found),
        "left_out": len(ids) - len(found),
    }


def evaluate_unreliable(
    read_reliable: Callable[[str], LabelMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    threads: int = 2,
) -> dict[str, Any]:
    """How large ~S is, and what the labels are worth without it and with it as an error (methods.md 7.7, row 19).

    Args:
        read_reliable: id -> label map, 255 where it is unreliable (`ops.noise.reliable_labels`).
        read_truth: id -> true mask, or None: that photograph is left out and counted in ``without_truth``.
        ids: the list.
        classes: the C foreground names.
        threads: photographs read and counted at once.

    Returns:
        ``share``: |~S| over the pixels whose truth is known, 0-1; ``share_per_class``: of the true pixels of each of
        C + 1 classes, None without any; ``dropped`` and ``as_errors``: the numbers of `evaluate_masks` with ~S left
        out, and with each of its pixels a miss for its true class; ``classes``, ``images``, ``without_truth``.

    Raises:
        WeaksegError: as `evaluate_masks`.
    """
    counts = count_masks(read_reliable, read_truth, ids, len(classes) + 1, threads=threads)
    dropped, as_errors = (summarise(counts, classes, ignored_prediction=how) for how in ("drop", "miss"))
    matrix = counts.matrix.double()
    return {
        "kind": "unreliable",
        "classes": names(list(classes)),
        "share": as_errors["ignored_share"],
        "share_per_class": plain(matrix[:, -1] / matrix.sum(dim=1)),
        "dropped": dropped,
        "as_errors": as_errors,
        "images": as_errors["images"],
        "without_truth": as_errors["without_truth"],
    }


def evaluate_box_classes(
    classify: Callable[[str], tuple[Tensor, Tensor] | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    threads: int = 1,
) -> dict[str, Any]:
    """How many true boxes a classifier of boxes calls by their class (methods.md 7.6: GAP 80.3, BAP 82.3 on VOC val).

    Args:
        classify: id -> logits float (K, C + 1) of the photograph's boxes, background first, and their labels int64
            (K,), ids 1..C; None: nobody has annotated it, which is counted in ``left_out``.
        ids: the list.
        classes: the C foreground names.
        threads: photographs at once.

    Returns:
        ``accuracy`` over all boxes; ``per_class`` of C entries, None without a box, and their ``class_mean``;
        ``confusion`` (C + 1, C + 1), rows truth; ``as_background``: the share taken for background; ``boxes``,
        ``classes`` (background first), ``images``, ``left_out``. All fractions 0-1.

    Raises:
        WeaksegError: there is no box to classify; a label beyond C, or logits of other classes.
    """
    count = len(classes) + 1

    def judge(id: str) -> Tensor | None:
        found = classify(id)
        return None if found is None else box_confusion(found[0].cpu(), found[1].cpu(), count)

    found = [matrix for _, matrix in each(judge, ids, threads, "boxes") if matrix is not None]
    matrix = sum(found, torch.zeros(count, count, dtype=torch.int64))
    boxes = int(matrix.sum())
    if not boxes:
        raise WeaksegError(f"nothing to judge: none of {len(ids)} photographs has a box")
    right = matrix.diagonal()[1:].double() / matrix.sum(dim=1)[1:]
    return {
        "kind": "box_classes",
        "classes": names(list(classes)),
        "accuracy": int(matrix.diagonal().sum()) / boxes,
        "class_mean": float(right.nanmean()),
        "per_class": plain(right),
        "as_background": int(matrix[:, 0].sum()) / boxes,
        "confusion": matrix.tolist(),
        "boxes": boxes,
        "images": len(found),
        "left_out": len(ids) - len(found),
    }


def _values(rates: Tensor) -> list[float]:
    """Sorted, at most `MOST` of even rank, to a ten-thousandth."""
    ranks = torch.linspace(0, len(rates) - 1, MOST).round().long() if len(rates) > MOST else slice(None)
    return [round(v, 4) for v in rates.sort().values[ranks].tolist()]


def _by_source(sources: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows by class, entries by source -> entries by class, under the source's name."""
    return {source: [row[k] for row in rows] for k, source in enumerate(sources)}
