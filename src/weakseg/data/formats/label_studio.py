"""Label Studio: tasks as JSON with brush masks as predictions, and beside it the XML of the labeling interface.

A brush for each connected region, or for each class (`per`: fewer layers to draw). The project's "Labeling Interface"
is the XML; the tasks are imported as JSON. Photographs are named as of local storage,
``/data/local-files/?d=FOLDER/NAME``, with FOLDER the folder of the photographs below
``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``.

Reading takes an export of type JSON. Of a task's annotations that were not skipped the last one counts; brushes,
polygons and rectangles (percent of the photograph's sides), later ones over earlier ones. An annotation without a
shape is background. A task that has predictions alone was looked at by nobody, so it is left out.

255 travels as the label ``ignore``, which stands in the XML.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import quoteattr

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from weakseg.data.formats._brush import decode_brush, encode_brush
from weakseg.data.formats._exchange import (
    IGNORE_LABEL,
    Incoming,
    Outgoing,
    SizeOf,
    Tick,
    background,
    each_once,
    incoming_classes,
    label_values,
    photo_id,
    value_of,
)
from weakseg.data.formats._outlines import polygon_mask
from weakseg.data.formats._pieces import Piece, pieces
from weakseg.data.formats._strangers import checked_size, entry, number, points, read_stranger_json
from weakseg.data.images import PHOTO_SUFFIXES
from weakseg.data.store import colour, read_bytes, write_text
from weakseg.types import IGNORE, WeaksegError

SUFFIX = ".json"
FILE = "tasks.json"
NAMES_PHOTOS = True

_AREAS = ("brushlabels", "polygonlabels", "rectanglelabels", "labels")
_NO_AREAS = ("choices", "textarea", "rating", "taxonomy", "number", "datetime", "pairwise", "ranker", "keypointlabels")
_ID = "weakseg_id"
"""Key of a task's data under which our own id comes back, whatever the photograph's address has become."""


# --- in memory ---


def encode(mask: np.ndarray, id: str, image: str, outgoing: Outgoing) -> dict[str, Any]:
    """The task of a photograph.

    Args:
        mask: uint8 (H, W).
        id: ours.
        image: address of the photograph.
        outgoing: tells the names of the classes and how masks are cut.
    """
    size = (int(mask.shape[0]), int(mask.shape[1]))
    found = enumerate(pieces(mask, outgoing.per), 1)
    result = [_brush(piece, f"{id}-{k}", outgoing.label(piece.value), size) for k, piece in found]
    return {"data": {"image": image, _ID: id}, "predictions": [{"model_version": "weakseg", "result": result}]}


def _brush(piece: Piece, id: str, label: str, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": id,
        "from_name": "tag",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(piece.filled(size)), "brushlabels": [label]},
    }


def encode_config(classes: Sequence[str]) -> str:
    """The XML of the labeling interface: a brush for each class and for ``ignore``, in VOC's colours."""
    named = [*enumerate(classes, 1), (IGNORE, IGNORE_LABEL)]
    labels = [f'    <Label value={quoteattr(name)} background="#{bytes(colour(k)).hex()}"/>' for k, name in named]
    head = ["<View>", '  <Image name="image" value="$image" zoom="true"/>', '  <BrushLabels name="tag" toName="image">']
    return "\n".join([*head, *labels, "  </BrushLabels>", "</View>", ""])


def decode_config(data: bytes, where: str) -> tuple[str, ...]:
    """The label names of a labeling interface, in their order."""
    try:
        root = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise WeaksegError(f"{where} defines entities or a document type, which an interface never needs") from error
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise WeaksegError(f"{where} is no readable XML: {error}; copy the labeling interface again") from error
    return tuple(label.get("value", "") for label in root.iter("Label"))


def decode(result: Sequence[Any], values: Mapping[str, int], where: str) -> np.ndarray | None:
    """The mask uint8 (H, W) of an annotation's result, later shapes over earlier ones; None if it has no shape.

    Raises:
        WeaksegError: a shape is damaged, turned, of a kind without area, or of no class.
    """
    mask: np.ndarray | None = None
    for shape, name, here in _shapes(result, where):
        size = checked_size(shape.get("original_height"), shape.get("original_width"), here)
        if mask is None:
            mask = np.zeros(size, np.uint8)
        if mask.shape != size or number(shape.get("image_rotation") or 0, here) % 360:
            raise WeaksegError(f"{here}: the photograph was turned in Label Studio; turn it back")
        mask[_inside(entry(shape, "value", dict, here), size, here)] = value_of(name, values, here)
    return mask


def _shapes(result: Sequence[Any], where: str) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(shape, its label, where it stands) of each result that has an area."""
    for k, shape in enumerate(result, 1):
        here = f"{where}, result {k}"
        kind = entry(shape, "type", str, here)
        if kind in _AREAS:
            found = entry(entry(shape, "value", dict, here), kind, list, here)
            if len(found) != 1 or not isinstance(found[0], str):
                raise WeaksegError(f"{here} has the labels {str(found)[:40]}, wanted one; correct it in Label Studio")
            yield shape, found[0], here
        elif kind not in _NO_AREAS and kind.endswith("labels"):
            raise WeaksegError(f"{here} is of type {kind[:30]}; draw it with the brush, a polygon or a rectangle")


def _inside(value: Mapping[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """bool (H, W): the pixels of a brush, polygon or rectangle."""
    if "rle" in value:
        return decode_brush(_bytes(entry(value, "rle", list, where), where), size, where)
    corners = points(value["points"], where) if "points" in value else _rectangle(value, size, where)
    return polygon_mask([(x * size[1] / 100, y * size[0] / 100) for x, y in corners], size, where)


def _bytes(rle: list[Any], where: str) -> bytes:
    try:
        return bytes(rle)
    except (TypeError, ValueError) as error:
        raise WeaksegError(f"{where}: run lengths are whole numbers of 0..255; export it again") from error


def _rectangle(value: Mapping[str, Any], size: tuple[int, int], where: str) -> list[tuple[float, float]]:
    """Corners in percent; `rotation` turns it clockwise, in degrees, around its first corner and in pixels."""
    x, y, w, h = (number(value.get(key), where) for key in ("x", "y", "width", "height"))
    angle = math.radians(number(value.get("rotation") or 0, where))
    aspect, cos, sin = size[1] / size[0], math.cos(angle), math.sin(angle)
    offsets = ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h))
    return [(x + dx * cos - dy * sin / aspect, y + dx * sin * aspect + dy * cos) for dx, dy in offsets]


# --- files ---


def written(outgoing: Outgoing, out: Path) -> list[Path]:
    """The tasks, and the labeling interface beside them."""
    return [out, out.with_suffix(".xml")]


def export(outgoing: Outgoing, out: Path, tick: Tick) -> None:
    """Write the tasks as JSON and the labeling interface as XML."""
    folder = "" if outgoing.photos is None else f"{outgoing.photos.resolve().name}/"
    tasks = []
    for id, name in outgoing.names.items():
        task = encode(outgoing.read(id), id, f"/data/local-files/?d={quote(folder + name)}", outgoing)
        tasks.append(json.dumps(task, separators=(",", ":"), ensure_ascii=False))  # a list of numbers takes one line
        tick()
    write_text(out.with_suffix(".xml"), encode_config(outgoing.classes))
    write_text(out, "[\n" + ",\n".join(tasks) + "\n]\n")


def open_file(path: Path, classes: tuple[str, ...] | None, size: SizeOf) -> Incoming:
    """The masks of an export of type JSON.

    The classes are those of the XML with the same name beside it, else the labels that occur, sorted.

    Raises:
        WeaksegError: the file is missing or damaged, or nobody has annotated a task.
    """
    content = read_stranger_json(path, "Label Studio JSON")
    if not isinstance(content, list):
        raise WeaksegError(f"{path} holds no list of tasks; export from Label Studio as JSON (not JSON-MIN)")
    ids = each_once((_task_id(task, f"{path}, task {k}") for k, task in enumerate(content, 1)), str(path))
    results = {id: _result(task, f"{path}, {id}") for id, task in zip(ids, content, strict=True)}
    done = {id: result for id, result in results.items() if result is not None}
    if not done:
        raise WeaksegError(f"{path} holds no annotation: nobody has looked at its tasks; submit them, then export")
    names = classes or _own_classes(path, done)
    values = label_values(names)

    def read(id: str) -> np.ndarray:
        mask = decode(done[id], values, f"{path}, {id}")
        return background(id, size, str(path)) if mask is None else mask

    left = len(results) - len(done)
    notes = (f"{left} of {len(results)} tasks have no annotation that was submitted; they are left out",) * bool(left)
    return Incoming(names, tuple(done), read, notes)


def _task_id(task: Any, where: str) -> str:
    """Our own id where it came back, else the stem of the photograph's address."""
    data = entry(task, "data", dict, where)
    if isinstance(own := data.get(_ID), str):
        return photo_id(f"{own}.png", where)
    found = [data.get("image"), *data.values()]
    names = [_file_name(text) for text in found if isinstance(text, str)]
    photos = [name for name in names if any(name.lower().endswith(suffix) for suffix in PHOTO_SUFFIXES)]
    if not photos:
        raise WeaksegError(f"{where}: its data names no photograph; export the tasks with their data")
    return photo_id(photos[0], where)


def _file_name(address: str) -> str:
    """The file name of an address: of local storage, of an upload (whose first eight digits are Label Studio's)."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    local = parse_qs(parts.query).get("d")
    name = (local[0] if local else unquote(parts.path)).replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"^[0-9a-f]{8}-", "", name) if "/upload/" in parts.path else name


def _result(task: Mapping[str, Any], where: str) -> list[Any] | None:
    """The shapes of the last annotation that was not skipped, [] if there is none; None: nobody has looked at it."""
    given = task.get("annotations") or []
    if not isinstance(given, list) or not all(isinstance(a, dict) for a in given):
        raise WeaksegError(f"{where}: its annotations are no list of objects; export it again")
    kept = [a for a in given if not a.get("was_cancelled")]
    if not kept:
        return None if given or task.get("predictions") else []
    last = max(enumerate(kept), key=lambda pair: (str(pair[1].get("updated_at") or ""), pair[0]))[1]
    return list(entry(last, "result", list, where))


def _own_classes(path: Path, results: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    config = path.with_suffix(".xml")
    if config.is_file():
        return incoming_classes(decode_config(read_bytes(config), str(config)), str(config))
    found = {name for id, result in results.items() for _, name, _ in _shapes(result, f"{path}, {id}")}
    return incoming_classes(sorted(found), str(path))
