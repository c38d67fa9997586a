"""Class activation maps and how the papers merge them over scales and flips.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016; the two merges are those of PSA
(Ahn and Kwak, CVPR 2018) and IRN (Ahn et al., CVPR 2019).
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def cam(features: Tensor, weight: Tensor) -> Tensor:
    """ReLU(w_k . f) at each position: the evidence for class k before it is pooled.

    Args:
        features: float (B, D, h, w), what the classifier pools.
        weight: float (K, D), the classifier's rows of the wanted classes.

    Returns:
        float (B, K, h, w), >= 0, unbounded above.

    >>> f = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # D = 2 channels at two positions
    >>> cam(f, torch.tensor([[1.0, 1.0], [0.0, 1.0]]))[0, :, 0]
    tensor([[4., 1.],
            [3., 0.]])
    """
    # b = image, d = channel, k = class
    return torch.einsum("bdhw,kd->bkhw", features, weight).relu()


def max_normalise(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Each map over its own maximum (+ eps), so that one background threshold fits all classes.

    Args:
        maps: float (K, h, w), >= 0.
        eps: keeps an empty map at zero.

    Returns:
        float (K, h, w), 0-1.

    >>> max_normalise(torch.tensor([[[0.0, 2.0, 4.0]], [[0.0, 0.0, 0.0]]]))[:, 0]
    tensor([[0.0000, 0.5000, 1.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + eps)


def min_max_normalise(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Each map stretched from its minimum to its maximum to 0-1 (AMN; methods.md 8.5).

    Args:
        maps: float (K, h, w).
        eps: added to the range; a constant map becomes zero.

    Returns:
        float (K, h, w), 0-1.

    >>> min_max_normalise(torch.tensor([[[1.0, 2.0, 3.0]], [[2.0, 2.0, 2.0]]]))[:, 0]
    tensor([[0.0000, 0.5000, 1.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low + eps)


def range_normalise(maps: Tensor, eps: float = 1e-5, *, rectify: bool = True) -> Tensor:
    """Each map from its minimum to its maximum stretched to 0-1: ``relu(p - min - eps) / (max - min + eps)``.

    Args:
        maps: float (..., h, w), signed.
        eps: a map that is constant becomes zero.
        rectify: take p = ReLU(map); false: the map as it is.

    Returns:
        float (..., h, w), below 1.

    References:
        SEAM and AEFT as published (methods.md 5 and 9.3).

    >>> range_normalise(torch.tensor([[[-1.0, 2.0, 4.0]], [[3.0, 3.0, 3.0]]]))[:, 0]
    tensor([[0.0000, 0.5000, 1.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    p = maps.relu() if rectify else maps
    low, high = p.amin(dim=(-2, -1), keepdim=True), p.amax(dim=(-2, -1), keepdim=True)
    return (p - low - eps).relu() / (high - low + eps)


def merge_flip(maps: Tensor) -> Tensor:
    """Sum of a view's maps and those of its mirror image, turned back.

    Args:
        maps: float (2, K, h, w): of the view and of its left-right mirror image.

    Returns:
        float (K, h, w).

    >>> merge_flip(torch.tensor([[[[1.0, 2.0]]], [[[10.0, 20.0]]]]))
    tensor([[[21., 12.]]])
    """
    return maps[0] + maps[1].flip(-1)


def merge_psa(views: Iterable[Tensor], size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Sum of the views' maps, each resized to the photograph (PSA's and EPS's inference; not yet normalised).

    Args:
        views: float (K, h_s, w_s) a scale, flips already merged (resizing is linear and commutes with the flip).
        size: (H, W) of the photograph, pixels.
        align_corners: resize corners on corners (SEAM, read literally; methods.md 5).

    Returns:
        float (K, H, W).

    >>> merge_psa([torch.tensor([[[0.0, 8.0]]]), torch.zeros(1, 1, 1)], (1, 4))[0, 0]
    tensor([0., 2., 6., 8.])
    """
    return _sum_resized(views, size, align_corners)


def merge_irn(views: Iterable[Tensor], size: tuple[int, int], multiple: int = 16) -> Tensor:
    """Sum of the views' maps, resized to whole cells of the network's stride and cropped (IRN's *high-res* map).

    A feature pixel then covers exactly `multiple` pixels; PSA's resize squeezes the padded cells instead.

    Args:
        views: float (K, h_s, w_s) a scale, flips already merged.
        size: (H, W) of the photograph, pixels.
        multiple: the network's output stride.

    Returns:
        float (K, H, W), not yet normalised.

    >>> merge_irn([torch.tensor([[[0.0, 16.0]]])], (16, 20))[0, 0, 15:18]  # resized to 16 x 32, cropped at 20
    tensor([7.5000, 8.5000, 9.5000])
    """
    height, width = size
    return _sum_resized(views, high_res_size(size, multiple))[:, :height, :width]


def merge_strided(views: Iterable[Tensor], size: tuple[int, int], stride: int = 4) -> Tensor:
    """Sum of the views' maps, resized to a quarter of the photograph (IRN's *strided* map, input of its random walk).

    Args:
        views: float (K, h_s, w_s) a scale, flips already merged.
        size: (H, W) of the photograph, pixels.
        stride: pixels a cell.

    Returns:
        float (K, ceil(H/stride), ceil(W/stride)), not yet normalised.

    >>> tuple(merge_strided([torch.ones(1, 2, 2)], (9, 8)).shape)
    (1, 3, 2)
    """
    return _sum_resized(views, strided_size(size, stride))


def strided_size(size: tuple[int, int], stride: int = 4) -> tuple[int, int]:
    """(ceil(H/stride), ceil(W/stride)).

    >>> strided_size((281, 500))
    (71, 125)
    """
    return -(-size[0] // stride), -(-size[1] // stride)


def high_res_size(size: tuple[int, int], multiple: int = 16) -> tuple[int, int]:
    """Both sides rounded up to a multiple, pixels.

    >>> high_res_size((281, 500))
    (288, 512)
    """
    rows, columns = strided_size(size, multiple)
    return rows * multiple, columns * multiple


def _sum_resized(views: Iterable[Tensor], size: tuple[int, int], align_corners: bool = False) -> Tensor:
    total: Tensor | None = None
    for view in views:
        resized = view.new_zeros((0, *size))
        if len(view):
            resized = interpolate(view[None], size, mode="bilinear", align_corners=align_corners)[0]
        total = resized if total is None else total + resized
    if total is None:
        raise ValueError("no view to merge")
    return total
