"""labelme: one JSON for each photograph, with a shape for each connected region, or for each class (`per`).

A shape of type ``mask`` is exact: a PNG of 0 and 1 inside the corners (x0, y0), (x1, y1) of its bounding box, the
last row and column included. Reading takes ``mask``, ``polygon`` and ``rectangle``; later shapes lie over earlier
ones, and a pixel belongs to a polygon if its centre does. Photographs are named, not embedded: keep the JSON files
where they are beside them. ``labels.txt`` is for ``labelme --labels labels.txt``, and tells the order of the classes.

255 travels as the label ``ignore``; labelme's own ``__ignore__`` is read as 255 too.
"""

import base64
import binascii
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weakseg.data.formats._exchange import (
    IGNORE_LABEL,
    Incoming,
    Outgoing,
    Per,
    SizeOf,
    Tick,
    each_once,
    incoming_classes,
    label_values,
    photo_id,
    value_of,
)
from weakseg.data.formats._outlines import polygon_mask
from weakseg.data.formats._pieces import Piece, pieces
from weakseg.data.formats._strangers import checked_size, decode_png, entry, indices, points, read_stranger_json
from weakseg.data.index import visible
from weakseg.data.lists import read_text
from weakseg.data.store import write_json, write_text
from weakseg.types import IGNORE, WeaksegError

SUFFIX = FILE = ""
NAMES_PHOTOS = True

_VERSION = "5.5.0"  # of the file's form; mask shapes came with 5.3
_LABELS = "labels.txt"


# --- in memory ---


def encode(mask: np.ndarray, image: str, classes: Sequence[str], per: Per = "region") -> dict[str, Any]:
    """The contents of a photograph's JSON.

    Args:
        mask: uint8 (H, W).
        image: path of the photograph, relative to the JSON.
        classes: foreground names; 255 is ``ignore``.
        per: a shape for each ``region`` or ``class``.
    """
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": [_shape(piece, _name(piece.value, classes)) for piece in pieces(mask, per)],
        "imagePath": image,
        "imageData": None,
        "imageHeight": mask.shape[0],
        "imageWidth": mask.shape[1],
    }


def _name(value: int, classes: Sequence[str]) -> str:
    return IGNORE_LABEL if value == IGNORE else classes[value - 1]


def _shape(piece: Piece, label: str) -> dict[str, Any]:
    height, width = piece.inside.shape
    buffer = io.BytesIO()
    Image.fromarray(piece.inside.astype(np.uint8)).save(buffer, "PNG")
    return {
        "label": label,
        "points": [[piece.left, piece.top], [piece.left + width - 1, piece.top + height - 1]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
    }


def decode(content: Any, values: Mapping[str, int], where: str = "labelme") -> np.ndarray:
    """The mask uint8 (H, W) of a photograph's JSON, later shapes over earlier ones.

    Args:
        content: the JSON.
        values: label -> id.
        where: the file, for errors.

    Raises:
        WeaksegError: a shape is damaged, of another kind, or of no class.
    """
    size = checked_size(content.get("imageHeight"), content.get("imageWidth"), where)
    mask = np.zeros(size, np.uint8)
    for k, shape in enumerate(entry(content, "shapes", list, where), 1):
        here = f"{where}, shape {k}"
        _draw(mask, shape, value_of(entry(shape, "label", str, here), values, here), here)
    return mask


def _draw(mask: np.ndarray, shape: Mapping[str, Any], value: int, where: str) -> None:
    kind = shape.get("shape_type") or "polygon"  # labelme 3 has no other and does not say so
    corners = points(shape.get("points"), where)
    size = (mask.shape[0], mask.shape[1])
    if kind == "mask":
        _paste(mask, shape, corners, value, where)
    elif kind == "polygon":
        mask[polygon_mask(corners, size, where)] = value
    elif kind == "rectangle" and len(corners) == 2:
        (x0, y0), (x1, y1) = corners
        mask[polygon_mask([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], size, where)] = value
    else:
        raise WeaksegError(f"{where} is a {str(kind)[:20]}, which has no area; draw it as a polygon or a mask")


def _paste(
    mask: np.ndarray, shape: Mapping[str, Any], corners: Sequence[tuple[float, float]], value: int, where: str
) -> None:
    """Lay a mask shape over `mask`, which is changed."""
    if len(corners) != 2:
        raise WeaksegError(f"{where}: a mask has two corners, here are {len(corners)}; draw it again")
    (x0, y0), (x1, y1) = ((int(x), int(y)) for x, y in corners)
    if not (0 <= x0 <= x1 < mask.shape[1] and 0 <= y0 <= y1 < mask.shape[0]):
        raise WeaksegError(f"{where}: its box {x0, y0, x1, y1} leaves the photograph; draw it again")
    try:
        data = base64.b64decode(entry(shape, "mask", str, where), validate=True)
    except (binascii.Error, ValueError) as error:
        if isinstance(error, WeaksegError):
            raise
        raise WeaksegError(f"{where}: its mask is no base64 text; draw it again") from error
    inside = indices(decode_png(data, f"{where}: its mask", (y1 - y0 + 1, x1 - x0 + 1))) != 0
    mask[y0 : y1 + 1, x0 : x1 + 1][inside] = value


# --- files ---


def written(outgoing: Outgoing, out: Path) -> list[Path]:
    """A JSON for each photograph, and labels.txt."""
    return [*(out / f"{id}.json" for id in outgoing.names), out / _LABELS]


def export(outgoing: Outgoing, out: Path, tick: Tick) -> None:
    """Write the JSON files into the folder `out`; `imagePath` leads from there to the photographs."""
    names = ["__ignore__", "_background_", *outgoing.classes, IGNORE_LABEL]
    for id, name in outgoing.names.items():
        content = encode(outgoing.read(id), _image_path(outgoing, out, name), outgoing.classes, outgoing.per)
        write_json(out / f"{id}.json", content)
        tick()
    write_text(out / _LABELS, "".join(f"{name}\n" for name in names))


def _image_path(outgoing: Outgoing, out: Path, name: str) -> str:
    if outgoing.photos is None:
        return name
    return Path(os.path.relpath((outgoing.photos / name).resolve(), out.resolve())).as_posix()


def open_file(path: Path, classes: tuple[str, ...] | None, size: SizeOf) -> Incoming:
    """The masks of a folder of JSON files, or of one; a photograph without a shape is background.

    The classes are those of ``labels.txt`` in the folder, else the labels that occur, sorted.

    Raises:
        WeaksegError: there is none, or one is damaged.
    """
    found = [path / name for name in visible(path) if name.lower().endswith(".json")] if path.is_dir() else [path]
    if not found:
        raise WeaksegError(f"{path} holds no .json file; give the folder that labelme saves to")
    ids = each_once((photo_id(f"{file.stem}.png", str(file)) for file in found), str(path))
    files = dict(zip(ids, found, strict=True))
    names = classes or _own_classes(found)
    values = label_values(names)

    def read(id: str) -> np.ndarray:
        return decode(_content(files[id]), values, str(files[id]))

    return Incoming(names, ids, read)


def _content(file: Path) -> Any:
    content = read_stranger_json(file, "labelme JSON")
    entry(content, "shapes", list, str(file))
    return content


def _own_classes(files: Iterable[Path]) -> tuple[str, ...]:
    files = list(files)
    table = files[0].parent / _LABELS
    if table.is_file():
        return incoming_classes(read_text(table).splitlines(), str(table))
    shapes = ((shape, f"{file}, shape") for file in files for shape in _content(file)["shapes"])
    return incoming_classes(sorted({entry(shape, "label", str, where) for shape, where in shapes}), str(table.parent))
