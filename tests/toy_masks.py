"""Small masks with what goes wrong between tools: holes, touching classes, single pixels, 255, nothing at all."""

import io
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from weakseg.data import formats
from weakseg.data.formats._exchange import Outgoing

CLASSES = tuple(f"class {k}" for k in range(1, 255))


def drawn(*rows: str) -> np.ndarray:
    """A mask from its rows: a digit is an id, ``.`` background, ``#`` 255, ``z`` 254."""
    return np.array([[_IDS[c] for c in row] for row in rows], np.uint8)


_IDS = {".": 0, "#": 255, "z": 254, **{str(k): k for k in range(1, 10)}}

MASKS = {
    "regions": drawn("11..11", "11..11", "......", "2...11"),
    "hole": drawn("11111", "1...1", "1.1.1", "1...1", "11111"),
    "two holes": drawn("1111111", "1.111.1", "1111111"),
    "hole in the corner": drawn("1111", "1.11", "11.1", "1111"),
    "filled hole": drawn("1111", "1221", "1#21", "1111"),
    "touching": drawn("112233", "112233", "332211"),
    "corners": drawn("1.1", ".1.", "1.1"),
    "single": drawn("....", ".1..", "...z"),
    "ignored": drawn("##..", "#1..", "..##"),
    "empty": drawn("...", "..."),
    "full": drawn("zzz", "zzz"),
    "row": drawn("1.2#1"),
    "pixel": drawn("9"),
}

TINY = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([0, 0, 1, 1, 2, 254, 255]),
)


def outgoing(masks=MASKS, classes=CLASSES, **more) -> Outgoing:
    return Outgoing(classes, {id: f"{id}.jpg" for id in masks}, masks.__getitem__, **more)


def export(tool: str, out: Path, masks=MASKS, **more) -> Path:
    """Write masks for a tool; the file or folder."""
    formats.load(tool).export(outgoing(masks, **more), out, lambda: None)
    return out


def read_back(tool: str, path: Path, classes=CLASSES, size=lambda id: None) -> dict[str, np.ndarray]:
    incoming = formats.load(tool).open_file(path, classes, size)
    return {id: incoming.read(id) for id in incoming.ids}


def png(pixels, mode=None) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8), mode)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def same(got, wanted) -> None:
    assert got.keys() == wanted.keys()
    for id in wanted:
        assert got[id].dtype == np.uint8
        assert np.array_equal(got[id], wanted[id]), id
