"""Small text files: lists of ids in the field's three formats, `tags.csv`, `classes.txt`. Ids are never numbers."""

import csv
import io
import os
import sys
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from weakseg._words import near
from weakseg.data.images import PHOTO_SUFFIXES
from weakseg.data.index import Files, visible
from weakseg.types import MAX_CLASSES, WeaksegError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The 20 classes of PASCAL VOC 2012 in their order."""
_HEADERS = {"image", "images", "image_id", "file", "file_name", "filename", "id", "name", "photo", "photograph"}
_NO_LISTS = {"classes", "readme", "license", "licence", "requirements", "notes", "labels", "names", "copying"}


def stem_of(name: str) -> str:
    """The id a name stands for: without folders, and without the ending of a photograph.

    >>> stem_of("/JPEGImages/2007_000032.jpg"), stem_of("photo.v2"), stem_of("2007_000032")
    ('2007_000032', 'photo.v2', '2007_000032')
    """
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    stem, suffix = os.path.splitext(last)
    return stem if suffix.lower() in PHOTO_SUFFIXES else last


def escapes(name: str) -> bool:
    """Whether a file name from a stranger's file would leave its folder.

    >>> escapes("../../x.jpg"), escapes("/etc/x"), escapes("train2014/x.jpg")
    (True, True, False)
    """
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or "\0" in name or name[1:2] == ":"


def read_text(path: Path) -> str:
    """UTF-8 text with or without a byte order mark; WeaksegError names the file and the reason."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WeaksegError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise WeaksegError(f"{path} cannot be read: {error.strerror or error}") from error


def read_list(path: str | Path) -> tuple[str, ...]:
    """The ids of a list file, each once, in its order.

    Three formats: bare ids; two path columns ``/JPEGImages/x.jpg /SegmentationClassAug/x.png``; file names.

    Raises:
        WeaksegError: the file is missing or no text.
    """
    lines = (line.strip() for line in read_text(Path(path)).splitlines())
    return tuple(dict.fromkeys(sys.intern(stem_of(_first_column(line))) for line in lines if line))


def _first_column(line: str) -> str:
    """The photograph of a line. A bare id may hold a space, so a second column counts only if it is a path."""
    parts = line.split()
    is_path = len(parts) == 2 and ("/" in parts[1] or os.path.splitext(parts[1])[1].lower() in PHOTO_SUFFIXES)
    return parts[0] if is_path and ("/" in parts[0] or os.path.splitext(parts[0])[1]) else line


def find_lists(root: Path, photos: Container[str]) -> dict[str, tuple[str, ...]]:
    """Every list of a data set by name.

    ``ImageSets/Segmentation``, then ``ImageSets/SegmentationAug``, then ``lists``; a name of an earlier folder wins. A
    ``.txt`` in the folder itself counts only if it names a photograph: it may be anything else.
    """
    found: dict[str, tuple[str, ...]] = {}
    for folder in ("ImageSets/Segmentation", "ImageSets/SegmentationAug", "lists"):
        for path in _texts(root / folder):
            found.setdefault(path.stem, read_list(path))
    for path in _texts(root):
        if path.stem.lower() not in _NO_LISTS and path.stem not in found:
            ids = read_list(path)
            if any(id in photos for id in ids):
                found[path.stem] = ids
    return found


def _texts(folder: Path) -> list[Path]:
    return [folder / name for name in visible(folder) if name.lower().endswith(".txt") and (folder / name).is_file()]


def read_classes(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Foreground class names: a sequence, a file with one a line, or text such as ``cat,dog``.

    A first name ``background`` is dropped.

    Raises:
        WeaksegError: no name, more than 254, one twice, or one that `tags.csv` could not hold.
    """
    if isinstance(classes, str | Path):
        path = Path(classes)
        if os.path.isfile(path):  # which, unlike Path.is_file, says no to a name that is too long for a file
            return checked_classes(read_text(path).splitlines(), str(path))
        if isinstance(classes, Path) or "," not in classes:
            raise WeaksegError(f"{classes} is no file of class names; give such a file, or names with commas (cat,dog)")
        return checked_classes(classes.split(","), "the class names")
    return checked_classes(classes, "the class names")


def checked_classes(names: Iterable[str], where: str) -> tuple[str, ...]:
    """`names` without blanks and without a leading ``background``; WeaksegError if they cannot be class names."""
    kept = [str(name).strip() for name in names if str(name).strip()]
    if kept and kept[0].lower() in ("background", "_background_", "__background__"):
        kept = kept[1:]
    if not kept:
        raise WeaksegError(f"{where}: no class name; write one a line")
    if len(kept) > MAX_CLASSES:
        raise WeaksegError(f"{where}: {len(kept)} classes; at most {MAX_CLASSES} fit in an 8-bit mask")
    for name in kept:
        if kept.count(name) > 1:
            raise WeaksegError(f"{where}: class {name!r} stands there twice")
        if ";" in name or "\n" in name:
            raise WeaksegError(f"{where}: class {name!r} holds ';', which separates tags; rename it")
    return tuple(map(sys.intern, kept))


def read_tags_csv(
    path: str | Path, photos: Files | Container[str], problems: list[str], notes: list[str]
) -> dict[str, tuple[str, ...]]:
    """The rows of a ``tags.csv``: id -> tag names; an empty cell is an empty tuple, that is background only.

    Columns image (file name or stem) and tags (separated by ``;``); the header row may be missing or name more columns.

    Args:
        path: the file, UTF-8 with or without byte order mark.
        photos: the ids that exist.
        problems, notes: receive a sentence for each row that cannot be used, or that deserves a look.

    Raises:
        WeaksegError: the file is missing, no text, or no CSV.
    """
    path = Path(path)
    try:
        rows = [(i, row) for i, row in _rows(read_text(path)) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise WeaksegError(f"{path} is no CSV file: {error}") from error
    image_column, tag_column, width = 0, 1, 2
    if rows and rows[0][1][0].strip().lower() in _HEADERS and stem_of(rows[0][1][0].strip()) not in photos:
        header = [cell.strip().lower() for cell in rows[0][1]]
        width = len(header)
        tag_column = next((i for i, cell in enumerate(header) if cell in ("tags", "tag", "labels", "classes")), 1)
        rows = rows[1:]
    found: dict[str, tuple[str, ...]] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if not 2 <= len(row) <= max(width, 2):
            problems.append(
                f"{where}: {len(row)} columns; write image,tag1;tag2 (an empty tag cell is background only)"
            )
            continue
        id = _id_of(row[image_column].strip(), photos)
        if escapes(row[image_column].strip()) or id is None:
            known = photos if isinstance(photos, Iterable) and len(problems) < 3 else ()  # a search through all names
            hint = near(row[image_column], known) or "; the columns are image,tag1;tag2"
            problems.append(f"{where}: no photograph {row[image_column].strip()!r}{hint}")
            continue
        names = tuple(dict.fromkeys(sys.intern(t.strip()) for t in row[tag_column].split(";") if t.strip()))
        names = shared.setdefault(names, names)
        if id in found:
            different = found[id] != names
            (problems if different else notes).append(f"{where}: {id} has a second row{' with other tags' * different}")
        found[id] = names
    return found


def tags_csv(rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """The text of a tags.csv, of the file name and the tags of each photograph.

    >>> tags_csv([("a.jpg", ["cat", "dog"]), ("b.jpg", [])])
    'image,tags\\na.jpg,cat;dog\\nb.jpg,\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "tags"))
    writer.writerows((image, ";".join(names)) for image, names in rows)
    return text.getvalue()


def _rows(text: str) -> Iterable[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    return ((reader.line_num, row) for row in reader)


def _id_of(name: str, photos: Container[str]) -> str | None:
    """The id that an image column means: a stem first, for a stem may look like a file name."""
    return next((sys.intern(id) for id in (name, stem_of(name)) if id in photos), None)
