"""COCO instances JSON: boxes and tags at opening, polygons and run lengths only when the truth is asked for.

The JSON comes from strangers: every type and key is looked at, file names must stay in their folder, and run lengths
are decoded by `data.runs` after their sum is checked.
"""

import gc
import json
import math
import sys
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask

from weakseg.data.images import PHOTO_SUFFIXES
from weakseg.data.index import Files, Index, Objects, first_folder, visible
from weakseg.data.instances import TrueInstances, true_instances
from weakseg.data.lists import escapes, find_lists, stem_of
from weakseg.data.runs import decode_runs
from weakseg.types import IGNORE, LabelMap, WeaksegError

MAX_LENGTH = 1 << 22
"""Pixels of the longest outline that is drawn: pycocotools keeps five points for each, in C."""


class _Raw(NamedTuple):
    """One annotation as it stands in the file; `shape` is None unless shapes are wanted."""

    image: Any
    category: Any
    bbox: Any
    crowd: bool
    has_shape: bool
    shape: Any


class CocoObjects:
    """Boxes, tags and shapes of one or several COCO JSON files, by stem of `file_name`.

    Attributes:
        ids: every image of the files.
        categories: names in the order of COCO's ids.
        lists: file's name without ``instances_`` -> its ids.
        has_shapes: whether any annotation has a segmentation.
        problems: a sentence for each entry that cannot be used.
    """

    kind = "json"

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.ids: dict[str, int] = {}
        self.lists: dict[str, tuple[str, ...]] = {}
        self.problems: list[str] = []
        self.has_shapes = False
        self._categories: dict[int, str] = {}
        self._shapes: dict[str, bytes] | None = None
        rows = array("d")
        for path in paths:
            self._add(path, rows)
        self.categories = tuple(self._categories[k] for k in sorted(self._categories))
        self._pack(rows)

    def _add(self, path: Path, rows: array) -> None:
        content = _load(path, shapes=False)
        for id, name in _categories(content, path, self.problems).items():
            if self._categories.setdefault(id, name) != name:
                self.problems.append(
                    f"{path}: category {id} is {name!r} here, {self._categories[id]!r} in another file"
                )
        stems = _images(content, path, self.problems)
        for stem in stems.values():
            if stem in self.ids:
                self.problems.append(f"{path}: image {stem!r} stands there twice")
            self.ids.setdefault(stem, len(self.ids))
        self.lists[path.stem.removeprefix("instances_")] = tuple(stems.values())
        for i, raw in enumerate(_entries(content, "annotations", path)):
            fault = _fault(raw, stems, self._categories)
            if fault:
                self.problems.append(f"{path}, annotation {i + 1}: {fault}")
                continue
            self.has_shapes |= raw.has_shape
            x, y, w, h = map(float, raw.bbox)
            rows.extend((self.ids[stems[raw.image]], raw.category, raw.crowd, x, y, x + w, y + h))

    def _pack(self, rows: array) -> None:
        """Annotations as flat arrays sorted by image: a million of them are 40 MB."""
        table = np.frombuffer(rows, np.float64).reshape(-1, 7)
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._start = np.searchsorted(table[:, 0], np.arange(len(self.ids) + 1))
        self._category = table[:, 1].astype(np.int64)
        self._crowd = table[:, 2].astype(bool)
        self._boxes = table[:, 3:].astype(np.float32)

    def __contains__(self, id: object) -> bool:
        return id in self.ids

    def _rows(self, id: str) -> slice:
        at = self.ids[id]
        return slice(int(self._start[at]), int(self._start[at + 1]))

    def read(self, id: str) -> Objects:
        """The objects of `id` without crowds."""
        rows, kept = self._rows(id), ~self._crowd[self._rows(id)]
        names = tuple(self._categories[k] for k in self._category[rows][kept].tolist())
        return Objects(names, self._boxes[rows][kept].astype(np.float64))

    def names(self, id: str) -> tuple[str, ...]:
        """Class names of `id`, crowds too: a crowd of sheep shows sheep."""
        return tuple(self._categories[k] for k in self._category[self._rows(id)].tolist())

    def mask(self, id: str, size: tuple[int, int], classes: tuple[str, ...]) -> LabelMap:
        """The semantic mask of `id`, uint8 (H, W): smaller instances on top, crowds 255 where no instance lies.

        An object with a box and no segmentation is 255 in its box, like a crowd.

        Args:
            id: the image.
            size: (H, W) of the photograph, pixels.
            classes: foreground names; id k + 1 is classes[k].

        Raises:
            WeaksegError: a segmentation is damaged or made for another size, or a class is not in `classes`.
        """
        out = np.zeros(size, np.uint8)
        layers = self._objects(id, size, classes)
        for label, crowd, inside in sorted(layers, key=lambda layer: (not layer[1], -int(layer[2].sum()))):
            out[inside] = IGNORE if crowd else label
        return torch.from_numpy(out)

    def instances(self, id: str, size: tuple[int, int], classes: tuple[str, ...]) -> TrueInstances:
        """The objects of `id` in the file's order, overlapping where they overlap.

        An object with a box and no segmentation is a crowd in its box. Arguments and errors are those of `mask`.
        """
        objects = self._objects(id, size, classes)
        masks = np.stack([inside for _, _, inside in objects]) if objects else np.zeros((0, *size), bool)
        return true_instances(
            torch.from_numpy(masks), [label for label, _, _ in objects], [crowd for _, crowd, _ in objects]
        )

    def _objects(self, id: str, size: tuple[int, int], classes: tuple[str, ...]) -> list[tuple[int, bool, np.ndarray]]:
        """(class id, crowd, bool (H, W)) of each annotation of `id`."""
        if self._shapes is None:
            self._shapes = self._load_shapes()
        found = []
        for name, crowd, shape in json.loads(zlib.decompress(self._shapes[id])) if id in self._shapes else ():
            if name not in classes:
                raise WeaksegError(f"{id}: class {name!r} is not among the {len(classes)} classes")
            try:
                found.append((classes.index(name) + 1, bool(crowd), rasterise(shape, size)))
            except WeaksegError as error:
                raise WeaksegError(f"{id}: the segmentation of a {name}: {error}") from None
        return found

    def _load_shapes(self) -> dict[str, bytes]:
        """Shapes of every image, compressed: a second pass over the JSON, made only for the truth."""
        found: dict[str, bytes] = {}
        for path in self.paths:
            content = _load(path, shapes=True)
            stems = _images(content, path, [])
            shapes: dict[str, list[tuple[str, bool, Any]]] = {}
            for raw in _entries(content, "annotations", path):
                if not _fault(raw, stems, self._categories):
                    name = self._categories[raw.category]
                    known = (name, raw.crowd, raw.shape) if raw.has_shape else (name, True, box_ring(raw.bbox))
                    shapes.setdefault(stems[raw.image], []).append(known)
            found |= {stem: zlib.compress(json.dumps(each).encode(), 1) for stem, each in shapes.items()}
        return found


def rasterise(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): the inside of a COCO segmentation, a list of polygons or run lengths.

    Raises:
        WeaksegError: it is neither, is made for another size, lies far outside of the photograph, or is so long that
            it must be made up.
    """
    height, width = size
    if isinstance(shape, dict):
        return decode_runs(shape, size)
    if not isinstance(shape, list) or not all(isinstance(ring, list) for ring in shape):
        raise WeaksegError("neither polygons nor run lengths")
    rings = []
    for ring in shape:
        if len(ring) % 2 or not all(_is_number(v) for v in ring):
            raise WeaksegError("a polygon is a flat list of x, y, x, y ... numbers")
        far = any(not -width <= x <= 2 * width for x in ring[::2])
        if far or any(not -height <= y <= 2 * height for y in ring[1::2]):
            raise WeaksegError(f"a polygon lies far outside of the photograph of {width} x {height} pixels")
        if len(ring) >= 6:  # fewer corners hold no pixel
            rings.append([float(v) for v in ring])
    if not rings:
        return np.zeros(size, bool)
    if sum(_length(ring) for ring in rings) > MAX_LENGTH:
        raise WeaksegError(f"a polygon is longer than {MAX_LENGTH:,} pixels")
    inside: np.ndarray = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))) > 0
    return inside


def _length(ring: list[float]) -> float:
    """Steps that pycocotools makes along a polygon, in pixels: the longer of both sides of each edge."""
    corners = np.array([*ring, *ring[:2]]).reshape(-1, 2)
    return float(np.abs(np.diff(corners, axis=0)).max(axis=1).sum())


def box_ring(bbox: list[float]) -> list[list[float]]:
    """A box [x, y, width, height] as a COCO segmentation, one polygon."""
    x, y, w, h = bbox
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


# --- opening ---


def coco_files(root: Path) -> list[Path]:
    """The instances JSON files of a COCO layout, in `root` or its ``annotations`` folder."""
    for folder in (root, root / "annotations", root / "Annotations"):
        names = [n for n in visible(folder) if n.endswith(".json")]
        found = [n for n in names if n.startswith("instances") or n.endswith(".coco.json") or n == "annotations.json"]
        if found:
            return [folder / name for name in found]
    return []


class CocoNumbers(NamedTuple):
    """A file's own numbering: image ids by stem, category ids by name."""

    images: dict[str, int | str]
    categories: dict[str, int]


def coco_numbers(root: Path) -> CocoNumbers:
    """The ids that the JSON files of a COCO layout use; where files repeat an image or a category the first counts."""
    found = CocoNumbers({}, {})
    for path in coco_files(root):
        content = _load(path, shapes=False)
        for number, stem in _images(content, path, []).items():
            found.images.setdefault(stem, number)
        for number, name in _categories(content, path, []).items():
            found.categories.setdefault(name, number)
    return found


def index_coco(root: Path) -> Index:
    """What a COCO layout holds: instances*.json, a folder of photographs, optional saliency and masks by stem."""
    paths = coco_files(root)
    if not paths:
        raise WeaksegError(f"{root} holds no instances*.json (nor does its annotations folder); is it another layout?")
    objects = CocoObjects(paths)
    listed = _photos(root, list(objects.lists))
    photos = listed.among(objects.ids)
    index = Index(root, "coco", photos, objects=objects, classes=objects.categories or None, problems=objects.problems)
    if strangers := [stem for stem in listed if stem not in objects.ids]:
        index.notes.append(f"{len(strangers)} photographs stand in no JSON: {', '.join(strangers[:5])}")
    if missing := [stem for stem in objects.ids if stem not in photos]:
        index.faults += [f"{stem}: the JSON lists this image, but there is no such photograph" for stem in missing]
    if folder := first_folder(root, "SegmentationClass", "masks"):
        index.masks.scan(folder, frozenset({".png"}))
    if folder := first_folder(root, "Saliency", "saliency"):
        index.saliency.scan(folder, PHOTO_SUFFIXES)
    index.context.scan(root / "ContextClass", frozenset({".png"}))
    if objects.has_shapes:
        index.shapes = objects
    index.lists = find_lists(root, photos)
    if len(paths) > 1:
        _name_lists(index.lists, objects.lists)
    return index


def _photos(root: Path, lists: list[str]) -> Files:
    """Photographs in ``images`` and its folders, ``JPEGImages``, folders named as the JSON files, or the root."""
    places = [root / "images", *(root / "images" / n for n in visible(root / "images")), root / "JPEGImages"]
    places += [root / name for name in lists]
    found = Files()
    for folder in places:
        if folder.is_dir():
            found.scan(folder, PHOTO_SUFFIXES)
    return found if found else found.scan(root, PHOTO_SUFFIXES)


def _name_lists(lists: dict[str, tuple[str, ...]], files: dict[str, tuple[str, ...]]) -> None:
    """Each JSON file is a list; ``train2014`` is also ``train`` if no other one is."""
    for name, ids in files.items():
        lists.setdefault(name, ids)
        short = name.rstrip("0123456789")
        if short and sum(other.rstrip("0123456789") == short for other in files) == 1:
            lists.setdefault(short, ids)


# --- reading a stranger's JSON ---


def _load(path: Path, shapes: bool) -> dict[str, Any]:
    """The JSON with annotations slimmed while it is parsed, so that a million polygons are never held at once."""
    paused = gc.isenabled()
    gc.disable()  # a million new tuples and no cycle among them: collecting in between doubles the time
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_hook=_slimmer(shapes))
    except OSError as error:
        raise WeaksegError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeaksegError(f"{path} is no readable JSON: {error}") from error
    finally:
        if paused:
            gc.enable()
    if not isinstance(content, dict):
        raise WeaksegError(
            f"{path} is no COCO file: it holds a {type(content).__name__}, wanted images and annotations"
        )
    return content


def _slimmer(shapes: bool) -> Callable[[dict[str, Any]], Any]:
    def slim(entry: dict[str, Any]) -> Any:
        if "image_id" not in entry or "category_id" not in entry:
            return entry
        shape = entry.get("segmentation")
        crowd = entry.get("iscrowd") in (1, True, "1")
        return _Raw(
            entry["image_id"], entry["category_id"], entry.get("bbox"), crowd, bool(shape), shape if shapes else None
        )

    return slim


def _entries(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise WeaksegError(f"{path} is no COCO file: it has no list {key!r}")
    return entries


def _categories(content: dict[str, Any], path: Path, problems: list[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in _entries(content, "categories", path):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            problems.append(f"{path}: category {str(entry)[:60]} has no whole number 'id' and text 'name'")
        elif found.setdefault(entry["id"], sys.intern(entry["name"].strip())) != entry["name"].strip():
            problems.append(f"{path}: category id {entry['id']} stands there twice")
    return found


def _images(content: dict[str, Any], path: Path, problems: list[str]) -> dict[Any, str]:
    """COCO's image id -> stem of its file name."""
    found: dict[Any, str] = {}
    for entry in _entries(content, "images", path):
        name, id = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or type(id) not in (int, str):
            problems.append(f"{path}: image {str(entry)[:60]} has no 'id' and text 'file_name'")
        elif escapes(name):
            problems.append(f"{path}: file name {name!r} leaves the data set's folder")
        elif id in found:
            problems.append(f"{path}: image id {id} stands there twice")
        else:
            found[id] = sys.intern(stem_of(name))
    return found


def _fault(raw: Any, stems: dict[Any, str], categories: dict[int, str]) -> str | None:
    """What is wrong with an annotation, or None."""
    if not isinstance(raw, _Raw):
        return "no 'image_id' and 'category_id'"
    if type(raw.image) not in (int, str) or raw.image not in stems:
        return f"image_id {raw.image!r} is no image of the file"
    if type(raw.category) is not int or raw.category not in categories:
        return f"category_id {raw.category!r} is no category of the file"
    if not isinstance(raw.bbox, list) or len(raw.bbox) != 4 or not all(_is_number(v) for v in raw.bbox):
        return f"bbox {str(raw.bbox)[:60]} is not [x, y, width, height]"
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e9 and math.isfinite(value)  # the first also keeps whole numbers too long for a float away
