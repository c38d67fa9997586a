"""Pairs of nearby cells, how much they belong together, and the losses that teach it: shared by IRN and PSA.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019 (IRN), and Ahn
and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018 (PSA); methods.md 3 and 4.

Every pair is listed once, from its upper (or left) cell, the source, to a target at one of the *forward* offsets. A
source counts only if all its targets lie on the map. With m = radius - 1 these are the rows 0..h-m-1 and the columns
m..w-m-1, so all pairs fit in one array (..., P, h - m, w - 2m): pair p of the source at [y, x] is that of the cell
(y, x + m) with the cell (y, x + m) + offset p. Padding a map by m at the left, right and bottom makes every cell a
source.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from weakseg.types import BACKGROUND, IGNORE, WeaksegError

EPS = 1e-5
"""Guards every logarithm and every mean of section 3 and 4."""


class Pairs(NamedTuple):
    """Which pairs teach what, bool (B, P, h - m, w - 2m) each; a pair with an unknown label (255) is in none.

    Attributes:
        background: both cells are background.
        foreground: both cells hold the same class.
        negative: the labels differ.
    """

    background: Tensor
    foreground: Tensor
    negative: Tensor


# --- which pairs ---


@cache
def pair_offsets(radius: int) -> tuple[tuple[int, int], ...]:
    """The forward offsets (dy, dx) of less than `radius` cells: dy > 0, or dy = 0 and dx > 0.

    >>> pair_offsets(2)
    ((0, 1), (1, -1), (1, 0), (1, 1))
    >>> len(pair_offsets(5)), len(pair_offsets(10))
    (34, 152)
    """
    reach = range(-radius + 1, radius)
    return tuple(
        (dy, dx) for dy in range(radius) for dx in reach if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    )


@cache
def path(offset: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The cells (dy, dx) between (0, 0) and `offset`, both included: less than 1 away from the line that joins them.

    Only cells of the rectangle that the two span are asked (methods.md 4).

    >>> path((0, 2)), path((1, 2))
    (((0, 0), (0, 1), (0, 2)), ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)))
    """
    dy, dx = offset
    rows, columns = range(min(dy, 0), max(dy, 0) + 1), range(min(dx, 0), max(dx, 0) + 1)
    return tuple((y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)


def sources(maps: Tensor, radius: int) -> Tensor:
    """The cells that are sources, a view (..., h - m, w - 2m) of `maps` (..., h, w).

    >>> sources(torch.arange(12).reshape(3, 4), radius=2)
    tensor([[1, 2],
            [5, 6]])
    """
    height, width = _grid(maps, radius)
    return maps[..., :height, radius - 1 : radius - 1 + width]


def targets(maps: Tensor, radius: int) -> Tensor:
    """What each source sees at each offset: (..., P, h - m, w - 2m) of `maps` (..., h, w).

    >>> targets(torch.arange(12).reshape(3, 4), radius=2)[:, 0, 0].tolist()  # around 1: right, and the row below
    [2, 4, 5, 6]
    """
    grid = _grid(maps, radius)
    return torch.stack([_shifted(maps, offset, grid, radius) for offset in pair_offsets(radius)], dim=-3)


def pad_for_sources(maps: Tensor, radius: int, value: float) -> Tensor:
    """`maps` (..., h, w) with `value` around it, so that each of its own cells is a source."""
    margin = radius - 1
    return F.pad(maps, (margin, margin, 0, margin), value=value)


def label_pairs(labels: Tensor, radius: int) -> Pairs:
    """Background, foreground and negative pairs of label maps uint8 (B, h, w).

    >>> pairs = label_pairs(torch.tensor([[[0, 3, 3, 255], [0, 0, 3, 0]]], dtype=torch.uint8), radius=2)
    >>> pairs.foreground[0, :, 0, 0].tolist()  # the cell (0, 1) is a 3; right 3, below left 0, below 0, below right 3
    [True, False, False, True]
    """
    source, target = sources(labels, radius).unsqueeze(-3), targets(labels, radius)
    known = (source != IGNORE) & (target != IGNORE)
    alike = source == target
    return Pairs(alike & (source == BACKGROUND), alike & known & (source != BACKGROUND), known & ~alike)


# --- how much two cells belong together ---


def edge_affinity(edges: Tensor, radius: int) -> Tensor:
    """1 - the strongest edge on the path between the two cells of each pair (IRN; methods.md 4).

    Args:
        edges: float (B, h, w), 0-1, edge probabilities.
        radius: pairs of less than so many cells.

    Returns:
        float (B, P, h - m, w - 2m), 0-1; the gradient goes to the strongest cell of each path (the first of equals).

    >>> edges = torch.tensor([[[0.0, 0.1, 0.7, 0.2]]])
    >>> edge_affinity(F.pad(edges, (2, 2, 0, 2)), radius=3)[0, 1, 0]  # pairs with the cell two to the right
    tensor([0.3000, 0.3000, 0.3000, 0.8000])
    """
    strongest: Tensor = _PathMaximum.apply(edges, radius)  # type: ignore[no-untyped-call]
    return 1 - strongest


def walk_affinity(edge: Tensor, radius: int) -> Tensor:
    """Affinities for a random walk: of every cell, zero where the target lies outside of the map.

    Args:
        edge: float (h, w), 0-1.
        radius: pairs of less than so many cells.

    Returns:
        float (P, h, w), 0-1.
    """
    return edge_affinity(pad_for_sources(edge[None], radius, value=1.0), radius)[0]


# --- losses ---


def affinity_losses(affinity: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """A quarter each for background and foreground pairs that should be one, half for those that should not be.

    ``L = 1/4 mean_bg(-log(a + 1e-5)) + 1/4 mean_fg(-log(a + 1e-5)) + 1/2 mean_neg(-log(1 + 1e-5 - a))``, each mean
    over its own pairs of the batch; one without pairs is zero (methods.md 3, and (P + N) / 2 of methods.md 4).

    Args:
        affinity: float (B, P, h - m, w - 2m), 0-1.
        pairs: of the same shape.

    Returns:
        the three terms, weighted, by name: ``affinity_background``, ``affinity_foreground``, ``affinity_negative``.
    """
    distance = -torch.where(pairs.negative, 1 + EPS - affinity, affinity + EPS).log()
    return {
        "affinity_background": masked_mean(distance, pairs.background) / 4,
        "affinity_foreground": masked_mean(distance, pairs.foreground) / 4,
        "affinity_negative": masked_mean(distance, pairs.negative) / 2,
    }


def displacement_losses(displacement: Tensor, pairs: Pairs, radius: int) -> dict[str, Tensor]:
    """Cells of one object should point to one centre, background cells anywhere alike (IRN, D_f and D_b).

    ``D_f`` = sum over foreground pairs and both axes of |d_source - d_target - offset| over (2 #pairs + 1e-5); ``D_b``
    the same on background pairs of |d_source - d_target| (methods.md 4).

    Args:
        displacement: float (B, 2, h, w), cells, (dy, dx) from each cell to its centre.
        pairs: of `label_pairs` on the same map.
        radius: that of the pairs.

    Returns:
        halves of the two terms by name: ``displacement_foreground``, ``displacement_background``.
    """
    difference = sources(displacement, radius).unsqueeze(-3) - targets(displacement, radius)
    offsets = torch.tensor(pair_offsets(radius), dtype=difference.dtype, device=difference.device)
    foreground = (difference - offsets.T[None, :, :, None, None]).abs().sum(dim=1)
    background = difference.abs().sum(dim=1)
    return {
        "displacement_foreground": _sum(foreground, pairs.foreground) / (2 * pairs.foreground.sum() + EPS) / 2,
        "displacement_background": _sum(background, pairs.background) / (2 * pairs.background.sum() + EPS) / 2,
    }


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over `mask` by its count + 1e-5: zero, with a gradient of zero, where nothing is."""
    return _sum(values, mask) / (mask.sum() + EPS)


def _sum(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0).sum()


class _PathMaximum(torch.autograd.Function):
    """The maximum over each path, (B, h, w) -> (B, P, h - m, w - 2m); remembers where on its path it lay."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, radius: int) -> Tensor:
        grid, paths = _grid(maps, radius), [path(offset) for offset in pair_offsets(radius)]
        shape = (len(paths), len(maps), *grid)
        best = maps.new_empty(shape)
        place = torch.zeros(shape if ctx.needs_input_grad[0] else (0,), dtype=torch.uint8, device=maps.device)
        for p, cells in enumerate(paths):
            best[p] = _shifted(maps, cells[0], grid, radius)
            for k, cell in enumerate(cells[1:], start=1):
                here = _shifted(maps, cell, grid, radius)
                if ctx.needs_input_grad[0]:
                    place[p].masked_fill_(here > best[p], k)
                torch.maximum(best[p], here, out=best[p])
        ctx.radius, ctx.shape = radius, maps.shape
        ctx.save_for_backward(place)
        return best.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        count, height, width = ctx.shape
        out = gradient.new_zeros((count, height * width))
        cells = torch.arange(height * width, device=gradient.device).reshape(height, width)
        source = sources(cells, ctx.radius)
        for p, offset in enumerate(pair_offsets(ctx.radius)):
            steps = torch.tensor([dy * width + dx for dy, dx in path(offset)], device=gradient.device)
            reached = source + steps[place[p].long()]
            out.scatter_add_(1, reached.flatten(1), gradient[:, p].flatten(1))
        return out.reshape(ctx.shape), None


def _shifted(maps: Tensor, cell: tuple[int, int], grid: tuple[int, int], radius: int) -> Tensor:
    top, left = cell[0], cell[1] + radius - 1
    return maps[..., top : top + grid[0], left : left + grid[1]]


def _grid(maps: Tensor, radius: int) -> tuple[int, int]:
    """(rows, columns) of the sources."""
    height, width = maps.shape[-2] - (radius - 1), maps.shape[-1] - 2 * (radius - 1)
    if height < 1 or width < 1:
        raise WeaksegError(
            f"a map of {maps.shape[-2]}x{maps.shape[-1]} cells has no pair of radius {radius} all of whose offsets fit "
            f"({radius}x{2 * radius - 1} at least): use larger crops or a smaller radius"
        )
    return height, width
