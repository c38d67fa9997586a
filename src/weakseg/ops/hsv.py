"""Hue, saturation and value on the 8-bit scales that SEAM's retraining jitters (methods.md 10, row V1 ResNet38).

They are OpenCV's: hue 0-179, two degrees a step, saturation and value 0-255; rounding to them is part of the result.
"""

import torch
from torch import Tensor

_BITS = 12
"""Fraction bits of a quotient."""


def rgb_to_hsv(image: Tensor) -> Tensor:
    """Hue, saturation and value.

    Args:
        image: uint8 (3, H, W), RGB 0-255.

    Returns:
        int32 (3, H, W): hue 0-179 (0 = red, 60 = green, 120 = blue; 0 of a grey), saturation and value 0-255.

    >>> rgb_to_hsv(torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(3, 1, 1)).flatten().tolist()
    [105, 255, 255]
    """
    red, green, blue = image.to(torch.int32)
    value = torch.maximum(torch.maximum(red, green), blue)
    width = value - torch.minimum(torch.minimum(red, green), blue)
    sixth = torch.where(value == green, blue - red + 2 * width, red - green + 4 * width)
    sixth = torch.where(value == red, green - blue, sixth)
    hue = _quotient(sixth, width, 180 / 6)
    return torch.stack([torch.where(hue < 0, hue + 180, hue), _quotient(width, value, 255), value])


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsv`, up to rounding.

    Args:
        hsv: int (3, H, W), hue 0-179, saturation and value 0-255.

    Returns:
        uint8 (3, H, W), RGB 0-255.

    >>> hsv_to_rgb(torch.tensor([60, 255, 200]).reshape(3, 1, 1)).flatten().tolist()
    [0, 200, 0]
    """
    sixths, saturation, value = hsv.to(torch.float32).unbind(0)
    sixths, saturation = sixths * (6 / 180), saturation / 255
    sector = sixths.floor()
    f = sixths - sector
    low, falling = value * (1 - saturation), value * (1 - saturation * f)
    levels = torch.stack([value, low, falling, value * (1 - saturation * (1 - f))])  # the last one rises
    table = torch.tensor([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]], device=hsv.device)
    which = table[sector.long() % 6].permute(2, 0, 1)
    return levels.gather(0, which).round().clamp(0, 255).to(torch.uint8)


def shift_hsv(image: Tensor, hue: int, saturation: int, value: int) -> Tensor:
    """The photograph with a number added to every hue, saturation and value.

    Args:
        image: uint8 (3, H, W), RGB 0-255.
        hue: steps of two degrees, around the circle.
        saturation, value: levels of 255; what leaves 0-255 is clipped.

    Returns:
        uint8 (3, H, W).

    >>> shift_hsv(torch.tensor([200, 0, 0], dtype=torch.uint8).reshape(3, 1, 1), 60, 0, 10).flatten().tolist()
    [0, 210, 0]
    """
    h, s, v = rgb_to_hsv(image)
    return hsv_to_rgb(torch.stack([(h + hue) % 180, (s + saturation).clamp(0, 255), (v + value).clamp(0, 255)]))


def _quotient(over: Tensor, under: Tensor, scale: float) -> Tensor:
    """`scale` * over / under in fixed point; 0 where `under` is 0."""
    reciprocals = (scale * (1 << _BITS) / torch.arange(256, dtype=torch.float64, device=over.device)).round()
    reciprocals[0] = 0
    return (over * reciprocals.to(torch.int32)[under.long()] + (1 << _BITS - 1)) >> _BITS
