"""A plain folder: photographs beside a tags.csv, or one folder of photographs per class; the rest is optional."""

from pathlib import Path

from weakseg.data.boxes import XmlObjects, YoloObjects
from weakseg.data.coco import CocoObjects
from weakseg.data.images import PHOTO_SUFFIXES
from weakseg.data.index import Files, Index, first_folder, visible
from weakseg.data.lists import find_lists, read_classes
from weakseg.types import WeaksegError

_RESERVED = {
    "images",
    "photos",
    "masks",
    "saliency",
    "lists",
    "boxes",
    "labels",
    "annotations",
    "scores",
    "segmentation",
}


def index_folder(root: Path, classes: tuple[str, ...] | None) -> Index:
    """What a plain folder holds.

    Photographs lie in ``images``, in the folder itself, or in one folder per class. Boxes: ``boxes.json`` or
    ``boxes/*.json`` (COCO), ``Annotations`` or ``boxes/*.xml`` (VOC), ``labels/*.txt`` or ``boxes/*.txt`` (YOLO).

    Args:
        root: the folder.
        classes: names given by the caller, which YOLO's class numbers mean.
    """
    photos, named_tags = photographs(root)
    index = Index(root, "folder", photos, named_tags=named_tags)
    if named_tags is not None:
        index.classes = tuple(sorted({name for names in named_tags.values() for name in names}))
    _find_boxes(index, classes)
    if folder := first_folder(root, "masks", "SegmentationClass"):
        index.masks.scan(folder, frozenset({".png"}))
    if folder := first_folder(root, "saliency", "Saliency"):
        index.saliency.scan(folder, PHOTO_SUFFIXES)
    index.context.scan(root / "ContextClass", frozenset({".png"}))
    index.lists = find_lists(root, photos)
    return index


def photographs(root: Path) -> tuple[Files, dict[str, tuple[str, ...]] | None]:
    """The photographs of a plain folder, and the class of each if the folders name classes."""
    for folder in (root / "images", root / "photos", root):
        if found := Files().scan(folder, PHOTO_SUFFIXES):
            return found, None
    found = Files()
    tags: dict[str, tuple[str, ...]] = {}
    for folder in (*(root / "images" / name for name in visible(root / "images")), *(root / n for n in visible(root))):
        name = folder.name
        if folder.is_dir() and name.lower() not in _RESERVED:
            own = Files().scan(folder, PHOTO_SUFFIXES)
            for stem, path in own.items():
                found.add(stem, path.parent, path.suffix)
                tags[stem] = () if name.lower() == "background" else (name,)
            for stem, paths in own.duplicates.items():
                found.duplicates.setdefault(stem, []).extend(paths)
    return found, tags if found else None


def _find_boxes(index: Index, classes: tuple[str, ...] | None) -> None:
    root, boxes = index.root, index.root / "boxes"
    json_files = [root / "boxes.json"] if (root / "boxes.json").is_file() else []
    json_files += [boxes / name for name in visible(boxes) if name.endswith(".json")]
    xml = Files().scan(root / "Annotations", frozenset({".xml"})).scan(boxes, frozenset({".xml"}))
    texts = frozenset({".txt"})
    yolo = Files()
    for stem, path in [*Files().scan(root / "labels", texts).items(), *Files().scan(boxes, texts).items()]:
        if stem in index.photos:  # classes.txt and the like lie there too
            yolo.add(stem, path.parent, path.suffix)
    if json_files:
        objects = CocoObjects(json_files)
        index.objects, index.problems = objects, objects.problems
        index.classes = index.classes or objects.categories
        index.shapes = objects if objects.has_shapes else None
        missing = [stem for stem in objects.ids if stem not in index.photos]
        index.faults += [
            f"{stem}: the boxes' JSON lists this image, but there is no such photograph" for stem in missing
        ]
    elif xml:
        index.objects = XmlObjects(xml)
    elif yolo:
        if classes is None:
            own = next((p for p in (root / "labels/classes.txt", boxes / "classes.txt") if p.is_file()), None)
            classes = read_classes(own) if own else None
        if classes is None:
            raise WeaksegError(f"{root} has YOLO boxes but no class names; add a classes.txt or give --classes")
        index.classes = index.classes or classes
        index.objects = YoloObjects(yolo, classes)
