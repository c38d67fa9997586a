"""What would stop a run hours later is found in its first seconds: every network is built once and dropped again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from weakseg import methods
from weakseg._optimisation import build_optimiser, make_plan
from weakseg._precision import check_precision
from weakseg._ranks import world
from weakseg.data.dataset import Dataset
from weakseg.data.transforms import build
from weakseg.infer import resolve_device
from weakseg.pipeline.files import strangers_file
from weakseg.pipeline.plan import Planned
from weakseg.pipeline.recipe import Folder
from weakseg.pipeline.run import Options
from weakseg.types import WeaksegError


def rehearse(planned: Sequence[Planned], dataset: Dataset, options: Options) -> None:
    """Try what the steps of one seed need before the first of them works: weights, constants, strangers' files.

    Raises:
        WeaksegError: weights do not fit, a constant is out of range, the device or its precision is not to be had, or a
            folder lacks a file.
    """
    check_precision(resolve_device(options.device), options.precision)
    for p in planned:
        if p.done:
            continue
        if isinstance(p.step.method, Folder):
            _check_files(p)
        elif p.step.learns and p.step.spec.fitted is None:
            with _named(p):
                _build(p, dataset)


def published_rates(planned: Sequence[Planned]) -> str:
    """A sentence about steps that will train a network with the learning rate of another; nothing if there is none.

    A paper's rate goes with its own network: on another one it may be ten times too high or too low. A rate that the
    recipe or ``--set`` has changed is taken for chosen.
    """
    found = [p for p in planned if not p.done and _borrows_its_rate(p)]
    if not found:
        return ""
    steps = "; ".join(
        f"{p.name} trains {p.backbone.name} at {p.step.method.lr:g}, published for {_published(p)}"
        for p in found
        if p.backbone is not None
    )
    return f"learning rates of other networks: {steps}. If its loss does not fall, try --set {found[0].name}.lr=..."


def _borrows_its_rate(planned: Planned) -> bool:
    step = planned.step
    if not step.learns or step.spec.fitted is not None or planned.backbone is None or not hasattr(step.method, "lr"):
        return False
    if _published(planned) in (None, planned.backbone.name):
        return False
    return bool(step.method.lr == methods.load(str(step.spec.method)).lr)


def _published(planned: Planned) -> str | None:
    return methods.published_backbone(str(planned.step.spec.method))


def _build(planned: Planned, dataset: Dataset) -> None:
    method = planned.step.method
    with torch.random.fork_rng([]):
        model = method.build(len(dataset.classes), planned.backbone)
    build(method.augmentation, model.normalise)
    make_plan(method.optimisation, len(planned.fit_ids), world())
    build_optimiser(model, method.optimisation)


@contextmanager
def _named(planned: Planned) -> Iterator[None]:
    """What constants that make no sense raise, as a sentence with the step's name."""
    try:
        yield
    except WeaksegError as error:
        raise WeaksegError(f"step {planned.name}: {error}") from error
    except (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError, LookupError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeaksegError(
            f"step {planned.name} ({planned.step.spec.method}) cannot be set up: {first}; look at its settings and at "
            f"those of its backbone {planned.backbone.name if planned.backbone else ''}"
        ) from error


def _check_files(planned: Planned) -> None:
    missing = [path for id in planned.ids if not (path := strangers_file(planned, id)).is_file()]
    if missing:
        raise WeaksegError(
            f"step {planned.name}: {missing[0]} is missing, and {len(missing) - 1} more; "
            "the folder must hold a file for every listed id, named like its photograph"
        )
