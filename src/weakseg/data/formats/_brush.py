"""Label Studio's run lengths of a brush mask: numbers packed bit by bit, of the RGBA image row by row.

Highest bits first: how many values (32 bits), bits of a value less one (5), four sizes of a length less one (4 each);
then blocks until there are enough values: one bit says whether it is a run, two choose the size of its length, the
length less one in so many bits, and one value for a run or that many values. The end is filled up to whole bytes.
"""

import numpy as np

from weakseg.types import WeaksegError

_SIZES = (3, 4, 8, 16)
"""Bits of a length; what Label Studio itself writes."""
_LONGEST = 1 << _SIZES[-1]
_VALUE_BITS = 8


def encode_brush(inside: np.ndarray) -> list[int]:
    """The bytes, 0..255 each, of a mask bool (H, W): 255 in all four channels where it is true.

    >>> encode_brush(np.array([[True]]))
    [0, 0, 0, 4, 57, 27, 252, 127, 224]
    """
    flat = inside.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * 4
    cuts = -(-lengths // _LONGEST)  # blocks of each run
    blocks = np.full(int(cuts.sum()), _LONGEST, np.int64)
    blocks[np.cumsum(cuts) - 1] = lengths - (cuts - 1) * _LONGEST
    values = np.repeat(flat[starts].astype(np.int64) * 255, cuts)
    chosen = np.searchsorted([1 << bits for bits in _SIZES], blocks)
    bits = np.array(_SIZES)[chosen]
    words = ((4 | chosen) << bits | blocks - 1) << _VALUE_BITS | values
    head = [flat.size * 4, _VALUE_BITS - 1, *(bits - 1 for bits in _SIZES)]
    packed = _packed(np.array([*head, *words]), np.array([32, 5, 4, 4, 4, 4, *(3 + bits + _VALUE_BITS)]))
    return list(packed)


def _packed(words: np.ndarray, widths: np.ndarray) -> bytes:
    """Whole numbers one after the other, each in its own number of bits."""
    which = np.repeat(np.arange(len(words)), widths)
    left = np.cumsum(widths)[which] - np.arange(len(which)) - 1  # bits of the number that follow this one
    return np.packbits((words[which] >> left & 1).astype(np.uint8)).tobytes()


def decode_brush(data: bytes, size: tuple[int, int], where: str = "brush") -> np.ndarray:
    """bool (H, W): where the fourth channel is at least half opaque.

    Args:
        data: the bytes.
        size: (H, W) of the photograph; the claimed number of values has to be that of its RGBA image.
        where: the file and annotation, for errors.

    Raises:
        WeaksegError: it is of another size, ends early, or has values of more than 8 bits.

    >>> decode_brush(bytes([0, 0, 0, 4, 57, 27, 252, 127, 224]), (1, 1)).tolist()
    [[True]]
    """
    bits = _Bits(data, where)
    count, width = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    if count != size[0] * size[1] * 4:
        raise WeaksegError(
            f"{where}: run lengths of {count} values, a photograph of {size[1]}x{size[0]} has {size[0] * size[1] * 4}; "
            "export it again"
        )
    if width > 8:
        raise WeaksegError(f"{where}: run lengths of {width}-bit values, wanted at most 8; export it again")
    values, at = np.empty(count, np.uint8), 0
    while at < count:
        is_run, length = bits.read(1), bits.read(sizes[bits.read(2)]) + 1
        if at + length > count:
            raise WeaksegError(f"{where}: run lengths that leave the photograph; export it again")
        values[at : at + length] = bits.read(width) if is_run else bits.array(length, width)
        at += length
    return values.reshape(*size, 4)[..., 3] >= 128


class _Bits:
    """A place in packed bits, which moves on as they are read."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.at = data, where, 0

    def read(self, count: int) -> int:
        """The next `count` bits, at most 32, as a number."""
        first = self._move(count)
        word = int.from_bytes(self.data[first >> 3 : (first >> 3) + 5].ljust(5, b"\0"), "big")
        return word >> (40 - (first & 7) - count) & (1 << count) - 1

    def array(self, length: int, width: int) -> np.ndarray:
        """The next `length` numbers of `width` bits, at most 8, as uint8."""
        first = self._move(length * width)
        piece = np.frombuffer(self.data[first >> 3 : (self.at + 7) >> 3], np.uint8)
        bits = np.unpackbits(piece)[first & 7 :][: length * width].reshape(length, width)
        return bits @ (1 << np.arange(width - 1, -1, -1)).astype(np.uint8)

    def _move(self, count: int) -> int:
        first, self.at = self.at, self.at + count
        if self.at > len(self.data) * 8:
            raise WeaksegError(f"{self.where}: run lengths that end early; export it again")
        return first
