"""Shifting the hue of a photograph: torchvision's arithmetic, step for step in float32, in one pass over the pixels.

torchvision's `adjust_hue` makes thirty planes of intermediate results, a third of what loading a photograph takes in a
method with colour jitter. The result here is the same to the bit.
"""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

_TO_UNIT = np.float32(1 / 255)
_TO_LEVELS = np.float32(255 + 1 - 1e-3)  # truncation then hits 255 not for 1.0 alone
_SIXTH = np.float32(1 / 6)


def adjust_hue(image: Tensor, shift: float) -> Tensor:
    """The photograph with every hue turned by `shift` of the colour circle; greys stay as they are.

    Args:
        image: uint8 (3, H, W), RGB 0-255.
        shift: -0.5 to 0.5; a third turns red to green.

    Returns:
        uint8 (3, H, W), equal to torchvision's ``adjust_hue``.

    Raises:
        ValueError: another kind of image, or a shift beyond half a turn.

    >>> red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1)
    >>> adjust_hue(red, 1 / 3).flatten().tolist()
    [0, 255, 0]
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(
            f"the hue of a uint8 (3, H, W) photograph can be shifted; got {image.dtype} {tuple(image.shape)}"
        )
    if not -0.5 <= shift <= 0.5:
        raise ValueError(f"a hue is shifted by -0.5 to 0.5 of the circle; got {shift}")
    levels = image.detach().cpu().contiguous().numpy().reshape(3, -1)
    packed = np.empty(levels.shape[1], np.int32)
    _pack(levels, packed)
    _turn(packed, np.float32(shift))
    out = np.empty_like(levels)
    _unpack(packed, out)
    return torch.from_numpy(out).reshape(image.shape).to(image.device)


@njit(cache=True, nogil=True)
def _pack(levels: NDArray[np.uint8], packed: NDArray[np.int32]) -> None:  # pragma: no cover - compiled
    """A pixel's three levels in one number: with one array instead of six the next loop runs in vectors."""
    for k in range(packed.size):
        packed[k] = np.int32(levels[0, k]) | np.int32(levels[1, k]) << 8 | np.int32(levels[2, k]) << 16


@njit(cache=True, nogil=True)
def _unpack(packed: NDArray[np.int32], levels: NDArray[np.uint8]) -> None:  # pragma: no cover - compiled
    for k in range(packed.size):
        levels[0, k] = np.uint8(packed[k] & 255)
        levels[1, k] = np.uint8(packed[k] >> 8 & 255)
        levels[2, k] = np.uint8(packed[k] >> 16)


@njit(cache=True, nogil=True, error_model="numpy")  # without a check of each division
def _turn(packed: NDArray[np.int32], shift: np.float32) -> None:  # pragma: no cover - compiled
    """RGB to hue, saturation and value, and back; selections instead of branches."""
    zero, one = np.float32(0), np.float32(1)
    for k in range(packed.size):
        pixel = packed[k]
        r = np.float32(np.int32(pixel & 255)) * _TO_UNIT
        g = np.float32(np.int32(pixel >> 8 & 255)) * _TO_UNIT
        b = np.float32(np.int32(pixel >> 16)) * _TO_UNIT
        high, low = r if r > g else g, r if r < g else g
        high, low = high if high > b else b, low if low < b else b
        width = high - low
        saturation = width / (one if width == zero else high)
        divisor = one if width == zero else width
        rc, gc, bc = (high - r) / divisor, (high - g) / divisor, (high - b) / divisor
        of_green, of_blue = (rc + np.float32(2)) - bc, (gc + np.float32(4)) - rc
        hue = (bc - gc) if high == r else (of_green if high == g else of_blue)
        hue = hue * _SIXTH + one
        hue = (hue - np.floor(hue)) + shift
        hue = hue - np.trunc(hue)
        hue = hue + one if hue < zero else hue
        sixths = hue * np.float32(6)
        sector = np.floor(sixths)
        f = sixths - sector
        sector = zero if sector == np.float32(6) else sector  # rounding may end a whole turn on
        q = _clamped((one - saturation * f) * high)
        t = _clamped((saturation * f + (one - saturation)) * high)
        p = _clamped((one - saturation) * high)
        first, second, third = sector < one, sector == one, sector == np.float32(2)
        fourth, fifth = sector == np.float32(3), sector == np.float32(4)
        r = q if second else (p if third or fourth else (t if fifth else high))
        g = t if first else (high if second or third else (q if fourth else p))
        b = p if first or second else (t if third else (high if fourth or fifth else q))
        red, green, blue = np.int32(r * _TO_LEVELS), np.int32(g * _TO_LEVELS), np.int32(b * _TO_LEVELS)
        packed[k] = red | green << 8 | blue << 16


@njit(cache=True, nogil=True, error_model="numpy")
def _clamped(x: np.float32) -> np.float32:  # pragma: no cover - compiled
    """`x` within 0..1."""
    x = np.float32(0) if x < np.float32(0) else x
    return np.float32(1) if x > np.float32(1) else x
