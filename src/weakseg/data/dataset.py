"""A data set as an index: classes, ids, lists, and where each photograph's labels are. Pixels are read when asked for.

`open_dataset` recognises the layout, settles the order of the classes and the source of the tags, and refuses a data
set that cannot be used with the first reason; `weakseg.data.check.check` lists them all.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from weakseg._words import near
from weakseg.data.coco import coco_files, index_coco
from weakseg.data.folder import index_folder, photographs
from weakseg.data.images import PHOTO_SUFFIXES, image_size, read_image, read_mask, read_saliency
from weakseg.data.index import Files, Index, Objects
from weakseg.data.instances import TrueInstances, from_object_map
from weakseg.data.lists import read_classes, read_list, read_tags_csv
from weakseg.data.store import safe_name
from weakseg.data.tags import Tags, numbered, settle, sorted_names
from weakseg.data.voc import index_voc
from weakseg.types import IGNORE, LabelMap, Sample, WeaksegError, unknown_id

LAYOUTS = ("voc", "coco", "folder")
"""The layouts that `open_dataset` reads."""


class Dataset:
    """One data set, unchanging after it is opened; made by `open_dataset` or `open_photos`.

    Attributes:
        root: its folder.
        layout: ``voc``, ``coco`` or ``folder``.
        classes: foreground names; the id of ``classes[k]`` is k + 1.
        ids: every id that has a photograph, sorted.
        lists: name -> ids, as the list files give them; ``all`` = `ids`.
        has: what there is of ``tags``, ``boxes``, ``saliency``, ``masks``, ``instances``.
        tags_source: ``tags.csv``, ``xml``, ``json``, ``yolo``, ``masks``, ``folders``, ``npy``; or ``none``.
        saliency_source: ``data set``, ``folder NAME``; or ``none``.
        untagged: ids for which the table of tags has no row (empty where tags come from elsewhere).
    """

    def __init__(self, index: Index, tags: Tags) -> None:
        self.root, self.layout = index.root, index.layout
        self.classes, self._tags, self.tags_source = tags
        self.ids: tuple[str, ...] = tuple(sorted(index.photos))
        self._index = index
        self._number = {name: k + 1 for k, name in enumerate(self.classes)}
        self._mask_tags: dict[str, bytes] = {}
        self.untagged = () if self._tags is None else tuple(id for id in self.ids if id not in self._tags)
        self.lists: Mapping[str, tuple[str, ...]] = {**(index.lists or {"train": self.ids}), "all": self.ids}
        self.has = frozenset(self._found())
        self.saliency_source = index.saliency_source if "saliency" in self.has else "none"

    def _found(self) -> list[str]:
        index = self._index
        there = {
            "tags": self.tags_source != "none",
            "boxes": index.objects is not None and any(id in index.objects for id in self.ids),
            "saliency": any(id in index.photos for id in index.saliency),
            "masks": index.shapes is not None or any(id in index.photos for id in index.masks),
            "instances": index.shapes is not None or any(id in index.photos for id in index.instances),
        }
        return [name for name, yes in there.items() if yes]

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: object) -> bool:
        return id in self._index.photos

    def __repr__(self) -> str:
        return f"Dataset({str(self.root)!r}, {self.layout}, {len(self.ids)} photographs, {len(self.classes)} classes)"

    def list(self, name: str | Path) -> tuple[str, ...]:
        """The ids of a list, by its name or as a path of a list file.

        Raises:
            WeaksegError: there is no such list, or it names ids without a photograph.
        """
        if str(name) in self.lists:
            ids = self.lists[str(name)]
        elif os.path.isfile(name):
            ids = read_list(name)
        else:
            raise WeaksegError(
                f"{self.root} has no list {str(name)!r}{near(str(name), self.lists)}; it has {', '.join(self.lists)}; "
                "a path of a text file with one id a line is taken too"
            )
        if missing := [id for id in ids if id not in self]:
            raise WeaksegError(
                f"list {str(name)!r}: {len(missing)} of its {len(ids)} ids have no photograph in {self.root}: "
                f"{', '.join(missing[:3])}{' ...' * (len(missing) > 3)}; remove them or add the photographs"
            )
        return ids

    def tags(self, id: str) -> Tensor:
        """bool (C,): entry k says whether ``classes[k]`` is present.

        Raises:
            WeaksegError: there is no such photograph, or nothing tells its tags.
        """
        self.image_path(id)
        tags = torch.zeros(len(self.classes), dtype=torch.bool)
        for k in self._present(id):
            tags[k - 1] = True
        return tags

    def _present(self, id: str) -> bytes:
        """Class ids 1..C of `id`, sorted, each once; a byte is an id."""
        if self._tags is not None and id in self._tags:
            return self._tags[id]
        if self._tags is None and self.tags_source == "masks":
            if id not in self._mask_tags:
                self._mask_tags[id] = self._tags_of_mask(id)
            return self._mask_tags[id]
        objects = self._index.objects
        if self._tags is None and self.tags_source != "none" and objects is not None and id in objects:
            return bytes(sorted({self._class_id(name, id) for name in objects.names(id)}))
        if self.tags_source == "none":
            raise WeaksegError(f"{id} has no tags: {self.root} has none; add a tags.csv (image,tag1;tag2)")
        raise WeaksegError(f"{id} has no tags: {self.tags_source} says nothing about it; add it there")

    def table_tags(self, id: str) -> set[str] | None:
        """Class names of `id` if a table or a folder's name tells them, else None."""
        if self._tags is None or id not in self._tags:
            return None
        return {self.classes[k - 1] for k in self._tags[id]}

    def _tags_of_mask(self, id: str) -> bytes:
        mask = self.truth(id)
        if mask is None:
            raise WeaksegError(f"{id} has no tags: they are to come from masks, and it has none")
        return bytes(sorted(set(mask.flatten().tolist()) - {0, IGNORE}))

    def _class_id(self, name: str, id: str) -> int:
        if name not in self._number:
            raise WeaksegError(
                f"{id}: class {name!r} is not among the {len(self.classes)} classes{near(name, self.classes)}; "
                "mend the annotation, or name all classes in classes.txt or --classes"
            )
        return self._number[name]

    def image_path(self, id: str) -> Path:
        """The photograph; WeaksegError if there is none of this id."""
        if id not in self._index.photos:
            raise WeaksegError(f"{self.root} has no photograph {id!r}")
        return self._index.photos[id]

    def mask_path(self, id: str) -> Path | None:
        """The file of the true mask, or None (COCO's polygons are no file; see `truth`)."""
        return self._index.masks.get(id)

    def instances_path(self, id: str) -> Path | None:
        """The file that says which object each pixel belongs to, or None (COCO's polygons are no file)."""
        return self._index.instances.get(id)

    def saliency_path(self, id: str) -> Path | None:
        """The file of the saliency map, or None."""
        return self._index.saliency.get(id)

    def context_path(self, id: str) -> Path | None:
        """The file of the context labels (``ContextClass``), or None; only analyses read it."""
        return self._index.context.get(id)

    def truth(self, id: str, size: tuple[int, int] | None = None) -> LabelMap | None:
        """The true mask, uint8 (H, W), or None: a mask file, else one drawn from COCO's segmentations.

        Args:
            id: the photograph.
            size: its (H, W) if known; otherwise its header is read.

        Raises:
            WeaksegError: the mask is damaged, of another size, or holds an id above the number of classes.
        """
        index = self._index
        if id not in index.masks and (index.shapes is None or id not in index.shapes):
            return None
        size = size or image_size(self.image_path(id))
        if id not in index.masks and index.shapes is not None:
            return index.shapes.mask(id, size, self.classes)
        mask = read_mask(index.masks[id], size)
        if (strange := unknown_id(mask, len(self.classes))) is not None:
            raise WeaksegError(
                f"mask {index.masks[id]} holds id {strange}, but there are {len(self.classes)} classes; "
                "ids are 0 background, 1.. classes, 255 ignore"
            )
        return mask

    def instances(self, id: str) -> TrueInstances | None:
        """The true instances, or None: of VOC's ``SegmentationObject`` and mask, else of COCO's segmentations.

        Raises:
            WeaksegError: a file is damaged or of another size, or an object's class is not known.
        """
        index = self._index
        if id in index.instances:
            size = image_size(self.image_path(id))
            mask = self.truth(id, size)
            if mask is None:
                raise WeaksegError(f"{index.instances[id]} has no true mask beside it that tells the objects' classes")
            try:
                return from_object_map(read_mask(index.instances[id], size), mask)
            except WeaksegError as error:
                raise WeaksegError(f"{index.instances[id]}: {error}") from None
        if index.shapes is None or id not in index.shapes:
            return None
        return index.shapes.instances(id, image_size(self.image_path(id)), self.classes)

    def boxes(self, id: str) -> tuple[Tensor, Tensor] | None:
        """Boxes float32 (K, 4), XYXY pixels, half-open, as annotated, and labels int64 (K,), ids 1..C; or None.

        Raises:
            WeaksegError: the annotation is damaged, or names a class that is not among `classes`.
        """
        if self._index.objects is None or id not in self._index.objects:
            return None
        names, boxes = self.objects(id)[:2]
        labels = torch.tensor([self._class_id(name, id) for name in names], dtype=torch.int64)
        return torch.from_numpy(boxes.astype(np.float32)).reshape(-1, 4), labels

    def objects(self, id: str) -> Objects:
        """Class names and boxes of `id` as annotated, XYXY pixels, half-open; the names may be unknown ones."""
        found = self._index.objects.read(id) if self._index.objects is not None and id in self._index.objects else None
        if found is None:
            return Objects((), np.zeros((0, 4)))
        if found.relative:
            height, width = image_size(self.image_path(id))
            found = Objects(found.names, found.boxes * (width, height, width, height))
        return found

    def sample(self, id: str, *, truth: bool = False, need_tags: bool = True, saliency: bool = True) -> Sample:
        """One photograph with all that is known of it, without seeds and scores.

        Boxes are clipped to the photograph; one that has no area left is dropped (`check` reports it).

        Args:
            id: the photograph.
            truth: also read the true mask; only evaluation and `labels.truth` do.
            need_tags: whether missing tags are an error; otherwise they are all false.
            saliency: also read the saliency map, if there is one.

        Raises:
            WeaksegError: a file is damaged or of another size, or the tags are needed and missing.
        """
        image = read_image(self.image_path(id))
        size = (int(image.shape[1]), int(image.shape[2]))
        salient = self.saliency_path(id) if saliency else None
        mask = self.truth(id, size) if truth else None
        boxes, labels = _clipped(self.boxes(id), size)
        return Sample(
            id=id,
            image=image,
            tags=self.tags(id) if need_tags or self.has_tags(id) else torch.zeros(len(self.classes), dtype=torch.bool),
            boxes=boxes,
            box_labels=labels,
            saliency=None if salient is None else read_saliency(salient, size),
            mask=None if mask is None else tv_tensors.Mask(mask),
        )

    def has_tags(self, id: str) -> bool:
        """Whether something tells the tags of `id`; reads no pixels."""
        if self._tags is not None:
            return id in self._tags
        if self.tags_source == "masks":
            index = self._index
            return id in index.masks or (index.shapes is not None and id in index.shapes)
        objects = self._index.objects
        return self.tags_source != "none" and objects is not None and id in objects


def _clipped(
    found: tuple[Tensor, Tensor] | None, size: tuple[int, int]
) -> tuple[tv_tensors.BoundingBoxes | None, Tensor | None]:
    if found is None:
        return None, None
    height, width = size
    boxes = found[0].clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.float32))
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return tv_tensors.BoundingBoxes(boxes[kept], format="XYXY", canvas_size=size), found[1][kept]


# --- opening ---


def open_dataset(
    path: str | Path,
    *,
    layout: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    tags_from: str | Path | None = None,
    saliency: str | Path | None = None,
) -> Dataset:
    """Open a data set in VOC layout, COCO layout or a plain folder; reads names, lists and tables, no pixels.

    Args:
        path: its folder.
        layout: ``voc``, ``coco`` or ``folder``; by default recognised by JPEGImages, instances*.json, or neither.
        classes: names in the order of their ids, or a file with one a line; else ``classes.txt`` in the folder, else
            COCO's order, the VOC 20, or a plain folder's own names sorted.
        tags_from: ``tags.csv``, ``boxes`` (XML, JSON or YOLO), ``folders``, ``masks``, or a path of a CSV or of a
            ``cls_labels.npy``; by default the first there is of tags.csv, folders, boxes, cls_labels.npy. Never masks
            unless asked for.
        saliency: a folder of saliency maps, named like the photographs, instead of the data set's own.

    Returns:
        The data set. Without any list file its list ``train`` holds every id, and there is no ``val``.

    Raises:
        WeaksegError: there is no such folder, no photograph, or something in it keeps it from being used.
    """
    dataset, index = assemble(path, layout=layout, classes=classes, tags_from=tags_from, saliency=saliency)
    _refuse(index.problems)
    return dataset


def open_photos(
    folder: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    tags_csv: str | Path | None = None,
    saliency: str | Path | None = None,
) -> Dataset:
    """Open a bare folder of photographs.

    Args:
        folder: photographs, in it or in its folder ``images``.
        classes: as in `open_dataset`; else the tags' names sorted.
        tags_csv: ``image,tag1;tag2``; an empty tag cell means background only.
        saliency: as in `open_dataset`.

    Returns:
        A data set with the lists ``all`` and ``tagged``; `untagged` holds the photographs without a row.

    Raises:
        WeaksegError: no photograph, or a row with an unknown photograph or tag.
    """
    root = _existing(folder)
    index = Index(root, "folder", photographs(root)[0])
    _check_photos(index)
    if saliency is not None:
        _take_saliency(index, Path(saliency))
    named = {} if tags_csv is None else read_tags_csv(tags_csv, index.photos, index.problems, index.notes)
    _refuse(index.problems)
    if classes is not None:
        names = read_classes(classes)
    else:
        names = () if tags_csv is None else sorted_names(named, str(tags_csv))
    table = numbered(named, names, str(tags_csv), index.problems)
    _refuse(index.problems)
    index.lists = {"tagged": tuple(id for id in index.photos if id in table)}
    return Dataset(index, Tags(names, table, "none" if tags_csv is None else "tags.csv"))


def assemble(
    path: str | Path,
    *,
    layout: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    tags_from: str | Path | None = None,
    saliency: str | Path | None = None,
) -> tuple[Dataset, Index]:
    """As `open_dataset`, but what is wrong with single entries stands in ``index.problems`` instead of being raised."""
    root = _existing(path)
    if layout not in (None, *LAYOUTS):
        raise WeaksegError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}{near(str(layout), LAYOUTS)}")
    given = read_classes(classes) if classes is not None else None
    if given is None and (root / "classes.txt").is_file():
        given = read_classes(root / "classes.txt")
    layout = layout or recognise(root)
    index = {"voc": index_voc, "coco": index_coco}[layout](root) if layout != "folder" else index_folder(root, given)
    _check_photos(index)
    if saliency is not None:
        _take_saliency(index, Path(saliency))
    return Dataset(index, settle(index, given, tags_from)), index


def recognise(root: Path) -> str:
    """The layout of a folder: ``voc`` if it has JPEGImages, ``coco`` if it has an instances*.json, else ``folder``."""
    if (root / "JPEGImages").is_dir():
        return "voc"
    return "coco" if coco_files(root) else "folder"


def _existing(path: str | Path) -> Path:
    root = Path(path)
    if not root.is_dir():
        raise WeaksegError(f"{root} is {'a file' if root.exists() else 'not there'}; give the data set's folder")
    return root


def _take_saliency(index: Index, folder: Path) -> None:
    """Put the maps of `folder` in the place of the data set's own; one for none of the photographs is an error."""
    if not folder.is_dir():
        raise WeaksegError(f"there is no folder of saliency maps {folder}; give one, or builtin to have them estimated")
    found = Files().scan(folder, PHOTO_SUFFIXES)
    if not any(id in index.photos for id in found):
        raise WeaksegError(
            f"{folder} holds no saliency map of a photograph in {index.root}: name each like its photograph "
            f"(such as {next(iter(index.photos), 'name')}.png)"
        )
    index.saliency, index.saliency_source = found, f"folder {folder.resolve().name}"


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more; `weakseg data check` lists them all)" if len(problems) > 1 else ""
        raise WeaksegError(problems[0] + more)


def _check_photos(index: Index) -> None:
    if not index.photos:
        raise WeaksegError(f"{index.root} holds no photograph where the {index.layout} layout has them; check the path")
    for stem, paths in index.photos.duplicates.items():
        several = ", ".join(str(p.relative_to(index.root)) for p in paths)
        index.problems.append(f"{stem}: {len(paths)} photographs have this name ({several}); rename all but one")
    for id in index.photos:
        try:
            safe_name(id).encode()
        except (WeaksegError, UnicodeEncodeError):
            index.problems.append(f"photograph {id!r} cannot be the name of a result; rename it")
