"""What the tags are worth to a fitted AMN: its maps when label conditioning is fed something else.

The probes of AMN (Lee et al., CVPR 2022, Table A.1: ones 58.6, label + noise 60.5, label 62.1 mIoU; methods.md 11). The
paper trains a network for each; that is the setting `condition` of the method, and `weakseg sweep --study label` does
it. Here one network that learned from labels is asked again, which costs no training and tells what it relies on.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from weakseg.evaluate.sweep import evaluate_scores
from weakseg.methods.amn import Amn, Probe
from weakseg.models.amn import AmnNet
from weakseg.types import LabelMap, Sample, ScoreMap

PROBES: tuple[Probe, ...] = ("label", "ones", "noise", "zeros")
KEPT = ("fixed", "best", "plateau", "plateau_width", "area", "foreground_activation")
"""What of `evaluate_scores` is told of each probe."""


def evaluate_probes(
    method: Amn,
    model: AmnNet,
    read_sample: Callable[[str], Sample],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    probes: Sequence[Probe] = PROBES,
    fixed: float = 0.25,
    thresholds: int = 256,
    threads: int = 1,
) -> dict[str, Any]:
    """The threshold sweep of one network's maps under each probe.

    Args:
        method: as the network was trained; its `probe` is what changes.
        model: fitted, in inference mode, where it is to work.
        read_sample: id -> photograph with tags and, for ``map_norm = "seed_mixed"``, its refined seeds.
        read_truth: id -> true mask, or None.
        ids: the list.
        classes: the C foreground names.
        probes: what label conditioning is fed, see `methods.amn.probe_label`.
        fixed: the background threshold that was chosen without the truth.
        thresholds, threads: see `evaluate_scores`.

    Returns:
        ``classes``; in ``probes`` of each of them ``fixed``, ``best``, ``plateau``, ``plateau_width``, ``area`` and
        ``foreground_activation`` as in `evaluate_scores`; ``images``, ``without_truth``, ``conventions``.
    """

    def scored(probe: Probe) -> Callable[[str], ScoreMap]:
        probed = replace(method, probe=probe)

        def score(id: str) -> ScoreMap:
            with torch.inference_mode():  # of this thread: the mode is not inherited
                full = probed.score(model, read_sample(id))["full"]
            return ScoreMap(full.ids.cpu(), full.scores.cpu(), full.size)

        return score

    found = {
        probe: evaluate_scores(
            scored(probe), read_truth, ids, classes, thresholds=thresholds, fixed=fixed, threads=threads
        )
        for probe in probes
    }
    last = next(reversed(found.values()))
    told = {probe: {key: result[key] for key in KEPT} for probe, result in found.items()}
    return {"probes": told, **{key: last[key] for key in ("classes", "images", "without_truth", "conventions")}}
