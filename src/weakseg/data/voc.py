"""PASCAL VOC layout: JPEGImages, Annotations, Segmentation{Class,Object}, ImageSets; and what people add to it."""

from pathlib import Path

from weakseg.data.boxes import XmlObjects
from weakseg.data.images import PHOTO_SUFFIXES
from weakseg.data.index import Files, Index, first_folder
from weakseg.data.lists import VOC_CLASSES, find_lists
from weakseg.types import WeaksegError

_PNG = frozenset({".png"})


def index_voc(root: Path) -> Index:
    """What a VOC layout holds.

    A mask is taken from ``SegmentationClass``, and for photographs without one there from ``SegmentationClassAug``: the
    first are VOC's own (with ignored borders, what papers score on), the second cover the 10,582 of train_aug.
    """
    if not (root / "JPEGImages").is_dir():
        raise WeaksegError(f"{root} has no folder JPEGImages, so it is no VOC layout; check the path or --layout")
    photos = Files().scan(root / "JPEGImages", PHOTO_SUFFIXES)
    index = Index(root, "voc", photos, classes=VOC_CLASSES)
    xml = Files().scan(root / "Annotations", frozenset({".xml"}))
    if xml:
        index.objects = XmlObjects(xml)
    index.masks.scan(root / "SegmentationClass", _PNG)
    for stem, path in Files().scan(root / "SegmentationClassAug", _PNG).items():
        if stem not in index.masks:
            index.masks.add(stem, path.parent, path.suffix)
    index.instances.scan(root / "SegmentationObject", _PNG)
    if folder := first_folder(root, "Saliency", "saliency"):
        index.saliency.scan(folder, PHOTO_SUFFIXES)
    index.context.scan(root / "ContextClass", _PNG)
    index.lists = find_lists(root, photos)
    return index
