"""What a run would do and about how long it would take: measured here on a few photographs, not guessed."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from weakseg._devices import loader_workers, torch_threads
from weakseg._optimisation import make_plan
from weakseg._ranks import world
from weakseg._words import duration
from weakseg.data.collate import collate, sample_generator
from weakseg.data.dataset import Dataset
from weakseg.data.transforms import build
from weakseg.infer import resolve_device
from weakseg.ops.boxes import box_masks, boxes_of
from weakseg.pipeline.plan import Planned, done_fingerprint
from weakseg.pipeline.run import Options, photographs_at_once
from weakseg.types import BACKGROUND, Batch, MapsOf, Sample, ScoreMap, Step

ROUNDS = 2
"""How often a mapping is timed on as many photographs as it works on at a time."""


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
            needed = state not in ("done", "reused")
            if needed and p.name not in costs:
                costs[p.name] = _seconds(p, {q.name: q for q in planned}, dataset, options)
            seconds = costs[p.name] if needed else 0.0
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


def _seconds(planned: Planned, earlier: Mapping[str, Planned], dataset: Dataset, options: Options) -> float:
    """Seconds of the step: training from one batch, mapping from a few photographs, as many at once as in the run."""
    method = planned.step.method
    verb = next((getattr(method, v) for v in ("score", "predict", "refine") if hasattr(method, v)), None)
    if planned.step.evaluates or verb is None:
        return 0.01 * len(planned.ids)
    device = resolve_device(options.device)
    lender = planned if planned.step.learns else earlier.get(planned.step.spec.model or "")
    seconds, model = 0.0, None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if lender is not None and lender.backbone is not None:
            model = lender.step.method.build(len(dataset.classes), lender.backbone).to(device)
            if planned.step.learns and planned.step.spec.fitted is None:
                seconds += _fitting(planned, model, dataset, device, options)
            model.eval()
        threads = options.cores if model is None else photographs_at_once(options)
        return seconds + _mapping(planned, partial(verb, model), dataset, device, threads)


def _mapping(
    planned: Planned, verb: Callable[[Sample], Any], dataset: Dataset, device: torch.device, threads: int
) -> float:
    """Seconds to read and map all photographs of the step, `threads` of them at a time."""
    truth = "mask" in planned.step.method.needs

    def apply(id: str) -> None:
        sample = _stand_in(planned, dataset.sample(id, truth=truth, need_tags=False))
        with torch.inference_mode():
            verb(replace(sample, image=sample.image.to(device)))

    ids = [id for id, _ in zip(cycle(planned.ids), range((1 + ROUNDS) * threads), strict=False)]
    with torch_threads(max(1, torch.get_num_threads() // threads)), ThreadPoolExecutor(threads) as pool:
        list(pool.map(apply, ids[:threads]))  # warms up
        began = time.perf_counter()
        list(pool.map(apply, ids[threads:]))
        each = (time.perf_counter() - began) / (ROUNDS * threads)
    return each * len(planned.ids) / world()


def _fitting(planned: Planned, model: Any, dataset: Dataset, device: torch.device, options: Options) -> float:
    """Seconds of training, from loading one batch and learning from it after a first time to warm up."""
    method, optimisation = planned.step.method, planned.step.method.optimisation
    transform = build(method.augmentation, model.normalise)
    plan = make_plan(optimisation, len(planned.fit_ids), world())
    size = math.ceil(plan.sizes[0] / world() / optimisation.accumulate)
    began = time.perf_counter()
    samples = [_stand_in(planned, dataset.sample(id, need_tags=False)) for id in planned.fit_ids[:size]]
    items = [transform(s, sample_generator(0, 0, s.id)) for s in samples]
    loading = time.perf_counter() - began
    batch: Batch = collate(items).to(device)
    model.train()
    for _ in range(2):
        began = time.perf_counter()
        loss: Tensor = torch.stack(list(method.objective(model, batch, Step(0, 0, 1)).values())).sum()
        loss.backward()
        once = time.perf_counter() - began
    workers = loader_workers(options.workers, device)  # without any the step waits for the loading, in threads
    each = (max(once, loading / workers) if workers else once + loading / options.cores) / size
    return each * sum(plan.sizes[plan.locate(step)[0]] for step in range(plan.total)) / world()


def _stand_in(planned: Planned, sample: Sample) -> Sample:
    """The sample with invented inputs in the place of earlier steps' outputs: an oval of every tag, or in every box."""
    height, width = sample.size
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    oval: Tensor = (1.2 - (x.square() + y.square()).sqrt()).clamp(0, 1)
    labels = torch.zeros(height, width, dtype=torch.uint8)
    for k, id in enumerate(sample.present.tolist()):
        labels[(oval > 0.6) & (x * k >= 0).expand_as(oval)] = id
    maps = _maps_of(getattr(planned.step.method, "reads", "tags"), sample, oval)
    return replace(
        sample,
        saliency=sample.saliency if planned.step.saliency is None else tv_tensors.Mask(oval[None]),
        seeds={name: tv_tensors.Mask(labels) for name in planned.step.seeds},
        scores=dict.fromkeys(planned.step.scores, maps),
    )


def _maps_of(kind: MapsOf, sample: Sample, oval: Tensor) -> ScoreMap:
    """The oval as the map of every tag, beside what it leaves to background, or of every box."""
    ids, maps = sample.present, oval.expand(len(sample.present), *sample.size).contiguous()
    box: Tensor | None = None
    if kind == "tags":
        return ScoreMap(ids, maps, sample.size)
    if kind == "boxes":
        boxes, labels = boxes_of(sample)
        ids, maps = labels.to(torch.uint8), torch.where(box_masks(boxes, sample.size), oval, 0.0)
        box = torch.arange(-1, len(boxes), dtype=torch.int32)
    with_background = torch.cat([ids.new_tensor([BACKGROUND]), ids])
    return ScoreMap(with_background, torch.cat([1 - oval[None], maps]), sample.size, box)
