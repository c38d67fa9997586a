"""Which source tells the tags of a data set, and what it says, as bytes of class ids by photograph."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from weakseg._words import near
from weakseg.data.index import Index
from weakseg.data.lists import checked_classes, read_tags_csv
from weakseg.data.npy import read_label_dict, voc_id
from weakseg.types import WeaksegError


class Tags(NamedTuple):
    """The classes of a data set and its tags.

    Attributes:
        classes: foreground names.
        table: id -> sorted class ids 1..C, a byte each; None where boxes or masks tell them photograph by photograph.
        source: ``tags.csv``, ``npy``, ``folders``, ``xml``, ``json``, ``yolo``, ``masks`` or ``none``.
    """

    classes: tuple[str, ...]
    table: Mapping[str, bytes] | None
    source: str


_Table = Mapping[str, tuple[str, ...]]
_ALIASES = {"csv": "tags.csv", "npy": "cls_labels.npy"}


def settle(index: Index, classes: tuple[str, ...] | None, tags_from: str | Path | None) -> Tags:
    """The classes and tags of what a layout found; entries that cannot be used go to ``index.problems``.

    Args:
        index: what the layout found.
        classes: names given by the caller or by classes.txt.
        tags_from: see `weakseg.data.dataset.open_dataset`.

    Raises:
        WeaksegError: there is no such source, its file is damaged, or nothing names the classes.
    """
    source, path = _source(index, tags_from)
    if source == "npy":
        names = classes or _own_classes(index, {})
        return Tags(names, _vectors(path, index, names), source)
    if source == "tags.csv":
        named: _Table | None = read_tags_csv(path, index.photos, index.problems, index.notes)
    else:
        named = index.named_tags if source == "folders" else None
    names = classes or _own_classes(index, named or {})
    return Tags(names, None if named is None else numbered(named, names, str(path), index.problems), source)


def _source(index: Index, tags_from: str | Path | None) -> tuple[str, Path]:
    """The kind of source, and its file or the data set's folder; the order below is the order of preference."""
    there: dict[str, tuple[str, Path]] = {}
    if (index.root / "tags.csv").is_file():
        there["tags.csv"] = ("tags.csv", index.root / "tags.csv")
    if index.named_tags is not None:
        there["folders"] = ("folders", index.root)
    if index.objects is not None:
        there["boxes"] = there[index.objects.kind] = (index.objects.kind, index.root)
    if (index.root / "cls_labels.npy").is_file():
        there["cls_labels.npy"] = ("npy", index.root / "cls_labels.npy")
    if tags_from is None:
        return next(iter(there.values()), ("none", index.root))
    if index.masks or index.shapes is not None:
        there["masks"] = ("masks", index.root)
    name = _ALIASES.get(str(tags_from), str(tags_from))
    if name in there:
        return there[name]
    path = Path(tags_from)
    if os.path.isfile(path) and path.suffix.lower() in (".csv", ".npy"):
        return ("npy" if path.suffix.lower() == ".npy" else "tags.csv"), path
    has = ", ".join(there) or "nothing that tells tags"
    raise WeaksegError(
        f"tags from {str(tags_from)!r}: {index.root} has {has}; name one of these or a .csv or .npy file"
    )


def _own_classes(index: Index, named: _Table) -> tuple[str, ...]:
    """The layout's own classes, else the names that occur, sorted."""
    if index.classes:
        return checked_classes(index.classes, str(index.root))
    if not named and index.objects is not None:
        named = {id: index.objects.names(id) for id in index.photos if id in index.objects}
    return sorted_names(named, str(index.root))


def sorted_names(named: _Table, where: str) -> tuple[str, ...]:
    """The tag names that occur, sorted. Raises WeaksegError if there are none, or more than fit."""
    names = sorted({name for names in set(named.values()) for name in names})
    if not names:
        raise WeaksegError(f"{where}: nothing names the classes; add a classes.txt with one a line, or give --classes")
    return checked_classes(names, where)


def numbered(named: _Table, classes: Sequence[str], where: str, problems: list[str]) -> dict[str, bytes]:
    """Tag names as sorted class ids; an unknown name goes to `problems` with the closest known one."""
    number = {name: k + 1 for k, name in enumerate(classes)}
    shared: dict[tuple[str, ...], bytes] = {}
    found: dict[str, bytes] = {}
    for id, names in named.items():
        unknown = [name for name in names if name not in number]
        if unknown:
            known = "" if len(problems) > 2 else f"; the classes are {', '.join(classes[:20])}"
            problems += [f"{where}: {id} has the unknown tag {n!r}{near(n, classes)}{known}" for n in unknown]
        if names not in shared:
            shared[names] = bytes(sorted({number[name] for name in names if name in number}))
        found[id] = shared[names]
    return found


def _vectors(path: Path, index: Index, classes: tuple[str, ...]) -> dict[str, bytes]:
    """A ``cls_labels.npy``: it often covers more photographs than a folder has; a key without one is no fault."""
    vectors = read_label_dict(path)
    by_number = _by_number(index) if any(isinstance(key, int) for key in vectors) else {}
    found: dict[str, bytes] = {}
    for key, vector in vectors.items():
        id = voc_id(key) if voc_id(key) in index.photos or isinstance(key, str) else by_number.get(key)
        if id not in index.photos:
            continue
        if len(vector) != len(classes):
            raise WeaksegError(f"{path}: {key!r} has {len(vector)} tags, but there are {len(classes)} classes")
        if id in found:
            index.problems.append(f"{path}: two entries mean {id}")
        found[str(id)] = bytes((np.flatnonzero(vector) + 1).tolist())
    if not found:
        raise WeaksegError(f"{path}: none of its {len(vectors)} entries is a photograph of {index.root}")
    return found


def _by_number(index: Index) -> dict[int, str | None]:
    """Photographs by the number that ends their name (``COCO_train2014_000000000009`` -> 9); None if two share it."""
    found: dict[int, str | None] = {}
    for id in index.photos:
        digits = id.rsplit("_", 1)[-1]
        if digits.isascii() and digits.isdecimal():
            found[int(digits)] = None if int(digits) in found else id
    return found
