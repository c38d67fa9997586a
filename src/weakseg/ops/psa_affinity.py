"""What PSA adds to `ops.affinity`: labels from two CRFs, affinities of feature vectors, scores to walk with.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018, https://arxiv.org/abs/1803.10464; methods.md 3. Pairs, their losses and the walk are shared
with IRN: `ops.affinity` and `ops.random_walk`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from weakseg.ops.affinity import pad_for_sources, pair_offsets, sources
from weakseg.types import BACKGROUND, IGNORE, WeaksegError

NOTHING = 1e-5
"""Where all scores of a cell are below this, it lies outside of the photograph."""


def affinity_labels(low: Tensor, high: Tensor) -> Tensor:
    """What each cell teaches: a class where even much background leaves one, background where little background wins.

    The class that wins over the large background of a small alpha is confident; 0 where background wins although a
    large alpha has made it small; 255 in between, and where no score reaches 1e-5 (outside of the crop).

    Args:
        low: float (B, C + 1, h, w), scores of the CRF with the small alpha, background first.
        high: float (B, C + 1, h, w), those with the large alpha.

    Returns:
        uint8 (B, h, w), 0..C or 255. Ties go to background, then to the smaller id.

    >>> low = torch.tensor([[[0.9, 0.8, 0.3, 0.0]], [[0.1, 0.2, 0.7, 0.0]]])  # background, class 1
    >>> high = torch.tensor([[[0.6, 0.1, 0.1, 0.0]], [[0.4, 0.9, 0.9, 0.0]]])
    >>> affinity_labels(low[None], high[None]).tolist()
    [[[0, 255, 1, 255]]]
    """
    if low.shape != high.shape:
        raise WeaksegError(f"scores of both alphas have one shape; got {tuple(low.shape)} and {tuple(high.shape)}")
    winner = low.argmax(dim=1)
    labels = winner.masked_fill(winner == BACKGROUND, IGNORE).masked_fill(high.argmax(dim=1) == BACKGROUND, BACKGROUND)
    nothing = torch.maximum(low.amax(dim=1), high.amax(dim=1)) < NOTHING
    return labels.masked_fill(nothing, IGNORE).to(torch.uint8)


def with_background(scores: Tensor, alpha: float) -> Tensor:
    """[(1 - max_c s_c)^alpha, s]: the scores with a background that is small where any class is sure.

    Args:
        scores: float (K, h, w), 0-1, one map a class, without background.
        alpha: above 0; the larger, the less background.

    Returns:
        float (K + 1, h, w), background first; all background without a class.

    >>> with_background(torch.tensor([[[0.0, 0.5]], [[0.0, 0.25]]]), alpha=2)[:, 0]
    tensor([[1.0000, 0.2500],
            [0.0000, 0.5000],
            [0.0000, 0.2500]])
    """
    if not len(scores):
        return scores.new_ones((1, *scores.shape[1:]))
    background = (1 - scores.amax(dim=0, keepdim=True)).clamp(0, 1) ** alpha
    return torch.cat([background, scores])


def pool_scores(scores: Tensor, stride: int) -> Tensor:
    """Mean score of each cell; a cell that reaches beyond the map counts zeros there.

    Args:
        scores: float (..., H, W).
        stride: pixels a cell.

    Returns:
        float (..., ceil(H / stride), ceil(W / stride)).

    >>> pool_scores(torch.tensor([[[1.0, 3.0, 8.0], [2.0, 2.0, 8.0]]]), 2)
    tensor([[[2., 4.]]])
    """
    height, width = scores.shape[-2:]
    return avg_pool2d(pad(scores, (0, -width % stride, 0, -height % stride)), stride)


def feature_affinity(features: Tensor, radius: int) -> Tensor:
    """``a_ij = exp(-mean_d |F_i - F_j|)`` of each pair of `ops.affinity.pair_offsets`.

    Args:
        features: float (B, D, h, w).
        radius: pairs of less than so many cells.

    Returns:
        float (B, P, h - radius + 1, w - 2 (radius - 1)), above 0, at most 1.

    Raises:
        WeaksegError: no cell has all its targets on the map.

    >>> f = torch.tensor([[[[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]]]])
    >>> feature_affinity(f, radius=2)[0, :, 0, 0]  # of the cell (0, 1): right, below left, below, below right
    tensor([0.3679, 1.0000, 1.0000, 0.1353])
    """
    distance: Tensor = _PairDistance.apply(features, radius)  # type: ignore[no-untyped-call]
    return (-distance).exp()


def feature_walk_affinity(features: Tensor, radius: int, *, border: bool = False) -> Tensor:
    """Affinities for a random walk: `feature_affinity` of every source, zero for cells that are none.

    As in the published code, cells of the last rows and of the outer columns are tied to what lies further inside and
    not to one another; those in the corners are tied to nothing and keep their scores.

    Args:
        features: float (D, h, w).
        radius: pairs of less than so many cells; below 2 there is no pair.
        border: take all pairs of the map, as IRN does (`ops.affinity.walk_affinity`).

    Returns:
        float (P, h, w), 0-1. With `border` what leads out of the map has a number too, which means nothing:
        `ops.random_walk.transition` leaves it out.
    """
    if radius < 2:
        return features.new_zeros((0, *features.shape[1:]))
    if border:
        return feature_affinity(pad_for_sources(features, radius, value=0.0)[None], radius)[0]
    margin = radius - 1
    return pad(feature_affinity(features[None], radius)[0], (margin, margin, 0, margin))


def fitting_radius(size: tuple[int, int], radius: int, *, shrink: bool = True) -> int:
    """The radius on a map of that size: (shorter side - 1) // 2 on one whose shorter side is below 2 radius + 1.

    SEAM and AEFT do so; PSA keeps the radius and fails on a map that holds no source. With `shrink` false it is kept
    as long as there is one.

    Args:
        size: (h, w), cells.
        radius: on a map that is large enough.
        shrink: on every small map.

    >>> fitting_radius((11, 30), 5), fitting_radius((10, 30), 5), fitting_radius((2, 30), 5)
    (5, 4, 0)
    >>> fitting_radius((10, 30), 5, shrink=False), fitting_radius((10, 8), 5, shrink=False)
    (5, 3)
    """
    fits = size[0] >= radius and size[1] >= 2 * radius - 1
    small = min(size) < 2 * radius + 1 if shrink else not fits
    return (min(size) - 1) // 2 if small else radius


class _PairDistance(torch.autograd.Function):
    """mean_d |F_i - F_j|, (B, D, h, w) -> (B, P, h - m, w - 2m): one offset at a time, none of the differences kept."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        ctx.radius = radius
        ctx.save_for_backward(features)
        source = sources(features, radius)
        pairs = [(source - _target(features, o, radius)).abs().mean(dim=1) for o in pair_offsets(radius)]
        return torch.stack(pairs, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        out, share = torch.zeros_like(features), gradient / features.shape[1]
        source = sources(features, ctx.radius)
        for p, offset in enumerate(pair_offsets(ctx.radius)):
            change = (source - _target(features, offset, ctx.radius)).sign() * share[:, p, None]
            sources(out, ctx.radius).add_(change)
            _target(out, offset, ctx.radius).sub_(change)
        return out, None


def _target(maps: Tensor, offset: tuple[int, int], radius: int) -> Tensor:
    """What the sources see at `offset`, a view."""
    height, width = sources(maps, radius).shape[-2:]
    top, left = offset[0], offset[1] + radius - 1
    return maps[..., top : top + height, left : left + width]
