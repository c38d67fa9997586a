"""Where weights come from: files, their descriptions and hashes, and the check that every tensor finds its place."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from weakseg.types import Backbone, WeaksegError

_DESCRIPTION_KEYS = ("name", "mean", "std")


def backbone_from_file(path: str | Path, output_stride: int = 16, name: str | None = None) -> Backbone:
    """The `Backbone` that a weights file describes in the ``FILE.json`` beside it.

    Args:
        path: a safetensors or .pth file. ``FILE.json`` holds ``name`` (a timm or weakseg name), ``mean``, ``std`` (RGB,
            of the image scaled to 0-1) and, if needed, ``create`` (further arguments of timm's ``create_model``).
        output_stride: input pixels a feature pixel.
        name: the network that is wanted; None = whatever the file holds.

    Raises:
        WeaksegError: if a file is missing or damaged, or holds another network than `name`.
    """
    path = Path(path)
    about = _description(path)
    if name is not None and about["name"] != name:
        raise WeaksegError(
            f"{path} holds weights of {about['name']!r}, the recipe's backbone is {name!r}: "
            f"give the weights of {name!r}, or set the backbone to {about['name']!r}"
        )
    return Backbone(
        name=about["name"],
        weights=str(path),
        output_stride=output_stride,
        mean=about["mean"],
        std=about["std"],
        create=about.get("create", {}),
    )


def check_description(backbone: Backbone) -> None:
    """Stop if the file's description disagrees with `backbone`; a wrong mean or padding costs many points in silence.

    Raises:
        WeaksegError: another network, mean, std or creation option than ``FILE.json`` says.
    """
    described = backbone_from_file(str(backbone.weights), backbone.output_stride, backbone.name)
    for key in ("mean", "std"):
        if tuple(getattr(backbone, key)) != tuple(getattr(described, key)):
            raise WeaksegError(
                f"{backbone.weights} was trained with {key} {getattr(described, key)}, the backbone says "
                f"{getattr(backbone, key)}: build it with backbone_from_file, or correct the JSON beside the file"
            )
    wrong = {k: v for k, v in described.create.items() if backbone.create.get(k) != v}
    if wrong:
        raise WeaksegError(
            f"{backbone.weights} needs the creation options {dict(described.create)}, the backbone has "
            f"{dict(backbone.create)}: build it with backbone_from_file, or correct the JSON beside the file"
        )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors or a .pth file (read with ``weights_only``: nothing in it is executed).

    A .pth file may wrap them under ``state_dict`` or ``model``.

    Raises:
        WeaksegError: if the file is missing, damaged, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeaksegError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever safetensors, zipfile or pickle meet first
        raise WeaksegError(_unreadable(path, error)) from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeaksegError(f"{path} holds no table of named tensors: save `model.state_dict()`")
    return dict(state)


def load_weights(model: nn.Module, path: str | Path, *, unused: Iterable[str] = ()) -> None:
    """Fill `model` from a file, in the model's own precision; every key must find its place.

    Args:
        model: parameters and buffers are overwritten.
        path: see `read_weights`.
        unused: names that the file may hold although `model` has no place for them (a classifier).

    Raises:
        WeaksegError: missing or unexpected names, or other shapes; with counts and examples.
    """
    load_state(model, read_weights(path), str(path), unused=unused)


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str, *, unused: Iterable[str] = ()) -> None:
    """`load_weights` from tensors in memory; `source` names them in an error.

    Names are compared with ``_`` for ``.``: timm's feature extractors call ``stem.0.weight`` ``stem_0.weight``.
    """
    own = {_plain(name): name for name in model.state_dict()}
    given = {_plain(name): name for name in state}
    spare = {_plain(name) for name in unused}
    missing = [n for k, n in own.items() if k not in given and not n.endswith("num_batches_tracked")]
    unexpected = [n for k, n in given.items() if k not in own and k not in spare]
    if missing or unexpected:
        raise WeaksegError(
            f"{source} does not fit this network: {_some(missing)} missing, {_some(unexpected)} unexpected; "
            "give weights of the same network, under its own parameter names"
        )
    target = model.state_dict()
    chosen = {own[k]: state[n] for k, n in given.items() if k in own}
    pairs = [(n, tuple(v.shape), tuple(target[n].shape)) for n, v in chosen.items()]
    reshaped = [f"{n} {came} for {wanted}" for n, came, wanted in pairs if came != wanted]
    if reshaped:
        raise WeaksegError(f"{source} does not fit this network: {_some(reshaped)} of another shape")
    model.load_state_dict({n: v.to(target[n].dtype) for n, v in chosen.items()}, strict=False)


def file_hash(path: str | Path) -> str:
    """sha256 of a file, hexadecimal: the identity of weights in a manifest.

    Raises:
        WeaksegError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeaksegError(f"cannot read {path}: {error.strerror}") from None


def _description(path: Path) -> dict[str, Any]:
    """The checked content of ``FILE.json``."""
    if not path.is_file():
        raise WeaksegError(f"there is no weights file {path}")
    beside = path.with_name(path.name + ".json")
    example = '{"name": "resnet50", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "create": {}}'
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeaksegError(f"{beside} is missing: write what the network was trained with, such as {example}") from None
    except (OSError, ValueError) as error:
        raise WeaksegError(f"{beside} is not readable JSON ({error}); it should look like {example}") from None
    if not isinstance(about, dict) or any(key not in about for key in _DESCRIPTION_KEYS):
        raise WeaksegError(f"{beside} must name {', '.join(_DESCRIPTION_KEYS)}, such as {example}")
    if not isinstance(about["name"], str) or not isinstance(about.get("create", {}), dict):
        raise WeaksegError(f"{beside}: name is a text and create a table, such as {example}")
    for key in ("mean", "std"):
        value = about[key]
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
            raise WeaksegError(f"{beside}: {key} is three numbers (RGB, of the image scaled to 0-1); got {value!r}")
        about[key] = tuple(float(v) for v in value)
    return about


def _plain(name: str) -> str:
    return name.replace("_", ".")


def _some(names: list[str]) -> str:
    """``3 (a, b, ...)``."""
    examples = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} ({examples})" if names else "0"


def _unreadable(path: Path, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{path} is not readable weights ({reason[:160]}): give a safetensors file, or a .pth of plain tensors"
