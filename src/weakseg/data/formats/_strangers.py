"""A stranger's file is looked at before it is believed: JSON with its types, sizes, small images."""

import io
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weakseg.data.images import MAX_PIXELS
from weakseg.data.store import read_bytes
from weakseg.types import WeaksegError


def read_stranger_json(path: Path, what: str) -> Any:
    """The contents of a JSON file; WeaksegError if it is missing or no JSON."""
    data = read_bytes(path)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WeaksegError(f"{path} is no readable {what} ({error}); export it again") from error


def entry(container: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """``container[key]`` if it is of the `kind`; WeaksegError says what is there instead. True is no number.

    >>> entry({"width": 3}, "width", int, "x.json")
    3
    """
    value = container.get(key) if isinstance(container, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(_WORDS[k] for k in kinds)
        raise WeaksegError(f"{where}: {key!r} is {str(value)[:40]!r}, wanted {wanted}; export it again")
    return value


_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}


def checked_size(height: Any, width: Any, where: str) -> tuple[int, int]:
    """(H, W), whole numbers of one and more; WeaksegError if they are none, or more pixels than a photograph has."""
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise WeaksegError(f"{where}: {str(width)[:20]} x {str(height)[:20]} is no size in pixels; export it again")
    if height * width > MAX_PIXELS:
        raise WeaksegError(f"{where}: {width} x {height} pixels, more than {MAX_PIXELS:,}; shrink the photograph")
    return height, width


def number(value: Any, where: str) -> float:
    """A finite number of a sensible size as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:  # NaN is not less either
        raise WeaksegError(f"{where}: {str(value)[:40]!r} is no coordinate; export it again")
    assert math.isfinite(value)
    return float(value)


def points(value: Any, where: str) -> list[tuple[float, float]]:
    """[[x, y], ...] as pairs of finite numbers."""
    if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
        raise WeaksegError(f"{where}: wanted a list of points [x, y]; export it again")
    return [(number(x, where), number(y, where)) for x, y in value]


def decode_png(data: bytes, where: str, size: tuple[int, int] | None = None) -> Image.Image:
    """The loaded image of a PNG's bytes; its size is checked before a pixel is unpacked.

    Raises:
        WeaksegError: no PNG, damaged, not of `size` = (H, W), or more pixels than a photograph has.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise WeaksegError(f"{where} is no PNG; export it again")
    got = checked_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), where)
    if size is not None and got != size:
        raise WeaksegError(f"{where} is {got[1]}x{got[0]}, wanted {size[1]}x{size[0]} pixels; export it again")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            return image.copy()
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error) as error:
        raise WeaksegError(f"{where} is no readable PNG; export it again") from error


def indices(image: Image.Image) -> np.ndarray:
    """The values of an image's first channel, (H, W): indices of a palette, levels of grey."""
    values = np.asarray(image)
    return values if values.ndim == 2 else values[..., 0]
