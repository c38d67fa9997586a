"""Evaluations as steps of a recipe: the only steps, beside `labels.truth`, that see true masks, and by their names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from weakseg.evaluate._threads import each
from weakseg.evaluate.checkpoints import Judged, evaluate_checkpoints, judge_masks, judge_scores
from weakseg.evaluate.conventions import conventions, plain
from weakseg.evaluate.coverage import Count, evaluate_coverage
from weakseg.evaluate.health import Finding, check_classifier
from weakseg.evaluate.masks import evaluate_masks
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.ops.metrics import tag_map
from weakseg.pipeline.analyses import Boundaries, Confusion, Probes, Saliency, Selection
from weakseg.pipeline.box_evaluations import BoxClasses, Filling, InstanceMasks, UnreliableRegions
from weakseg.pipeline.look import Look, Outcome
from weakseg.types import LABELS, Sample, WeaksegError

TRUTH = ", chosen on the truth"
SWEPT = ", at the best threshold" + TRUTH
NOTHING_KEPT = Finding(
    "warning",
    "No network but the last",
    "There was nothing to compare: set keep_epochs or keep_steps of the step that trains.",
)


@dataclass(frozen=True, slots=True)
class Masks:
    """mIoU of label maps, one confusion matrix over the list (methods.md 1.5; defaults are IRN's rule)."""

    ignored_prediction: Literal["miss", "drop", "background", "class"] = "miss"
    absent: Literal["irn", "zero", "skip_truthless"] = "irn"

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the label maps of `seeds`."""
        result = evaluate_masks(
            look.read,
            look.truth,
            look.view.ids,
            look.view.dataset.classes,
            ignored_prediction=self.ignored_prediction,
            absent=self.absent,
            threads=look.threads,
        )
        return Outcome("masks", (("", result["miou"], "mIoU"),), result)


@dataclass(frozen=True, slots=True)
class Scores:
    """mIoU of score maps against a constant background score: at one fixed beforehand, and at the best of a sweep."""

    fixed: float = 0.2
    thresholds: int = 256
    absent: Literal["irn", "zero", "skip_truthless"] = "irn"

    needs: ClassVar[frozenset[str]] = frozenset({"mask", "tags"})
    added: ClassVar[Mapping[str, Any]] = {"absent": "irn"}  # since runs exist, and what stands for "as before"

    def evaluate(self, look: Look) -> Outcome:
        """Judge the score maps of `scores`."""
        result = evaluate_scores(
            look.read,
            look.truth,
            look.view.ids,
            look.view.dataset.classes,
            thresholds=self.thresholds,
            fixed=self.fixed,
            absent=self.absent,
            threads=look.threads,
        )
        rows = (
            (f"at the fixed threshold {self.fixed:.2f}", result["fixed"]["miou"], "mIoU"),
            ("at the best threshold, chosen on the truth", result["best"]["miou"], "mIoU"),
        )
        return Outcome("sweep", rows, result)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Precision and recall of activation: AEFT's ablation (methods.md 9.7); BANA's CAM precision (``count: soft``)."""

    threshold: float = 0.2
    count: Count = "mask"  # "above": of each map by itself; "soft": of the maps' values, without a threshold

    needs: ClassVar[frozenset[str]] = frozenset({"mask", "tags"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the score maps of `scores`."""
        result = evaluate_coverage(
            look.read,
            look.truth,
            look.view.ids,
            look.view.dataset.classes,
            threshold=self.threshold,
            count=self.count,
            threads=look.threads,
        )
        rows = tuple(("", result[name], name) for name in ("precision", "recall"))
        return Outcome("coverage", tuple(row for row in rows if row[1] is not None), result)


@dataclass(frozen=True, slots=True)
class Tags:
    """Mean average precision of a classifier's tags beside chance: near chance it learned nothing."""

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})

    def evaluate(self, look: Look) -> Outcome:
        """Classify the photographs with the network that `model` lends."""
        if look.model is None or not hasattr(look.lender, "classify"):
            raise WeaksegError("evaluate.tags wants `model`: a step whose method can `classify`")
        model, sample = look.model, look.samples()

        def classify(id: str) -> tuple[Tensor, Tensor]:
            seen = sample(id)
            with torch.inference_mode():
                return look.lender.classify(model, seen).float().cpu(), seen.tags

        logits, tags = zip(*(found for _, found in each(classify, look.view.ids, label="tags")), strict=True)
        result = tag_map(torch.stack(logits), torch.stack(tags))
        facts = {"per_class": plain(result.per_class), "mean": result.mean, "chance": result.chance}
        rows = (("", result.mean, "mAP"), ("by chance", result.chance, "mAP"))
        return Outcome("tags", rows, facts, tuple(check_classifier(result, look.view.dataset.classes)))


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The networks that a training kept, told apart by the truth, as AEFT's published run chooses (methods.md 9.8, 12).

    Judges the score maps ``full`` that the network of `model` makes at the best of `thresholds`, or the labels of a
    refiner, which reads the step's `scores`. Nothing is chosen for later steps: `fitted` names what a person takes.
    """

    first: int = 1  # number of the first epoch or step that takes part: AEFT's epoch 17 from 0 is 18, AffinityNet 1591
    thresholds: tuple[float, ...] = tuple(k / 100 for k in range(10, 30))
    absent: Literal["irn", "zero", "skip_truthless"] = "irn"

    needs: ClassVar[frozenset[str]] = frozenset({"mask", "tags"})

    def evaluate(self, look: Look) -> Outcome:
        """Map the list once with each network, and judge it."""
        if look.model is None or not (hasattr(look.lender, "score") or hasattr(look.lender, "refine")):
            raise WeaksegError("evaluate.checkpoints wants `model`: a step that trains and makes score maps or labels")
        ids, count = look.view.ids, len(look.view.dataset.classes) + 1

        def judge(model: nn.Module) -> Judged:
            read = partial(_made, look.lender, model, look.samples())
            if hasattr(look.lender, "score"):
                levels = torch.tensor(sorted(self.thresholds))
                return judge_scores(read, look.truth, ids, count, levels, absent=self.absent, threads=look.threads)
            return judge_masks(read, look.truth, ids, count, absent=self.absent, threads=look.threads)

        kept = {name: load for name, load in look.kept.items() if int(name.partition("-")[2]) >= self.first}
        result = evaluate_checkpoints(judge, kept, look.model)
        result["conventions"] = conventions("miss", self.absent)
        final, best = ("", TRUTH) if result["final"]["threshold"] is None else (SWEPT, SWEPT)
        rows = [("of the final weights" + final, result["final"]["miou"], "mIoU")]
        if kept:
            rows.append((f"of the best of {len(kept)} kept" + best, result["best"]["miou"], "mIoU"))
        return Outcome("checkpoints", tuple(rows), result, () if kept else (NOTHING_KEPT,))


def _made(lender: Any, model: nn.Module, sample: Callable[[str], Sample], id: str) -> Any:
    """The score maps or the labels that `lender` makes of photograph `id`, on the CPU."""
    with torch.inference_mode():  # of this thread: the mode is not inherited
        if hasattr(lender, "score"):
            full = lender.score(model, sample(id))["full"]
            return replace(full, ids=full.ids.cpu(), scores=full.scores.cpu())
        return lender.refine(model, sample(id))[LABELS].cpu()


EVALUATIONS: dict[str, Any] = {
    "masks": Masks(),
    "scores": Scores(),
    "coverage": Coverage(),
    "tags": Tags(),
    "saliency": Saliency(),
    "selection": Selection(),
    "probes": Probes(),
    "checkpoints": Checkpoints(),
    "boundaries": Boundaries(),
    "confusion": Confusion(),
    "filling": Filling(),
    "unreliable": UnreliableRegions(),
    "box_classes": BoxClasses(),
    "instances": InstanceMasks(),
}
