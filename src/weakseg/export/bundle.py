"""A trained network as one safetensors file that needs no run folder: weights, and in its header how to build it.

It predicts what `weakseg predict` predicts with the run, with all scales, mirror images and the CRF. Nothing is
pickled, and nothing that the file says is executed: it names a method that ships with weakseg and its constants::

    network = load_bundle("net.safetensors")
    labels = network.predict(image)  # uint8 (3, H, W) -> uint8 (H, W); k is network.about.classes[k - 1]
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weakseg import methods
from weakseg.data.store import read_metadata, read_tensors, write_tensors
from weakseg.export.place import place_of
from weakseg.pipeline.book import versions
from weakseg.pipeline.networks import About, Network, network_of
from weakseg.pipeline.recipe import configure, constants
from weakseg.pipeline.run import build_fitted
from weakseg.types import LATER, Backbone, WeaksegError

SUFFIX = ".safetensors"
KEY = "weakseg_network"
"""Of the header: everything but the weights, as JSON."""
FORMAT = 1
"""Raised when an older weakseg could not read the file."""


def export_bundle(run: str | Path, out: str | Path, *, seed: int = 0) -> Path:
    """Write the segmentation network of an ended run to ``FILE.safetensors``, whole or not at all.

    Args:
        run: the run's folder.
        out: ``FILE.safetensors``, outside of the run's steps; what is there is replaced.
        seed: which of the run's seeds.

    Returns:
        `out`.

    Raises:
        WeaksegError: another suffix; no ended run, or one without such a network; a method of one's own file, whose
            code a bundle cannot hold; the system refuses to write.
    """
    path = place_of(out, SUFFIX, Path(run))
    write_bundle(path, network_of(Path(run), seed))
    return path


def write_bundle(path: Path, network: Network) -> None:
    """Write `network` as a bundle, atomically; WeaksegError if it is of a method of one's own."""
    if ".py:" in network.about.method:
        raise WeaksegError(
            f"{network.about.method} is a method of your own, whose code a bundle cannot hold: keep the run's folder"
        )
    state = network.model.state_dict()
    write_tensors(path, state, {KEY: json.dumps(_record(network, state), ensure_ascii=False)})


def load_bundle(path: str | Path, device: str = "cpu") -> Network:
    """The network of a file that `export_bundle` wrote, ready to predict.

    Args:
        path: ``FILE.safetensors``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        WeaksegError: the file is missing, damaged, no bundle, of a newer weakseg, or names a method that does not ship.
    """
    path = Path(path)
    record, tensors = _read_record(path), read_tensors(path)
    if _tensors_hash(tensors) != record["tensors_sha256"]:
        raise WeaksegError(
            f"{path} is damaged: its weights are not those it was written with; export the network again"
        )
    about = _about(record["about"], path)
    method = _method(about.method, record["constants"], path)
    return Network(about, method, build_fitted(method, about.backbone, len(about.classes), tensors, path, device))


def is_bundle(path: str | Path) -> bool:
    """Whether `path` is meant as a bundle, not as a run's folder."""
    return Path(path).suffix == SUFFIX and not Path(path).is_dir()


def _record(network: Network, state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "about": asdict(network.about),
        "constants": constants(network.method),
        "tensors_sha256": _tensors_hash(state),
        "written_by": versions(),
    }


def _read_record(path: Path) -> dict[str, Any]:
    text = read_metadata(path).get(KEY)
    if text is None:
        raise WeaksegError(
            f"{path} holds tensors but does not say of which network: `weakseg export RUN --to safetensors` makes "
            "files that do"
        )
    try:
        record: dict[str, Any] = json.loads(text)
        number = int(record["format"])
        lacking = [key for key in ("about", "constants", "tensors_sha256") if key not in record]
        record["constants"] = dict(record.get("constants", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    if number > FORMAT:
        raise WeaksegError(f"{path} is of a newer weakseg (format {number}, this one reads {FORMAT}): update weakseg")
    if lacking:
        raise _damaged(path, KeyError(*lacking))
    return record


def _about(given: Any, path: Path) -> About:
    """The record, with the backbone as it stands in the code: no file and no download is ever read for a bundle."""
    try:
        net = {**given["backbone"], "weights": LATER}
        backbone = Backbone(**{**net, "mean": tuple(net["mean"]), "std": tuple(net["std"])})
        known = {f.name: given[f.name] for f in fields(About)}
        return About(**{**known, "backbone": backbone, "classes": tuple(given["classes"])})
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from None


def _method(name: str, settings: Mapping[str, Any], path: Path) -> Any:
    """The method with the bundle's constants; one that it got later stands for "as before" (`deciding_constants`)."""
    if ".py" in name:  # a file must not choose code to run
        raise WeaksegError(f"{path} names the method {name!r}; a bundle names one that ships with weakseg")
    method = methods.load(name)
    return configure(method, {**getattr(method, "added", {}), **settings}, f"{path} ({name})")


def _tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, error: Exception) -> WeaksegError:
    return WeaksegError(f"{path} is no readable bundle ({type(error).__name__}: {error}); export the network again")
