"""Checkpoints without pickle: weights, optimiser tensors and where training stood, in one file renamed into place.

The JSON part stands in the header of the safetensors file, so that no kill can leave one without the other.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weakseg.data.store import read_metadata, read_tensors, write_tensors
from weakseg.types import WeaksegError

KEY = "weakseg"
"""The one key of the safetensors header that holds our JSON."""


def save_checkpoint(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write weights, buffers, optimiser state and the JSON-able `state` to `path`, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    write_tensors(path, tensors, {KEY: json.dumps({**state, "optimiser": scalars}, sort_keys=True)})


def load_checkpoint(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put what `save_checkpoint` wrote back into `model` and `optimiser`; return its `state`.

    Raises:
        WeaksegError: if the file is damaged or belongs to another model.
    """
    state = read_state(path)
    tensors = read_tensors(path)
    load_weights_strictly(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, path)
    entries: dict[int, dict[str, Any]] = {}
    kept = {k.removeprefix("optimiser."): v.clone() for k, v in tensors.items() if k.startswith("optimiser.")}
    for key, value in {**kept, **state.pop("optimiser")}.items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    return state


def read_state(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    try:
        state: dict[str, Any] = json.loads(read_metadata(path)[KEY])
        return state
    except (KeyError, json.JSONDecodeError):
        raise WeaksegError(f"{path} is not a checkpoint of weakseg; remove it to train from the start") from None


def load_weights_strictly(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `model`, which must have exactly these names and shapes.

    Raises:
        WeaksegError: naming the first names that are missing, left over or of another shape.
    """
    own = model.state_dict()
    faults = [f"{name} is missing" for name in own if name not in tensors]
    faults += [f"{name} is unknown to the model" for name in tensors if name not in own]
    faults += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeaksegError(
            f"{path} does not fit the model: {'; '.join(faults[:3])}{more}. Build the model as it was trained: the "
            "same method, backbone and number of classes"
        )
    model.load_state_dict(tensors)
