"""Everything that is wrong with a data set, in one pass: what `weakseg data check` prints."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakseg._words import near
from weakseg.data.dataset import Dataset, assemble
from weakseg.data.images import read_image, read_saliency
from weakseg.data.index import Index, Objects
from weakseg.types import IGNORE, WeaksegError

TOLERANCE = 1.0
"""Pixels by which a box may stick out: annotation tools round, and some count from 0 where VOC counts from 1."""
_SHOWN = 20


@dataclass(frozen=True)
class CheckReport:
    """What a check found; each finding is one line that names its photograph or file.

    Attributes:
        errors: what has to be mended.
        warnings: what deserves a look, such as sources that disagree.
        counts: how many photographs, classes, tags, boxes ... there are.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    counts: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def lines(self) -> list[str]:
        """The report as text: errors, warnings, and one line with the counts."""
        counts = ", ".join(f"{name} {n:,}" for name, n in self.counts.items())
        found = [f"error: {line}" for line in self.errors] + [f"warning: {line}" for line in self.warnings]
        return [*found, f"{counts or 'nothing was read'}: {len(self.errors)} errors, {len(self.warnings)} warnings"]


def check(
    path: str | Path,
    *,
    layout: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    tags_from: str | Path | None = None,
    strict: bool = False,
    tick: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read every file of a data set and report everything that is wrong with it.

    Args:
        path, layout, classes, tags_from: as in `weakseg.data.dataset.open_dataset`.
        strict: make every warning an error.
        tick: is called with (photographs read, all photographs), for a progress bar.

    Returns:
        The report. It never raises for what it finds in the data: a folder that cannot be opened is one error.
    """
    try:
        dataset, index = assemble(path, layout=layout, classes=classes, tags_from=tags_from)
        errors = [*index.problems, *index.faults, *_missing(dataset, index)]
        warnings = [*index.notes, *_list_warnings(index), *_orphans(index)]
        if index.shapes is not None and dataset.ids:
            _try(lambda: dataset.truth(dataset.ids[0]))  # reads the shapes once, before the threads ask for them
    except WeaksegError as error:
        return CheckReport((str(error),), (), {})
    counts = _counts(dataset, index)
    with ThreadPoolExecutor() as pool:
        for done, (wrong, odd) in enumerate(pool.map(lambda id: _look(dataset, index, id), dataset.ids), 1):
            errors += wrong
            warnings += odd
            if tick is not None:
                tick(done, len(dataset.ids))
    if strict:
        errors, warnings = errors + warnings, []
    return CheckReport(tuple(dict.fromkeys(errors)), tuple(dict.fromkeys(warnings)), counts)


# --- names and lists ---


def _missing(dataset: Dataset, index: Index) -> list[str]:
    """Listed ids without a photograph."""
    lists: dict[str, list[str]] = {}
    for name, ids in index.lists.items():
        for id in ids:
            if id not in dataset:
                lists.setdefault(id, []).append(name)
    return [f"{id}: there is no such photograph, but it is in list {', '.join(names)}" for id, names in lists.items()]


def _list_warnings(index: Index) -> list[str]:
    """Photographs both to train on and to score on, and photographs in no list."""
    train = [name for name in index.lists if name.startswith("train") and not name.startswith("trainval")]
    score = [name for name in index.lists if name.startswith(("val", "test"))]
    twice: dict[str, list[str]] = {}
    for held in score:
        of_held = set(index.lists[held])
        for name in train:
            for id in of_held.intersection(index.lists[name]):
                twice.setdefault(id, []).append(f"{name} and {held}")
    found = [f"{id}: in lists {', '.join(names)}" for id, names in sorted(twice.items())]
    if index.lists:
        listed = {id for ids in index.lists.values() for id in ids}
        found += _several("photograph", "in no list", (id for id in index.photos if id not in listed))
    return found


def _orphans(index: Index) -> list[str]:
    found = []
    for what, files in (("mask", index.masks), ("saliency map", index.saliency)):
        found += _several(what, "without a photograph", (id for id in files if id not in index.photos))
    return found


def _several(what: str, fault: str, ids: Iterable[str]) -> list[str]:
    """One line for many ids of one harmless kind."""
    all_ids = sorted(ids)
    if not all_ids:
        return []
    more = f" and {len(all_ids) - _SHOWN} more" if len(all_ids) > _SHOWN else ""
    return [f"{len(all_ids)} {what}{'s' * (len(all_ids) > 1)} {fault}: {', '.join(all_ids[:_SHOWN])}{more}"]


def _counts(dataset: Dataset, index: Index) -> dict[str, int]:
    counts = {"photographs": len(dataset.ids), "classes": len(dataset.classes)}
    for name, files in (("masks", index.masks), ("saliency maps", index.saliency), ("context maps", index.context)):
        if files:
            counts[name] = sum(id in files for id in dataset.ids)
    if index.objects is not None:
        counts["annotated photographs"] = sum(id in index.objects for id in dataset.ids)
    return counts | {f"list {name}": len(ids) for name, ids in dataset.lists.items() if name != "all"}


# --- one photograph ---


def _look(dataset: Dataset, index: Index, id: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of one photograph."""
    errors: list[str] = []

    def tried(read: Callable[[], object]) -> object:
        value, fault = _try(read)
        if fault:
            errors.append(fault if id in fault else f"{id}: {fault}")
        return value

    image = tried(lambda: read_image(dataset.image_path(id)))
    objects = tried(lambda: dataset.objects(id)) if index.objects is not None and id in index.objects else None
    sources: dict[str, set[str]] = {}
    table = dataset.table_tags(id)
    if table is not None:
        sources[dataset.tags_source] = table
    if isinstance(objects, Objects):
        known = set(dataset.classes)
        if index.objects is not None:
            sources[index.objects.kind] = known.intersection(index.objects.names(id))
        errors += [
            f"{id}: a box has the unknown class {name!r}{near(name, dataset.classes)}"
            for name in dict.fromkeys(objects.names)
            if name not in known
        ]
    if image is not None:
        size = (int(image.shape[1]), int(image.shape[2]))  # type: ignore[attr-defined]
        if isinstance(objects, Objects):
            errors += _box_faults(id, objects, size)
        saliency = dataset.saliency_path(id)
        if saliency is not None:
            tried(lambda: read_saliency(saliency, size))
        mask = tried(lambda: dataset.truth(id, size))
        if mask is not None:
            present = set(np.unique(np.asarray(mask)).tolist()) - {0, IGNORE}
            sources["masks"] = {dataset.classes[k - 1] for k in present}
    return errors, [] if errors else _disagreements(id, sources, dataset)


def _try(read: Callable[[], object]) -> tuple[object, str | None]:
    try:
        return read(), None
    except WeaksegError as error:
        return None, str(error)


def _box_faults(id: str, objects: Objects, size: tuple[int, int]) -> list[str]:
    height, width = size
    found = []
    for name, (x0, y0, x1, y1) in zip(objects.names, objects.boxes.tolist(), strict=True):
        where = f"{id}: the box of {name!r} ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if x1 <= x0 or y1 <= y0:
            found.append(f"{where} has no area")
        elif min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
            found.append(f"{where} reaches outside of the photograph of {width} x {height} pixels")
    return found


def _disagreements(id: str, sources: dict[str, set[str]], dataset: Dataset) -> list[str]:
    if dataset.tags_source not in ("none", "masks", *sources):
        return [f"{id}: no tags in {dataset.tags_source}"]
    if len({frozenset(names) for names in sources.values()}) < 2:
        return []
    told = "; ".join(f"{source}: {', '.join(sorted(names)) or 'nothing'}" for source, names in sources.items())
    return [f"{id}: sources disagree ({told})"]
