"""Random square crops of fixed size, whatever the size of the photograph: two ways to fill what lies beyond it."""

import torch
from torch import Tensor


def padded_crop(planes: Tensor, size: int, generator: torch.Generator, fill: float = 0.0) -> Tensor:
    """A square crop in which a short side lands at a random place (PSA's `RandomCrop`, methods.md 1.6).

    Where a side is shorter than the crop, the image lands at a uniformly random offset of a container of `fill`; where
    it is longer, the crop starts at a uniformly random offset. The axes are independent.

    Args:
        planes: (..., H, W), any type: a normalised image, whose zero is the mean colour, or a label map.
        size: side of the crop, pixels.
        generator: source of the two draws, on the CPU.
        fill: what the container holds: 0, or 255 for a label map.

    Returns:
        (..., size, size), of the type of `planes`.

    >>> crop = padded_crop(torch.ones(1, 2, 9), 4, torch.Generator().manual_seed(0))
    >>> crop.shape, crop.sum(dim=1)  # two of the four rows, wherever they landed
    (torch.Size([1, 4, 4]), tensor([[2., 2., 2., 2.]]))
    """
    windows = [draw_window(side, size, generator) for side in planes.shape[-2:]]
    return cut(planes, (windows[0][0], windows[1][0]), (windows[0][1], windows[1][1]), size, fill)


def pad_crop(planes: Tensor, size: int, generator: torch.Generator, fill: float = 0.0) -> Tensor:
    """A square crop after padding at the right and at the bottom (deeplab-pytorch, BANA; methods.md 10 and 7.2).

    Args:
        planes: (..., H, W), any type.
        size: side of the crop, pixels.
        generator: source of the two draws, on the CPU.
        fill: what the padding holds: 0 in a normalised image, which is the mean colour, 255 in a label map.

    Returns:
        (..., size, size), of the type of `planes`.

    >>> pad_crop(torch.ones(1, 3, dtype=torch.uint8), 2, torch.Generator().manual_seed(0), fill=255)
    tensor([[  1,   1],
            [255, 255]], dtype=torch.uint8)
    """
    top, left = (draw_start(side, size, generator) for side in planes.shape[-2:])
    return cut(planes, (top, left), (0, 0), size, fill)


def draw_window(side: int, size: int, generator: torch.Generator) -> tuple[int, int]:
    """Along one axis: (pixel at which `padded_crop` starts, place in the crop where that pixel lands), one of them 0.

    >>> draw_window(7, 7, torch.Generator())
    (0, 0)
    """
    slack = int(torch.randint(abs(side - size) + 1, (), generator=generator))
    return (slack, 0) if side > size else (0, slack)


def draw_start(side: int, size: int, generator: torch.Generator) -> int:
    """Along one axis: the pixel at which `pad_crop` starts.

    >>> draw_start(5, 7, torch.Generator())
    0
    """
    return int(torch.randint(max(0, side - size) + 1, (), generator=generator))


def cut(x: Tensor, start: tuple[int, int], offset: tuple[int, int], size: int, fill: float) -> Tensor:
    """(..., size, size): the square of `fill` at whose `offset` lies the pixel `start` of `x`, both (row, column).

    >>> cut(torch.tensor([[1, 2, 3]]), (0, 1), (1, 0), 2, 0)
    tensor([[0, 0],
            [2, 3]])
    """
    sides = zip(x.shape[-2:], start, offset, strict=True)
    height, width = (min(n - s, size - o) for n, s, o in sides)
    out = x.new_full((*x.shape[:-2], size, size), fill)
    out[..., offset[0] : offset[0] + height, offset[1] : offset[1] + width] = x[
        ..., start[0] : start[0] + height, start[1] : start[1] + width
    ]
    return out
