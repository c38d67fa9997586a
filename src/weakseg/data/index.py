"""What a layout finds in a folder: names only, no pixels. `Files` by stem, and the `Index` that a `Dataset` is made of.

100,000 photographs stay small here: a stem is kept once and shared, a folder and a suffix once for all their files, and
files are found by listing folders, never by asking for them one by one.
"""

import os
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from weakseg.data.instances import TrueInstances
from weakseg.types import LabelMap, WeaksegError


class Files(Mapping[str, Path]):
    """Files by stem, in one or several folders.

    Attributes:
        duplicates: stem -> paths, for stems that name more than one file.
    """

    def __init__(self) -> None:
        self._where: dict[str, tuple[str, str]] = {}  # stem -> (folder, suffix), one tuple shared by many
        self._shared: dict[tuple[str, str], tuple[str, str]] = {}
        self.duplicates: dict[str, list[Path]] = {}

    def scan(self, folder: Path, suffixes: frozenset[str]) -> "Files":
        """Add the visible files of `folder` whose ending (lower case, with its dot) is in `suffixes`."""
        for name in visible(folder):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes:
                self.add(stem, folder, suffix)
        return self

    def add(self, stem: str, folder: Path, suffix: str) -> None:
        """Add one file; a second one of the same stem goes to `duplicates`."""
        if stem in self._where:
            self.duplicates.setdefault(stem, [self[stem]]).append(folder / (stem + suffix))
            return
        key = (str(folder), suffix)
        self._where[sys.intern(stem)] = self._shared.setdefault(key, key)

    def among(self, stems: Container[str]) -> "Files":
        """Only the files of these stems."""
        kept = Files()
        kept._where = {stem: where for stem, where in self._where.items() if stem in stems}
        kept.duplicates = {stem: paths for stem, paths in self.duplicates.items() if stem in stems}
        return kept

    def __getitem__(self, stem: str) -> Path:
        folder, suffix = self._where[stem]
        return Path(folder, stem + suffix)

    def __contains__(self, stem: object) -> bool:
        return stem in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def visible(folder: Path) -> list[str]:
    """Names in `folder`, sorted, without hidden ones; none if there is no such folder. WeaksegError if refused."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise WeaksegError(f"{folder} cannot be listed: {error.strerror or error}") from error


def first_folder(root: Path, *names: str) -> Path | None:
    """The first of the named folders that exists under `root`."""
    return next((root / name for name in names if (root / name).is_dir()), None)


class Objects(NamedTuple):
    """Annotated objects of one photograph.

    Attributes:
        names: class names, (K,).
        boxes: float64 (K, 4) XYXY, half-open; pixels, or parts of the photograph's sides if `relative`.
        relative: see `boxes`.
    """

    names: tuple[str, ...]
    boxes: np.ndarray
    relative: bool = False


class ObjectSource(Protocol):
    """Where boxes come from: XML files, YOLO files, or a COCO JSON."""

    kind: str

    def __contains__(self, id: object) -> bool: ...
    def read(self, id: str) -> Objects:
        """The objects of `id`; WeaksegError if its annotation is damaged."""
        ...

    def names(self, id: str) -> tuple[str, ...]:
        """The class names of `id`, one an object."""
        ...


class MaskSource(Protocol):
    """Where masks come from if no file holds them."""

    def __contains__(self, id: object) -> bool: ...
    def mask(self, id: str, size: tuple[int, int], classes: tuple[str, ...]) -> LabelMap:
        """The mask of `id`, of `size` = (H, W), with the ids of `classes`."""
        ...

    def instances(self, id: str, size: tuple[int, int], classes: tuple[str, ...]) -> TrueInstances:
        """The objects of `id`, of `size` = (H, W), with the ids of `classes`."""
        ...


@dataclass
class Index:
    """Everything a layout finds.

    Attributes:
        root, layout: the folder and its kind, ``voc``, ``coco`` or ``folder``.
        photos, masks, instances, saliency, context: files by stem; `instances` are maps of object numbers.
        saliency_source: where the saliency maps come from, in a word or two.
        shapes: where masks come from for ids without a mask file, and instances for ids without such a file.
        objects: boxes and their class names.
        classes: names in the layout's own order; None if it has none.
        named_tags: id -> class names, from folders per class.
        lists: name -> ids as they stand in the list files.
        problems: what makes the data set unusable, a sentence each.
        faults: errors that do not keep the rest from being used.
        notes: what deserves a look, a sentence each.
    """

    root: Path
    layout: str
    photos: Files
    masks: Files = field(default_factory=Files)
    instances: Files = field(default_factory=Files)
    saliency: Files = field(default_factory=Files)
    saliency_source: str = "data set"
    context: Files = field(default_factory=Files)
    shapes: MaskSource | None = None
    objects: ObjectSource | None = None
    classes: tuple[str, ...] | None = None
    named_tags: Mapping[str, tuple[str, ...]] | None = None
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
