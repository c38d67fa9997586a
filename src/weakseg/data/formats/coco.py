"""COCO JSON with run-length masks: one annotation for each connected region, or for each class (`per`).

pycocotools, CVAT, FiftyOne and weakseg's own COCO layout open it. Category k is class id k, images count from 1.
Reading takes polygons and run lengths of anybody's ids; of overlapping annotations the later one lies on top. An
annotation with a box and no segmentation is its box. ``iscrowd`` is not looked at: CVAT sets it for every mask it
exports.

255 has no place in COCO: these pixels are left out, and come back as background.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weakseg.data.coco import box_ring, rasterise
from weakseg.data.formats._exchange import (
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
from weakseg.data.formats._pieces import Piece, pieces
from weakseg.data.formats._strangers import checked_size, entry, number, read_stranger_json
from weakseg.data.runs import encode_runs
from weakseg.data.store import write_json
from weakseg.types import IGNORE, WeaksegError

SUFFIX = ".json"
FILE = "instances.json"
NAMES_PHOTOS = True


# --- in memory ---


def encode(mask: np.ndarray, image: int, first: int = 1, per: Per = "region") -> list[dict[str, Any]]:
    """COCO's annotations of a mask.

    Args:
        mask: uint8 (H, W); 255 is left out.
        image: COCO's id of the photograph.
        first: id of the first annotation.
        per: an annotation for each ``region`` or ``class``.

    >>> encode(np.array([[0, 2], [0, 2]], np.uint8), image=7)[0]["segmentation"]
    {'size': [2, 2], 'counts': '22'}
    """
    size = (int(mask.shape[0]), int(mask.shape[1]))
    found = (piece for piece in pieces(mask, per) if piece.value != IGNORE)
    return [{"id": k, "image_id": image, **_annotation(piece, size)} for k, piece in enumerate(found, first)]


def _annotation(piece: Piece, size: tuple[int, int]) -> dict[str, Any]:
    height, width = piece.inside.shape
    return {
        "category_id": piece.value,
        "bbox": [piece.left, piece.top, width, height],
        "area": int(piece.inside.sum()),
        "iscrowd": 0,
        "segmentation": encode_runs(piece.filled(size)),
    }


def decode(
    annotations: Sequence[Any], size: tuple[int, int], values: Mapping[int, int], where: str = "COCO"
) -> np.ndarray:
    """The mask uint8 (H, W) of one photograph's annotations, later ones over earlier ones.

    Args:
        annotations: of the file, in its order.
        size: (H, W).
        values: category id -> id in the mask.
        where: the file and photograph, for errors.

    Raises:
        WeaksegError: a segmentation is damaged or of another size.
    """
    mask = np.zeros(size, np.uint8)
    for annotation in annotations:
        try:
            inside = rasterise(_shape(annotation, where), size)
        except WeaksegError as error:
            raise WeaksegError(f"{where}, annotation {str(annotation.get('id'))[:20]}: {error}") from None
        mask[inside] = values[annotation["category_id"]]
    return mask


def _shape(annotation: Mapping[str, Any], where: str) -> Any:
    """The segmentation, or the box of an annotation without one."""
    shape = annotation.get("segmentation")
    if shape:
        return shape
    box = entry(annotation, "bbox", list, where)
    if len(box) != 4:
        raise WeaksegError("neither a segmentation nor a box [x, y, width, height]")
    return box_ring([number(value, where) for value in box])


# --- files ---


def written(outgoing: Outgoing, out: Path) -> list[Path]:
    """The one file of an export."""
    return [out]


def export(outgoing: Outgoing, out: Path, tick: Tick) -> None:
    """Write the JSON."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k, (id, name) in enumerate(outgoing.names.items(), 1):
        mask = outgoing.read(id)
        images.append({"id": k, "file_name": name, "width": mask.shape[1], "height": mask.shape[0]})
        annotations += encode(mask, k, len(annotations) + 1, outgoing.per)
        tick()
    categories = [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(outgoing.classes, 1)]
    tables = {"images": images, "annotations": annotations, "categories": categories}
    write_json(out, {"info": {"description": "weakseg"}, "licenses": [], **tables})


def open_file(path: Path, classes: tuple[str, ...] | None, size: SizeOf) -> Incoming:
    """The masks of a COCO JSON; a listed photograph without an annotation is background.

    Raises:
        WeaksegError: the file is missing or damaged, a category is no class, two photographs share a name.
    """
    content = read_stranger_json(path, "COCO JSON")
    where = str(path)
    categories = {
        entry(c, "id", int, f"{where}, categories"): entry(c, "name", str, f"{where}, categories")
        for c in entry(content, "categories", list, where)
    }
    names = classes or incoming_classes((categories[k] for k in sorted(categories)), f"{where}, categories")
    images = entry(content, "images", list, where)
    files = [photo_id(entry(image, "file_name", str, f"{where}, images"), where) for image in images]
    numbers = {id: entry(image, "id", (int, str), f"{where}, {id}") for id, image in zip(files, images, strict=True)}
    ids = each_once(files, where)
    each_once(map(str, numbers.values()), f"{where}, image ids")
    sizes = {
        id: checked_size(i.get("height"), i.get("width"), f"{where}, {id}") for id, i in zip(ids, images, strict=True)
    }
    by_image = _by_image(entry(content, "annotations", list, where), set(numbers.values()), categories, where)
    wanted = label_values(names)
    used = {a["category_id"] for found in by_image.values() for a in found}
    values = {k: value_of(categories[k], wanted, f"{where}, categories") for k in sorted(used)}

    def read(id: str) -> np.ndarray:
        return decode(by_image.get(numbers[id], ()), sizes[id], values, f"{where}, {id}")

    return Incoming(names, ids, read)


def _by_image(
    annotations: Sequence[Any], images: set[Any], categories: Mapping[int, str], where: str
) -> dict[Any, list[Any]]:
    """Annotations by image id, each with an image and a category of the file."""
    found: dict[Any, list[Any]] = {}
    for k, annotation in enumerate(annotations, 1):
        here = f"{where}, annotation {k} of the file"
        image = entry(annotation, "image_id", (int, str), here)
        if image not in images:
            raise WeaksegError(f"{here}: image_id {image!r} is no image of the file; export it again")
        if entry(annotation, "category_id", int, here) not in categories:
            raise WeaksegError(f"{here}: category_id {annotation['category_id']} is no category; export it again")
        found.setdefault(image, []).append(annotation)
    return found
