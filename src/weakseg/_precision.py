"""Mixed precision that ends at the network's door: inside half precision, outside, in the equations, float32."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weakseg.types import WeaksegError


def check_precision(device: torch.device, precision: str) -> None:
    """Raise WeaksegError if `precision` is not ``no``, ``bf16`` or ``fp16``, or not to be had on `device`."""
    if precision not in ("no", "bf16", "fp16"):
        raise WeaksegError(f'precision "{precision}" is unknown; use no, bf16 or fp16')
    if precision == "fp16" and device.type != "cuda":
        raise WeaksegError("precision fp16 needs a CUDA GPU; use bf16 or no")


@contextmanager
def mixed_forward(model: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """While it lasts, calling `model` computes in half precision and returns float32."""
    forward, dtype = model.forward, torch.bfloat16 if precision == "bf16" else torch.float16

    def mixed(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            made = forward(*args, **kwargs)
        return to_float32(made)

    model.forward = mixed
    try:
        yield
    finally:
        del model.forward


def to_float32(made: Any) -> Any:
    """The same structure of tuples, lists, mappings and dataclasses with floating tensors as float32."""
    if isinstance(made, Tensor):
        return made.float() if made.is_floating_point() else made
    if isinstance(made, tuple) and hasattr(made, "_fields"):
        return type(made)(*map(to_float32, made))
    if isinstance(made, list | tuple):
        return type(made)(map(to_float32, made))
    if isinstance(made, Mapping):
        return {key: to_float32(value) for key, value in made.items()}
    if dataclasses.is_dataclass(made) and not isinstance(made, type):
        return dataclasses.replace(
            made, **{f.name: to_float32(getattr(made, f.name)) for f in dataclasses.fields(made)}
        )
    return made
