"""Boundaries, confusion and co-occurrence for the page: means over seeds, and matrices as tables of shaded numbers."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDE = 16  # columns that still read well
KEPT = 12  # columns of a wider matrix that are shown: as many as the paper's Figure A.2
TALL = 40  # rows beyond which a matrix is left to report.json

Group = Sequence[Mapping[str, Any]]
"""One evaluation by all seeds, as `report.json` holds it."""


def boundary_rows(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """A row for each evaluation of boundaries and tolerance; numbers are means over seeds, 0-1 or None."""
    rows = []
    for group in groups:
        results = [e["result"] for e in group]
        for k, first in enumerate(results[0]["tolerances"]):
            same = [r["tolerances"][k] for r in results]
            numbers = {key: mean_of(t[key] for t in same) for key in ("precision", "recall", "f1")}
            about = {"title": title_of(group[0]), "split": group[0].get("split"), "first": k == 0}
            source = results[0]["conventions"]["true boundaries"]
            rows.append({**about, "max_dist": first["max_dist"], **numbers, "source": source})
    return rows


def confusion_cards(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """A card for each evaluation of confusion: its pairs, and its matrices as far as they are not too large to read."""
    return [_card(group) for group in groups]


def heat_table(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]
) -> dict[str, Any] | None:
    """A matrix for the page: each cell's number as text and its shade 0-1; None if it has too many rows.

    Of more than `WIDE` columns those `KEPT` stay that stand out most in some row against their mean over the rows.
    """
    if not rows or not columns or len(rows) > TALL:
        return None
    kept = _outstanding(values) if len(columns) > WIDE else list(range(len(columns)))
    return {
        "columns": [columns[k] for k in kept],
        "rows": [
            {"name": name, "cells": [_cell(row[k]) for k in kept]} for name, row in zip(rows, values, strict=True)
        ],
        "left_out": len(columns) - len(kept),
    }


def ratio(value: float | None) -> str:
    """A confusion ratio as the paper prints it.

    >>> ratio(0.1), ratio(12.34), ratio(None)
    ('0.10', '12.3', '–')
    """
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _card(group: Group) -> dict[str, Any]:
    results = [e["result"] for e in group]
    first = results[0]
    together = first["co_occurrence"]  # of the truth: the same for every seed
    foreground = first["classes"][1:]
    by_context = None
    if first["context"] is not None:
        ratios = [over_seeds(row) for row in zip(*(r["context_ratios"] for r in results), strict=True)]
        by_context = heat_table(foreground, first["context"], _turned(ratios)[1:])
    among = [over_seeds(row) for row in zip(*(r["class_ratios"] for r in results), strict=True)]
    return {
        "title": title_of(group[0]),
        "split": group[0].get("split"),
        "pairs": [_pair(same) for same in zip(*(r["pairs"] for r in results), strict=True)],
        "mean_ratio": mean_of(r["mean_ratio"] for r in results),
        "counted": first["conventions"]["confusion ratio"],
        "chosen": first["conventions"]["pairs"],
        "images": first["images"],
        "together": heat_table(together["rows"], together["columns"], together["values"]),
        "by_context": by_context,
        "among": heat_table(foreground, first["classes"], _turned(among)[1:]),
    }


def _pair(same: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numbers = {key: mean_of(p[key] for p in same) for key in ("ratio", "iou", "co_occurrence")}
    return {"class": same[0]["class"], "with": same[0]["with"], **numbers}


def _cell(value: float | None) -> dict[str, Any]:
    return {"text": ratio(value), "shade": round(min(max(value or 0.0, 0.0), 1.0), 3)}


def _outstanding(values: Sequence[Sequence[float | None]]) -> list[int]:
    def standing(k: int) -> float:
        known = [row[k] for row in values if row[k] is not None]
        numbers = [v for v in known if v is not None]
        return max(numbers) - statistics.fmean(numbers) if numbers else -1.0

    best = sorted(range(len(values[0])), key=lambda k: (-standing(k), k))[:KEPT]
    return sorted(best)


def over_seeds(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Means over rows of equal length, one a seed; None where no seed has a number."""
    return [mean_of(values) for values in zip(*rows, strict=True)]


def _turned(rows: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    return [list(column) for column in zip(*rows, strict=True)]


def title_of(evaluation: Mapping[str, Any]) -> str:
    """What the page calls an evaluation: the recipe's title for it, else what it judges, else its step."""
    return str(evaluation.get("title") or evaluation.get("of") or evaluation["step"])


def about(group: Group) -> dict[str, Any]:
    """Title and list of an evaluation."""
    return {"title": title_of(group[0]), "split": group[0].get("split")}


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there."""
    found = [v for v in values if v is not None]
    return statistics.fmean(found) if found else None
