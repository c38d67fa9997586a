"""The fitted network that people keep of a run, with all that it takes to predict with it: for `predict` and export."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from weakseg.data.store import read_json
from weakseg.models.weights import file_hash
from weakseg.pipeline.labelling import recipe_of
from weakseg.pipeline.plan import backbone_of
from weakseg.pipeline.recipe import Resolved, resolve
from weakseg.pipeline.run import fitted_file, load_fitted
from weakseg.types import LATER, Backbone, Instances, LabelMap, Sample, WeaksegError


@dataclass(frozen=True, slots=True)
class About:
    """What a fitted network is and where it comes from.

    Attributes:
        method: full name of the segmenter, such as ``deeplab.v3plus``.
        backbone: what it is built on, without weights.
        classes: names of the ids 1..C.
        recipe, step, seed: of the run.
        fingerprint: of the step; it identifies the network.
        weights_sha256: of the file that training left.
        versions: of the packages that trained it.
    """

    method: str
    backbone: Backbone
    classes: tuple[str, ...]
    recipe: str
    step: str
    seed: int
    fingerprint: str
    weights_sha256: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Network:
    """A fitted network, ready to predict.

    Attributes:
        about: what it is.
        method: the configured segmenter.
        model: in inference mode, on its device.
    """

    about: About
    method: Any
    model: nn.Module

    def predict(self, image: Tensor) -> LabelMap | Instances:
        """What `weakseg predict` makes of one photograph: all scales, mirror images and the CRF that the recipe names.

        Args:
            image: uint8 (3, H, W), RGB 0-255.

        Returns:
            uint8 (H, W) on the CPU, 0 = background, k = ``about.classes[k - 1]``; instances from a network of these.

        Raises:
            ValueError: another type or shape.
        """
        device = next(self.model.parameters()).device
        tags = torch.zeros(len(self.about.classes), dtype=torch.bool)
        with torch.inference_mode():
            sample = Sample("image", tv_tensors.Image(image.to(device)), tags)
            found: LabelMap | Instances = self.method.predict(self.model, sample)
        return found.cpu() if isinstance(found, Tensor) else found


def network_of(run: Path, seed: int = 0, device: str = "cpu") -> Network:
    """The segmentation network of an ended run, the step that its recipe calls `predictions`.

    Raises:
        WeaksegError: no run folder; the run has not ended; its recipe trains no such network.
    """
    manifest = manifest_of(run, seed)
    recipe, step = manifest["recipe"]["name"], manifest["recipe"]["predictions"]
    if step is None:
        raise WeaksegError(f"{run} trained no segmentation network: recipe {recipe} ends before it")
    resolved: Resolved = next(s for s in resolve(recipe_of(manifest)) if s.name == step)
    record = next(s for s in manifest["steps"] if s["name"] == step)
    fit, backbone = run / f"seed-{seed}" / record["folder"] / "fit", backbone_of(resolved)
    model = load_fitted(resolved.method, backbone, len(manifest["classes"]), fit, device)
    about = About(
        method=str(resolved.spec.method),
        backbone=replace(backbone, weights=LATER),
        classes=tuple(manifest["classes"]),
        recipe=recipe,
        step=step,
        seed=seed,
        fingerprint=str(record["fingerprint"]),
        weights_sha256=file_hash(fitted_file(fit)),
        versions=manifest.get("versions", {}),
    )
    return Network(about, resolved.method, model)


def manifest_of(run: Path, seed: int = 0) -> dict[str, Any]:
    """What an ended run wrote down about `seed`; WeaksegError if there is no such run or it has not ended."""
    path = run_folder(run) / f"seed-{seed}" / "manifest.json"
    if not path.is_file():
        raise WeaksegError(f"{path} is missing: has the run ended? Start `weakseg run` again with the same command")
    manifest: dict[str, Any] = read_json(path, dict)
    if lacking := [key for key in ("recipe", "classes", "steps") if key not in manifest]:
        raise WeaksegError(f"{path} is no manifest of a run, it lacks {', '.join(lacking)}; start the run again")
    return manifest


def run_folder(run: Path) -> Path:
    """`run` if it holds a run; else WeaksegError."""
    if not any(run.glob("seed-*")):
        raise WeaksegError(f"{run} is no run folder: it holds no seed-0; give the --out of an earlier `weakseg run`")
    return run
