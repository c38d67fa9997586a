"""Evaluations as steps of a recipe: the only steps, beside `labels.truth`, that see true masks, and by their names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from weakseg.data.context import context_names
from weakseg.data.context import read_context as read_labels
from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.evaluate._threads import each
from weakseg.evaluate.boundaries import boundary_folder, evaluate_boundaries, of_masks, true_boundaries
from weakseg.evaluate.boxes import evaluate_box_classes, evaluate_filling, evaluate_unreliable
from weakseg.evaluate.confusion import evaluate_confusion
from weakseg.evaluate.conventions import plain
from weakseg.evaluate.coverage import Count, evaluate_coverage
from weakseg.evaluate.health import Finding, check_classifier
from weakseg.evaluate.instances import evaluate_instances
from weakseg.evaluate.masks import evaluate_masks
from weakseg.evaluate.probes import PROBES, evaluate_probes
from weakseg.evaluate.saliency import evaluate_saliency, foreground_share, lambda_errors, map_selection
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.methods.amn import Amn, Probe
from weakseg.methods.bana import Bap
from weakseg.methods.eps import Eps
from weakseg.ops.boundaries import MAX_DIST, WIDE_MAX_DIST
from weakseg.ops.metrics import tag_map
from weakseg.ops.saliency import saliency_of
from weakseg.types import LABELS, SALIENCY, SEEDS, Sample, WeaksegError


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

    def readers(self) -> dict[str, Callable[[str], Any]]:
        """A reader of each of the step's `seeds`, under the name that the recipe gives it."""
        return {
            LABELS if name == SEEDS else name: lambda id, store=store, key=key: store.read(id, key)  # type: ignore[misc]
            for name, (store, key) in self.view.seeds.items()
        }

    def truth(self, id: str) -> Any:
        """The true mask of `id`, or None."""
        return self.view.dataset.truth(id)

    def samples(self) -> Callable[[str], Sample]:
        """A reader of photographs by id, for several threads; their images lie where the network stands."""
        place = {id: k for k, id in enumerate(self.view.ids)}

        def read(id: str) -> Sample:
            sample = self.view[place[id]]
            return replace(sample, image=sample.image.to(self.device))

        return read

    def instances(self, id: str) -> Any:
        """The true instances of `id` and which are crowds, or None."""
        return self.view.dataset.instances(id)


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
class Saliency:
    """Error of saliency maps, such as EPS' estimated ones, against the given maps and the true foreground.

    They come from `scores`; or they are estimated anew by the fitted network of EPS that `model` lends.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mask", "saliency"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the maps; the given ones are those of the step's `saliency` or of the data set."""
        sample, lender, model = look.samples(), look.lender, look.model

        def estimate(id: str) -> Tensor:
            with torch.inference_mode():
                return saliency_of(replace(lender, estimated=True).score(model, sample(id))[SALIENCY]).cpu()

        anew = look.source is None and isinstance(lender, Eps)
        result = evaluate_saliency(
            estimate if anew else lambda id: saliency_of(look.read(id)),
            lambda id: sample(id).saliency,
            look.truth,
            look.view.ids,
            threads=look.threads,
        )
        rows = [("to the given maps", result["error_to_given"], "MAE")]
        for name in ("estimated", "given"):
            if result[name] is not None:
                rows.append((f"{name}, to the true foreground", result[name]["error"], "MAE"))
                rows.append((f"{name}, at 0.5", result[name]["f_measure"], "F-measure"))
        return Outcome("saliency", tuple(row for row in rows if row[1] is not None), result)


@dataclass(frozen=True, slots=True)
class Selection:
    """EPS' map selection over tau and its saliency loss over lambda, for the fitted network that `model` lends."""

    taus: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)
    lams: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    needs: ClassVar[frozenset[str]] = frozenset({"tags", "saliency"})

    def evaluate(self, look: Look) -> Outcome:
        """How often each class counts as foreground; how well the maps explain the saliency maps."""
        if look.model is None or not isinstance(look.lender, Eps):
            raise WeaksegError("evaluate.selection wants `model`: a step of eps")
        lender, sample = look.lender, look.samples()
        model: Any = look.model

        def select(id: str) -> tuple[Tensor, Tensor]:
            with torch.inference_mode():
                seen = map_selection(lender, model, sample(id))
                errors = lambda_errors(seen.foreground, seen.background, seen.saliency, self.lams)
                return seen.overlaps.cpu(), errors.cpu()

        overlaps, errors = zip(*(found for _, found in each(select, look.view.ids, label="selection")), strict=True)
        table, loss = torch.stack(overlaps), torch.stack(errors).mean(0)
        shares = foreground_share(table, self.taus)
        result = {
            "classes": list(look.view.dataset.classes),
            "overlap": plain(table.nanmean(0)),
            "taus": list(self.taus),
            "share": [plain(row) for row in shares],
            "lams": list(self.lams),
            "loss": plain(loss),
        }
        rows = tuple(
            (
                f"classes in front at tau {tau:.2f}",
                float((table > tau).sum() / (~table.isnan()).sum().clamp(min=1)),
                "share",
            )
            for tau in self.taus
        )
        return Outcome("selection", rows, result)


@dataclass(frozen=True, slots=True)
class Probes:
    """The maps of a fitted AMN when label conditioning is fed the tags, ones, noisy tags or nothing (Table A.1)."""

    probes: tuple[Probe, ...] = PROBES
    fixed: float = 0.25
    thresholds: int = 256

    needs: ClassVar[frozenset[str]] = frozenset({"mask", "tags"})

    def evaluate(self, look: Look) -> Outcome:
        """Ask the network that `model` lends; `seeds` are its refined ones, as in its own step."""
        if look.model is None or not isinstance(look.lender, Amn):
            raise WeaksegError("evaluate.probes wants `model`: a step of amn, and that step's `seeds`")
        model: Any = look.model
        result = evaluate_probes(
            look.lender,
            model,
            look.samples(),
            look.truth,
            look.view.ids,
            look.view.dataset.classes,
            probes=self.probes,
            fixed=self.fixed,
            thresholds=self.thresholds,
            threads=look.threads,
        )
        rows = [(f"fed {p}, at the fixed threshold", r["fixed"]["miou"], "mIoU") for p, r in result["probes"].items()]
        rows += [(f"fed {p}", r["plateau_width"], "plateau width") for p, r in result["probes"].items()]
        return Outcome("probes", tuple(rows), result)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Do masks end where objects do: boundary precision, recall and F1 over the list (EPS, sec. 5.1)."""

    max_dists: tuple[float, ...] = (MAX_DIST, WIDE_MAX_DIST)  # fractions of the diagonal, methods.md 11
    files: str | None = None  # folder of true boundaries; None: the data set's own, else those of its masks
    fill_ignored: bool = True  # run the masks' boundaries amid borders of 255

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the label maps of `seeds`, all classes alike."""
        folder = boundary_folder(look.view.dataset.root) if self.files is None else Path(self.files)
        result = evaluate_boundaries(
            look.read,
            of_masks(look.truth, fill=self.fill_ignored) if folder is None else true_boundaries(folder),
            look.view.ids,
            max_dists=self.max_dists,
            source="true masks" if folder is None else f"files of {folder.name}",
            threads=look.threads,
        )
        rows = [
            (f"within {100 * row['max_dist']:g} % of the diagonal", row["f1"], "F1") for row in result["tolerances"]
        ]
        rows += [(f"within {100 * self.max_dists[0]:g} %", result[k], k) for k in ("precision", "recall")]
        return Outcome("boundaries", tuple(row for row in rows if row[1] is not None), result)


@dataclass(frozen=True, slots=True)
class Confusion:
    """What classes are confused with: by context labels if the data set has them, else among themselves (EPS, 5.1)."""

    pairs: tuple[str, ...] = ()  # "train/rail"; none: what most distinctly stands beside each class
    leave_out: tuple[str, ...] = ()  # without a row or column; the paper leaves out VOC's dining table (A.5)

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def evaluate(self, look: Look) -> Outcome:
        """Judge the label maps of `seeds`."""
        dataset = look.view.dataset
        known = context_names(dataset.root)

        def read_context(id: str) -> Tensor | None:
            path = dataset.context_path(id)
            return None if path is None else read_labels(path)

        result = evaluate_confusion(
            look.read,
            look.truth,
            look.view.ids,
            dataset.classes,
            read_context=read_context if known is not None else None,
            context=known or (),
            pairs=self.pairs,
            leave_out=self.leave_out,
            threads=look.threads,
        )
        mean = result["mean_ratio"]
        rows = () if mean is None else ((f"mean ratio of {len(result['pairs'])} pairs", mean, "FP / TP"),)
        return Outcome("confusion", rows, result)


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
