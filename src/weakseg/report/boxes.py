"""Analyses of boxes for the page: filling rates as violins, unreliable regions, and classes' precision and accuracy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weakseg.report.analyses import Group, about, mean_of, over_seeds
from weakseg.report.charts import violins

TRUTH = "truth"


def filling_cards(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """A card for each evaluation of filling rates: a small chart a class that has boxes, a violin a source.

    The label maps' rates are of all seeds together; the truth's are the same for every seed.
    """
    return [_filling(group) for group in groups]


def unreliable_rows(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """A row for each evaluation of unreliable regions; numbers are means over seeds, 0-1."""
    rows = []
    for group in groups:
        results = [e["result"] for e in group]
        row = {how: mean_of(r[how]["miou"] for r in results) for how in ("dropped", "as_errors")}
        rows.append({**about(group), "share": mean_of(r["share"] for r in results), **row})
    return rows


def class_columns(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Columns of C values each: precision and recall of every evaluation of coverage, accuracy of box classifiers."""
    return [column for group in groups for column in _columns(group)]


def _filling(group: Group) -> dict[str, Any]:
    results = [e["result"] for e in group]
    first = results[0]
    values = {s: [_pooled(results, s, k) for k in range(len(first["classes"]))] for s in first["sources"]}
    return {
        **about(group),
        "sources": [_source(results, name, place) for place, name in enumerate(first["sources"])],
        "classes": [
            {
                "name": name,
                "boxes": boxes,
                "chart": violins({s: values[s][k] for s in values}, f"{name}: filling rates"),
            }
            for k, (name, boxes) in enumerate(zip(first["classes"], first["per_class"]["boxes"], strict=True))
            if boxes
        ],
        **{key: first[key] for key in ("boxes", "images", "left_out")},
    }


def _pooled(results: Sequence[Mapping[str, Any]], source: str, k: int) -> list[float]:
    seeds = results[:1] if source == TRUTH else results
    return [value for result in seeds for value in result["per_class"]["values"][source][k]]


def _source(results: Sequence[Mapping[str, Any]], name: str, place: int) -> dict[str, Any]:
    mean, error = mean_of(r["mean"][name] for r in results), mean_of(r["error"].get(name) for r in results)
    return {"name": name, "place": "t" if name == TRUTH else place, "mean": mean, "error": error}


def _columns(group: Group) -> list[dict[str, Any]]:
    results = [e["result"] for e in group]
    of, first = about(group), results[0]
    if first["kind"] == "box_classes":
        rows = [r["per_class"] for r in results]
        right, background = (mean_of(r[key] for r in results) for key in ("accuracy", "as_background"))
        text = f"{first['boxes']} boxes, {100 * (background or 0):.1f} % taken for background; all = of all boxes"
        return [{**of, "title": f"{of['title']}, accuracy", "values": over_seeds(rows), "all": right, "about": text}]
    text = f"counted are {first['count']}; all = mean over classes"
    return [
        {
            **of,
            "title": f"{of['title']}, {key}",
            "values": over_seeds([r["per_class"][key] for r in results]),
            "all": mean_of(r[key] for r in results),
            "about": text,
        }
        for key in ("precision", "recall")
    ]
