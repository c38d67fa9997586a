"""Sweeps over constants: the runs of a grid of settings, and their numbers side by side, class by class.

What a sweep over EPS' tau or lambda, or over its strategies, asks for (Lee et al., CVPR 2021, Tables 3 and A.1 to A.3):
each setting is a run of its own, and steps that do not depend on it are taken over from the runs before.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from weakseg.data.store import read_json
from weakseg.types import WeaksegError


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
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    named = {_name(s): s for s in settings}
    if len(named) < len(settings):
        raise WeaksegError(f"a value stands twice in the grid: {dict(grid)}")
    return named


def run_grid(
    grid: Mapping[str, Sequence[Any]], out: Path, run: Callable[..., Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Run every combination into a folder of its own below `out`; each takes over matching steps of those before it.

    Args:
        grid: as in `combinations`.
        out: holds one run folder for each combination.
        run: called as ``run(out=folder, set=settings, reuse=folders)``, such as a `functools.partial` of
            `weakseg.api.run` with recipe and data; what it returns is kept.

    Returns:
        name of the combination -> what `run` returned. A killed sweep goes on where it was.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, settings in combinations(grid).items():
        found[name] = run(out=out / name, set=settings, reuse=[out / done for done in found])
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
