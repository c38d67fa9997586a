"""What goes out and what comes in, and the names that tools use for our ids."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from weakseg._words import near
from weakseg.data.lists import checked_classes, escapes, stem_of
from weakseg.data.store import safe_name
from weakseg.types import BACKGROUND, IGNORE, WeaksegError

Tick = Callable[[], None]
"""Is called after each photograph, for a progress bar."""
SizeOf = Callable[[str], tuple[int, int] | None]
"""id -> (H, W) of its photograph, pixels; None if nobody knows."""
Per = Literal["region", "class"]
IGNORE_LABEL = "ignore"
"""Name under which pixels of 255 travel where a tool has labels by name."""

_RESERVED = {
    **dict.fromkeys(("background", "_background_", "__background__"), BACKGROUND),
    **dict.fromkeys((IGNORE_LABEL, "_ignore_", "__ignore__"), IGNORE),
}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Masks on their way to a tool.

    Attributes:
        classes: foreground names; the id of ``classes[k]`` is k + 1.
        names: id -> file name of its photograph, in the order of the ids.
        read: id -> its mask, uint8 (H, W): 0, 1..C, 255.
        photos: folder of the photographs, if it is known.
        per: a piece for each connected ``region``, or for each ``class`` of a photograph.
    """

    classes: tuple[str, ...]
    names: Mapping[str, str]
    read: Callable[[str], np.ndarray]
    photos: Path | None = None
    per: Per = "region"

    def label(self, value: int) -> str:
        """The name of a class id 1..C or of 255."""
        return IGNORE_LABEL if value == IGNORE else self.classes[value - 1]


@dataclass(frozen=True, slots=True)
class Incoming:
    """Masks that a tool gave back.

    Attributes:
        classes: foreground names; the id of ``classes[k]`` is k + 1.
        ids: the photographs, each once.
        read: id -> its mask, uint8 (H, W): 0, 1..C, 255. Raises WeaksegError if its annotation is damaged.
        notes: what a person should know, a sentence each.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    notes: tuple[str, ...] = ()


def outgoing_classes(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Class names that can travel: none of them is a name that tools use for background or 255."""
    classes = checked_classes(names, where)
    if taken := [name for name in classes if name.lower() in _RESERVED]:
        raise WeaksegError(
            f"{where}: a class called {taken[0]!r} could not be told from {_RESERVED[taken[0].lower()]}; rename it"
        )
    return classes


def incoming_classes(names: Iterable[str], where: str) -> tuple[str, ...]:
    """The classes of a stranger's list of names: without those that mean background or 255, each once."""
    stripped = (name.strip() for name in names)
    kept = dict.fromkeys(name for name in stripped if name and name.lower() not in _RESERVED)
    return outgoing_classes(kept, where)


def label_values(classes: Collection[str]) -> dict[str, int]:
    """What each name means in a mask: classes, background and ignore.

    >>> values = label_values(["cat", "dog"])
    >>> values["dog"], values["background"], values["ignore"]
    (2, 0, 255)
    """
    return {**_RESERVED, **{name: k for k, name in enumerate(classes, 1)}}


def value_of(name: str, values: Mapping[str, int], where: str) -> int:
    """The id of a stranger's label; WeaksegError names the nearest class."""
    name = name.strip()
    for known in (name, name.lower()):
        if known in values and (known == name or known in _RESERVED):
            return values[known]
    classes = [known for known in values if known not in _RESERVED]
    raise WeaksegError(f"{where}: no class {name!r}{near(name, classes, or_all=len(classes) < 30)}; see --classes")


def photo_id(name: str, where: str) -> str:
    """The id that a photograph's file name in a stranger's file stands for; it can name a file of ours.

    >>> photo_id("photos/a.jpg", "x.json")
    'a'
    """
    if escapes(name) or any(c < " " for c in name):
        raise WeaksegError(f"{where}: the file name {name[:80]!r} leaves its folder; only names below it are taken")
    try:
        id = safe_name(stem_of(name))
        id.encode()
    except (WeaksegError, UnicodeEncodeError) as error:
        raise WeaksegError(f"{where}: {name[:80]!r} cannot name a mask; rename the photograph") from error
    return id


def each_once(ids: Iterable[str], where: str) -> tuple[str, ...]:
    """The ids; WeaksegError if one stands there twice, for one mask would be lost."""
    seen: dict[str, None] = {}
    for id in ids:
        if id in seen:
            raise WeaksegError(f"{where}: two photographs are called {id!r}; give them different names")
        seen[id] = None
    return tuple(seen)


def background(id: str, size: SizeOf, where: str) -> np.ndarray:
    """The mask of a photograph without any annotation; WeaksegError if nobody knows its size."""
    known = size(id)
    if known is None:
        raise WeaksegError(f"{where}: {id} has no annotation and nothing tells its size; give --photos")
    return np.zeros(known, np.uint8)
