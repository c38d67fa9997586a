"""Background-aware pooling: features of a box, weighted by how little they look like the photograph's background.

Oh et al., "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA), CVPR
2021, https://arxiv.org/abs/2104.00905, Eqs. (1)-(4); the published code's choices: methods.md 7.2 and 7.7.
All functions take one photograph and keep its gradient.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, normalize, pad
from torchvision.ops import roi_align

from weakseg.ops.boxes import definite_background

EPS = 1e-12
"""Added to sums of weights."""

Sampling: TypeAlias = Literal["grid", "roi_align"]
"""How the features of a box are read: as the published code does, `resample_box`, or as the paper, `align_box`."""


def grid_cells(size: tuple[int, int], n: int) -> Tensor:
    """Which of n x n cells, row by row, each position belongs to.

    Either side is padded to a multiple of n, on both ends alike if the padding is even, else at its far end.

    Args:
        size: (h, w).
        n: cells a side, N.

    Returns:
        int64 (h, w), 0..n^2-1.

    >>> grid_cells((3, 6), 2).tolist()  # rows 0-1 and 2 (+ 1 of padding)
    [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3]]
    """
    rows, columns = (_cells(length, n) for length in size)
    return rows[:, None] * n + columns[None, :]


def cell_masks(background: Tensor, n: int) -> Tensor:
    """float (N^2, h, w): the definite background of each cell of a grid.

    Args:
        background: bool or float (h, w), M.
        n: cells a side, N.

    >>> cell_masks(torch.tensor([[1.0, 0.0]]), 2)[:2].tolist()
    [[[1.0, 0.0]], [[0.0, 0.0]]]
    """
    cells = grid_cells((background.shape[0], background.shape[1]), n).to(background.device)
    own = cells[None] == torch.arange(n * n, device=cells.device)[:, None, None]
    return own * background.float()


def background_queries(features: Tensor, background: Tensor, n: int = 4) -> Tensor:
    """Eq. (1), q_j: mean feature of the definite background in each cell that has any.

    Args:
        features: float (D, h, w), f.
        background: bool or float (h, w), M at the size of the features.
        n: cells a side, N.

    Returns:
        float (J, D), 0 <= J <= N^2.

    >>> f = torch.tensor([[[1.0, 3.0, 5.0, 7.0]]])
    >>> background_queries(f, torch.tensor([[1, 1, 0, 0]]), n=1), background_queries(f, torch.zeros(1, 4), n=1).shape
    (tensor([[2.]]), torch.Size([0, 1]))
    """
    masks = cell_masks(background, n).to(features)
    counts = masks.sum(dim=(1, 2))
    sums = torch.einsum("jhw,dhw->jd", masks, features)  # j = cell, d = channel
    return (sums / (counts + EPS)[:, None])[counts > 0]


def attention(features: Tensor, queries: Tensor) -> Tensor:
    """Eqs. (2)-(3) inside boxes, A: mean over the queries of the cosine with the feature, negative ones as 0.

    Args:
        features: float (D, h, w).
        queries: float (J, D); with none nothing looks like background, and A is 0.

    Returns:
        float (h, w), 0-1.

    >>> f = torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 1.0, 0.0]]])
    >>> attention(f, torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    if not len(queries):
        return features.new_zeros(features.shape[1:])
    unit, directions = normalize(features, dim=0, eps=EPS), normalize(queries, dim=1, eps=EPS)
    return torch.einsum("dhw,jd->jhw", unit, directions).relu().mean(dim=0)


def attention_map(features: Tensor, queries: Tensor, background: Tensor) -> Tensor:
    """Eqs. (2)-(3), A: `attention` inside boxes and 1 outside of them.

    Args:
        features: float (D, h, w).
        queries: float (J, D).
        background: bool or float (h, w), M.

    Returns:
        float (h, w), 0-1.
    """
    return torch.where(background.bool(), 1.0, attention(features, queries))


def resample_box(features: Tensor, box: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """The features of a box, read bilinearly at as many points as cells it touches.

    Args:
        features: float (D, h, w), of an image of `size`.
        box: float (4,), XYXY pixels of the image; may be fractional.
        size: (H, W) of the image.
        align_corners: whether the points are read where they were meant to be. False is what the published code does
            on torch 1.3 and later: they are spread over half a cell more on either side of the map, and beyond its
            edge features fade to zero (methods.md 7.7, row 3).

    Returns:
        float (D, a, b), a = ceil(bottom) - floor(top) and b = ceil(right) - floor(left) in cells, 1 or more.

    >>> f = torch.arange(5.0).expand(1, 5, 5)
    >>> resample_box(f, torch.tensor([8.0, 0.0, 24.0, 8.0]), (33, 33), align_corners=True)
    tensor([[[1., 3.]]])
    """
    left, top, right, bottom = box.tolist()
    columns = _points(left, right, features.shape[2], size[1])
    rows = _points(top, bottom, features.shape[1], size[0])
    y, x = torch.meshgrid(rows.to(features), columns.to(features), indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None]
    return grid_sample(features[None], grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)[0]


def align_box(features: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """The features of a box by RoIAlign, as the paper has them, in as many bins as cells it touches.

    He et al., "Mask R-CNN", ICCV 2017; how many bins BANA takes is not told. A bin is read once, at its middle.

    Args:
        features: float (D, h, w), of an image of `size`.
        box: float (4,), XYXY pixels of the image; may be fractional.
        size: (H, W) of the image.

    Returns:
        float (D, a, b), a and b cells, 1 or more.

    >>> f = torch.arange(5.0).expand(1, 5, 5)
    >>> align_box(f, torch.tensor([8.0, 0.0, 24.0, 8.0]), (40, 40))
    tensor([[[1., 2.]]])
    """
    height, width = features.shape[1:]
    edges = box.to(features) * features.new_tensor([width / size[1], height / size[0]] * 2)  # in cells
    left, top, right, bottom = edges.tolist()
    bins = max(1, math.ceil(bottom) - math.floor(top)), max(1, math.ceil(right) - math.floor(left))
    return roi_align(features[None], [edges[None]], bins, sampling_ratio=1, aligned=True)[0]


def nearest_box(box: Tensor, cells: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The box on whole cells: those to which nearest-neighbour resizing of its mask gives it, as the paper has it.

    A box that comes to none of them takes the cell at its middle.

    Args:
        box: float (4,), XYXY pixels of the image, half-open.
        cells: (h, w) of the features.
        size: (H, W) of the image.

    Returns:
        float (4,), XYXY pixels of the image, on the edges of cells.

    >>> nearest_box(torch.tensor([7.0, 9.0, 17.0, 15.0]), (5, 5), (40, 40)).tolist()  # columns 8 and 16, no row
    [8.0, 8.0, 24.0, 16.0]
    """
    left, top, right, bottom = box.tolist()
    (x0, x1), (y0, y1) = _nearest(left, right, cells[1], size[1]), _nearest(top, bottom, cells[0], size[0])
    return box.new_tensor([x0, y0, x1, y1])


def weighted_pool(features: Tensor, weight: Tensor, windows: int = 2) -> Tensor:
    """Eq. (4), r: weighted mean of the features in each of `windows` x `windows` parts.

    The stride of the parts is floor(side / windows) and each takes what the others leave, so parts of an odd side
    overlap. A side with fewer cells than windows repeats its last cell. Where all weights are 0 the mean is 0.

    Args:
        features: float (D, a, b).
        weight: float (a, b), >= 0; 1 - A, or ones for global average pooling.
        windows: 2 is the published code's, 1 is Eq. (4) itself.

    Returns:
        float (windows^2, D), row by row.

    >>> f = torch.tensor([[[1.0, 2.0, 6.0]]])
    >>> weighted_pool(f, torch.tensor([[1.0, 3.0, 1.0]]), 1)[0]
    tensor([2.6000])
    >>> weighted_pool(f, torch.ones(1, 3))[:, 0]  # parts 0-1 and 1-2, in either of two equal rows
    tensor([1.5000, 4.0000, 1.5000, 4.0000])
    """
    both = torch.cat([features * weight, weight[None]])[None]
    lacking = [max(0, windows - n) for n in weight.shape]
    both = pad(both, (0, lacking[1], 0, lacking[0]), mode="replicate")
    strides = [n // windows for n in both.shape[2:]]
    kernels = [n - (windows - 1) * s for n, s in zip(both.shape[2:], strides, strict=True)]
    means = avg_pool2d(both, tuple(kernels), stride=tuple(strides))[0].flatten(1)
    return (means[:-1] / (means[-1] + EPS)).T


def pool_box(
    features: Tensor,
    queries: Tensor | None,
    box: Tensor,
    size: tuple[int, int],
    *,
    windows: int = 2,
    align_corners: bool = False,
    sampling: Sampling = "grid",
    nearest: bool = False,
    detach: bool = False,
) -> Tensor:
    """Background-aware pooling of one box: resample, attend, pool with 1 - A (methods.md 7.2).

    Args:
        features: float (D, h, w), of an image of `size`.
        queries: float (J, D), see `background_queries`; None or none of them: A = 0, global average pooling.
        box: float (4,), XYXY pixels of the image.
        size: (H, W) of the image.
        windows, align_corners: see `weighted_pool` and `resample_box`.
        sampling: ``roi_align`` is the paper's (methods.md 7.7, row 3); `align_corners` is of the other alone.
        nearest: whether the box comes to lie on whole cells first, the paper's (row 5).
        detach: whether A is treated as a constant (the published code does not).

    Returns:
        float (windows^2, D).
    """
    if nearest:
        box = nearest_box(box, (features.shape[1], features.shape[2]), size)
    by_grid = sampling == "grid"
    inside = resample_box(features, box, size, align_corners) if by_grid else align_box(features, box, size)
    if queries is None:
        return weighted_pool(inside, inside.new_ones(inside.shape[1:]), windows)
    a = attention(inside, queries)
    return weighted_pool(inside, 1 - (a.detach() if detach else a), windows)


def bap_vectors(
    features: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    n: int = 4,
    windows: int = 2,
    min_background: float = 0.125,
    align_corners: bool = False,
    sampling: Sampling = "grid",
    nearest: bool = False,
    detach: bool = False,
) -> tuple[Tensor, Tensor]:
    """What one crop gives the classifier: its background queries, and its pooled boxes.

    Args:
        features: float (D, h, w).
        boxes: float (K, 4), XYXY pixels of the crop, half-open; K may be 0.
        valid: bool (H, W), false on padding, which is neither box nor background.
        n: cells a side of the grid, N.
        min_background: where no more than this share of the crop is definite background, boxes are pooled by global
            averaging (methods.md 7.7, row 4); 1 always does so.
        windows, align_corners, sampling, nearest, detach: see `pool_box`.

    Returns:
        q float (J, D), Eq. (1); r float (K windows^2, D), Eqs. (2)-(4), the windows of a box together.
    """
    size = (valid.shape[0], valid.shape[1])
    outside = definite_background(boxes, size, valid).float()
    mask = interpolate(outside[None, None], features.shape[1:], mode="nearest")[0, 0]
    queries = background_queries(features, mask, n)
    aware = queries if float(outside.mean()) > min_background else None
    pooled = [
        pool_box(
            features,
            aware,
            box,
            size,
            windows=windows,
            align_corners=align_corners,
            sampling=sampling,
            nearest=nearest,
            detach=detach,
        )
        for box in boxes
    ]
    return queries, torch.cat([features.new_zeros((0, len(features))), *pooled])


def _cells(length: int, n: int) -> Tensor:
    lacking = -length % n
    before = lacking // 2 if lacking % 2 == 0 else 0
    return (torch.arange(length) + before) // ((length + lacking) // n)


def _points(low: float, high: float, cells: int, pixels: int) -> Tensor:
    """Where an axis of a box is read, -1 at the first pixel of the image and 1 at its last."""
    last = max(pixels - 1, 1)
    count = math.ceil(high * (cells - 1) / last) - math.floor(low * (cells - 1) / last)
    return torch.linspace(2 * low / last - 1, 2 * high / last - 1, max(1, count))


def _nearest(low: float, high: float, cells: int, pixels: int) -> tuple[float, float]:
    """Edges, in pixels, of the cells whose pixel under nearest-neighbour resizing lies in the box."""
    pixel = [k * pixels // cells for k in range(cells)]
    own = [k for k in range(cells) if low <= pixel[k] < high]
    first, last = (own[0], own[-1]) if own else (_middle(low, high, cells, pixels),) * 2
    return first * pixels / cells, (last + 1) * pixels / cells


def _middle(low: float, high: float, cells: int, pixels: int) -> int:
    return min(max(math.floor((low + high) / 2 * cells / pixels), 0), cells - 1)
