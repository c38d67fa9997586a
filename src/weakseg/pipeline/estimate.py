"""What a run would do and about how long it would take: measured here on a photograph or two, not guessed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from weakseg._optimisation import make_plan
from weakseg._words import duration
from weakseg.data.collate import collate, sample_generator
from weakseg.data.dataset import Dataset
from weakseg.data.transforms import build
from weakseg.infer import resolve_device
from weakseg.pipeline.plan import Planned, done_fingerprint
from weakseg.pipeline.run import Options
from weakseg.types import Batch, Sample, ScoreMap, Step

PROBES = 2
"""Photographs a mapping is timed on."""


def estimate(
    plans: Mapping[int, Sequence[Planned]], dataset: Dataset, runs: Sequence[Path], options: Options
) -> dict[str, Any]:
    """The steps of every seed with their state and estimated seconds; writes nothing.

    Returns:
        ``steps``: seed, name, method, state (``done``, ``reused``, ``other configuration``, ``half done``, ``to do``),
        work, seconds, time; ``seconds`` and ``time`` of all that is to do.
    """
    costs: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for seed, planned in plans.items():
        for p in planned:
            state = _state(p, runs)
            if p.name not in costs:
                costs[p.name] = _seconds(p, dataset, options)
            seconds = 0.0 if state in ("done", "reused") else costs[p.name]
            work = f"{len(p.fit_ids)} to learn from, " if p.fit_ids else ""
            rows.append(
                {
                    "seed": seed,
                    "name": p.name,
                    "method": p.step.spec.method or "folder",
                    "state": state,
                    "work": f"{work}{len(p.ids)} photographs",
                    "seconds": round(seconds, 1),
                    "time": duration(seconds),
                }
            )
    total = sum(row["seconds"] for row in rows)
    return {"steps": rows, "seconds": total, "time": duration(total)}


def _state(planned: Planned, runs: Sequence[Path]) -> str:
    if planned.done:
        return "done"
    matches = (f.parent for run in runs for f in run.glob("seed-*/steps/*/done.json"))
    if planned.fingerprint in {done_fingerprint(folder) for folder in matches}:
        return "reused"
    return "half done" if (planned.folder / "plan.json").is_file() else "to do"


def _seconds(planned: Planned, dataset: Dataset, options: Options) -> float:
    method = planned.step.method
    if planned.step.evaluates or not any(hasattr(method, v) for v in ("score", "refine", "predict")):
        return 0.01 * len(planned.ids)
    device = resolve_device(options.device)
    model, seconds = None, 0.0
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if planned.backbone is not None:
            model = method.build(len(dataset.classes), planned.backbone).to(device)
            seconds += _fitting(planned, model, dataset, device)
            model.eval()
        elif planned.step.spec.model is not None:
            return 0.3 * len(planned.ids)  # borrows a network that is not there yet
        verb = next(getattr(method, v) for v in ("score", "predict", "refine") if hasattr(method, v))
        ids = planned.ids[: PROBES + 1]
        began = time.perf_counter()
        for k, id in enumerate(ids):
            if k == 1:  # the first one warms up
                began = time.perf_counter()
            with torch.inference_mode():
                verb(model, _stand_in(planned, dataset.sample(id, truth="mask" in method.needs, need_tags=False)))
        each = (time.perf_counter() - began) / max(1, len(ids) - 1)
    return seconds + each * len(planned.ids) / (1 if model is not None else options.cores)


def _fitting(planned: Planned, model: Any, dataset: Dataset, device: torch.device) -> float:
    """Seconds of training, from one step on one batch after a first one to warm up."""
    method, optimisation = planned.step.method, planned.step.method.optimisation
    transform = build(method.augmentation, model.normalise)
    size = min(optimisation.batch_size, len(planned.fit_ids))
    samples = [_stand_in(planned, dataset.sample(id, need_tags=False)) for id in planned.fit_ids[:size]]
    batch: Batch = collate([transform(s, sample_generator(0, 0, s.id)) for s in samples]).to(device)
    model.train()
    for _ in range(2):
        began = time.perf_counter()
        loss: Tensor = torch.stack(list(method.objective(model, batch, Step(0, 0, 1)).values())).sum()
        loss.backward()
        once = time.perf_counter() - began
    return once * make_plan(optimisation, len(planned.fit_ids)).total


def _stand_in(planned: Planned, sample: Sample) -> Sample:
    """The sample with invented inputs in the place of earlier steps' outputs: an oval of every tag."""
    height, width = sample.size
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    oval: Tensor = (1.2 - (x.square() + y.square()).sqrt()).clamp(0, 1)
    labels = torch.zeros(height, width, dtype=torch.uint8)
    for k, id in enumerate(sample.present.tolist()):
        labels[(oval > 0.6) & (x * k >= 0).expand_as(oval)] = id
    maps = ScoreMap(sample.present, oval.expand(len(sample.present), height, width).contiguous(), sample.size)
    return replace(
        sample,
        saliency=sample.saliency if planned.step.saliency is None else tv_tensors.Mask(oval[None]),
        seeds={name: tv_tensors.Mask(labels) for name in planned.step.seeds},
        scores=dict.fromkeys(planned.step.scores, maps),
    )
