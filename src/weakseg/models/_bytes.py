"""Reading a binary file that may lie about its own lengths: nothing is read, or allocated, beyond what is there."""

import struct
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from weakseg.types import WeaksegError

MAX_DIMENSIONS = 32
"""More than any tensor of a network has."""
MAX_TENSORS = 20_000
"""More than any network has: a small file of empty tensors cannot fill the memory."""


class Bytes:
    """A part of a file, read from front to back.

    Args:
        data: the whole file.
        source: its name, for errors.
        start, end: the part, bytes; None = to the end of `data`.
    """

    def __init__(self, data: bytes, source: str, start: int = 0, end: int | None = None) -> None:
        self.data, self.source = data, source
        self.position, self.end = start, len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self.end - self.position

    def skip(self, count: int, what: str) -> int:
        """Go `count` bytes further; where they began."""
        if not 0 <= count <= self.left:
            self.fail(f"{what} should take {count} bytes and {self.left} are left")
        self.position += count
        return self.position - count

    def number(self, form: str, what: str) -> int:
        """One number of `struct`'s format `form`, little-endian."""
        start = self.skip(struct.calcsize("<" + form), what)
        return int(struct.unpack_from("<" + form, self.data, start)[0])

    def part(self, count: int, what: str) -> "Bytes":
        """The next `count` bytes as a part of their own."""
        start = self.skip(count, what)
        return Bytes(self.data, self.source, start, start + count)

    def rest(self) -> bytes:
        """All bytes that are left."""
        start = self.skip(self.left, "the rest")
        return self.data[start : self.end]

    def text(self, count: int, what: str) -> str:
        """The next `count` bytes as a name; one of more than 10,000 bytes is none."""
        if count > 10_000:
            self.fail(f"{what} of {count} bytes")
        start = self.skip(count, what)
        try:
            return self.data[start : start + count].decode()
        except UnicodeDecodeError:
            self.fail(f"{what} is no text")

    def array(self, dtype: str, count: int, what: str) -> Tensor:
        """The next `count` numbers as a vector of their own memory."""
        start = self.skip(np.dtype(dtype).itemsize * count, what)
        numbers = np.frombuffer(self.data, np.dtype(dtype), count, start)
        return torch.from_numpy(numbers.astype(numbers.dtype.newbyteorder("=")))

    def fail(self, reason: str) -> NoReturn:
        """Raise a WeaksegError that names the file and the place."""
        raise WeaksegError(
            f"{self.source} is damaged, or of another format, at byte {self.position}: {reason}; download it again"
        )


def open_bytes(path: Path) -> Bytes:
    """The whole of a file.

    Raises:
        WeaksegError: it is missing or cannot be read.
    """
    try:
        return Bytes(path.read_bytes(), path.name)
    except FileNotFoundError:
        raise WeaksegError(f"there is no weights file {path}") from None
    except OSError as error:
        raise WeaksegError(f"cannot read {path}: {error.strerror}") from None
