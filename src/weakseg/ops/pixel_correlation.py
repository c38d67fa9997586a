"""SEAM's pixel correlation: maps revised by what looks alike, at any distance.

Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation", CVPR 2020,
https://arxiv.org/abs/2004.04581, sec. 3.3; methods.md 5. c = class with background first; h x w = feature pixels.
"""

import torch
from torch import Tensor

EPS = 1e-5
BLOCK = 4096
"""Columns of the correlation in memory at a time: all of them at the training crop (56 x 56 = 3136)."""


def suppress_others(maps: Tensor) -> Tensor:
    """Of the foreground maps only the highest of each pixel stays, the others are zero; background stays as it is.

    Args:
        maps: float (B, C + 1, h, w), background first.

    Returns:
        float (B, C + 1, h, w); equal highest ones all stay.

    >>> suppress_others(torch.tensor([0.9, 0.2, 0.5, 0.5]).view(1, 4, 1, 1)).flatten()
    tensor([0.9000, 0.0000, 0.5000, 0.5000])
    """
    classes = maps[:, 1:]
    kept = classes.where(classes == classes.amax(dim=1, keepdim=True), 0)
    return torch.cat([maps[:, :1], kept], dim=1)


def replace_background(maps: Tensor) -> Tensor:
    """The maps with 1 - (highest foreground) in the place of background's own.

    Args:
        maps: float (B, C + 1, h, w), background first, foreground 0-1.
    """
    background = 1 - maps[:, 1:].amax(dim=1, keepdim=True)
    return torch.cat([background, maps[:, 1:]], dim=1)


@torch.no_grad()
def confident_maps(maps: Tensor) -> Tensor:
    """c~, what is spread: ReLU, over the maximum + 1e-5, background 1 - max, other classes suppressed; no gradient.

    Args:
        maps: float (B, C + 1, h, w), signed, background first; the learned background is discarded.

    Returns:
        float (B, C + 1, h, w), 0-1.

    >>> c = confident_maps(torch.tensor([[[[9.0, 9.0]], [[4.0, 1.0]], [[-1.0, 8.0]]]]))[0, :, 0]
    >>> (c * 100).round().tolist()
    [[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]
    """
    positive = maps.relu()
    return suppress_others(replace_background(positive / (positive.amax(dim=(2, 3), keepdim=True) + EPS)))


def pixel_correlation(maps: Tensor, features: Tensor, block: int = BLOCK) -> Tensor:
    """``c~ S``, S = ReLU(F^T F) of features of length 1, with columns that sum to one (guards of 1e-5).

    Args:
        maps: float (B, K, h, w), what is spread.
        features: float (B, D, h, w), of any length.
        block: columns at a time; changes memory alone.

    Returns:
        float (B, K, h, w), float32 at least: weighted means of each map.

    >>> alike = torch.tensor([[[[2.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]])  # the first two pixels look the same
    >>> pixel_correlation(torch.tensor([[[[1.0, 0.0, 0.5]]]]), alike)
    tensor([[[[0.5000, 0.5000, 0.5000]]]])
    """
    kind = maps.device.type if torch.amp.is_autocast_available(maps.device.type) else "cpu"
    with torch.autocast(kind, enabled=False):  # 1e-5 is next to nothing in half precision
        dtype = torch.promote_types(features.dtype, torch.float32)
        vectors, spread = features.to(dtype).flatten(2), maps.to(dtype).flatten(2)
        vectors = vectors / (vectors.norm(dim=1, keepdim=True) + EPS)
        revised = []
        for some in vectors.split(block, dim=2):  # b = image, i = from pixel, j = to pixel
            correlation = (vectors.transpose(1, 2) @ some).relu()
            revised.append(spread @ (correlation / (correlation.sum(dim=1, keepdim=True) + EPS)))
        return torch.cat(revised, dim=2).reshape(maps.shape)
