"""YOLO segmentation: a text file for each photograph, a line for each connected region, for Ultralytics and its kin.

``class x y x y ...``: the class counts from 0 (id - 1), x and y are parts of the photograph's sides. Polygons follow
the exact edges of pixels. A hole is joined to the outer ring by a bridge of no width (`_outlines`), so that filling
the polygon gives the region back: exactly where a pixel belongs to it by its centre (COCO's tools), and with one row
and column more below and to the right where corners are taken for pixels and the outline is drawn too (OpenCV's
fillPoly). ``data.yaml`` names the classes; put the photographs into ``images`` beside ``labels``.

Reading takes the same, wants ``--photos`` (the files bear no sizes), and fills a line of four numbers, a box. Later
lines lie over earlier ones. 255 has no place in YOLO: these pixels are left out, and come back as background.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from weakseg.data.formats._exchange import (
    Incoming,
    Outgoing,
    SizeOf,
    Tick,
    each_once,
    incoming_classes,
    label_values,
    photo_id,
    value_of,
)
from weakseg.data.formats._outlines import outline, polygon_mask
from weakseg.data.formats._pieces import pieces
from weakseg.data.index import visible
from weakseg.data.lists import read_text
from weakseg.data.store import write_text
from weakseg.types import IGNORE, WeaksegError

SUFFIX = FILE = ""
NAMES_PHOTOS = False

_YAML = "data.yaml"


# --- in memory ---


def encode(mask: np.ndarray) -> str:
    """The text file of a mask uint8 (H, W): a line for each connected region; 255 is left out.

    >>> encode(np.array([[2, 2, 0, 0], [0, 0, 0, 0]], np.uint8))
    '1 0 0 0.5 0 0.5 0.5 0 0.5\\n'
    """
    height, width = mask.shape
    lines = []
    for piece in pieces(mask):
        if piece.value != IGNORE:
            corners = outline(piece.inside)
            parts = [(f"{_short((x + piece.left) / width)} {_short((y + piece.top) / height)}") for x, y in corners]
            lines.append(f"{piece.value - 1} {' '.join(parts)}\n")
    return "".join(lines)


def _short(part: float) -> str:
    """Six digits: a hundredth of a pixel of the widest photographs."""
    return f"{part:.6f}".rstrip("0").rstrip(".")


def decode(text: str, size: tuple[int, int], values: Sequence[int], where: str = "YOLO") -> np.ndarray:
    """The mask uint8 (H, W) of a text file, later lines over earlier ones.

    Args:
        text: the file.
        size: (H, W) of the photograph.
        values: id in the mask of each class, from class 0 on.
        where: the file, for errors.

    Raises:
        WeaksegError: a line is none of ``class x y x y x y ...`` and ``class cx cy w h``, or its class is unknown.
    """
    mask = np.zeros(size, np.uint8)
    for k, line in enumerate(text.splitlines(), 1):
        if line.strip():
            here = f"{where}, line {k}"
            index, corners = _line(line, here)
            if index >= len(values):
                raise WeaksegError(f"{here}: class {index}, but there are {len(values)} names; correct {_YAML}")
            corners = [(x * size[1], y * size[0]) for x, y in corners]
            mask[polygon_mask(corners, size, here)] = values[index]
    return mask


def _line(line: str, where: str) -> tuple[int, list[tuple[float, float]]]:
    """The class and the corners of a line."""
    index, *rest = line.split()
    try:
        numbers = [float(part) for part in rest]
    except ValueError:
        numbers = []
    sound = all(abs(value) < 3 for value in numbers)  # NaN is not
    if (
        not sound
        or len(numbers) < 4
        or len(numbers) % 2
        or not index.isascii()
        or not index.isdigit()
        or len(index) > 4
    ):
        raise WeaksegError(f"{where}: {line[:60]!r} is not 'class x y x y x y ...' in parts of the sides; mend it")
    if len(numbers) == 4:
        x, y, w, h = numbers
        x0, x1, y0, y1 = x - w / 2, x + w / 2, y - h / 2, y + h / 2
        return int(index), [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return int(index), list(zip(numbers[::2], numbers[1::2], strict=True))


def encode_yaml(classes: Sequence[str]) -> str:
    """The text of data.yaml."""
    names = yaml.safe_dump({"names": dict(enumerate(classes))}, allow_unicode=True, sort_keys=False)
    return f"# photographs go into images/, beside labels/\npath: .\ntrain: images\nval: images\n{names}"


def decode_yaml(text: str, where: str = _YAML) -> tuple[str, ...]:
    """The names of data.yaml, a list or by number; the numbers have no gaps.

    >>> decode_yaml("names: {1: dog, 0: cat}"), decode_yaml("names: [cat, dog]")
    (('cat', 'dog'), ('cat', 'dog'))
    """
    try:
        content: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WeaksegError(f"{where} is no readable YAML ({str(error).splitlines()[0]}); mend it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and all(type(k) is int for k in names):
        names = [names[k] for k in sorted(names)] if sorted(names) == list(range(len(names))) else None
    if not isinstance(names, list) or not names or not all(type(name) in (str, int) for name in names):
        raise WeaksegError(f"{where} names no classes; wanted names: [cat, dog] or names: {{0: cat, 1: dog}}")
    return tuple(map(str, names))


# --- files ---


def written(outgoing: Outgoing, out: Path) -> list[Path]:
    """A text file for each photograph, and data.yaml."""
    return [*(out / "labels" / f"{id}.txt" for id in outgoing.names), out / _YAML]


def export(outgoing: Outgoing, out: Path, tick: Tick) -> None:
    """Write the text files and data.yaml into the folder `out`."""
    if outgoing.per == "class":
        raise WeaksegError("yolo has one polygon a line, so a class of several regions cannot be one; use --per region")
    for id in outgoing.names:
        write_text(out / "labels" / f"{id}.txt", encode(outgoing.read(id)))
        tick()
    write_text(out / _YAML, encode_yaml(outgoing.classes))


def open_file(path: Path, classes: tuple[str, ...] | None, size: SizeOf) -> Incoming:
    """The masks of a folder with data.yaml and labels/*.txt (or of that data.yaml); an empty file is background.

    Raises:
        WeaksegError: there is no data.yaml or no text file, or one is damaged.
    """
    root, table = (path, path / _YAML) if path.is_dir() else (path.parent, path)
    own = decode_yaml(read_text(table), str(table))
    names = classes or incoming_classes(own, str(table))
    meanings = label_values(names)
    values = [value_of(name, meanings, str(table)) for name in own]
    files = _files(root)

    def read(id: str) -> np.ndarray:
        if (known := size(id)) is None:
            raise WeaksegError(f"{files[id]} bears no size of its photograph; give --photos")
        return decode(read_text(files[id]), known, values, str(files[id]))

    return Incoming(names, tuple(files), read)


def _files(root: Path) -> Mapping[str, Path]:
    """Text files by id, in ``labels`` and its folders (train, val); in the folder itself if there is no ``labels``."""
    top = root / "labels" if (root / "labels").is_dir() else root
    folders = [top, *(top / name for name in visible(top) if (top / name).is_dir())]
    found = [
        f / name for f in folders for name in visible(f) if name.lower().endswith(".txt") and name != "classes.txt"
    ]
    if not found:
        raise WeaksegError(f"{root} holds no labels/*.txt; give the folder of a YOLO data set")
    ids = each_once((photo_id(f"{os.path.splitext(file.name)[0]}.png", str(file)) for file in found), str(root))
    return dict(zip(ids, found, strict=True))
