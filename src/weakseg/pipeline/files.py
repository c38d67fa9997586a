"""What stands in a run folder: taken over from another run, checked against this configuration, or moved aside."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from weakseg import _ranks
from weakseg.data.dataset import Dataset
from weakseg.data.store import TEMPORARY, read_json, read_label_map, read_score_maps, refused
from weakseg.pipeline.plan import Planned, changed, done_fingerprint
from weakseg.types import LABELS, Outputs, WeaksegError, unknown_id

_NO_WORK = ("plan.json", "log.jsonl")
"""Files of a step that was begun and has made nothing yet."""
_INPUTS = ("scores.", "seeds.", "model:", "saliency:")
"""How the parts begin that name another step's fingerprint."""


def reuse(planned: Planned, runs: Sequence[Path]) -> bool:
    """Take the step from the first of `runs` that ended one with this fingerprint, by hard link; whether one did."""
    for run in runs:
        for done in sorted(run.glob("seed-*/steps/*/done.json")):
            if done_fingerprint(done.parent) == planned.fingerprint and done.parent != planned.folder:
                link_tree(done.parent, planned.folder)
                return True
    return False


def link_tree(source: Path, target: Path) -> None:
    """Hard links (copies where the file system cannot) of every file below `source`; ``done.json`` last."""
    files = sorted((f for f in source.rglob("*") if f.is_file()), key=lambda f: f.name == "done.json")
    for file in files:
        link_file(file, target / file.relative_to(source))


def link_file(source: Path, target: Path) -> None:
    """One hard link, or a copy where the file system cannot; an older file of that name is replaced.

    Raises:
        WeaksegError: the system refuses both (disk full, no permission ...).
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.samefile(source):
            return  # renaming one name of a file to another of its names would leave both
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise refused(target, error) from error


def link_masks(planned: Planned, folder: Path) -> None:
    """The step's label maps as ``folder/<id>.png``, and no other PNG there: one of another list would mislead."""
    for id in planned.ids:
        link_file(planned.store.path(id, LABELS), folder / f"{id}.png")
    known = set(planned.ids)
    for file in folder.glob("*.png"):
        if file.stem not in known:
            file.unlink()


def complete(planned: Planned) -> bool:
    """Whether all files are there that a step which ended has written: somebody may have removed some."""
    if planned.step.evaluates:
        return (planned.folder / "result.json").is_file()
    if planned.step.learns and not (planned.folder / "fit" / "model.safetensors").is_file():
        return False
    return planned.store.done().issuperset(planned.ids)


def settle(planned: Sequence[Planned], out: Path, *, overwrite: bool) -> None:
    """Refuse to mix two configurations in one run, or move the older steps aside.

    A step that was begun otherwise but has made nothing yet is begun anew without a word.

    Raises:
        WeaksegError: without `overwrite`, when a step on disk was begun with other constants, data or inputs.
    """
    known = {p.folder: p for p in planned}
    stale: dict[Path, list[str]] = {}
    for folder in sorted((out / "steps").glob("*")) if (out / "steps").is_dir() else []:
        if ".old-" in folder.name or not (folder / "plan.json").is_file():
            continue
        differences = _differences(folder, known.get(folder))
        if differences and _has_work(folder):
            stale[folder] = differences
        elif differences:
            (folder / "plan.json").unlink()
    if stale and not overwrite:
        raise WeaksegError(
            f"{out} was begun with another configuration; steps that differ: {_told(stale)}. "
            "Choose another --out, or pass --overwrite to move these steps aside"
        )
    for folder in stale:
        n = 1
        while (aside := folder.with_name(f"{folder.name}.old-{n}")).exists():
            n += 1
        folder.rename(aside)


def begun_otherwise(planned: Planned) -> bool:
    """Whether the step's folder holds work of another configuration."""
    begun = (planned.folder / "plan.json").is_file()
    return begun and bool(_differences(planned.folder, planned)) and _has_work(planned.folder)


def _differences(folder: Path, planned: Planned | None) -> list[str]:
    old = read_json(folder / "plan.json", dict)
    if planned is None:
        return ["the recipe has no such step"]
    if old.get("fingerprint") == planned.fingerprint:
        return []
    return changed(old.get("parts", {}), planned.parts)


def _has_work(folder: Path) -> bool:
    files = (f for f in folder.rglob("*") if f.is_file())
    return any(f.name not in _NO_WORK and not f.name.startswith(TEMPORARY) for f in files)


def _told(stale: Mapping[Path, Iterable[str]]) -> str:
    """The steps with what differs in them; those that only follow from these by name alone."""
    causes = {folder.name: [k for k in keys if not k.startswith(_INPUTS)] for folder, keys in stale.items()}
    if not any(causes.values()):
        return "; ".join(f"{folder.name} ({', '.join(keys)})" for folder, keys in stale.items())
    told = "; ".join(f"{name} ({', '.join(keys)})" for name, keys in causes.items() if keys)
    followers = [name for name, keys in causes.items() if not keys]
    return told + (f"; and with them {', '.join(followers)}" if followers else "")


# --- a step whose outputs come from somebody else's folder ---


def adopt(planned: Planned, dataset: Dataset) -> None:
    """Check a stranger's files one by one and write them as the step's own outputs; each process does its share."""
    store = planned.store
    done = store.done()
    for id in _ranks.share([id for id in planned.ids if id not in done]):
        store.write(id, _adopted(planned, dataset, id))
    _ranks.wait()


def strangers_file(planned: Planned, id: str) -> Path:
    """The file that a step with a `folder` takes for `id`."""
    return Path(planned.step.method.path) / (f"{id}.png" if planned.step.writes == (LABELS,) else f"{id}.npz")


def _adopted(planned: Planned, dataset: Dataset, id: str) -> Outputs:
    path, size = strangers_file(planned, id), dataset.sample(id, need_tags=False, saliency=False).size
    if planned.step.writes != (LABELS,):
        return read_score_maps(path)
    labels = read_label_map(path, size)
    if (strange := unknown_id(labels, len(dataset.classes))) is not None:
        raise WeaksegError(
            f"{path} holds id {strange}, but there are {len(dataset.classes)} classes; "
            "ids are 0 background, 1.. classes, 255 ignore"
        )
    return {LABELS: labels}
