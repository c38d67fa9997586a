"""Change what a stage of a backbone hands on to the next one, whatever the network looks like inside.

A network is shared by all threads that score photographs, so a forward pass writes nothing into its modules: the hooks
are there from the beginning, and each asks the thread that runs it whether there is a change to make.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weakseg.models.backbones import FeatureNet
from weakseg.types import WeaksegError

Change = Callable[[Tensor], Tensor]

_CHANGES: ContextVar[Mapping[str, Change] | None] = ContextVar("changes", default=None)


def stage_modules(backbone: FeatureNet, size: int = 64) -> tuple[nn.Module, ...]:
    """The module that makes each of the backbone's feature maps, in their order.

    A small image is sent through the network; the outermost module that returned a map is its stage.

    Args:
        backbone: its mode is as before afterwards.
        size: sides of the image, pixels.

    Raises:
        WeaksegError: a map that no module returns as it is.
    """
    made: list[tuple[nn.Module, Any]] = []
    hooks = [m.register_forward_hook(lambda m, _, output: made.append((m, output))) for m in backbone.net.modules()]
    try:
        maps = _probe(backbone, size)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(_maker(made, maps, index) for index in range(len(maps)))


def make_changeable(module: nn.Module, name: str) -> None:
    """Let `changes` reach the output of `module` by `name`; a copy of the network keeps the name."""
    module.register_forward_hook(partial(_changed, name))


@contextmanager
def changes(by_name: Mapping[str, Change]) -> Iterator[None]:
    """While it lasts, and in this thread alone, the output of each named module passes through its change.

    Args:
        by_name: name given to `make_changeable` -> change; modules of other names hand on what they made.

    >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> make_changeable(net[0], "first")
    >>> with changes({"first": lambda x: x - 2}):
    ...     net(torch.tensor([1.0, 3.0]))
    tensor([0., 1.])
    >>> net(torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    before = _CHANGES.set(by_name)
    try:
        yield
    finally:
        _CHANGES.reset(before)


def _changed(name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
    change = (_CHANGES.get() or {}).get(name)
    return None if change is None else change(output)


def _probe(backbone: FeatureNet, size: int) -> list[Tensor]:
    training, parameter = backbone.training, next(backbone.parameters())
    with torch.no_grad():
        maps: list[Tensor] = backbone.eval()(parameter.new_zeros(1, 3, size, size))
    backbone.train(training)
    return maps


def _maker(made: Sequence[tuple[nn.Module, Any]], maps: Sequence[Tensor], index: int) -> nn.Module:
    makers = [module for module, output in made if output is maps[index]]  # in the order of their ends: outermost last
    if not makers:
        raise WeaksegError(f"no module of this backbone returns its feature map {index} as it is: condition the last")
    return makers[-1]
