"""Losses on image tags and on label maps with ignored pixels.

Each is finite on any labels: a mean over no pixel is zero, with a gradient of zero. The published tools divide 0 by 0
there; ``guard=False`` does as they do (methods.md 8.9, row 15, and 13).
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as _nll
from torch.nn.functional import logsigmoid

from weakseg.types import BACKGROUND, IGNORE


def multilabel_soft_margin(logits: Tensor, tags: Tensor) -> Tensor:
    """Binary cross-entropy of each class on its logit, averaged over classes, then over images.

    Args:
        logits: float (B, C).
        tags: (B, C), 0 or 1 (bool or float), the classes present.

    Returns:
        float (), >= 0.

    References:
        methods.md 2.1; the classification loss of PSA, SEAM, IRN, EPS, AMN and AEFT.

    >>> multilabel_soft_margin(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))  # ln 2 for a guess
    tensor(0.6931)
    """
    tags = tags.to(logits.dtype)
    return -(tags * logsigmoid(logits) + (1 - tags) * logsigmoid(-logits)).mean(dim=1).mean()


def cross_entropy(logits: Tensor, labels: Tensor, *, guard: bool = True) -> Tensor:
    """Mean negative log-likelihood over the pixels that are not 255.

    Args:
        logits: float (B, C + 1, h, w), channel 0 = background.
        labels: uint8 (B, h, w), ids 0..C or 255 = ignore.
        guard: zero if there is none; False: nan, as torch's own.

    Returns:
        float (), >= 0.

    >>> cross_entropy(torch.zeros(1, 4, 1, 2), torch.tensor([[[3, 255]]], dtype=torch.uint8))  # ln 4
    tensor(1.3863)
    """
    valid = labels != IGNORE
    return _masked_mean(_pixel_loss(logits, labels), valid, guard)


def balanced_cross_entropy(logits: Tensor, labels: Tensor, *, half: bool = True, guard: bool = True) -> Tensor:
    """Mean over foreground pixels plus mean over background pixels, so that background cannot win by its area.

    Args:
        logits: float (B, C + 1, h, w), channel 0 = background.
        labels: uint8 (B, h, w), ids 0..C or 255 = ignore.
        half: halve the sum (AMN's balanced loss).
        guard: a term without pixels is zero and is not made up for; False: it is nan.

    Returns:
        float (), >= 0.

    References:
        methods.md 8.3 and 10 (AdvCAM, RIB and AMN train their segmentation networks with it).

    >>> labels = torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)
    >>> balanced_cross_entropy(torch.zeros(1, 2, 1, 4), labels)  # (ln 2 + ln 2) / 2
    tensor(0.6931)
    """
    return balanced_mean(_pixel_loss(logits, labels), labels, half=half, guard=guard)


def balanced_mean(loss: Tensor, labels: Tensor, *, half: bool = True, guard: bool = True) -> Tensor:
    """Mean of a pixel loss over the foreground plus its mean over the background, over the pixels of the whole batch.

    Args:
        loss: float (B, h, w), of each pixel.
        labels: uint8 (B, h, w), ids 0..C or 255 = in neither mean.
        half: halve the sum.
        guard: a term without pixels is zero and is not made up for; False: it is nan.

    Returns:
        float ().

    >>> labels = torch.tensor([[[0, 0, 5, 255]]], dtype=torch.uint8)
    >>> balanced_mean(torch.tensor([[[1.0, 3.0, 6.0, 99.0]]]), labels)  # (2 + 6) / 2
    tensor(4.)
    """
    background = labels == BACKGROUND
    foreground = (labels != BACKGROUND) & (labels != IGNORE)
    total = _masked_mean(loss, foreground, guard) + _masked_mean(loss, background, guard)
    return total / 2 if half else total


def _pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """float (B, h, w), zero where ignored; in float32 at least, whatever the precision of the network."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _nll(logits, labels.long(), ignore_index=IGNORE, reduction="none")


def _masked_mean(loss: Tensor, mask: Tensor, guard: bool) -> Tensor:
    return torch.where(mask, loss, 0).sum() / mask.sum().clamp(min=int(guard))
