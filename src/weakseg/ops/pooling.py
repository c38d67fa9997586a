"""Gated Pyramid Pooling: a classifier pools its maps over bins of several sizes, positive and negative parts apart.

Yoon et al., "Adversarial Erasing Framework via Triplet with Gated Pyramid Pooling Layer for Weakly Supervised Semantic
Segmentation", ECCV 2022; Eqs. (2) to (5) as methods.md 9.2 rebuilds them. Global average pooling asks every pixel of a
map for the same evidence; here a pixel counts by what its surroundings say, from the coarsest bins to the finest.

f = the classifier's maps before ReLU, P_r = their means over r x r bins, P^_r = what is merged up to level r.
b = image, c = class; h x w = feature pixels.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate

BINS = (2, 4, 8, 16)
"""Bins along a side, coarsest level first (sec. 9.2)."""

Sides: TypeAlias = Literal["both", "positive", "negative"]


def bin_means(maps: Tensor, bins: int) -> Tensor:
    """P_r: the mean of each of r x r bins, enlarged to the maps' own size by bilinear interpolation. Signed.

    Args:
        maps: float (B, C, h, w), f.
        bins: r. Where it does not divide h or w, bins share the pixels on their borders; it may exceed h and w.

    Returns:
        float (B, C, h, w).

    >>> bin_means(torch.tensor([[[[0.0, 2.0, -4.0, -2.0]]]]), 2)[0, 0]  # means 1 and -3, a pixel's height repeated
    tensor([[ 1.,  0., -2., -3.]])
    """
    return interpolate(adaptive_avg_pool2d(maps, bins), maps.shape[2:], mode="bilinear", align_corners=False)


def pyramid(maps: Tensor, bins: Iterable[int] = BINS) -> list[Tensor]:
    """P_r of every level, in the order of `bins`; see `bin_means`."""
    return [bin_means(maps, r) for r in bins]


def gates(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """g(x, y) = sigmoid(Conv3x3([ReLU x, ReLU y])): how much of each of two levels passes, at every pixel (Eq. 4).

    Args:
        x: float (B, C, h, w), the levels merged so far (for the negative gates: their negative).
        y: float (B, C, h, w), the level that comes in (likewise).
        weight: float (2, 2 C, 3, 3), of the convolution, which has no bias and pads with zeros.

    Returns:
        float (B, 2, h, w), 0-1; gate 0 is for x, gate 1 for y, the same for all classes.
    """
    return conv2d(torch.cat([x.relu(), y.relu()], dim=1), weight, padding=1).sigmoid()


def merge(x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor | None = None) -> Tensor:
    """Half the gated positive parts of two levels, less half their gated negative parts (Eq. 4).

    1/2 [alpha_1 ReLU(x) + alpha_2 ReLU(y)] - 1/2 [beta_1 ReLU(-x) + beta_2 ReLU(-y)].

    Args:
        x, y: float (B, C, h, w), see `gates`.
        alpha: float (B, 2, h, w), gates of the positive parts.
        beta: float (B, 2, h, w), gates of the negative parts; None: negative parts pass whole, beta = 1 (supplement
            1.2: 53.6 instead of 54.2).

    Returns:
        float (B, C, h, w).

    >>> x, y = torch.full((1, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1), -2.0)
    >>> halves = torch.full((1, 2, 1, 1), 0.5)
    >>> merge(x, y, halves, halves).item(), merge(x, y, halves).item()  # 2 / 2 - 1 / 2, and 2 / 2 - 2 / 2
    (0.5, 0.0)
    """
    positive = alpha[:, :1] * x.relu() + alpha[:, 1:] * y.relu()
    if beta is None:
        return (positive - (-x).relu() - (-y).relu()) / 2
    return (positive - beta[:, :1] * (-x).relu() - beta[:, 1:] * (-y).relu()) / 2


def gated_merge(levels: Sequence[Tensor], positive: Sequence[Tensor], negative: Sequence[Tensor] | None) -> Tensor:
    """Merge level after level in the order given, each by gates of its own: P^_16 if the coarsest comes first.

    Given the finest level first it is the inverse order of the ablation, G_I (51.3 instead of 54.2).

    Args:
        levels: n of float (B, C, h, w); the first is taken as it is, P^_2 = P_2.
        positive: n - 1 weights of `gates` for the positive parts.
        negative: n - 1 weights of `gates` for the negative parts, which see the levels with their sign changed; None:
            no negative gates.

    Returns:
        float (B, C, h, w), G.

    Raises:
        ValueError: no level, or not one weight for each merge.
    """
    if not levels or any(len(w) != len(levels) - 1 for w in (positive, negative) if w is not None):
        raise ValueError(f"{len(levels)} levels want {len(levels) - 1} weights a side; got {len(positive)}")
    merged = levels[0]
    for k, level in enumerate(levels[1:]):
        alpha = gates(merged, level, positive[k])
        beta = None if negative is None else gates(-merged, -level, negative[k])
        merged = merge(merged, level, alpha, beta)
    return merged


def mean_of_levels(levels: Sequence[Tensor]) -> Tensor:
    """The plain mean of the levels: aggregator A of the ablation (53.3 instead of 54.2)."""
    return torch.stack(list(levels)).mean(dim=0)


def signed_logits(pooled: Tensor, maps: Tensor, sides: Sides = "both") -> Tensor:
    """What the sigmoid of each class is taken of: GAP(ReLU(G) ReLU(f)) - GAP(ReLU(-G) ReLU(-f)) (Eq. 5).

    A pixel counts where map and pyramid agree in sign, so both directions are amplified.

    Args:
        pooled: float (B, C, h, w), G.
        maps: float (B, C, h, w), f.
        sides: ``positive`` or ``negative``: that term alone (supplement 1.2: both below the baseline of 48.4; its
            logits have one sign only).

    Returns:
        float (B, C).

    >>> signed_logits(torch.tensor([[[[2.0, 1.0, -1.0]]]]), torch.tensor([[[[3.0, -5.0, -6.0]]]]))  # (6 - 6) / 3
    tensor([[0.]])
    """
    positive = (pooled.relu() * maps.relu()).mean(dim=(2, 3))
    if sides == "positive":
        return positive
    negative = ((-pooled).relu() * (-maps).relu()).mean(dim=(2, 3))
    return -negative if sides == "negative" else positive - negative
