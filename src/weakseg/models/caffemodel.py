"""Caffe's `.caffemodel` files read without Caffe: the layers of a network and their blobs.

A `.caffemodel` is a protocol buffer (https://protobuf.dev/programming-guides/encoding), a list of numbered fields. Read
are NetParameter's layer = 100 or, before 2014, layers = 2; name = 1, type = 2 and blobs = 7 of a layer, or name = 4,
type = 5 and blobs = 6 of an old one; shape = 7, data = 5 and double_data = 8 of a blob, or num, channels, height and
width = 1 to 4 in place of the shape. All others are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weakseg.models._bytes import MAX_DIMENSIONS, MAX_TENSORS, Bytes, open_bytes
from weakseg.types import WeaksegError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_OLD, _NEW = 2, 100
_FIELDS = {_OLD: {"name": 4, "type": 5, "blobs": 6}, _NEW: {"name": 1, "type": 2, "blobs": 7}}

MAX_BLOBS = 16
"""More than any layer has; a BatchNorm has three."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer with weights.

    Attributes:
        type: such as ``Convolution``, ``BatchNorm``, ``Scale``; of an old file the number of the type.
        blobs: its tensors: weight and bias of a convolution, mean, variance and their common factor of a BatchNorm.
    """

    type: str
    blobs: tuple[Tensor, ...]


def read_caffemodel(path: str | Path) -> dict[str, Layer]:
    """The layers that have blobs, by name.

    Raises:
        WeaksegError: the file is missing, damaged or of another format, or two such layers have one name.
    """
    file = open_bytes(Path(path))
    layers: dict[str, Layer] = {}
    for number, value in _fields(file):
        if number not in _FIELDS or not isinstance(value, Bytes):
            continue
        name, layer = _layer(value, _FIELDS[number])
        if not layer.blobs:
            continue
        if name in layers or len(layers) == MAX_TENSORS:
            file.fail(f"two layers are called {name!r}" if name in layers else f"more than {MAX_TENSORS} layers")
        layers[name] = layer
    if not layers:
        raise WeaksegError(f"{file.source} is no .caffemodel: it holds no layer with weights; give another file")
    return layers


def _layer(message: Bytes, numbers: dict[str, int]) -> tuple[str, Layer]:
    name, kind, blobs = "", "", []
    for number, value in _fields(message):
        if number == numbers["blobs"] and isinstance(value, Bytes):
            blobs.append(_blob(value))
            if len(blobs) > MAX_BLOBS:
                message.fail(f"a layer of more than {MAX_BLOBS} blobs")
        elif number == numbers["name"] and isinstance(value, Bytes):
            name = value.text(value.left, "the name of a layer")
        elif number == numbers["type"]:
            kind = value.text(value.left, "the type of a layer") if isinstance(value, Bytes) else str(value)
    return name, Layer(kind, tuple(blobs))


def _blob(message: Bytes) -> Tensor:
    """float32 of the blob's shape; the numbers come in packed runs, or one by one."""
    shape: list[int] | None = None
    legacy: dict[int, int] = {}
    floats, doubles = bytearray(), bytearray()
    for number, value in _fields(message):
        if number == 7 and isinstance(value, Bytes):
            shape = _dimensions(value)
        elif number in (5, 8) and isinstance(value, Bytes):
            (floats if number == 5 else doubles).extend(value.rest())
        elif 1 <= number <= 4 and isinstance(value, int):
            legacy[number] = value
    if shape is None:
        shape = [legacy.get(number, 1) for number in range(1, 5)]
    raw, size = (doubles, 8) if doubles else (floats, 4)
    if any(side < 1 for side in shape) or prod(shape) * size != len(raw) or (floats and doubles):
        message.fail(f"a blob of shape {shape} holds {len(floats)} bytes of floats and {len(doubles)} of doubles")
    numbers = np.frombuffer(raw, f"<f{size}").astype(np.float32)
    return torch.from_numpy(numbers).reshape(shape)


def _dimensions(message: Bytes) -> list[int]:
    """dim = 1 of a BlobShape, packed or one by one."""
    sides: list[int] = []
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            sides.append(value)
        elif number == 1 and isinstance(value, Bytes):
            while value.left and len(sides) <= MAX_DIMENSIONS:
                sides.append(_varint(value))
        if len(sides) > MAX_DIMENSIONS:
            message.fail(f"a blob of more than {MAX_DIMENSIONS} dimensions")
    return sides


def _fields(message: Bytes) -> Iterator[tuple[int, "Bytes | int"]]:
    """Number and value of each field: an int for a varint, else the part that holds the bytes."""
    while message.left:
        number, wire = divmod(_varint(message), 8)
        if number < 1:
            message.fail(f"field number {number}")
        if wire == _VARINT:
            yield number, _varint(message)
        elif wire in (_FIXED64, _FIXED32):
            yield number, message.part(8 if wire == _FIXED64 else 4, f"field {number}")
        elif wire == _BYTES:
            yield number, message.part(_varint(message), f"field {number}")
        else:
            message.fail(f"field {number} has wire type {wire}")


def _varint(message: Bytes) -> int:
    """A number of seven bits a byte, lowest first, two's complement of 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message.number("B", "a number")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            value &= (1 << 64) - 1
            return value - (1 << 64) if value >> 63 else value
    message.fail("a number of more than ten bytes")
