"""What an `Optimisation` says, in PyTorch's terms: how many steps of which batches, which groups, which rate when."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from weakseg.types import Optimisation, WeaksegError

COLD = 1e-3
"""Of the learning rate, at the first step of a warm-up: that of torchvision's detection references."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many optimiser steps, and which batch each of them takes.

    Attributes:
        count: photographs in the list.
        sizes: global batch size of each epoch.
        starts: first optimiser step of each epoch, and the end of the last one.
        total: optimiser steps.
    """

    count: int
    sizes: tuple[int, ...]
    starts: tuple[int, ...]
    total: int

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, batch within that epoch) of an optimiser step, all 0-based."""
        epoch = bisect_right(self.starts, step) - 1
        return epoch, step - self.starts[epoch]

    def horizon(self, optimisation: Optimisation) -> int:
        """T of the schedule, in optimiser steps.

        >>> optimisation = Optimisation(phases=((2, 4), (1, 8)), horizon="first_phase")
        >>> make_plan(optimisation, count=17).horizon(optimisation)  # 4 + 4 + 2 steps are taken
        12
        """
        if optimisation.horizon == "first_phase":
            return len(self.sizes) * (self.count // self.sizes[0])
        return optimisation.horizon or self.total

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` is the last of its epoch, or of all."""
        return step + 1 == self.total or step + 1 in self.starts


def make_plan(optimisation: Optimisation, count: int, processes: int = 1) -> Plan:
    """The steps that `optimisation` makes of a list of `count` photographs.

    A batch larger than the list shrinks to the list; the last short batch of an epoch is dropped. `iterations` cuts the
    epochs short, or repeats the last one until there are enough.

    Raises:
        WeaksegError: if there is nothing to train on or not a photograph for each process.

    >>> make_plan(Optimisation(phases=((2, 4), (1, 2))), count=9)
    Plan(count=9, sizes=(4, 4, 2), starts=(0, 2, 4, 8), total=8)
    """
    phases = optimisation.phases or ((optimisation.epochs, optimisation.batch_size),)
    smallest = min((batch for _, batch in phases), default=0)
    if count == 0:
        raise WeaksegError("there is no photograph to train on: the list is empty; choose another list")
    if smallest < 1 or optimisation.accumulate < 1:
        raise WeaksegError(
            f"batch_size {smallest} with accumulate {optimisation.accumulate} trains nothing; both are at least 1"
        )
    if min(smallest, count) < processes:
        raise WeaksegError(
            f"{processes} processes cannot share batches of {min(smallest, count)} photograph(s); "
            "start fewer processes or use a larger batch_size"
        )
    sizes = [min(batch, count) for epochs, batch in phases for _ in range(epochs)]
    steps = sum(count // size for size in sizes)
    wanted = steps if optimisation.iterations is None else optimisation.iterations
    if not sizes or wanted < 1:
        raise WeaksegError(f"{len(sizes)} epochs and {wanted} iterations train nothing; both are at least 1")
    while steps < wanted:
        sizes.append(sizes[-1])
        steps += count // sizes[-1]
    starts = tuple(accumulate((count // size for size in sizes), initial=0))
    return Plan(count, tuple(sizes), starts, wanted)


def rate(optimisation: Optimisation, step: int, total: int) -> float:
    """What the learning rates are multiplied with at optimiser step `step` (0-based), before that step is taken.

    Poly decay is lr_t = lr_0 (1 - t/T)^power (methods.md 1.2); beyond its horizon the rate is zero. T is the horizon
    where that is a number, else `total`, for which the loop gives `Plan.horizon`. A warm-up multiplies what the
    schedule says with a factor that rises from `COLD` to 1, torch's LinearLR chained to it.

    >>> [round(rate(Optimisation(power=2.0, interval=2), t, total=4), 4) for t in range(4)]
    [1.0, 1.0, 0.25, 0.25]
    >>> o = Optimisation(schedule="step", milestones=(2, 3), gamma=0.1)
    >>> [round(rate(o, t, total=4), 4) for t in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    >>> [round(rate(Optimisation(schedule="constant", warmup=2), t, total=4), 4) for t in range(4)]
    [0.001, 0.5005, 1.0, 1.0]
    """
    t = step - step % optimisation.interval
    factor = _scheduled(optimisation, t, total)
    return factor if t >= optimisation.warmup else factor * (COLD + (1 - COLD) * t / optimisation.warmup)


def _scheduled(optimisation: Optimisation, t: int, total: int) -> float:
    """What the schedule alone says at step `t`."""
    if optimisation.schedule == "poly":
        horizon = optimisation.horizon if isinstance(optimisation.horizon, int) else total
        return float(max(0.0, 1 - t / horizon) ** optimisation.power)
    if optimisation.schedule == "step":
        return optimisation.gamma ** sum(milestone <= t for milestone in optimisation.milestones)
    if optimisation.schedule == "constant":
        return 1.0
    raise WeaksegError(f'schedule "{optimisation.schedule}" is unknown; use poly, step or constant')


def parameter_groups(model: nn.Module, optimisation: Optimisation) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate: pre-trained and new ones, and the biases of each apart if they differ.

    With `bias_factor` these are the PSA family's four groups (methods.md 1.2); empty ones are left out. Each group has
    ``lr`` and keeps it as ``initial_lr``.

    Raises:
        WeaksegError: if nothing in the model can be trained.
    """
    new = {id(p) for p in getattr(model, "new_parameters", list)()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_new = id(parameter) in new
        is_bias = optimisation.bias_factor is not None and name.rpartition(".")[2] == "bias"
        lr = optimisation.lr * (optimisation.new_factor if is_new else 1.0)
        if is_bias and optimisation.bias_factor is not None:
            lr *= optimisation.bias_factor
        group = {
            "params": [],
            "lr": lr,
            "initial_lr": lr,
            "weight_decay": 0.0 if is_bias else optimisation.weight_decay,
        }
        groups.setdefault((is_new, is_bias), group)["params"].append(parameter)
    if not groups:
        raise WeaksegError("the model has no trainable parameter; unfreeze a part of it")
    return [groups[key] for key in sorted(groups)]


def build_optimiser(model: nn.Module, optimisation: Optimisation) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over `parameter_groups`."""
    groups = parameter_groups(model, optimisation)
    if optimisation.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=optimisation.lr, momentum=optimisation.momentum)
    if optimisation.optimiser == "adam":
        return torch.optim.Adam(groups, lr=optimisation.lr)
    if optimisation.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=optimisation.lr)
    raise WeaksegError(f'optimiser "{optimisation.optimiser}" is unknown; use sgd, adam or adamw')
