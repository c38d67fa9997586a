"""MXNet's `.params` files read without MXNet: a list of arrays and the list of their names.

All numbers are little-endian. The file: uint64 0x112, uint64 reserved; uint64 count and so many arrays; uint64 count
and so many names, each uint64 length and bytes. An array: its shape; int32 kind and number of its device; int32 type
of the numbers; the numbers. The shape has one of three forms. Since MXNet 1.0: uint32 0xF993FAC9 (1.5: 0xF993FACA),
int32 kind of storage (0 = dense), int32 dimensions, int64 each. In 0.9 to 0.12: uint32 0xF993FAC8, uint32 dimensions,
int64 each. Before: uint32 dimensions, uint32 each. An array without dimensions ends there.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path

from torch import Tensor

from weakseg.models._bytes import MAX_DIMENSIONS, MAX_TENSORS, Bytes, open_bytes
from weakseg.types import WeaksegError

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "<u1", 4: "<i4", 5: "<i1", 6: "<i8"}
"""Type of the numbers -> numpy's name."""


def read_params(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name; ``arg:`` (parameters) and ``aux:`` (running statistics) are taken off the names.

    Raises:
        WeaksegError: the file is missing, damaged or of another format, or holds sparse arrays or none with a name.
    """
    file = open_bytes(Path(path))
    if file.left < 8 or file.number("Q", "the mark of the file") != LIST_MAGIC:
        raise WeaksegError(
            f"{file.source} is no .params file of MXNet: it does not begin with 0x112; give another file"
        )
    file.skip(8, "the reserved number")
    arrays = [_array(file) for _ in _counted(file, "arrays", least=4)]
    names = [file.text(file.number("Q", "the length of a name"), "a name") for _ in _counted(file, "names", least=8)]
    if len(names) != len(arrays):
        file.fail(f"{len(arrays)} arrays have {len(names)} names")
    plain = [name.removeprefix("arg:").removeprefix("aux:") for name in names]
    if len(set(plain)) != len(plain):
        file.fail("two arrays have one name")
    return {name: array for name, array in zip(plain, arrays, strict=True) if array is not None}


def _counted(file: Bytes, what: str, least: int) -> Iterator[int]:
    """0, 1, ... for as many items as the file says, each of `least` bytes or more."""
    count = file.number("Q", f"the number of {what}")
    if count * least > file.left or count > MAX_TENSORS:
        file.fail(f"{count} {what} do not fit in {file.left} bytes")
    yield from range(count)


def _array(file: Bytes) -> Tensor | None:
    shape = _shape(file)
    if shape is None:
        return None
    file.skip(8, "the device of an array")
    kind = file.number("i", "the type of an array")
    if kind not in TYPES:
        file.fail(f"type {kind} of an array is unknown")
    return file.array(TYPES[kind], prod(shape), f"an array {shape}").reshape(shape)


def _shape(file: Bytes) -> tuple[int, ...] | None:
    first = file.number("I", "the mark of an array")
    if first in (V2_MAGIC, V3_MAGIC) and (storage := file.number("i", "the storage of an array")):
        file.fail(f"an array has storage {storage}; only dense ones (0) are read")
    wide = first in (V1_MAGIC, V2_MAGIC, V3_MAGIC)
    dimensions = file.number("i", "the dimensions of an array") if wide else first
    if not 0 <= dimensions <= MAX_DIMENSIONS:
        file.fail(f"an array of {dimensions} dimensions")
    shape = tuple(file.number("q" if wide else "I", "the shape of an array") for _ in range(dimensions))
    if any(side < 1 for side in shape):
        file.fail(f"an array of shape {shape}")
    return shape if shape or first == V3_MAGIC else None  # since 1.5 an array may have a number and no dimension
