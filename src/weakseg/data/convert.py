"""Between the layouts: VOC, COCO and plain folder; and a label file `cls_labels.npy` to tags.csv.

Each file is written whole or not at all. Photographs are copied byte for byte. The tags and the class order always come
along as tags.csv and classes.txt, for no layout alone keeps both.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from torch import Tensor

from weakseg._words import near
from weakseg.data.dataset import LAYOUTS, Dataset, open_dataset
from weakseg.data.images import image_size
from weakseg.data.instances import object_map, objects_of_boxes
from weakseg.data.lists import VOC_CLASSES, read_classes, tags_csv
from weakseg.data.npy import read_label_dict, voc_id
from weakseg.data.runs import encode_runs
from weakseg.data.store import read_bytes, write_bytes, write_json, write_label_map, write_text
from weakseg.types import WeaksegError

_PLACES = {  # layout -> photographs, masks, saliency, lists
    "voc": ("JPEGImages", "SegmentationClass", "Saliency", "ImageSets/Segmentation"),
    "coco": ("images", "masks", "saliency", "lists"),
    "folder": ("images", "masks", "saliency", "lists"),
}


def convert(
    path: str | Path,
    out: str | Path,
    to: str = "voc",
    *,
    layout: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    tags_from: str | Path | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a data set in another layout; or a ``cls_labels.npy`` as tags.csv.

    Boxes become VOC XML (``voc``) or COCO JSON (``coco``: instances.json, ``folder``: boxes.json). True masks become
    palette PNGs. Which instance a pixel belongs to is kept as the segmentation of its box (``coco``) or as
    SegmentationObject (``voc``: a pixel belongs to one object, crowds to none); a plain folder has no place for it.

    Args:
        path: a data set's folder, or a ``.npy`` file of labels.
        out: the new folder, empty or not there yet; for a ``.npy`` file, a ``.csv`` file or a folder for tags.csv.
        to: ``voc``, ``coco`` or ``folder``.
        layout, classes, tags_from: as in `weakseg.data.dataset.open_dataset`. For a ``.npy`` file `classes` names
            its columns; the VOC 20 by default.
        tick: is called with (photographs written, all photographs), for a progress bar.

    Returns:
        What was written: `out`, or the CSV file.

    Raises:
        WeaksegError: the source is unusable or damaged, `out` holds files already, or the disk is full.
    """
    path, out = Path(path), Path(out)
    if path.suffix.lower() == ".npy":
        return _labels_to_csv(path, out, classes)
    if to not in LAYOUTS:
        raise WeaksegError(f"cannot convert to {to!r}{near(str(to), LAYOUTS)}; it is one of {', '.join(LAYOUTS)}")
    dataset = open_dataset(path, layout=layout, classes=classes, tags_from=tags_from)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeaksegError(f"{out} is not empty; nothing is overwritten, so name a new folder")
    if to == "coco" and not dataset.has & {"tags", "boxes"}:
        raise WeaksegError(
            f"{path} has neither tags nor boxes, so every image would count as background; see --tags-from"
        )
    _write_tables(dataset, out, to)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for done, id in enumerate(dataset.ids, 1):
        height, width = _copy_pixels(dataset, id, out, to)
        boxes = dataset.boxes(id)
        if to == "voc" and boxes is not None:
            write_text(out / "Annotations" / f"{id}.xml", _voc_xml(dataset, id, (height, width), boxes))
        elif boxes is not None or to == "coco":
            name = dataset.image_path(id).name
            images.append({"id": done, "file_name": name, "width": width, "height": height})
            found = _coco_boxes(boxes, done, len(annotations) + 1)
            annotations += _with_shapes(found, dataset, id, boxes) if to == "coco" else found
        if tick is not None:
            tick(done, len(dataset.ids))
    if to != "voc" and images:
        categories = [{"id": k, "name": name} for k, name in enumerate(dataset.classes, 1)]
        name = "instances.json" if to == "coco" else "boxes.json"
        write_json(out / name, {"images": images, "annotations": annotations, "categories": categories})
    return out


def _write_tables(dataset: Dataset, out: Path, to: str) -> None:
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in dataset.classes))
    if "tags" in dataset.has:
        rows = ((dataset.image_path(id).name, _tag_names(dataset, id)) for id in dataset.ids if dataset.has_tags(id))
        write_text(out / "tags.csv", tags_csv(rows))
    lists = {name: ids for name, ids in dataset.lists.items() if name != "all"}
    for name, ids in lists.items():
        if lists != {"train": dataset.ids}:  # which is what a data set without lists has
            write_text(out / _PLACES[to][3] / f"{name}.txt", "".join(f"{id}\n" for id in ids))


def _tag_names(dataset: Dataset, id: str) -> list[str]:
    return [name for name, there in zip(dataset.classes, dataset.tags(id).tolist(), strict=True) if there]


def _copy_pixels(dataset: Dataset, id: str, out: Path, to: str) -> tuple[int, int]:
    """Copy the photograph and what is drawn over it; returns its (H, W)."""
    photos, masks, saliency, _ = _PLACES[to]
    source = dataset.image_path(id)
    size = image_size(source)
    write_bytes(out / photos / source.name, read_bytes(source))
    if (mask := dataset.truth(id, size)) is not None:
        write_label_map(out / masks / f"{id}.png", mask)
        if to == "voc" and (true := dataset.instances(id)) is not None:
            write_label_map(out / "SegmentationObject" / f"{id}.png", object_map(true, mask))
    for folder, other in ((saliency, dataset.saliency_path(id)), ("ContextClass", dataset.context_path(id))):
        if other is not None:
            write_bytes(out / folder / other.name, read_bytes(other))
    return size


def _voc_xml(dataset: Dataset, id: str, size: tuple[int, int], boxes: tuple[Tensor, Tensor]) -> str:
    """VOC XML: corners count from 1 and the last pixel is included."""
    lines = ["<annotation>", f"  <filename>{escape(dataset.image_path(id).name)}</filename>"]
    lines.append(f"  <size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>")
    for box, k in zip((boxes[0].double() + boxes[0].new_tensor([1, 1, 0, 0])).tolist(), boxes[1].tolist(), strict=True):
        tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        corners = "".join(f"<{tag}>{_short(value)}</{tag}>" for tag, value in tags)
        lines.append(f"  <object><name>{escape(dataset.classes[k - 1])}</name><bndbox>{corners}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])


def _coco_boxes(boxes: tuple[Tensor, Tensor] | None, image: int, first: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for box, k in zip(*((boxes[0].tolist(), boxes[1].tolist()) if boxes is not None else ([], [])), strict=True):
        x0, y0, x1, y1 = box
        bbox = [_short(v) for v in (x0, y0, x1 - x0, y1 - y0)]
        area = _short((x1 - x0) * (y1 - y0))
        own = {"id": first + len(found), "image_id": image, "category_id": k}
        found.append({**own, "bbox": bbox, "area": area, "iscrowd": 0})
    return found


def _with_shapes(
    entries: list[dict[str, Any]], dataset: Dataset, id: str, boxes: tuple[Tensor, Tensor] | None
) -> list[dict[str, Any]]:
    """The entries with the run lengths and the area of the true object that each box was drawn around."""
    true = dataset.instances(id) if boxes is not None else None
    if true is None or boxes is None:
        return entries
    for entry, k in zip(entries, objects_of_boxes(*boxes, true), strict=True):
        if k is not None:
            mask = true.instances.masks[k].numpy()
            entry |= {"area": int(mask.sum()), "segmentation": encode_runs(mask)}
    return entries


def _short(value: float) -> int | float:
    """A whole number as one; other coordinates to a hundredth of a pixel, COCO's own precision."""
    return int(value) if value == int(value) else round(value, 2)


def _labels_to_csv(path: Path, out: Path, classes: str | Path | Sequence[str] | None) -> Path:
    names = read_classes(classes) if classes is not None else VOC_CLASSES
    vectors = read_label_dict(path)
    if wrong := next((key for key, vector in vectors.items() if len(vector) != len(names)), None):
        raise WeaksegError(
            f"{path}: {wrong!r} has {len(vectors[wrong])} tags, but there are {len(names)} class names; give --classes"
        )
    target = out if out.suffix.lower() == ".csv" else out / "tags.csv"
    if target.exists():
        raise WeaksegError(f"{target} exists; nothing is overwritten, so remove it or name another file")
    rows = ((voc_id(key), [names[k] for k in np.flatnonzero(vector)]) for key, vector in vectors.items())
    write_text(target, tags_csv(rows))
    return target
