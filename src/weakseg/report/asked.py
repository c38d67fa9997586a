"""What fitted networks answer when they are asked, for the page: EPS' map selection, AMN's probes, kept networks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weakseg.report.analyses import Group, about, heat_table, mean_of, over_seeds

FED = {
    "label": "the photograph's tags",
    "ones": "every tag",
    "noise": "the tags and noise",
    "zeros": "no tag",
}
"""What label conditioning is fed, in words (`methods.amn.probe_label`)."""


def selection_cards(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """A card for each evaluation of EPS' map selection; numbers are means over seeds, 0-1.

    ``shares`` is a table of classes by tau, ``losses`` are (lambda, loss, share of the largest) in order.
    """
    return [_selection(group) for group in groups]


def probe_cards(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """A card for each evaluation of probes, with a row a probe; numbers are means over seeds, 0-1 or None."""
    return [
        {**about(group), "rows": [_probe([e["result"]["probes"] for e in group], p) for p in _probes(group)]}
        for group in groups
    ]


def checkpoint_cards(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """A card for each evaluation of kept networks, with a row a network; mIoU is the mean over seeds, 0-1.

    ``best`` counts in how many seeds a network was the best kept one; ``thresholds`` are those of the seeds.
    """
    return [{**about(group), "rows": [_checkpoint(group, name) for name in _checkpoints(group)]} for group in groups]


def _checkpoints(group: Group) -> Sequence[str]:
    return [row["name"] for row in group[0]["result"]["checkpoints"]]


def _checkpoint(group: Group, name: str) -> dict[str, Any]:
    same = [row for e in group for row in e["result"]["checkpoints"] if row["name"] == name]
    return {
        "name": name,
        "miou": mean_of(row["miou"] for row in same),
        "thresholds": [row["threshold"] for row in same if row["threshold"] is not None],
        "best": sum(e["result"]["best"]["name"] == name for e in group),
    }


def _selection(group: Group) -> dict[str, Any]:
    results = [e["result"] for e in group]
    first = results[0]
    by_tau = [over_seeds([r["share"][k] for r in results]) for k in range(len(first["taus"]))]
    losses = over_seeds([r["loss"] for r in results])
    largest = max((loss for loss in losses if loss is not None), default=0.0)
    return {
        **about(group),
        "shares": heat_table(
            first["classes"],
            [f"tau {tau:g}" for tau in first["taus"]],
            [list(row) for row in zip(*by_tau, strict=True)],
        ),
        "losses": [
            {"lam": lam, "loss": loss, "bar": None if loss is None or not largest else loss / largest}
            for lam, loss in zip(first["lams"], losses, strict=True)
        ],
    }


def _probes(group: Group) -> Sequence[str]:
    return list(group[0]["result"]["probes"])


def _probe(results: Sequence[Mapping[str, Any]], probe: str) -> dict[str, Any]:
    told = [r[probe] for r in results]
    return {
        "fed": FED.get(probe, probe),
        "fixed": mean_of(t["fixed"]["miou"] for t in told),
        "best": mean_of(t["best"]["miou"] for t in told),
        "plateau": mean_of(t["plateau_width"] for t in told),
        "area": mean_of(t["area"] for t in told),
    }
