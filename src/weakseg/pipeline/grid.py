"""Sweeps over constants: the runs of a grid of settings, and their numbers side by side, class by class.

What a sweep over EPS' tau or lambda, or over its strategies, asks for (Lee et al., CVPR 2021, Tables 3 and A.1 to A.3):
each setting is a run of its own, and steps that do not depend on it are taken over from the runs before. A method file
names the settings of its paper's tables in `STUDIES`: name -> settings of the method's constants.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from weakseg import methods
from weakseg._words import near
from weakseg.data.store import read_json, write_json, write_text
from weakseg.pipeline.recipe import Recipe
from weakseg.types import WeaksegError

Settings = Mapping[str, Mapping[str, Any]]
"""Name of a setting -> ``step.key`` -> value."""


def read_grid(lines: Sequence[str]) -> dict[str, list[Any]]:
    """A grid from lines such as a person types.

    Raises:
        WeaksegError: a line without ``step.key=value,value``, or a key that comes twice.

    >>> read_grid(["eps.tau=0.2,0.4", "amn.layers=[3],[3, 4]"])
    {'eps.tau': [0.2, 0.4], 'amn.layers': [[3], [3, 4]]}
    """
    grid: dict[str, list[Any]] = {}
    for line in lines:
        key, equals, values = (part.strip() for part in line.partition("="))
        if not equals or "." not in key:
            raise WeaksegError(f"--grid wants STEP.KEY=VALUE,VALUE such as eps.tau=0.2,0.4; got {line!r}")
        if key in grid:
            raise WeaksegError(f"--grid names {key} twice: give all its values in one, {key}=VALUE,VALUE")
        try:
            grid[key] = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            raise WeaksegError(f"--grid {line}: the values are not YAML, separated by commas") from None
    return grid


def studies(recipe: Recipe) -> dict[str, dict[str, dict[str, Any]]]:
    """The tables of its methods' papers that a recipe can make again: name of the table -> `Settings`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for step in recipe.steps:
        file = (step.method or "").partition(".")[0]
        if file in methods.modules():
            tables = getattr(importlib.import_module(f"weakseg.methods.{file}"), "STUDIES", {})
            method = methods.load(step.method or "")
            for name, settings in tables.items():
                if not all(hasattr(method, key) for s in settings for key in s):
                    continue  # of another stage's method in the same file
                found[name] = _named([{f"{step.name}.{k}": v for k, v in s.items()} for s in settings])
    return found


def study(recipe: Recipe, name: str) -> Settings:
    """The settings of `studies` called `name`; WeaksegError names those there are."""
    known = studies(recipe)
    if name not in known:
        raise WeaksegError(f"recipe {recipe.name} has no study {name!r}{near(name, known, or_all=True)}")
    return known[name]


def combinations(grid: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of a grid's values, by a name that can be a folder's.

    Args:
        grid: ``step.key`` -> its values.

    Raises:
        WeaksegError: the grid or one of its lists is empty, or two combinations would have one name.

    >>> combinations({"eps.tau": [0.2, 0.4], "eps.strategy": ["naive"]})  # doctest: +NORMALIZE_WHITESPACE
    {'eps.tau=0.2,eps.strategy=naive': {'eps.tau': 0.2, 'eps.strategy': 'naive'},
     'eps.tau=0.4,eps.strategy=naive': {'eps.tau': 0.4, 'eps.strategy': 'naive'}}
    """
    if not grid or not all(isinstance(v, Sequence) and not isinstance(v, str) and len(v) for v in grid.values()):
        raise WeaksegError(
            f"a grid wants a list of values for each step.key, such as {{'eps.tau': [0.2, 0.4]}}: {grid}"
        )
    return _named([dict(zip(grid, values, strict=True)) for values in product(*grid.values())])


def run_settings(settings: Settings, out: Path, run: Callable[..., Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Run every setting into a folder of its own below `out`; each takes over matching steps of those before it.

    Args:
        settings: as `combinations` and `study` make them.
        out: holds one run folder for each setting.
        run: called as ``run(out=folder, set=settings, reuse=folders)``, such as a `functools.partial` of
            `weakseg.api.run` with recipe and data; what it returns is kept.

    Returns:
        name of the setting -> what `run` returned. A killed sweep goes on where it was.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, values in settings.items():
        found[name] = run(out=out / name, set=values, reuse=[out / done for done in found])
    return found


def run_grid(
    grid: Mapping[str, Sequence[Any]], out: Path, run: Callable[..., Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """`run_settings` for every combination of a grid's values."""
    return run_settings(combinations(grid), out, run)


def summed_up(settings: Settings, ran: Mapping[str, Mapping[str, Any]], out: Path) -> dict[str, Any]:
    """The numbers of a sweep side by side, also as ``sweep.json`` and ``sweep.md`` in `out`.

    Args:
        settings: what was set.
        ran: what `run_settings` returned, the ``summary`` of each run in it.
        out: holds the run folders.

    Returns:
        ``settings``; ``summary``: name of a headline number -> setting -> mean and spread over seeds; ``classes``:
        evaluation -> `class_table` of all settings.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for setting, result in ran.items():
        for row in result["summary"]:
            title = ", ".join(part for part in (row["name"], row["split"], row["unit"]) if part)
            summary.setdefault(title, {})[setting] = {"mean": row["mean"], "std": row["std"]}
    runs = {name: out / name for name in ran}
    tables = {step: class_table(runs, step) for step in _judged(next(iter(runs.values())))}
    found = {"settings": {k: dict(v) for k, v in settings.items()}, "summary": summary, "classes": tables}
    write_json(out / "sweep.json", found)
    write_text(out / "sweep.md", _markdown(found))
    return found


def class_table(runs: Mapping[str, Path], step: str) -> dict[str, Any]:
    """IoU of every class in several runs, the mean over their seeds (EPS, Table A.3).

    Args:
        runs: name of a column -> run folder.
        step: an evaluation of the recipe that judges masks or score maps (these at their fixed threshold).

    Returns:
        ``classes``, background first; ``miou`` and ``iou`` by column: fractions 0-1, None where a class is skipped.

    Raises:
        WeaksegError: a run has no such evaluation, or the runs have different classes.
    """
    tables = {name: [_ious(seed, step) for seed in _seeds(run, step)] for name, run in runs.items()}
    classes = {tuple(c) for seeds in tables.values() for c, _, _ in seeds}
    if len(classes) != 1:
        raise WeaksegError(f"a table wants runs over the same classes; got {len(classes)} lists of classes")
    return {
        "classes": list(next(iter(classes))),
        "miou": {name: _mean([m for _, m, _ in seeds]) for name, seeds in tables.items()},
        "iou": {
            name: [_mean(column) for column in zip(*(ious for _, _, ious in seeds), strict=True)]
            for name, seeds in tables.items()
        },
    }


def _named(settings: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    named = {_name(s) or "default": s for s in settings}
    if len(named) < len(settings):
        raise WeaksegError(f"a setting stands twice in the sweep: {settings}")
    return named


def _judged(run: Path) -> list[str]:
    """Evaluations of an ended run that give an IoU of each class."""
    paths = sorted(run.glob("seed-0/steps/*-*/result.json"), key=lambda p: int(p.parent.name.partition("-")[0]))
    return [p.parent.name.partition("-")[2] for p in paths if read_json(p)["kind"] in ("masks", "sweep")]


def _markdown(found: Mapping[str, Any]) -> str:
    """Settings as rows under the headline numbers; then, for each evaluation, classes as rows under the settings."""
    heads = list(found["summary"])
    rows = [[name, *(_percent(found["summary"][h].get(name)) for h in heads)] for name in found["settings"]]
    parts = ["# Sweep", _table(["setting", *heads], rows)]
    for step, table in found["classes"].items():
        names = list(table["iou"])
        columns = [[*table["iou"][n], table["miou"][n]] for n in names]
        lines = zip([*table["classes"], "mean"], *columns, strict=True)
        cells = [[name, *map(_number, values)] for name, *values in lines]
        parts += [f"## {step}: IoU of each class, %", _table(["class", *names], cells)]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _percent(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return _number(None)
    return _number(cell["mean"]) + ("" if cell["std"] is None else f" ± {100 * cell['std']:.1f}")


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}"


def _name(settings: Mapping[str, Any]) -> str:
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    return "".join(c if c.isalnum() or c in "._=,-" else "_" for c in text)


def _seeds(run: Path, step: str) -> list[Path]:
    found = sorted(run.glob(f"seed-*/steps/*-{step}/result.json"))
    if not found:
        raise WeaksegError(f"{run} holds no ended evaluation {step!r}; give a run folder and one of its evaluations")
    return found


def _ious(path: Path, step: str) -> tuple[list[str], float, list[float | None]]:
    judged = read_json(path)
    if judged["kind"] not in ("masks", "sweep"):
        raise WeaksegError(f"{path}: {step!r} judges neither masks nor score maps and has no IoU")
    result = judged["result"]["fixed"] if judged["kind"] == "sweep" else judged["result"]
    return judged["result"]["classes"], result["miou"], result["iou"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None
