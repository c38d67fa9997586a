"""The loop: fit the network of any `Learner` on what its step may see, on one device or many processes.

A method says what to minimise (`objective`), how to augment and how to optimise; everything else is here: batches,
schedule, several processes and mixed precision (accelerate), the log, and checkpoints from which a killed run goes on
to the same bytes. For that, nothing random depends on global state: the order of an epoch derives from (seed, epoch),
the augmentation of a sample from (seed, epoch, id), dropout from (seed, step).
"""

import dataclasses
import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from weakseg._batches import MicroBatches, derive, load_batches
from weakseg._checkpoint import load_checkpoint, load_weights_strictly, read_state, save_checkpoint
from weakseg._devices import keep_freed_memory, loader_workers, processes, resolve_device
from weakseg._journal import Journal, Standing
from weakseg._optimisation import Plan, build_optimiser, make_plan, rate
from weakseg._precision import check_precision, mixed_forward
from weakseg.data.collate import collate, sample_generator
from weakseg.data.store import read_json, read_tensors, write_json, write_tensors
from weakseg.data.transforms import Transform, build
from weakseg.data.view import View
from weakseg.progress import track
from weakseg.types import Batch, Learner, Sample, Step, WeaksegError, deciding_constants

__all__ = ["FitSummary", "fit", "resolve_device"]

MAX_SKIPPED = 20
"""Steps in a row that fp16 may skip while it looks for a loss scale."""


@dataclasses.dataclass(frozen=True, slots=True)
class FitSummary:
    """What a training run did.

    Attributes:
        steps, epochs: optimiser steps and begun epochs, those before an interruption included.
        seconds: of training, all sessions together.
        losses_first, losses_last: mean of each loss over the first and the last lines' worth of steps of the log.
        images_per_second: photographs trained on, by the second, over all processes.
    """

    steps: int
    epochs: int
    seconds: float
    losses_first: Mapping[str, float]
    losses_last: Mapping[str, float]
    images_per_second: float


def fit(
    method: Learner,
    model: nn.Module,
    view: View,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    precision: str = "no",
    progress: bool = True,
    checkpoint_seconds: float = 60,
    tensorboard: bool = False,
) -> FitSummary:
    """Train `model` by `method` and leave it in inference mode on the device, its weights in ``out/model.safetensors``.

    A folder that has ``model.safetensors`` is done: its weights are loaded. One that has a checkpoint is continued, and
    on the CPU ends with the same bytes as if it had never stopped. ``log.jsonl`` has a line every few steps.

    The global batch is split over the processes of the launcher, and over `accumulate` parts; gradients are means over
    the photographs of the whole batch. (A loss that divides by something else, such as labelled pixels, does so within
    each part; BatchNorm that learns its statistics does too.)

    Args:
        method: what to minimise and how.
        model: the network that ``method.build`` made; for a repeatable run build it under a fixed seed.
        view: the photographs to train on, with what the step may see.
        out: folder of this training run; made if missing.
        seed: of everything random.
        device: see `resolve_device`.
        workers: processes that prepare batches ahead; results do not depend on it. None: none on the CPU, where they
            would take the network's cores, and as many as there are cores (at most 8) beside a GPU.
        precision: ``no`` (float32), ``bf16`` or ``fp16`` for the network's forward pass; losses are float32 always.
        progress: show a bar on a terminal, a line every half minute elsewhere.
        checkpoint_seconds: at most so much work is lost when the run is killed; every epoch's end is kept as well.
        tensorboard: write the log for TensorBoard as well (the extra ``weakseg[tensorboard]``).

    Raises:
        WeaksegError: if a loss or a gradient is no longer finite, if nothing can be trained, if memory does not
            suffice, or if the checkpoint in `out` belongs to another configuration.
    """
    out, final = Path(out), Path(out) / "model.safetensors"
    torch_device = resolve_device(device)
    if final.is_file():
        load_weights_strictly(model, read_tensors(final), final)
        model.to(torch_device).eval()
        return FitSummary(**read_json(out / "fit.json"))
    out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    gpus = [torch_device] if torch_device.type == "cuda" else []
    with torch.random.fork_rng(gpus), _readable_errors():
        loop = _Loop(method, model, view, out, seed, torch_device, precision)
        try:
            loop.run(loader_workers(workers, torch_device), progress, checkpoint_seconds, tensorboard)
        finally:
            loop.close()
    return loop.finish()


class _Objective(nn.Module):
    """Network and equations as one module: all that DDP sees, so that no gradient goes around it."""

    def __init__(self, method: Learner, network: nn.Module) -> None:
        super().__init__()
        self.method, self.network = method, network

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Losses by name, float32. Half precision ends at the network's door (`mixed_forward`)."""
        with torch.autocast(batch.images.device.type, enabled=False):
            losses = self.method.objective(self.network, batch, step)
        return {name: loss.float() for name, loss in losses.items()}


class _Loop:
    """One training run: what it was told, and where it stands."""

    def __init__(
        self, method: Learner, model: nn.Module, view: View, out: Path, seed: int, device: torch.device, precision: str
    ) -> None:
        self.optimisation = method.optimisation
        self.method, self.model, self.view, self.out, self.seed = method, model, view, out, seed
        self.device = device
        self.plan: Plan = make_plan(self.optimisation, len(view), processes(device).num_processes)
        self.accelerator = _accelerator(device, precision)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        model.to(device)
        optimiser = build_optimiser(model, self.optimisation)
        self.plain_optimiser = optimiser
        self.standing = Standing()
        self.configuration = _configuration(method, view, seed, precision)
        self.checkpoint = out / "checkpoint.safetensors"
        if self.checkpoint.is_file():
            self._restore()
        self.mixed = mixed_forward(model, device, precision) if precision != "no" else nullcontext()
        self.mixed.__enter__()
        self.objective, self.optimiser = self.accelerator.prepare(_Objective(method, model), optimiser)
        self.skipped = 0

    def run(self, workers: int, progress: bool, checkpoint_seconds: float, tensorboard: bool) -> None:
        """Take every step that is left."""
        start = self.standing.step
        sampler = MicroBatches(self.plan, self.seed, start, self.rank, self.world, self.optimisation.accumulate)
        normalise: Any = self.model.normalise  # every network of ours has one (models.backbones)
        augment = _Augment(build(self.method.augmentation, normalise), self.seed)
        self.objective.train()
        saved = time.monotonic()
        with (
            closing(load_batches(self.view, augment, collate, sampler, workers)) as batches,
            Journal(self.out, self.standing, self.plan.total, tensorboard, self.main) as journal,
            track(self.plan.total, "train", done=start, show=progress and self.main) as advance,
        ):
            horizon = self.plan.horizon(self.optimisation)
            for index in range(start, self.plan.total):
                epoch, _ = self.plan.locate(index)
                factor = rate(self.optimisation, index, horizon)
                losses = self._step(Step(index, epoch, self.plan.total), factor, batches, sampler.per_step(index))
                journal.record(losses, epoch, self.optimisation.lr * factor, self.plan.sizes[epoch])
                advance(1, note=f"loss {sum(losses.values()):.3f}")
                ends = self.plan.ends_epoch(index)
                if self.main:
                    self._keep(index, epoch, ends)
                if self.main and (ends or time.monotonic() - saved >= checkpoint_seconds):
                    self._save()
                    saved = time.monotonic()

    def finish(self) -> FitSummary:
        """Write the weights, last of all, and sum up."""
        self.model.eval()
        standing = self.standing
        summary = FitSummary(
            steps=standing.step,
            epochs=self.plan.locate(standing.step - 1)[0] + 1,
            seconds=round(standing.seconds, 3),
            losses_first=standing.first,
            losses_last=standing.last,
            images_per_second=round(standing.images / max(standing.seconds, 1e-9), 3),
        )
        if self.main:
            write_json(self.out / "fit.json", dataclasses.asdict(summary))
            write_tensors(self.out / "model.safetensors", self.model.state_dict())
            self.checkpoint.unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        return summary

    def close(self) -> None:
        """Give the model back as it was: its own forward, no gradients, no wrapper."""
        self.mixed.__exit__(None, None, None)
        self.model.zero_grad(set_to_none=True)
        self.accelerator.free_memory()

    def _step(self, step: Step, factor: float, batches: Iterator[Batch], count: int) -> dict[str, float]:
        """One optimiser step over `count` micro-batches; return the losses' means over the global batch."""
        for group in self.plain_optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        torch.manual_seed(derive(self.seed, "step", step.index, self.rank))
        self.optimiser.zero_grad()
        sums: dict[str, Tensor] = {}
        for k in range(count):
            batch = next(batches).to(self.device)
            # DDP averages over processes, a loss over its own part; so weighted, all is a mean over photographs.
            weight = len(batch) * self.world / self.plan.sizes[step.epoch]
            with nullcontext() if k == count - 1 else self.accelerator.no_sync(self.objective):
                losses = self.objective(batch, step)
                self.accelerator.backward(torch.stack(list(losses.values())).sum() * weight)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.detach() * weight
        values = self._checked(sums, step, factor)
        self.optimiser.step()
        self._count_skipped(step)
        return values

    def _checked(self, sums: dict[str, Tensor], step: Step, factor: float) -> dict[str, float]:
        """The losses as numbers; raise if one of them, or a gradient, is not finite. One wait for the device a step."""
        means = self.accelerator.reduce(torch.stack(list(sums.values())), "mean")
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        scaled = self.accelerator.scaler is not None  # then an overflow is normal, and skipped
        largest = means.new_zeros(1) if scaled or not gradients else _largest(gradients)
        *values, gradient = torch.cat([means, largest]).tolist()
        for name, value in [*zip(sums, values, strict=True), (_GRADIENT, gradient)]:
            if not math.isfinite(value):
                what = f"the gradient of {self._worst()}" if name is _GRADIENT else f'the loss "{name}"'
                raise WeaksegError(
                    f"{what} became {value} at step {step.index} (epoch {step.epoch}, learning rate "
                    f"{self.optimisation.lr * factor:.3g}). Most often the learning rate is too high: try a tenth of it"
                    + (", or precision bf16 instead of fp16" if scaled else "")
                    + ". Weights before this step stay as the last checkpoint left them"
                )
        return dict(zip(sums, values, strict=True))

    def _worst(self) -> str:
        """Name of the first parameter whose gradient is not finite."""
        named = ((n, p.grad) for n, p in self.model.named_parameters() if p.grad is not None)
        return next((name for name, gradient in named if not bool(gradient.isfinite().all())), "a parameter")

    def _count_skipped(self, step: Step) -> None:
        """Raise when fp16 finds no loss scale that keeps the gradients finite."""
        self.skipped = self.skipped + 1 if self.optimiser.step_was_skipped else 0
        if self.skipped >= MAX_SKIPPED:
            raise WeaksegError(
                f"fp16 gradients overflowed in {self.skipped} steps in a row up to step {step.index}; "
                "use precision bf16 or no, or a lower learning rate"
            )

    def _keep(self, index: int, epoch: int, ends: bool) -> None:
        """The weights after step `index` under the names by which `keep_epochs` and `keep_steps` want them."""
        asked, names = self.optimisation, []
        if ends and asked.keep_epochs:
            names.append(f"epoch-{epoch + 1}")
        if asked.keep_steps and (index + 1) % asked.keep_steps == 0:
            names.append(f"step-{index + 1}")
        for name in names:
            write_tensors(self.out / f"{name}.safetensors", self.model.state_dict())

    def _save(self) -> None:
        scaler = self.accelerator.scaler
        state = {
            "standing": dataclasses.asdict(self.standing),
            "configuration": self.configuration,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        save_checkpoint(self.checkpoint, self.model, self.plain_optimiser, state)

    def _restore(self) -> None:
        old = read_state(self.checkpoint).get("configuration", {})
        changed = sorted(k for k in {*old, *self.configuration} if old.get(k) != self.configuration.get(k))
        if changed:
            raise WeaksegError(
                f"{self.checkpoint} was begun with another configuration ({', '.join(changed)} changed); "
                "restore these, or remove the file to train from the start"
            )
        state = load_checkpoint(self.checkpoint, self.model, self.plain_optimiser)
        self.standing = Standing(**state["standing"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


_GRADIENT = "(gradient)"


class _Augment:
    """(sample, epoch) -> augmented tensors, every draw from (seed, epoch, id)."""

    def __init__(self, transform: Transform, seed: int) -> None:
        self.transform, self.seed = transform, seed

    def __call__(self, sample: Sample, epoch: int) -> dict[str, Any]:
        made: dict[str, Any] = self.transform(sample, sample_generator(self.seed, epoch, sample.id))
        return made


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """accelerate for this run. Its state outlives a run, and a later run may want another precision."""
    check_precision(device, precision)
    AcceleratorState._reset_state()
    # Losses may leave a parameter unused in some steps (a class that is absent, a term that has not begun).
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision, kwargs_handlers=[ddp])


def _configuration(method: Learner, view: View, seed: int, precision: str) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that continues it."""
    both = {
        "method": type(method).__qualname__,
        **deciding_constants(method),
        **{f"optimisation.{k}": v for k, v in deciding_constants(method.optimisation).items()},
        "seed": seed,
        "precision": precision,
        "ids": hashlib.sha256("\n".join(view.ids).encode()).hexdigest(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(both, default=str))
    return plain


def _largest(gradients: list[Tensor]) -> Tensor:
    """float32 (1,), the largest absolute entry; nan or inf if there is one."""
    return torch.nn.utils.get_total_norm(gradients, norm_type=float("inf")).float().reshape(1)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Out of memory as a sentence; silence about unused parameters that are not unused."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise WeaksegError(
                "the device's memory does not hold a batch; lower batch_size, or set accumulate to 2 or more "
                f"(the same gradients from smaller parts). {str(error).splitlines()[0]}"
            ) from error
