"""Resizing and normalising photographs, label maps and saliency maps, pixel for pixel as Pillow does.

The published numbers of this field were made with Pillow: bicubic photographs and saliency maps, nearest label maps.
torch's own resizing puts labels on other pixels and differs from Pillow by up to three levels where a weighted mean
ends in .5, so the integer arithmetic of Pillow is written out here: weights of 22 bits, rows first, then columns, each
pass rounded to 8 bits.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Mode = Literal["bicubic", "bilinear"]

CAFFE_MEAN = (122.675 / 255, 116.669 / 255, 104.008 / 255)
"""Mean colour that Caffe's networks subtract, RGB, of images scaled to 0-1 (methods.md 1.3)."""
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
"""Those networks do not scale: their inputs are levels of 255."""

_BITS = 22
"""Fraction bits of a weight: 32 minus 8 for the level minus 2 for what bicubic overshoots."""


def normalise(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """A network's input: ``(image / 255 - mean) / std``, float32.

    Args:
        image: uint8 or float (..., 3, H, W), RGB 0-255.
        mean: of the channels, for images scaled to 0-1.
        std: likewise.

    >>> normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8), (0.5, 0.5, 0.5), (0.5, 0.25, 1.0)).flatten().tolist()
    [1.0, 2.0, 0.5]
    """
    scaled = image.to(torch.float32) / 255
    return (scaled - scaled.new_tensor(mean).view(-1, 1, 1)) / scaled.new_tensor(std).view(-1, 1, 1)


def normalise_bgr(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`normalise`, then the channels in the order blue, green, red: the input of networks that come from Caffe.

    Args:
        image: uint8 or float (..., 3, H, W), RGB 0-255.
        mean: of the channels, RGB, for images scaled to 0-1; `CAFFE_MEAN` in Caffe's networks.
        std: likewise; with `CAFFE_STD` the values stay levels of 255.

    Returns:
        float32 (..., 3, H, W), BGR.

    >>> red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1)
    >>> normalise_bgr(red, CAFFE_MEAN, CAFFE_STD).flatten()
    tensor([-104.0080, -116.6690,  132.3250])
    """
    return normalise(image, mean, std).flip(-3)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """A label map at another size: each pixel takes the label under its centre, as Pillow's nearest.

    Args:
        labels: (..., H, W), any type.
        size: (height, width), pixels.

    >>> resize_labels(torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8), (1, 2)).tolist()
    [[2, 4]]
    """
    _check_size(labels, size)
    rows, columns = (
        torch.from_numpy(_nearest(n, m)).to(labels.device) for n, m in zip(labels.shape[-2:], size, strict=True)
    )
    return labels.index_select(-2, rows).index_select(-1, columns)


def resize_saliency(saliency: Tensor, size: tuple[int, int]) -> Tensor:
    """A saliency map at another size: bicubic on 256 levels, as EPS does with Pillow (methods.md 6.4).

    Args:
        saliency: float (..., H, W), 0-1.
        size: (height, width), pixels.

    Returns:
        float32 (..., height, width), 0-1, multiples of 1/255.
    """
    levels = (saliency.clamp(0, 1) * 255).round().to(torch.uint8)
    return resize_image(levels, size).to(torch.float32) / 255


def resize_image(image: Tensor, size: tuple[int, int], mode: Mode = "bicubic") -> Tensor:
    """A photograph at another size, equal to Pillow's, on whatever device it lies.

    Rows always come first, as in the Pillow of the papers; a newer one may begin with the columns where the height
    shrinks far more than the width, which resizing in proportion never does (but for photographs of a few pixels).

    Args:
        image: uint8 (..., H, W).
        size: (height, width), pixels.
        mode: the filter; widened when shrinking (antialias).

    Returns:
        uint8 (..., height, width).

    Raises:
        ValueError: the image is not uint8 or the size is not positive.

    >>> resize_image(torch.tensor([[[0, 100]]], dtype=torch.uint8), (1, 4), "bilinear").tolist()
    [[[0, 25, 75, 100]]]
    """
    _check_size(image, size)
    if image.dtype != torch.uint8:
        raise ValueError(f"resizing wants uint8 levels 0-255; got {image.dtype}; resize before normalising")
    levels = image.detach().cpu().contiguous().numpy().reshape(-1, *image.shape[-2:])
    if size[1] != levels.shape[2]:
        turned = np.ascontiguousarray(levels.transpose(0, 2, 1))  # down the columns whole rows go in vectors
        turned = _along_columns(turned, *_weights(levels.shape[2], size[1], mode))
        levels = np.ascontiguousarray(turned.transpose(0, 2, 1))
    if size[0] != levels.shape[1]:
        levels = _along_columns(levels, *_weights(levels.shape[1], size[0], mode))
    resized = torch.from_numpy(levels).reshape(*image.shape[:-2], *size)
    return resized.clone() if tuple(size) == tuple(image.shape[-2:]) else resized.to(image.device)


def scale_image(image: Tensor, scale: float) -> Tensor:
    """A photograph at `scale` times its size, bicubic, as the papers' multi-scale inference reads it.

    Args:
        image: uint8 (..., H, W).
        scale: factor of both sides; a side is rounded half to even and has at least one pixel.

    Returns:
        uint8 (..., round(scale H), round(scale W)); the image itself at scale 1.

    >>> tuple(scale_image(torch.zeros(3, 5, 7, dtype=torch.uint8), 0.5).shape)  # 2.5 and 3.5
    (3, 2, 4)
    """
    height, width = image.shape[-2:]
    return image if scale == 1 else resize_image(image, (max(1, round(scale * height)), max(1, round(scale * width))))


def _check_size(image: Tensor, size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1 or min(image.shape[-2:]) < 1:
        raise ValueError(f"cannot resize {tuple(image.shape)} to {tuple(size)}; a size is (height, width), at least 1")


@lru_cache(maxsize=256)
def _nearest(n: int, m: int) -> NDArray[np.int64]:
    """Index of the source pixel of each of m pixels; summed up step by step, because Pillow's ties depend on it."""
    steps = np.full(m, n / m)
    steps[0] = 0.5 * (n / m)
    return np.minimum(np.cumsum(steps).astype(np.int64), n - 1)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -0.5, for x >= 0."""
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1 - x)


_FILTERS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "bicubic": (_bicubic, 2.0),
    "bilinear": (_triangle, 1.0),
}


@lru_cache(maxsize=256)
def _weights(n: int, m: int, mode: Mode) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """First source pixel int64 (m,) and weights int32 (m, taps), in units of 2^-22, of resizing n pixels to m."""
    filter_, support = _FILTERS[mode]
    scale = n / m
    stretch = max(scale, 1.0)
    reach = support * stretch
    centre = (np.arange(m) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), n)
    source = first[:, None] + np.arange(math.ceil(reach) * 2 + 1)
    weights = filter_(np.abs(source - centre[:, None] + 0.5) / stretch) * (source < last[:, None])
    weights *= (1 << _BITS) / weights.sum(1, keepdims=True)
    return first, np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)


@njit(cache=True, nogil=True)
def _along_columns(
    levels: NDArray[np.uint8], first: NDArray[np.int64], weights: NDArray[np.int32]
) -> NDArray[np.uint8]:  # pragma: no cover - compiled
    """uint8 (N, H, W) -> (N, m, W)."""
    n, height, width = levels.shape
    m, taps = weights.shape
    out = np.empty((n, m, width), np.uint8)
    total = np.empty(width, np.int32)
    for c in range(n):
        for i in range(m):
            total[:] = 1 << (_BITS - 1)
            low = first[i]
            for k in range(min(taps, height - low)):
                weight = weights[i, k]
                row = levels[c, low + k]
                for x in range(width):
                    total[x] += np.int32(row[x]) * weight
            for x in range(width):
                level = total[x] >> _BITS
                out[c, i, x] = 0 if level < 0 else 255 if level > 255 else level
    return out
