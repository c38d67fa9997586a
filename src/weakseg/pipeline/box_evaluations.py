"""The analyses of methods that learn from boxes as steps of a recipe, and instances."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from weakseg.evaluate.boxes import evaluate_box_classes, evaluate_filling, evaluate_unreliable
from weakseg.evaluate.instances import evaluate_instances
from weakseg.methods.bana import Bap
from weakseg.pipeline.look import Look, Outcome
from weakseg.types import WeaksegError


@dataclass(frozen=True, slots=True)
class Filling:
    """How full boxes are in each label map of `seeds` and in the true masks (BANA, fig. 4b)."""

    needs: ClassVar[frozenset[str]] = frozenset({"mask", "boxes"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge all label maps of `seeds`; a box counts if it has a pixel that is not 255 in each of them."""
        readers, dataset = look.readers(), look.view.dataset
        if not readers:
            raise WeaksegError("evaluate.filling wants `seeds`: a step that makes label maps, or several by names")
        result = evaluate_filling(
            readers, look.truth, dataset.boxes, look.view.ids, dataset.classes, threads=look.threads
        )
        rows = [(f"in {name}", mean, "filling rate") for name, mean in result["mean"].items()]
        rows += [(f"in {name}, off the truth by", error, "filling rate") for name, error in result["error"].items()]
        return Outcome("filling", tuple(row for row in rows if row[1] is not None), result)


@dataclass(frozen=True, slots=True)
class UnreliableRegions:
    """The share of 255 in label maps, and their mIoU without it and with it as an error (methods.md 7.7, row 19)."""

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the label maps of `seeds`, such as ``labels/reliable`` of BANA."""
        result = evaluate_unreliable(
            look.read, look.truth, look.view.ids, look.view.dataset.classes, threads=look.threads
        )
        rows = (
            ("", result["share"], "of all pixels"),
            ("left out", result["dropped"]["miou"], "mIoU"),
            ("counted as errors", result["as_errors"]["miou"], "mIoU"),
        )
        return Outcome("unreliable", rows, result)


@dataclass(frozen=True, slots=True)
class BoxClasses:
    """How many true boxes the classifier that `model` lends calls by their class (methods.md 7.6)."""

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})

    def evaluate(self, look: Look) -> Outcome:
        """Classify the boxes of each annotated photograph from their pooled vectors."""
        if look.model is None or not isinstance(look.lender, Bap):
            raise WeaksegError("evaluate.box_classes wants `model`: a step of bana.bap")
        lender, sample = look.lender, look.samples()
        model: Any = look.model

        def classify(id: str) -> tuple[Tensor, Tensor] | None:
            seen = sample(id)
            if seen.box_labels is None:
                return None
            with torch.inference_mode():
                return lender.classify_boxes(model, seen), seen.box_labels

        result = evaluate_box_classes(classify, look.view.ids, look.view.dataset.classes)
        rows = (
            ("", result["accuracy"], "accuracy"),
            ("answering background", result["as_background"], "of all boxes"),
        )
        return Outcome("box_classes", rows, result)


@dataclass(frozen=True, slots=True)
class InstanceMasks:
    """Average precision of instances by VOC's rule (IRN's numbers) and by COCO's (methods.md 4)."""

    needs: ClassVar[frozenset[str]] = frozenset({"instances"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the instances of `seeds`, such as ``irn/instances``."""
        result = evaluate_instances(
            look.read, look.instances, look.view.ids, look.view.dataset.classes, threads=look.threads
        )
        rows = (
            ("at IoU 0.50, by VOC's rule", result["ap50_voc"], "AP"),
            ("at IoU 0.50, by COCO's rule", result["ap50"], "AP"),
            ("over IoU 0.50 to 0.95, by COCO's rule", result["ap"], "AP"),
        )
        return Outcome("instances", rows, result)
