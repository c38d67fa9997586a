"""COCO's run lengths of a mask: lengths of outside, inside, outside ... column by column, plain or compressed to text.

A stranger's run lengths are decoded here, in Python and after their sum is checked: pycocotools' C decoder writes where
they point.
"""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from weakseg.types import WeaksegError

MAX_PIXELS = 2**28
"""Pixels of the largest mask that is decoded: a short text may claim any size."""
_MAX_SHIFT = 45
"""Bits of a compressed number beyond which it is nonsense; unbounded, a long text would be one huge number."""


def encode_runs(inside: np.ndarray) -> dict[str, Any]:
    """``{"size": [H, W], "counts": text}`` of a bool (H, W) mask, compressed.

    >>> encode_runs(np.array([[False, True], [False, True]]))
    {'size': [2, 2], 'counts': '22'}
    """
    runs = coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": [int(n) for n in runs["size"]], "counts": runs["counts"].decode("ascii")}


def decode_runs(runs: Any, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): the mask of run lengths, a list of numbers or compressed text.

    Args:
        runs: a mapping with ``size`` and ``counts``, from anywhere.
        size: (H, W) that they have to be of.

    Raises:
        WeaksegError: they are not of that size, hold a negative or foreign entry, or do not add up to it.

    >>> decode_runs({"size": [2, 2], "counts": [2, 2]}, (2, 2)).tolist()
    [[False, True], [False, True]]
    """
    if not isinstance(runs, dict) or runs.get("size") != list(size):
        claimed = runs.get("size") if isinstance(runs, dict) else type(runs).__name__
        raise WeaksegError(f"run lengths for size {claimed}, the photograph is {list(size)} (height, width)")
    height, width = size
    if min(size) < 0 or height * width > MAX_PIXELS:
        raise WeaksegError(f"a mask of {width} x {height} pixels; at most {MAX_PIXELS} are read")
    counts = runs.get("counts")
    lengths = unpack_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(n) is int and n >= 0 for n in lengths):
        raise WeaksegError("run lengths are whole numbers of 0 and more, or their compressed text")
    if sum(lengths) != height * width:
        raise WeaksegError(f"run lengths do not add up to the photograph: {sum(lengths)} of {height * width} pixels")
    inside: np.ndarray = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(size, order="F")


def unpack_runs(text: str) -> list[int]:
    """The numbers of compressed run lengths: 5 bits a character from '0' on, the sixth says that more follow.

    From the fourth number on each stands for its difference to the one two before.

    >>> unpack_runs("221O")
    [2, 2, 1, 1]
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise WeaksegError("compressed run lengths hold a foreign character")
        if shift > _MAX_SHIFT:
            raise WeaksegError("compressed run lengths hold a number without end")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths
