"""Change what a stage of a backbone hands on to the next one, whatever the network looks like inside."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

import torch
from torch import Tensor, nn

from weakseg.models.backbones import FeatureNet
from weakseg.types import WeaksegError

Change = Callable[[Tensor], Tensor]

_REGISTERING = Lock()
"""PyTorch counts its hooks without one, and photographs are scored in several threads at once."""


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


@contextmanager
def changed_stages(changes: Mapping[nn.Module, Change]) -> Iterator[None]:
    """While it lasts, and in this thread alone, a module's output passes through its change before anybody reads it.

    >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> with changed_stages({net[0]: lambda x: x - 2}):
    ...     net(torch.tensor([1.0, 3.0]))
    tensor([0., 1.])
    """
    thread = get_ident()

    def hook(change: Change) -> Callable[..., Tensor | None]:
        return lambda module, inputs, output: change(output) if get_ident() == thread else None

    with _REGISTERING:
        hooks = [module.register_forward_hook(hook(change)) for module, change in changes.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


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
