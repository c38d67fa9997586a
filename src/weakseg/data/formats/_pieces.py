"""A mask cut into pieces: its connected regions, or one piece for each class."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from weakseg.data.formats._exchange import Per
from weakseg.types import BACKGROUND


class Piece(NamedTuple):
    """A part of a mask that has one label.

    Attributes:
        value: class id 1..254, or 255.
        top, left: of its bounding box, pixels.
        inside: bool (h, w), its pixels in the bounding box.
    """

    value: int
    top: int
    left: int
    inside: np.ndarray

    @property
    def place(self) -> tuple[slice, slice]:
        """The bounding box as an index into the mask."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def filled(self, size: tuple[int, int]) -> np.ndarray:
        """bool (H, W): the piece in the whole photograph of `size` = (H, W)."""
        whole = np.zeros(size, bool)
        whole[self.place] = self.inside
        return whole


def pieces(mask: np.ndarray, per: Per = "region") -> Iterator[Piece]:
    """The pieces of a mask uint8 (H, W), by class id and then from top to bottom; background is none.

    Two pixels of a class are of one region if a side joins them; a corner does not (4-connectivity).

    >>> [(p.value, p.top, p.left) for p in pieces(np.array([[1, 0, 2], [0, 1, 2]], np.uint8))]
    [(1, 0, 0), (1, 1, 1), (2, 0, 2)]
    """
    for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=1)).tolist():
        if value == BACKGROUND:
            continue
        own = mask == value
        numbered = ndimage.label(own)[0] if per == "region" else own.astype(np.int32)
        for number, place in enumerate(ndimage.find_objects(numbered), 1):
            yield Piece(value, place[0].start, place[1].start, numbered[place] == number)
