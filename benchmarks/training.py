"""What the training loop adds to forwards and backwards: every localiser at its paper's crop, loader included.

    python benchmarks/training.py

Photographs of 375x500 are read from JPEG, augmented and trained on by `train.fit`; the time of a step runs from one
call of the objective to the next, so it holds loading, augmentation, optimiser, checks and log. The peer runs the same
objective and backward pass on the very batches, kept in memory. The network is MobileNetV2 at stride 16 and a batch 4
photographs, so that a step fits two cores; with the papers' networks, of 10 to 60 times the work, loading weighs less.
"""

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import materials
import torch
from measuring import arguments, check, row, save
from torch import Tensor, nn

from weakseg._devices import keep_freed_memory
from weakseg.data.dataset import open_dataset
from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.methods import load
from weakseg.train import fit
from weakseg.types import Augmentation, Backbone, Batch, Optimisation, Step

LOCALISERS: dict[str, dict[str, Any]] = {
    "cam.resnet38": {},
    "cam.resnet50": {},
    "eps.voc": {},
    "amn": {},
    "seam": {},
    "aeft.voc": {"epochs": 0, "triplet_epochs": 1, "triplet_batch_size": 4, "cls_subset": 1},  # the phase with triplets
    "bana.bap": {},
}
BATCH = 4


class Watched:
    """A method that notes when each step begins and keeps the batches and losses of the last ones."""

    def __init__(self, method: Any, steps: int) -> None:
        self.method, self.steps = method, steps
        self.starts: list[float] = []
        self.batches: list[tuple[Batch, Step]] = []
        self.losses: list[float] = []

    @property
    def augmentation(self) -> Augmentation:
        return self.method.augmentation

    @property
    def optimisation(self) -> Optimisation:
        """The method's, for `steps` steps at a rate of zero: every step meets the same weights."""
        return dataclasses.replace(
            self.method.optimisation,
            iterations=self.steps,
            batch_size=BATCH,
            phases=(),
            lr=0.0,
            epochs=1,
            schedule="constant",
        )

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> Mapping[str, Tensor]:
        self.starts.append(time.perf_counter())
        losses = self.method.objective(model, batch, step)
        self.batches.append((batch, step))
        self.losses.append(float(sum(loss.detach() for loss in losses.values())))
        return losses


WARM = 4
"""Steps in which memory still grows, of the loop's threads above all: the bare passes come after and find it there."""


def bare(method: Any, model: nn.Module, batch: Batch, step: Step, seed: int) -> tuple[float, float]:
    """Seconds of one forward and backward pass on tensors in memory, and its loss."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    total = torch.stack(list(method.objective(model, batch, step).values())).sum()
    total.backward()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds, float(total.detach())


def overhead(name: str, view: View, backbone: Backbone, steps: int) -> dict[str, Any]:
    """One row: `steps` steps by the loop, the first `WARM` of which do not count, then the same ones bare."""
    changes = LOCALISERS[name] | ({"dropout": 0.0} if hasattr(load(name), "dropout") else {})
    changes |= {"dropouts": (0.0, 0.0)} if hasattr(load(name), "dropouts") else {}
    changes |= {"freeze_bn": False} if backbone.weights is None else {}
    method = dataclasses.replace(load(name), **changes)
    torch.manual_seed(0)
    model = method.build(len(view.dataset.classes), backbone)
    watched = Watched(method, steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        fit(watched, model, view, Path(folder), device="cpu", progress=False, checkpoint_seconds=1e9)  # type: ignore[arg-type]
    loop = [b - a for a, b in zip(watched.starts[:-1], watched.starts[1:], strict=True)]
    model.train()
    alone, differences = [], []
    bare(method, model, *watched.batches[0], seed=0)
    for (batch, step), loss in zip(watched.batches[:-1], watched.losses[:-1], strict=True):
        seconds, again = bare(method, model, batch, step, seed=0)
        alone.append(seconds)
        differences.append(abs(again - loss) / max(1.0, abs(loss)))
    difference = max(differences) if backbone.weights is not None else 0.0  # BatchNorm that learns moves on
    check(f"the losses of {name}", difference, 1e-4)
    ratios = [100 * (a / b - 1) for a, b in zip(loop[WARM:], alone[WARM:], strict=True)]
    return row(
        f"training step of {name}", "% beyond forwards and backwards in memory", 10, ratios, at_least=False,
        crop=method.crop, milliseconds_per_photograph=[
            [round(1e3 * s / BATCH, 1) for s in pair] for pair in zip(loop[WARM:], alone[WARM:], strict=True)
        ],
    )  # fmt: skip


def main() -> None:
    """Measure and write ``training.json``."""
    parser = arguments(__doc__ or "", repeats=15)
    parser.add_argument("--methods", nargs="*", default=list(LOCALISERS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        folder = materials.enlarged(options.photos, Path(place, "data"), 16)
        dataset = open_dataset(folder)
        store = Store(folder, ("SegmentationClass",))  # AMN's seeds: any label maps take as long
        times = 1 + BATCH * (WARM + options.repeats) // 8  # no epoch, and no checkpoint, ends within the run
        ids = dataset.ids * times
        views = {name: View(dataset, ids, need_saliency="saliency" in load(name).needs) for name in options.methods}
        if "amn" in views:
            views["amn"] = dataclasses.replace(views["amn"], seeds={"refined": (store, "SegmentationClass")})
        backbones = {name: materials.mobile_backbone(8 if name == "bana.bap" else 16) for name in views}
        rows = [overhead(name, view, backbones[name], options.repeats + WARM) for name, view in views.items()]
    save("training", rows, options.out)


if __name__ == "__main__":
    main()
