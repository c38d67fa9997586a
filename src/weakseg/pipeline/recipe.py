"""Recipes: a chain of steps in YAML, read, checked and resolved against the methods' dataclasses.

A recipe is the list of steps of one row of the results table::

    backbone: {name: mobilenetv2_100, output_stride: 16}
    labels: crf              # the step whose label maps are the pseudo-masks
    predictions: segment     # the step that trains the network people keep
    steps:
    - {name: cam, method: cam.resnet38, list: [train, val]}
    - {name: threshold, method: labels.threshold, scores: cam/full, list: [train, val], set: {background: 0.4}}
    - {name: crf, method: crf.labels, seeds: threshold, list: [train, val]}
    - {name: segment, method: deeplab.v3plus, seeds: crf, list: val}
    - {name: val, method: evaluate.masks, seeds: segment, list: val}

`scores` and `seeds` name an earlier step's output, ``step`` or ``step/key``; given as a dict they say under which name
it stands in the sample. `saliency` names a step whose map stands in for the data set's own. `model` lends the fitted
network of an earlier step. `fit` is the list a step learns from, `list` the lists it writes outputs for. `fitted` is
the ``fit`` folder of an ended run, or in it the weights of one epoch (`keep_epochs`), in place of training. `folder`
replaces a step by a folder of somebody else's maps or masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from weakseg import methods
from weakseg._words import near
from weakseg.data.store import read_score_maps
from weakseg.pipeline.evaluations import EVALUATIONS
from weakseg.types import LABELS, SALIENCY, SCORES, SEEDS, WeaksegError


class StepSpec(BaseModel):
    """One step as the recipe writes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    method: str | None = None
    folder: str | None = None
    fit: str = "train"
    list: tuple[str, ...] = ()
    model: str | None = None
    scores: Mapping[str, str] = Field(default_factory=dict)
    seeds: Mapping[str, str] = Field(default_factory=dict)
    saliency: str | None = None
    set: Mapping[str, Any] = Field(default_factory=dict)
    backbone: Mapping[str, Any] = Field(default_factory=dict)
    fitted: str | None = None
    title: str | None = None

    @field_validator("list", mode="before")
    @classmethod
    def _one_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("scores", mode="before")
    @classmethod
    def _plain_scores(cls, value: Any) -> Any:
        return {SCORES: value} if isinstance(value, str) else value

    @field_validator("seeds", mode="before")
    @classmethod
    def _plain_seeds(cls, value: Any) -> Any:
        return {SEEDS: value} if isinstance(value, str) else value


class Recipe(BaseModel):
    """A chain of steps; `labels` and `predictions` name the steps whose outputs people come for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    summary: str = ""
    backbone: Mapping[str, Any] = Field(default_factory=dict)
    labels: str | None = None
    predictions: str | None = None
    steps: tuple[StepSpec, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Input:
    """Output `key` of the earlier step `step`."""

    step: str
    key: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A step whose method is loaded and configured; `scores` and `seeds` by the names the sample carries.

    `saliency` is the earlier step's map that stands in for the data set's own, or None.
    """

    spec: StepSpec
    method: Any
    scores: Mapping[str, Input]
    seeds: Mapping[str, Input]
    backbone: Mapping[str, Any]
    saliency: Input | None = None

    @property
    def name(self) -> str:
        """The step's name in the recipe."""
        return self.spec.name

    @property
    def learns(self) -> bool:
        """Whether the step trains a network."""
        return hasattr(self.method, "objective")

    @property
    def evaluates(self) -> bool:
        """Whether the step compares with the truth and writes numbers only."""
        return hasattr(self.method, "evaluate")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Outputs of earlier steps that the step reads."""
        return (*self.scores.values(), *self.seeds.values(), *((self.saliency,) if self.saliency else ()))

    @property
    def needs(self) -> frozenset[str]:
        """What the data must have; a step that is fitted already may need less (`needs_to_score`)."""
        known = frozenset(getattr(self.method, "needs", ()))
        return known if self.spec.fitted is None else frozenset(getattr(self.method, "needs_to_score", known))

    @property
    def writes(self) -> tuple[str, ...]:
        """Keys of the outputs the step writes for each photograph."""
        return () if self.evaluates else tuple(getattr(self.method, "writes", (LABELS,)))

    @property
    def lists(self) -> tuple[str, ...]:
        """Lists the step writes outputs for."""
        return self.spec.list or (("val",) if hasattr(self.method, "predict") else ("train",))


def shipped() -> list[str]:
    """Names of the recipes that ship with weakseg."""
    folder = resources.files("weakseg.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_recipe(recipe: str | Path) -> Recipe:
    """The recipe of that name, or of that YAML file.

    Raises:
        WeaksegError: no such recipe (near names are offered), or the file is not one.
    """
    path = Path(recipe)
    if str(recipe) in shipped():
        text, name = (resources.files("weakseg.recipes") / f"{recipe}.yaml").read_text("utf-8"), str(recipe)
    elif path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise WeaksegError(f"there is no recipe file {path}; the recipes that ship are: {', '.join(shipped())}")
        text, name = path.read_text("utf-8"), path.stem
    else:
        raise WeaksegError(
            f"there is no recipe {str(recipe)!r}{near(str(recipe), shipped(), or_all=True)}; a .yaml file is taken too"
        )
    return parse_recipe(text, name)


def parse_recipe(text: str, name: str) -> Recipe:
    """A recipe from YAML text; WeaksegError names the first thing that is wrong."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WeaksegError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise WeaksegError(f"recipe {name} holds {type(raw).__name__}, a mapping with `steps` was wanted")
    try:
        return Recipe(**{"name": name, **raw})
    except (ValidationError, TypeError) as error:
        raise WeaksegError(f"recipe {name}: {_first(error)}") from None


def override(recipe: Recipe, settings: Sequence[str] | Mapping[str, Any]) -> Recipe:
    """The recipe with ``step.key=value`` settings: a step's constants, `folder`, `fitted`, or ``backbone.key``.

    Args:
        recipe: what to change.
        settings: ``["cam.crop=224", "backbone.output_stride=8"]``, or the same as a mapping.

    Raises:
        WeaksegError: a setting without ``step.key``, an unknown step (unknown keys are found by `resolve`).
    """
    steps = {s.name: s for s in recipe.steps}
    backbone = dict(recipe.backbone)
    for target, value in _pairs(settings):
        step, dot, key = target.partition(".")
        if not dot or not key:
            raise WeaksegError(f"--set wants STEP.KEY=VALUE such as cam.crop=224; got {target!r}")
        if step == "backbone":
            backbone[key] = value
        elif step not in steps:
            known = [*steps, "backbone"]
            raise WeaksegError(f"--set {target}: the recipe has no step {step!r}{near(step, known, or_all=True)}")
        elif key in ("folder", "fitted"):
            steps[step] = steps[step].model_copy(update={key: str(value)})
        else:
            steps[step] = steps[step].model_copy(update={"set": {**steps[step].set, key: value}})
    return recipe.model_copy(update={"steps": tuple(steps.values()), "backbone": backbone})


def with_builtin_saliency(recipe: Recipe) -> Recipe:
    """The recipe with a step ``saliency.builtin`` in front, whose maps every step reads that learns from saliency.

    Raises:
        WeaksegError: no step of the recipe reads saliency, or each names its own source.
    """
    readers = [s for s in recipe.steps if s.saliency is None and "saliency" in _needs(s)]
    if not readers:
        raise WeaksegError(f"recipe {recipe.name}: no step is left that reads saliency maps; leave out --saliency")
    name = next(n for n in (SALIENCY, f"{SALIENCY}-builtin") if n not in {s.name for s in recipe.steps})
    lists = dict.fromkeys(each for s in readers for each in (s.fit, *(s.list or ("train",))))
    first = StepSpec(name=name, method="saliency.builtin", list=tuple(lists))
    steps = [s.model_copy(update={"saliency": name}) if s in readers else s for s in recipe.steps]
    return recipe.model_copy(update={"steps": (first, *steps)})


def _needs(spec: StepSpec) -> frozenset[str]:
    if spec.method is None or spec.folder is not None:
        return frozenset()
    file, _, entry = spec.method.partition(".")
    method = EVALUATIONS.get(entry) if file == "evaluate" else methods.load(spec.method)
    return frozenset(getattr(method, "needs", ()))


def resolve(recipe: Recipe) -> tuple[Resolved, ...]:
    """Load and configure every step's method and check that each input names an earlier step's output.

    Raises:
        WeaksegError: unknown method, key, value or input; names and nearest matches are in the sentence.
    """
    done: dict[str, Resolved] = {}
    for spec in recipe.steps:
        if spec.name in done:
            raise WeaksegError(f"recipe {recipe.name}: two steps are called {spec.name!r}")
        method = _method(spec)
        done[spec.name] = Resolved(
            spec=spec,
            method=method,
            scores={n: _input(spec.name, ref, done, ("full", "scores")) for n, ref in spec.scores.items()},
            seeds={n: _input(spec.name, ref, done, (LABELS,)) for n, ref in spec.seeds.items()},
            backbone={**recipe.backbone, **spec.backbone},
            saliency=None if spec.saliency is None else _input(spec.name, spec.saliency, done, (SALIENCY,)),
        )
        if spec.model is not None and not (spec.model in done and done[spec.model].learns):
            raise WeaksegError(f"step {spec.name}: model {spec.model!r} is no earlier step that trains a network")
    for role in ("labels", "predictions"):
        step = getattr(recipe, role)
        if step is not None and step not in done:
            raise WeaksegError(f"recipe {recipe.name}: {role} names no step {step!r}{near(step, done, or_all=True)}")
    return tuple(done.values())


def configure(method: Any, settings: Mapping[str, Any], where: str) -> Any:
    """The method's dataclass with `settings` in place of its defaults, validated by their types.

    Raises:
        WeaksegError: an unknown key (the nearest is offered) or a value of the wrong type.
    """
    if not is_dataclass(method) or isinstance(method, type):
        raise WeaksegError(f"{where}: a method is an instance of a frozen dataclass, got {method!r}")
    known = [f.name for f in fields(method)]
    for key in settings:
        if key not in known:
            raise WeaksegError(f"{where} has no setting {key!r}{near(key, known, or_all=True)}")
    try:
        checked = TypeAdapter(type(method)).validate_python({**constants(method), **settings})
    except ValidationError as error:
        raise WeaksegError(f"{where}: {_first(error)}") from None
    except ValueError as error:
        raise WeaksegError(f"{where}: {error}") from None
    return replace(method, **{f.name: getattr(checked, f.name) for f in fields(method)})


def constants(method: Any) -> dict[str, Any]:
    """The constants of a method, by name, as JSON holds them."""
    return asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}


@dataclass(frozen=True)
class Folder:
    """Stands in for a step whose outputs come from a folder of somebody else's files, named by file stem."""

    path: str
    writes: tuple[str, ...]


def _method(spec: StepSpec) -> Any:
    if spec.folder is not None:
        return _folder(spec.name, Path(spec.folder))
    if spec.method is None:
        raise WeaksegError(f"step {spec.name}: it has neither a method nor a folder")
    file, _, entry = spec.method.partition(".")
    if file == "evaluate":
        if entry not in EVALUATIONS:
            raise WeaksegError(f"step {spec.name}: no evaluation {entry!r}{near(entry, EVALUATIONS, or_all=True)}")
        method: Any = EVALUATIONS[entry]
    else:
        method = methods.load(spec.method)
    return configure(method, spec.set, f"step {spec.name} ({spec.method})")


def _folder(step: str, path: Path) -> Folder:
    if not path.is_dir():
        raise WeaksegError(f"step {step}: there is no folder {path}")
    first = next((f for f in sorted(path.iterdir()) if f.suffix in (".png", ".npz")), None)
    if first is None:
        raise WeaksegError(f"step {step}: {path} holds neither label maps (.png) nor score maps (.npz)")
    return Folder(str(path), (LABELS,) if first.suffix == ".png" else tuple(read_score_maps(first)))


def _input(step: str, reference: str, done: Mapping[str, Resolved], preferred: Sequence[str]) -> Input:
    name, _, key = reference.partition("/")
    if name not in done:
        raise WeaksegError(f"step {step}: its input {reference!r} names no earlier step{near(name, done, or_all=True)}")
    writes = done[name].writes
    if not key:
        key = next((k for k in preferred if k in writes), writes[0] if len(writes) == 1 else "")
    if key not in writes:
        raise WeaksegError(f"step {step}: input {reference!r}: step {name} writes {', '.join(writes) or 'nothing'}")
    return Input(name, key)


def _pairs(settings: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        return list(settings.items())
    pairs = []
    for item in settings:
        target, equals, value = item.partition("=")
        if not equals:
            raise WeaksegError(f"--set wants STEP.KEY=VALUE such as cam.crop=224; got {item!r}")
        try:
            pairs.append((target.strip(), yaml.safe_load(value)))
        except yaml.YAMLError:
            raise WeaksegError(f"--set {item}: the value is not YAML") from None
    return pairs


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        what, known = ("a step", StepSpec) if len(first["loc"]) > 1 else ("a recipe", Recipe)
        return f"{where} is no key of {what}{near(str(first['loc'][-1]), known.model_fields, or_all=True)}"
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {first['msg'].lower()} (got {first.get('input')!r})" if where else str(first["msg"])
