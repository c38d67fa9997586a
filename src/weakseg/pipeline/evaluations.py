"""Evaluations as steps of a recipe: the only steps, beside `labels.truth`, that see true masks, and by their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.evaluate.conventions import plain
from weakseg.evaluate.health import Finding, check_classifier
from weakseg.evaluate.masks import evaluate_masks
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.ops.metrics import tag_map
from weakseg.types import WeaksegError


@dataclass(frozen=True)
class Look:
    """What an evaluation may look at.

    Attributes:
        view: the photographs of its list, with truth if it needs `mask`.
        source: (store, key) of the maps or masks it judges, or None.
        model, lender: the fitted network that the step's `model` lends, and its method; or None.
        device: where the network stands.
        threads: for counting pixels.
    """

    view: View
    source: tuple[Store, str] | None
    model: nn.Module | None
    lender: Any
    device: torch.device
    threads: int = 1

    def read(self, id: str) -> Any:
        """The map or mask under judgement."""
        if self.source is None:
            raise WeaksegError("this evaluation wants `scores` or `seeds` in its step")
        store, key = self.source
        return store.read(id, key)

    def truth(self, id: str) -> Any:
        """The true mask of `id`, or None."""
        return self.view.dataset.truth(id)


@dataclass(frozen=True)
class Outcome:
    """Numbers of an evaluation: rows (name, value, unit) of the headline table, the whole result, and findings."""

    kind: str
    headline: tuple[tuple[str, float, str], ...]
    result: Mapping[str, Any]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Masks:
    """mIoU of label maps, one confusion matrix over the list (methods.md 1.5; defaults are IRN's rule)."""

    ignored_prediction: Literal["miss", "drop", "background"] = "miss"
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

    needs: ClassVar[frozenset[str]] = frozenset({"mask", "tags"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the score maps of `scores`."""
        result = evaluate_scores(
            look.read,
            look.truth,
            look.view.ids,
            look.view.dataset.classes,
            thresholds=self.thresholds,
            fixed=self.fixed,
            threads=look.threads,
        )
        rows = (
            (f"at the fixed threshold {self.fixed:.2f}", result["fixed"]["miou"], "mIoU"),
            ("at the best threshold, chosen on the truth", result["best"]["miou"], "mIoU"),
        )
        return Outcome("sweep", rows, result)


@dataclass(frozen=True, slots=True)
class Tags:
    """Mean average precision of a classifier's tags beside chance: near chance it learned nothing."""

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})

    def evaluate(self, look: Look) -> Outcome:
        """Classify the photographs with the network that `model` lends."""
        if look.model is None or not hasattr(look.lender, "classify"):
            raise WeaksegError("evaluate.tags wants `model`: a step whose method can `classify`")
        logits, tags = [], []
        with torch.inference_mode():
            for sample in look.view:
                logits.append(look.lender.classify(look.model, sample).float().cpu())
                tags.append(sample.tags)
        result = tag_map(torch.stack(logits), torch.stack(tags))
        facts = {"per_class": plain(result.per_class), "mean": result.mean, "chance": result.chance}
        rows = (("", result.mean, "mAP"), ("by chance", result.chance, "mAP"))
        return Outcome("tags", rows, facts, tuple(check_classifier(result, look.view.dataset.classes)))


EVALUATIONS: dict[str, Any] = {"masks": Masks(), "scores": Scores(), "tags": Tags()}
