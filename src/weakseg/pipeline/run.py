"""Run one step: fit its network, map it or a refiner over the photographs, evaluate, or adopt a stranger's files.

Under a launcher every process runs this. Training splits each batch, mapping and judging split the photographs; files
of the step as a whole are written by the first process.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weakseg import _ranks, infer, train
from weakseg._devices import cores
from weakseg.data.dataset import Dataset
from weakseg.data.store import write_json, write_tensors
from weakseg.data.view import View
from weakseg.pipeline.files import adopt, link_file, link_tree
from weakseg.pipeline.look import Look
from weakseg.pipeline.plan import Planned, fitted_weights
from weakseg.pipeline.recipe import Folder
from weakseg.types import LATER, Backbone, Outputs, Sample, WeaksegError


@dataclass(frozen=True)
class Options:
    """How to run, as far as it does not change a result.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        workers: loader processes; None = as suits the device (`train.fit`).
        threads: photographs in work at a time on the CPU; 0 = one for each core.
        precision: ``no``, ``fp16`` or ``bf16`` training.
        progress: show bars.
        checkpoint_seconds: time between checkpoints of training.
        tensorboard: write its event files beside the log.
    """

    device: str = "auto"
    workers: int | None = None
    threads: int = 0
    precision: str = "no"
    progress: bool = True
    checkpoint_seconds: float = 60
    tensorboard: bool = False

    @property
    def cores(self) -> int:
        """Threads to use on the CPU."""
        return self.threads or cores()


@dataclass
class Chain:
    """The steps of one seed over one data set.

    Attributes:
        dataset: photographs and cheap labels.
        steps: by name, in order.
        seed: of every random draw.
        options: device, workers, threads.
        say: where a line for the user goes.
    """

    dataset: Dataset
    steps: Mapping[str, Planned]
    seed: int
    options: Options
    say: Callable[[str], None] = print
    models: dict[str, nn.Module] = field(default_factory=dict)

    def view(self, planned: Planned, ids: tuple[str, ...]) -> View:
        """What the step may see of `ids` to learn or to refine."""
        needs, given = frozenset(getattr(planned.step.method, "needs", ())), planned.step.saliency
        return View(
            dataset=self.dataset,
            ids=ids,
            seeds={n: (self.steps[r.step].store, r.key) for n, r in planned.step.seeds.items()},
            scores={n: (self.steps[r.step].store, r.key) for n, r in planned.step.scores.items()},
            optional=frozenset(getattr(planned.step.method, "optional", ())),
            truth="mask" in needs and not planned.step.evaluates,
            need_tags="tags" in needs,
            need_saliency="saliency" in needs,
            saliency=None if given is None else (self.steps[given.step].store, given.key),
        )

    def photographs(self, ids: tuple[str, ...]) -> View:
        """What a segmentation network may see of `ids` to predict: the photographs alone."""
        return View(dataset=self.dataset, ids=ids, need_tags=False, need_saliency=False)

    def model(self, name: str) -> nn.Module:
        """The fitted network of step `name`, on the device, for inference."""
        if name not in self.models:
            self.models.clear()  # one at a time: memory
            planned = self.steps[name]
            self.models[name] = fitted_model(planned, len(self.dataset.classes), self.options.device)
        return self.models[name]


def run_step(chain: Chain, planned: Planned) -> dict[str, Any]:
    """Run one step to its end and return what stands in its ``done.json``."""
    began = time.perf_counter()
    plan = {"parts": planned.parts, "fingerprint": planned.fingerprint}
    _ranks.first(lambda: write_json(planned.folder / "plan.json", plan))
    times: dict[str, Any] = {}
    if isinstance(planned.step.method, Folder):
        adopt(planned, chain.dataset)
    elif planned.step.evaluates:
        _evaluate(chain, planned)
    else:
        if planned.step.learns:
            times["fit"] = _fit(chain, planned)
        times["map"] = _map(chain, planned)
    done = {
        "fingerprint": planned.fingerprint,
        "name": planned.name,
        "method": planned.step.spec.method,
        "photographs": len(planned.ids),
        "seconds": round(time.perf_counter() - began, 3),
        "times": times,
    }
    _ranks.first(lambda: write_json(planned.folder / "done.json", done))
    return done


def fitted_model(planned: Planned, num_classes: int, device: str) -> nn.Module:
    """Build the step's network and load what its training left, ready for inference."""
    if planned.backbone is None:
        raise WeaksegError(f"step {planned.name} trains no network")
    return load_fitted(planned.step.method, planned.backbone, num_classes, planned.folder / "fit", device)


def kept_models(planned: Planned, num_classes: int, device: str) -> dict[str, Callable[[], nn.Module]]:
    """What loads each network that the step's training kept: ``epoch-1`` ..., then ``step-200`` ..., in order."""

    def load(file: Path) -> nn.Module:
        assert planned.backbone is not None  # it lends a network
        return infer.load_model(planned.step.method.build(num_classes, _unloaded(planned.backbone)), file, device)

    files = [f for unit in ("epoch", "step") for f in (planned.folder / "fit").glob(f"{unit}-*.safetensors")]
    return {f.stem: partial(load, f) for f in sorted(files, key=lambda f: (f.stem[:4], int(f.stem.partition("-")[2])))}


def load_fitted(method: Any, backbone: Backbone, num_classes: int, folder: Path, device: str) -> nn.Module:
    """The network that `method` builds, with the weights in `folder`, on `device`, for inference."""
    return infer.load_model(method.build(num_classes, _unloaded(backbone)), fitted_file(folder), device)


def fitted_file(folder: Path) -> Path:
    """The file with the final weights in the ``fit`` folder of a step: after the method's `finish`, if it has one."""
    for name in ("finished.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise WeaksegError(f"{folder} holds no model.safetensors: give the folder that a training left, STEP/fit")


def build_fitted(
    method: Any, backbone: Backbone, num_classes: int, tensors: dict[str, Tensor], source: Path, device: str
) -> nn.Module:
    """The network that `method` builds, with the weights `tensors` of file `source`, on `device`, for inference."""
    return infer.with_weights(method.build(num_classes, _unloaded(backbone)), tensors, source, device)


def _fit(chain: Chain, planned: Planned) -> dict[str, Any]:
    method, options = planned.step.method, chain.options
    fit = planned.folder / "fit"
    if planned.step.spec.fitted is not None:
        fitted, weights = Path(planned.step.spec.fitted), fitted_weights(planned.step.spec.fitted)
        whole = weights != fitted
        _ranks.first(lambda: link_tree(fitted, fit) if whole else link_file(fitted, fit / "model.safetensors"))
        return {"seconds": 0.0, "images_per_second": 0.0}
    with torch.random.fork_rng([]):
        torch.manual_seed(chain.seed)
        model = method.build(len(chain.dataset.classes), planned.backbone)
    summary = train.fit(
        method,
        model,
        chain.view(planned, planned.fit_ids),
        fit,
        seed=chain.seed,
        device=options.device,
        workers=options.workers,
        precision=options.precision,
        progress=options.progress,
        checkpoint_seconds=options.checkpoint_seconds,
        tensorboard=options.tensorboard,
    )
    if hasattr(method, "finish"):
        _ranks.first(lambda: _finish(chain, planned, model, fit / "finished.safetensors"))
    chain.models.clear()
    return {"seconds": round(summary.seconds, 3), "images_per_second": round(summary.images_per_second, 3)}


def _finish(chain: Chain, planned: Planned, model: nn.Module, target: Path) -> None:
    """The method's pass without gradient after training; the network with what it found goes to `target`."""
    if target.is_file():
        return
    model = model.to(infer.resolve_device(chain.options.device)).eval()
    with torch.no_grad():
        planned.step.method.finish(model, chain.view(planned, planned.ids))
    write_tensors(target, {k: v.cpu() for k, v in model.state_dict().items()}, {})


def photographs_at_once(options: Options) -> int:
    """How many a network works on: several on the CPU, at most 4 because each holds a whole network's activations."""
    return min(options.cores, 4) if infer.resolve_device(options.device).type == "cpu" else 1


def _map(chain: Chain, planned: Planned) -> dict[str, Any]:
    method, options, began = planned.step.method, chain.options, time.perf_counter()
    store = planned.store
    left = len(set(planned.ids) - store.done())
    lender = planned.name if planned.step.learns else planned.step.spec.model
    model = chain.model(lender) if lender and left else None
    verb = next(getattr(method, v) for v in ("score", "predict", "refine") if hasattr(method, v))

    def apply(sample: Sample) -> Outputs:
        made = verb(model, sample)
        return made if isinstance(made, Mapping) else {planned.step.writes[0]: made}

    predicts = hasattr(method, "predict")
    infer.map_samples(
        apply,
        chain.photographs(planned.ids) if predicts else chain.view(planned, planned.ids),
        store,
        workers=options.workers,
        threads=options.cores if model is None else photographs_at_once(options),
        device=options.device,
        progress=options.progress,
        label=planned.name,
    )
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 3), "images_per_second": round(left / seconds, 3)}


def _evaluate(chain: Chain, planned: Planned) -> None:
    step, name = planned.step, planned.step.spec.model
    inputs = [*step.scores.values(), *step.seeds.values()]
    outcome = step.method.evaluate(
        Look(
            view=chain.view(planned, planned.ids),
            source=(chain.steps[inputs[0].step].store, inputs[0].key) if inputs else None,
            model=chain.model(name) if name else None,
            lender=chain.steps[name].step.method if name else None,
            device=infer.resolve_device(chain.options.device),
            threads=chain.options.cores,
            kept=kept_models(chain.steps[name], len(chain.dataset.classes), chain.options.device) if name else {},
        )
    )
    content = {
        "kind": outcome.kind,
        "headline": [list(row) for row in outcome.headline],
        "of": f"{inputs[0].step}/{inputs[0].key}" if inputs else name,
        "result": outcome.result,
        "findings": [asdict(f) for f in outcome.findings],
    }
    _ranks.first(lambda: write_json(planned.folder / "result.json", content))


def _unloaded(backbone: Backbone) -> Backbone:
    """The same network before any weights: they come from the run's own file."""
    return Backbone(backbone.name, LATER, backbone.output_stride, backbone.mean, backbone.std, backbone.create)
