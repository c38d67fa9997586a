"""Evaluations as steps of a recipe: the only steps, beside `labels.truth`, that see true masks, and by their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.evaluate.conventions import plain
from weakseg.evaluate.coverage import Count, evaluate_coverage
from weakseg.evaluate.health import check_classifier
from weakseg.evaluate.masks import evaluate_masks
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.ops.metrics import tag_map
from weakseg.pipeline.analyses import Boundaries, Confusion, Probes, Saliency, Selection
from weakseg.pipeline.box_evaluations import BoxClasses, Filling, InstanceMasks, UnreliableRegions
from weakseg.pipeline.look import Look, Outcome
from weakseg.types import WeaksegError


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


EVALUATIONS: dict[str, Any] = {
    "masks": Masks(),
    "scores": Scores(),
    "coverage": Coverage(),
    "tags": Tags(),
    "saliency": Saliency(),
    "selection": Selection(),
    "probes": Probes(),
    "boundaries": Boundaries(),
    "confusion": Confusion(),
    "filling": Filling(),
    "unreliable": UnreliableRegions(),
    "box_classes": BoxClasses(),
    "instances": InstanceMasks(),
}
