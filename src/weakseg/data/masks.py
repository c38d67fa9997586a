"""A folder of masks that somebody made: which files, which classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from weakseg.data.index import Files
from weakseg.data.lists import read_classes
from weakseg.types import WeaksegError


class MaskFolder(NamedTuple):
    """Masks by id.

    Attributes:
        paths: id -> PNG of a label map.
        classes: the C foreground names, in the order of their ids.
    """

    paths: dict[str, Path]
    classes: tuple[str, ...]


def mask_folder(folder: str | Path, classes: str | Path | Sequence[str] | None = None) -> MaskFolder:
    """The masks of a folder: PNGs in it, or in its folder ``labels`` (what `weakseg label` made) or ``masks``.

    Args:
        folder: where they are.
        classes: names in the order of their ids, or a file; else the ``classes.txt`` beside the masks or above them.

    Raises:
        WeaksegError: no such folder, no PNG in it, or nobody says what the ids mean.
    """
    root = Path(folder)
    if not root.is_dir():
        raise WeaksegError(f"{root} is {'a file' if root.exists() else 'not there'}; give a folder of masks")
    for place in (root, root / "labels", root / "masks"):
        if found := Files().scan(place, frozenset({".png"})):
            break
    else:
        raise WeaksegError(f"{root} holds no mask: they are PNGs named by file stem, in it or in its folder labels")
    if classes is None:
        named = next((p for p in (place / "classes.txt", root / "classes.txt") if p.is_file()), None)
        if named is None:
            raise WeaksegError(f"{place} has no classes.txt that says what its ids mean; give --classes")
        classes = named
    return MaskFolder(dict(found.items()), read_classes(classes))
