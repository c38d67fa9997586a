"""What a run would do: for each step its folder, its ids and the fingerprint of all that decides its bytes."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from weakseg._words import near
from weakseg.data.dataset import Dataset
from weakseg.data.store import Store, read_json
from weakseg.models.backbones import backbone_from_name
from weakseg.models.weights import file_hash
from weakseg.pipeline.recipe import Folder, Resolved
from weakseg.types import LATER, Backbone, WeaksegError, deciding_constants

NUMBERS = 2
"""Raised when a change of the code changes the numbers of a step: older outputs are then computed anew."""

NEEDS = {"tags": "tags", "boxes": "boxes", "saliency": "saliency", "mask": "masks", "instances": "instances"}
"""What a method's `needs` calls it -> what a data set's `has` calls it."""

_DIGESTS = {
    "data": "the photographs or labels it reads",
    "list": "the ids it writes",
    "fit": "the ids it learns from",
    "folder": "the files in the folder",
}
"""What has changed where the part is a digest, of which nobody would see it."""

_SALIENCY_WAYS = (
    "give a folder of maps named like the photographs with --saliency FOLDER, or let weakseg estimate them without "
    "training with --saliency builtin"
)


@dataclass(frozen=True)
class Planned:
    """One step of one seed.

    Attributes:
        step: the configured step.
        folder: where its files go.
        fit_ids, ids: photographs it learns from (none if it was fitted before), and those it writes outputs for.
        backbone: of a step with a network, else None; without weights if it was fitted before.
        parts: everything that decides the step's bytes, flat, by readable key.
        fingerprint: sha256 of `parts`.
    """

    step: Resolved
    folder: Path
    fit_ids: tuple[str, ...]
    ids: tuple[str, ...]
    backbone: Backbone | None
    parts: Mapping[str, Any]
    fingerprint: str

    @property
    def name(self) -> str:
        """The step's name in the recipe."""
        return self.step.name

    @property
    def store(self) -> Store:
        """Where the step's outputs lie."""
        return Store(self.folder, self.step.writes)

    @property
    def done(self) -> bool:
        """Whether the step ended with this fingerprint."""
        return done_fingerprint(self.folder) == self.fingerprint


@dataclass(frozen=True)
class Lists:
    """Which of the data set's lists the recipe's ``train`` and ``val`` mean."""

    train: str = "train"
    val: str = "val"

    def ids(self, dataset: Dataset, name: str) -> tuple[str, ...]:
        """The ids of the recipe's list `name`; ``train[::10]`` is every tenth of train's, ``train[:100]`` a hundred."""
        base, part = _part(name)
        return tuple(dataset.list(self.meant(base)))[part]

    def meant(self, name: str) -> str:
        """The data set's name, or the file, of the recipe's list `name`, with the part of it that is taken."""
        base, _ = _part(name)
        return {"train": self.train, "val": self.val}.get(base, base) + name[len(base) :]


def _part(name: str) -> tuple[str, slice]:
    """``train[::10]`` -> train, and the slice; a name without brackets is taken whole."""
    found = re.fullmatch(r"(.+)\[(\d*):(\d*)(?::([1-9]\d*))?\]", name)
    if found is None:
        return name, slice(None)
    return found[1], slice(*(int(n) if n else None for n in found.groups()[1:]))


def plan(
    steps: Sequence[Resolved], dataset: Dataset, lists: Lists, out: Path, *, seed: int, precision: str
) -> tuple[Planned, ...]:
    """All steps of one seed with their folders and fingerprints; nothing is written.

    Evaluations are planned only where the data set has what they need.

    Raises:
        WeaksegError: the data set lacks what a method needs, or a list is missing or empty.
    """
    planned: dict[str, Planned] = {}
    for index, step in enumerate(steps, start=1):
        if step.evaluates and _lacking(step, dataset):
            continue
        if hasattr(step.method, "for_classes"):
            step = replace(step, method=step.method.for_classes(dataset.classes))
        trains = step.learns and step.spec.fitted is None
        fit_ids = lists.ids(dataset, step.spec.fit) if trains else ()
        ids = tuple(dict.fromkeys(i for name in step.lists for i in lists.ids(dataset, name)))
        if trains and not fit_ids:
            raise _empty(step, lists.meant(step.spec.fit), "learn from")
        if not ids:
            raise _empty(step, " and ".join(lists.meant(name) for name in step.lists), "do")
        _check_needs(step, dataset, fit_ids, ids)
        backbone = backbone_of(step) if step.learns else None
        if backbone is not None and not trains:  # the file it began with may be gone
            backbone = replace(backbone, weights=LATER)
        parts = _parts(step, dataset, fit_ids, ids, backbone, planned, seed=seed, precision=precision)
        planned[step.name] = Planned(
            step=step,
            folder=out / "steps" / f"{index}-{step.name}",
            fit_ids=fit_ids,
            ids=ids,
            backbone=backbone,
            parts=parts,
            fingerprint=digest(parts),
        )
    return tuple(planned.values())


def _empty(step: Resolved, name: str, verb: str) -> WeaksegError:
    return WeaksegError(
        f"step {step.name}: the list {name!r} is empty, there is nothing to {verb}; fill it, or give another"
    )


def backbone_of(step: Resolved) -> Backbone:
    """The step's backbone, or a sentence that says which key is wrong."""
    known = list(Backbone.__dataclass_fields__)
    for key in step.backbone:
        if key not in known:
            raise WeaksegError(f"step {step.name}: a backbone has no key {key!r}{near(key, known, or_all=True)}")
    try:
        given = {**step.backbone, **{k: tuple(step.backbone[k]) for k in ("mean", "std") if k in step.backbone}}
        if given.get("weights", "pretrained") == "pretrained" and "mean" not in given and "name" in given:
            published = backbone_from_name(str(given["name"]))
            given |= {"mean": published.mean, "std": published.std}
        return Backbone(**given)
    except TypeError as error:
        raise WeaksegError(
            f"step {step.name}: backbone {dict(step.backbone)}: {error}; keys are: {', '.join(known)}"
        ) from None


def fitted_weights(fitted: str | Path) -> Path:
    """The file that a step's `fitted` means: itself if it is one of weights, ``model.safetensors`` in the folder else.

    >>> fitted_weights("fit/epoch-30.safetensors").name, fitted_weights("fit").name
    ('epoch-30.safetensors', 'model.safetensors')
    """
    path = Path(fitted)
    return path if path.suffix == ".safetensors" else path / "model.safetensors"


def done_fingerprint(folder: Path) -> str | None:
    """The fingerprint with which the step in `folder` ended, or None."""
    path = folder / "done.json"
    return read_json(path, dict).get("fingerprint") if path.is_file() else None


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Readable differences between two steps' parts: ``set.crop: 224 -> 208``."""
    keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    return [f"{k}: {_DIGESTS.get(k) or f'{_short(old.get(k))} -> {_short(new.get(k))}'}" for k in keys]


def digest(value: Any) -> str:
    """sha256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _parts(
    step: Resolved,
    dataset: Dataset,
    fit_ids: tuple[str, ...],
    ids: tuple[str, ...],
    backbone: Backbone | None,
    earlier: Mapping[str, Planned],
    *,
    seed: int,
    precision: str,
) -> dict[str, Any]:
    parts: dict[str, Any] = {"numbers": NUMBERS, "method": step.spec.method, "classes": list(dataset.classes)}
    parts |= {f"set.{k}": _plain(v) for k, v in deciding_constants(step.method).items()}
    parts["list"] = digest(ids)
    given = frozenset() if step.saliency is None else frozenset({"saliency"})
    parts["data"] = _data_digest(dataset, fit_ids + ids, frozenset(getattr(step.method, "needs", ())) - given)
    if step.saliency is not None:
        parts["saliency"] = f"{earlier[step.saliency.step].fingerprint}/{step.saliency.key}"
    if isinstance(step.method, Folder):
        parts["folder"] = digest(
            [(f.name, file_hash(f)) for f in sorted(Path(step.method.path).iterdir()) if f.is_file()]
        )
    for role in ("scores", "seeds"):
        for name, ref in getattr(step, role).items():
            parts[f"{role}.{name}"] = f"{earlier[ref.step].fingerprint}/{ref.key}"
    if step.spec.model is not None:
        parts["model"] = earlier[step.spec.model].fingerprint
    if step.learns and backbone is not None:
        parts |= {f"backbone.{k}": _plain(v) for k, v in asdict(backbone).items() if k != "weights"}
        if step.spec.fitted is None:
            parts |= {"fit": digest(fit_ids), "seed": seed, "precision": precision}
            parts["backbone.weights"] = weights_hash(backbone.weights)
        else:
            parts["fitted"] = file_hash(fitted_weights(step.spec.fitted))
    return parts


@cache
def weights_hash(weights: str | None) -> str | None:
    """sha256 of the weights file; ``"pretrained"``, `LATER` and None as they are."""
    return weights if weights in (None, "pretrained", LATER) else file_hash(Path(str(weights)))


def _data_digest(dataset: Dataset, ids: tuple[str, ...], needs: frozenset[str]) -> str:
    """Of what the step reads: photographs and saliency by bytes, tags and boxes by value, masks, instances by hash."""
    facts: list[Any] = []
    for id in dict.fromkeys(ids):
        fact: list[Any] = [id, dataset.image_path(id).stat().st_size]
        if "tags" in needs:
            fact.append(dataset.tags(id).nonzero().flatten().tolist())
        if "boxes" in needs and (boxes := dataset.boxes(id)):
            fact.append([part.tolist() for part in boxes])
        if "saliency" in needs and (path := dataset.saliency_path(id)):
            fact.append(path.stat().st_size)
        if "mask" in needs and (path := dataset.mask_path(id)):
            fact.append(file_hash(path))
        if "instances" in needs and (path := dataset.instances_path(id)):
            fact.append(file_hash(path))
        facts.append(fact)
    return digest(facts)


def _check_needs(step: Resolved, dataset: Dataset, fit_ids: tuple[str, ...], ids: tuple[str, ...]) -> None:
    lacking = _lacking(step, dataset)
    if "saliency" in lacking:
        raise WeaksegError(
            f"step {step.name} ({step.spec.method}) learns from saliency maps, which {dataset.root} does not have; "
            f"{_SALIENCY_WAYS}"
        )
    if lacking:
        raise WeaksegError(
            f"step {step.name} ({step.spec.method}) needs {' and '.join(lacking)}, which {dataset.root} does not have; "
            f"it has: {', '.join(sorted(dataset.has)) or 'photographs only'}"
        )
    if "boxes" in step.needs and not step.evaluates:
        without = [id for id in dict.fromkeys(fit_ids + ids) if dataset.boxes(id) is None]
        if without:
            raise WeaksegError(
                f"step {step.name} ({step.spec.method}): {len(without)} of its photographs have no annotation with "
                f"boxes ({_first(without)}): what lies outside boxes counts as background, so annotate them (with no "
                "object, if there is none) or leave them out of the list"
            )
    if "saliency" in step.needs and step.saliency is None:
        without = [id for id in fit_ids if dataset.saliency_path(id) is None]
        if without:
            raise WeaksegError(
                f"step {step.name} ({step.spec.method}): {len(without)} of its {len(fit_ids)} photographs have no "
                f"saliency map ({_first(without)}); {_SALIENCY_WAYS}"
            )


def _first(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + " ..." * (len(ids) > 3)


def _lacking(step: Resolved, dataset: Dataset) -> list[str]:
    given = {"saliency"} if step.saliency is not None else set()
    return [NEEDS[n] for n in sorted(step.needs - given) if NEEDS[n] not in dataset.has]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
