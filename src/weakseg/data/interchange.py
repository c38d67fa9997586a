"""Pseudo-masks to annotation tools and corrected masks back: which masks go out, and where those that come in are put.

How a tool's files look stands in `weakseg.data.formats`, one file a tool.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from weakseg._words import near
from weakseg.data import formats
from weakseg.data.folder import photographs
from weakseg.data.formats._exchange import Outgoing, Per, SizeOf, outgoing_classes
from weakseg.data.images import image_size
from weakseg.data.index import Files
from weakseg.data.lists import read_classes
from weakseg.data.store import read_json, read_label_map, safe_name, write_label_map, write_text
from weakseg.types import WeaksegError, unknown_id

What = Literal["labels", "predictions"]
_CLASSES = "classes.txt"


# --- out ---


def export_masks(
    source: Path,
    out: Path,
    tool: str,
    *,
    photos: Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    what: What = "labels",
    seed: int = 0,
    per: Per = "region",
    overwrite: bool = False,
    tick: Callable[[int, int], None] | None = None,
) -> tuple[Path, int]:
    """Write masks as an annotation tool opens them.

    Args:
        source: a run folder, or a folder of palette PNGs.
        out: the file, or a folder to put the file or files into.
        tool: a name of `formats.names`.
        photos: folder of the photographs, for their file names and sizes; without it ``<id>.jpg`` is assumed.
        classes: names in the order of their ids; else those of the run, or of classes.txt beside the masks.
        what, seed: which masks of a run.
        per: a piece for each connected ``region``, or for each ``class``.
        overwrite: replace files that are there.
        tick: is called with (photographs written, all photographs).

    Returns:
        What was written, a file or a folder, and how many masks.

    Raises:
        WeaksegError: no masks, no names of classes, an id without a name, a mask of another size than its photograph.
    """
    module = formats.load(tool)
    masks, names = find_masks(source, classes, what, seed)
    outgoing = Outgoing(names, _file_names(masks, photos), _reader(masks, names, photos), _place(photos), per)
    into_file = module.SUFFIX and out.suffix.lower() != module.SUFFIX
    target = out / module.FILE if into_file else out
    _keep(module.written(outgoing, target), overwrite)
    counter = itertools.count(1)
    module.export(outgoing, target, lambda: None if tick is None else tick(next(counter), len(masks)))
    return target, len(masks)


def find_masks(
    source: Path, classes: str | Path | Sequence[str] | None, what: What = "labels", seed: int = 0
) -> tuple[Files, tuple[str, ...]]:
    """The masks of a run folder or of a folder of PNGs by id, and the names of their classes."""
    if not source.is_dir():
        raise WeaksegError(f"{source} is no folder; give a run folder, or a folder of masks (palette PNGs)")
    own = source / f"seed-{seed}"
    is_run = any(source.glob("seed-*"))
    places = [own / what, source / what] if is_run else [source, source / what]
    found = ((place, Files().scan(place, frozenset({".png"}))) for place in places)
    folder, masks = next(((place, files) for place, files in found if files), (None, None))
    if folder is None or masks is None:
        raise WeaksegError(f"{source} holds no {what} (PNG){_hint(source, what, seed, is_run)}")
    for id in masks:
        _check_id(id, folder)
    return masks, _class_names(classes, own / "manifest.json", folder, source)


def _hint(source: Path, what: str, seed: int, is_run: bool) -> str:
    if not is_run:
        return "; give a run folder, or a folder of masks"
    if not (source / f"seed-{seed}").is_dir():
        seeds = sorted(folder.name.removeprefix("seed-") for folder in source.glob("seed-*"))
        return f" of seed {seed}; there are the seeds {', '.join(seeds)}"
    other = "predictions" if what == "labels" else "labels"
    return f" of seed {seed}: has the run ended, and does its recipe make them? See also --what {other}"


def _check_id(id: str, folder: Path) -> None:
    try:
        safe_name(id).encode()
    except UnicodeEncodeError as error:
        raise WeaksegError(f"{folder}: the name {id!r} is no UTF-8; rename the mask") from error
    if id.splitlines() != [id] or id != id.strip():
        raise WeaksegError(f"{folder}: the name {id!r} holds line breaks or outer blanks; rename the mask")


def _class_names(
    classes: str | Path | Sequence[str] | None, manifest: Path, folder: Path, source: Path
) -> tuple[str, ...]:
    if classes is not None:
        return outgoing_classes(read_classes(classes), "the class names")
    if (table := next((f for f in (folder / _CLASSES, source / _CLASSES) if f.is_file()), None)) is not None:
        return outgoing_classes(read_classes(table), str(table))
    if manifest.is_file():
        names = read_json(manifest, dict).get("classes")
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return outgoing_classes(names, str(manifest))
    raise WeaksegError(
        f"{folder}: nothing names the classes; put a {_CLASSES} there, one name a line, or give --classes"
    )


def _file_names(masks: Files, photos: Path | None) -> dict[str, str]:
    """id -> file name of its photograph below the folder that `_place` gives."""
    if photos is None:
        return {id: f"{id}.jpg" for id in sorted(masks)}
    found = _photographs(photos)
    if lacking := [id for id in sorted(masks) if id not in found]:
        raise WeaksegError(
            f"{photos} has no photograph of {len(lacking)} of the {len(masks)} masks: {', '.join(lacking[:3])}; "
            "add them, or leave out --photos"
        )
    place = _place(photos)
    assert place is not None
    return {id: found[id].relative_to(place).as_posix() for id in sorted(masks)}


def _place(photos: Path | None) -> Path | None:
    """The folder that the photographs lie in: the one given, its ``images`` or ``photos``."""
    if photos is None:
        return None
    parents = {path.parent for path in _photographs(photos).values()}
    return parents.pop() if len(parents) == 1 else photos


def _photographs(photos: Path) -> Files:
    found = photographs(photos)[0] if photos.is_dir() else Files()
    if not found:
        raise WeaksegError(f"{photos} holds no photographs; give their folder to --photos")
    return found


def _reader(masks: Files, names: Sequence[str], photos: Path | None) -> Callable[[str], np.ndarray]:
    sizes = photo_sizes(photos)

    def read(id: str) -> np.ndarray:
        mask = read_label_map(masks[id], sizes(id))
        if (strange := unknown_id(mask, len(names))) is not None:
            raise WeaksegError(
                f"{masks[id]} holds id {strange}, but there are {len(names)} names; name all with --classes"
            )
        return mask.numpy()

    return read


def photo_sizes(photos: Path | None) -> SizeOf:
    """id -> (H, W) of its photograph as displayed; None for all without `photos`, and for an id that has none."""
    if photos is None:
        return lambda id: None
    found = _photographs(photos)
    return lambda id: image_size(found[id]) if id in found else None


def _keep(files: Sequence[Path], overwrite: bool) -> None:
    """Refuse to overwrite a file, before any is written."""
    if not overwrite and (there := [file for file in files if file.exists()]):
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise WeaksegError(f"{there[0]} exists{more}; nothing was written, so name another --out or give --overwrite")


# --- in ---


class Imported(NamedTuple):
    """What an import wrote.

    Attributes:
        out: the folder.
        ids: of the masks.
        classes: their names, as in classes.txt.
        empty: ids without any annotation: background alone.
        notes: what a person should know, a sentence each.
    """

    out: Path
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    empty: tuple[str, ...]
    notes: tuple[str, ...]


def import_masks(
    path: Path,
    out: Path,
    tool: str,
    *,
    classes: str | Path | Sequence[str] | None = None,
    photos: Path | None = None,
    overwrite: bool = False,
    tick: Callable[[int, int], None] | None = None,
) -> Imported:
    """Write the masks of a tool's file as ``out/<id>.png`` (palette) and ``out/classes.txt``.

    Args:
        path: the file, or the folder of a tool that keeps a file for each photograph.
        out: the ``masks`` folder of a plain-folder data set, or any other.
        tool: a name of `formats.names`.
        classes: names in the order of their ids; else classes.txt in `out` or in the data set around it, else the
            file's own order.
        photos: folder of the photographs: the masks are compared with them, and formats without sizes ask for it.
        overwrite: replace masks that are there.
        tick: is called with (photographs written, all photographs).

    Raises:
        WeaksegError: the file is missing, damaged or of another tool, a label is no class, a mask is not of its
            photograph's size, a mask is there already. What was finished before a damaged photograph stays.
    """
    module = formats.load(tool)
    if not path.exists():
        raise WeaksegError(f"{path} is not there; give what {tool} exported")
    table = _known_classes(classes, out)
    known = None if table is None else outgoing_classes(read_classes(table), "the class names")
    sizes = photo_sizes(photos)
    incoming = module.open_file(path, known, sizes)
    _keep([out / f"{safe_name(id)}.png" for id in incoming.ids], overwrite)
    if photos is not None:
        _know_photographs(incoming.ids, _photographs(photos), photos)
    empty = []
    for done, id in enumerate(incoming.ids, 1):
        mask = incoming.read(id)
        if (size := sizes(id)) is not None and mask.shape != size:
            raise WeaksegError(
                f"{path}: the mask of {id} is {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"its photograph {size[1]}x{size[0]}; is it another photograph of that name?"
            )
        write_label_map(out / f"{id}.png", torch.from_numpy(mask))
        empty += [] if mask.any() else [id]
        if tick is not None:
            tick(done, len(incoming.ids))
    write_text(out / _CLASSES, "".join(f"{name}\n" for name in incoming.classes))
    notes = incoming.notes + ((f"the order of the classes is that of {table}",) if classes is None and table else ())
    return Imported(out, incoming.ids, incoming.classes, tuple(empty), notes)


def _known_classes(classes: str | Path | Sequence[str] | None, out: Path) -> str | Path | Sequence[str] | None:
    """The names that are given, or the file that orders the classes of the masks beside which these will lie."""
    if classes is not None:
        return classes
    return next((file for file in (out / _CLASSES, out.resolve().parent / _CLASSES) if file.is_file()), None)


def _know_photographs(ids: Sequence[str], photos: Mapping[str, Path], folder: Path) -> None:
    if strangers := [id for id in ids if id not in photos]:
        more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
        raise WeaksegError(f"{folder} has no photograph {strangers[0]!r}{near(strangers[0], photos)}{more}; add it")
