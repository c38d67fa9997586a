"""What classes are confused with: confusion ratios and co-occurrence over a list (EPS, sec. 5.1 and A.5).

With context labels (PASCAL-Context, or the generated scenes' own) the ratio tells how much water is taken for boat;
without them how much one class is taken for another.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.evaluate.conventions import conventions, names, plain
from weakseg.ops.confusion import class_confusion, co_occurrence, confusion_ratio, context_counts, present
from weakseg.ops.metrics import confusion_matrix, iou_table
from weakseg.types import LabelMap, WeaksegError

Read = Callable[[str], Tensor | None]


def evaluate_confusion(
    read_pred: Callable[[str], LabelMap],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    read_context: Read | None = None,
    context: Sequence[str] = (),
    read_tags: Callable[[str], Tensor] | None = None,
    pairs: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    threads: int = 2,
) -> dict[str, Any]:
    """Confusion ratios ``m_{k,c} = FP_{k,c} / TP_c`` with the IoU of c, and how often k stands beside c; JSON-able.

    All sums run over the photographs with a true mask and, if `read_context` is given, context labels.

    Args:
        read_pred: id -> label map at the photograph's size.
        read_truth: id -> true mask, or None.
        ids: the list.
        classes: the C foreground names.
        read_context: id -> context labels 1..K, 0 = none, (H, W); or None.
        context: the K names of the labels.
        read_tags: id -> tags, bool (C,), for the co-occurrence; the classes in the true mask if not given.
        pairs: which pairs to list, ``"train/rail"``: class, then label; if none, for each class the label that stands
            beside it most distinctly: co-occurrence minus its mean over the classes. That choice knows no prediction,
            so it is the same for every method.
        leave_out: names without a row or column in the co-occurrence matrix and without a pair of their own choosing
            (the paper leaves out VOC's dining table, which PASCAL-Context splits).
        threads: photographs read and counted at once.

    Returns:
        ``pairs``: rows of ``class``, ``with``, ``ratio``, ``iou``, ``co_occurrence``; ``mean_ratio`` of them;
        ``classes`` (background first), ``iou``; ``class_ratios[k][c]`` between classes (rows true, background first);
        ``context`` (labels that occur), ``context_ratios[k][c]`` or None; ``co_occurrence`` with ``rows``,
        ``columns``, ``values`` and ``images`` per row; ``images``, ``without_truth``; ``conventions``; ``seconds``.
        Ratios are 0 or more, None for a class without a correct pixel.

    Raises:
        WeaksegError: nothing to judge; sizes or ids do not fit; an unknown name in `pairs` or `leave_out`.
    """
    chosen = [_pair(pair, classes, context if read_context else classes) for pair in pairs]
    _check_names(leave_out, [*classes, *context])

    def count(id: str) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        truth = read_truth(id)
        labels = read_context(id) if read_context is not None else truth
        if truth is None or labels is None:
            return None
        pred = read_pred(id)
        matrix = confusion_matrix(pred, truth, len(classes) + 1)
        tags = present(truth, len(classes)) if read_tags is None else read_tags(id)
        if read_context is None:
            return matrix, matrix[1:, :-1], tags, tags
        false = context_counts(pred, labels, truth, len(classes) + 1, len(context))
        return matrix, false, tags, present(labels, len(context))

    start = time.perf_counter()
    columns = list(context) if read_context is not None else list(classes)
    matrix = torch.zeros(len(classes) + 1, len(classes) + 2, dtype=torch.int64)
    false = torch.zeros(len(columns), len(classes) + 1, dtype=torch.int64)
    tags, beside = [], []
    for _, found in each(count, ids, threads, "judge"):
        if found is not None:
            matrix, false = matrix + found[0], false + found[1]
            tags.append(found[2])
            beside.append(found[3])
    if not tags:
        wanted = "a true mask and context labels" if read_context is not None else "a true mask"
        raise WeaksegError(f"nothing to judge: none of {len(ids)} photographs has {wanted}")
    together = co_occurrence(torch.stack(tags), torch.stack(beside))
    ratios = confusion_ratio(false, matrix)
    iou = iou_table(matrix).iou
    own = read_context is None
    picked = chosen or _distinct(together, classes, columns, leave_out, own=own)
    rows = [
        {
            "class": classes[c],
            "with": columns[k],
            "ratio": _number(ratios[k, c + 1]),
            "iou": _number(iou[c + 1]),
            "co_occurrence": _number(together[c, k]),
        }
        for c, k in picked
    ]
    known = [float(ratios[k, c + 1]) for c, k in picked if not torch.isnan(ratios[k, c + 1])]
    seen = [k for k in range(len(columns)) if bool(torch.stack(beside)[:, k].any())]
    return {
        "kind": "confusion",
        "pairs": rows,
        "mean_ratio": sum(known) / len(known) if known else None,
        "classes": names(list(classes)),
        "iou": plain(iou),
        "class_ratios": [plain(row) for row in class_confusion(matrix)],
        "context": None if own else [columns[k] for k in seen],
        "context_ratios": None if own else [plain(ratios[k]) for k in seen],
        "co_occurrence": _matrix(together, torch.stack(tags), classes, columns, seen, leave_out),
        "images": len(tags),
        "without_truth": len(ids) - len(tags),
        "conventions": {
            "confusion ratio": "pixels of k that are wrongly predicted as c over correct pixels of c, sums over the "
            + ("photographs with a true mask" if own else "photographs with a true mask and context labels"),
            "pairs": "given" if chosen else "for each class the label that most distinctly stands beside it",
            "co-occurrence": "photographs with both over photographs with the class",
            "true 255": conventions()["true 255"] + " as correct or class; a context label under it counts",
        },
        "seconds": time.perf_counter() - start,
    }


def _distinct(
    together: Tensor, classes: Sequence[str], columns: Sequence[str], leave_out: Sequence[str], *, own: bool
) -> list[tuple[int, int]]:
    """For each class the column whose co-occurrence stands out most from its mean over classes; none if none does."""
    above = together - together.nanmean(0)
    if own:
        above = above.clone().fill_diagonal_(torch.nan)
    found = []
    for c, name in enumerate(classes):
        row = [
            (float(v), k)
            for k, v in enumerate(above[c])
            if not torch.isnan(v) and columns[k] not in leave_out and together[c, k] > 0
        ]
        if row and name not in leave_out:
            found.append((c, max(row, key=lambda pair: (pair[0], -pair[1]))[1]))
    return found


def _matrix(
    together: Tensor,
    tags: Tensor,
    classes: Sequence[str],
    columns: Sequence[str],
    seen: Sequence[int],
    leave_out: Sequence[str],
) -> dict[str, Any]:
    rows = [c for c, name in enumerate(classes) if name not in leave_out]
    kept = [k for k in seen if columns[k] not in leave_out]
    return {
        "rows": [classes[c] for c in rows],
        "columns": [columns[k] for k in kept],
        "values": [plain(together[c, kept]) for c in rows],
        "images": [int(tags[:, c].sum()) for c in rows],
    }


def _pair(pair: str, classes: Sequence[str], columns: Sequence[str]) -> tuple[int, int]:
    name, slash, label = pair.partition("/")
    if not slash:
        raise WeaksegError(f"a pair is CLASS/LABEL such as train/rail; got {pair!r}")
    _check_names([name], classes)
    _check_names([label], columns)
    return list(classes).index(name), list(columns).index(label)


def _check_names(given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise WeaksegError(f"there is no class or context label {name!r}; there are: {', '.join(known)}")


def _number(value: Tensor) -> float | None:
    return None if bool(torch.isnan(value)) else float(value)
