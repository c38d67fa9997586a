"""What a class is confused with: confusion ratios and co-occurrence (EPS, sec. 5.1 and A.5; methods.md 11)."""

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from weakseg.types import IGNORE, LabelMap, WeaksegError


def context_counts(
    pred: LabelMap, context: Tensor, truth: LabelMap, num_classes: int, num_context: int
) -> Int64[Tensor, "k c"]:
    """FP_{k,c}: pixels of context label k that are predicted as class c and that the truth does not call c.

    Args:
        pred, truth: uint8 (H, W), ids 0..C or 255.
        context: integer (H, W), labels 1..K of the whole scene; 0 = none.
        num_classes: C + 1, background included.
        num_context: K.

    Returns:
        int64 (K, C + 1): row k - 1 for label k, column c for class c. A pixel whose truth is 255 counts: its context
        label tells what it is.

    Raises:
        WeaksegError: sizes differ, or an id beyond C or K.

    >>> pred, truth = torch.tensor([[[1, 1, 1]], [[0, 0, 1]]], dtype=torch.uint8)
    >>> context_counts(pred, torch.tensor([[1, 2, 2]]), truth, num_classes=2, num_context=2).tolist()
    [[0, 1], [0, 1]]
    """
    if not pred.shape == context.shape == truth.shape:
        raise WeaksegError(
            f"prediction {tuple(pred.shape)}, context {tuple(context.shape)} and truth {tuple(truth.shape)} differ in "
            "size; all three are (height, width) of the photograph"
        )
    labels, ids = context.detach().cpu().long(), pred.detach().cpu().long()
    if int(labels.max()) > num_context or int(labels.min()) < 0:
        raise WeaksegError(f"the context map holds label {int(labels.max())}; labels go from 0 (none) to {num_context}")
    if bool(((ids >= num_classes) & (ids < IGNORE)).any()):
        raise WeaksegError(f"the prediction holds an id beyond {num_classes - 1} that is not 255")
    wrong = (labels > 0) & (ids < num_classes) & (ids != truth.detach().cpu().long())
    cells = torch.bincount((labels[wrong] - 1) * num_classes + ids[wrong], minlength=num_context * num_classes)
    return cells.reshape(num_context, num_classes)


def confusion_ratio(false: Int64[Tensor, "k c"], matrix: Int64[Tensor, "c c1"]) -> Float64[Tensor, "k c"]:
    """m_{k,c} = FP_{k,c} / TP_c: how much of what coincides with class c is taken for it; lower is better.

    Args:
        false: pixels of label k predicted as class c, (K, C + 1), sums over a list: of `context_counts`, or the rows of
            `matrix` itself for the confusion of classes with one another (`class_confusion`).
        matrix: confusion matrix (C + 1, C + 2) of the same list, its diagonal is TP_c.

    Returns:
        float64 (K, C + 1), 0 or more; nan for a class without a correct pixel.

    Reference: EPS, sec. 5.1.

    >>> confusion_ratio(torch.tensor([[0, 30]]), torch.tensor([[70, 30, 0], [0, 60, 0]]))[0, 1].item()
    0.5
    """
    if false.ndim != 2 or matrix.shape != (false.shape[1], false.shape[1] + 1):
        raise WeaksegError(
            f"counts are (K, C + 1) and the confusion matrix (C + 1, C + 2) of the same classes; "
            f"got {tuple(false.shape)} and {tuple(matrix.shape)}"
        )
    right = matrix[:, :-1].diagonal().double()
    return false.double() / right.masked_fill(right == 0, torch.nan)


def class_confusion(matrix: Int64[Tensor, "c c1"]) -> Float64[Tensor, "c c"]:
    """m_{k,c} between the classes themselves: pixels of true class k predicted as c over correct pixels of c.

    Row 0 is background taken for c. The diagonal is nan: a class is not confused with itself.

    >>> class_confusion(torch.tensor([[70, 30, 0], [15, 60, 0]])).tolist()
    [[nan, 0.5], [0.21428571428571427, nan]]
    """
    ratio = confusion_ratio(matrix[:, :-1], matrix)
    return ratio.fill_diagonal_(torch.nan)


def co_occurrence(rows: Bool[Tensor, "n c"], columns: Bool[Tensor, "n k"]) -> Float64[Tensor, "c k"]:
    """Entry (c, k): images that hold both c and k over images that hold c; nan for a c in no image.

    Args:
        rows: whether image n holds class c.
        columns: whether it holds label k; give `rows` again for classes among themselves (diagonal 1).

    Reference: EPS, A.5 and Figure A.2.

    >>> train_and_rails = torch.tensor([[True, True], [True, False], [False, True]])
    >>> co_occurrence(train_and_rails[:, :1], train_and_rails[:, 1:]).tolist()
    [[0.5]]
    """
    if rows.ndim != 2 or columns.ndim != 2 or len(rows) != len(columns):
        raise WeaksegError(
            f"presence is (images, classes) on both sides; got {tuple(rows.shape)}, {tuple(columns.shape)}"
        )
    both = rows.double().T @ columns.double()
    images = rows.double().sum(0)
    return both / images.masked_fill(images == 0, torch.nan)[:, None]


def present(labels: Tensor, count: int, min_pixels: int = 1) -> Bool[Tensor, "count"]:
    """Which of the labels 1..count the map holds, each in at least `min_pixels` pixels.

    >>> present(torch.tensor([[0, 1, 3, 3, 255]], dtype=torch.uint8), 3, min_pixels=2).tolist()
    [False, False, True]
    """
    pixels = np.bincount(labels.detach().cpu().numpy().ravel().astype(np.int64), minlength=count + 1)
    return torch.from_numpy(pixels[1 : count + 1] >= min_pixels)
