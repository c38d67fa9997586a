"""Analyses of the papers on image tags as steps: saliency, map selection, probes, boundaries, confusion."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from weakseg.data.context import context_names
from weakseg.data.context import read_context as read_labels
from weakseg.evaluate._threads import each
from weakseg.evaluate.boundaries import boundary_folder, evaluate_boundaries, of_masks, true_boundaries
from weakseg.evaluate.confusion import evaluate_confusion
from weakseg.evaluate.conventions import plain
from weakseg.evaluate.probes import PROBES, evaluate_probes
from weakseg.evaluate.saliency import evaluate_saliency, foreground_share, lambda_errors, map_selection
from weakseg.methods.amn import Amn, Probe
from weakseg.methods.eps import Eps
from weakseg.ops.boundaries import MAX_DIST, WIDE_MAX_DIST
from weakseg.ops.saliency import saliency_of
from weakseg.pipeline.look import Look, Outcome
from weakseg.types import SALIENCY, WeaksegError


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
