"""One table over recipes and seeds: rows from the results' records, as data and as Markdown.

Numbers of ours and numbers that a paper prints stand in columns of their own, because the data and the networks differ:
a footnote names the paper's.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

from weakseg.pipeline.results import differences

ENOUGH = 3  # seeds for a spread; fewer are shown as what they are
SUPERVISION = {"tags": "tags", "boxes": "boxes", "saliency": "saliency", "masks": "true masks", "given": "given maps"}
COLUMNS = (
    "Method", "Supervision", "Backbone", "List", "Seeds", "Maps, fixed threshold", "Maps, best threshold",
    "Pseudo-labels", "Val", "Printed: maps / pseudo-labels / val", "Hours", "Commit",
)  # fmt: skip
NUMBERS = range(5, 11)  # columns to the right
DASH = "\N{EN DASH}"
NOTES = """mIoU in percent, mean ± sample standard deviation over seeds; fewer than 3 seeds carry no spread. Maps and \
pseudo-labels are judged on the training list, the network on the validation list. The fixed background threshold is \
the recipe's (that of a `-mobile` recipe was itself chosen on the truth of such a list, with one seed); the best one \
was chosen on the truth of this very run and is an upper bound. Hours: of one seed, from photographs to network, \
evaluations aside."""


def rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each method, training list and settings; its seeds together.

    Args:
        records: of `pipeline.results.seed_result`.

    Returns:
        In the order of the papers, each: ``name``, ``recipe``, ``data``, ``list``, ``val_list``, ``supervision``,
        ``backbones``, ``settings`` (what sets the row apart from others of its name), ``seeds``, ``commits``,
        ``conventions``, ``printed`` (or None); and as ``{"mean", "std", "values"}`` with fractions 0-1, or None:
        ``maps_fixed``, ``maps_best``, ``labels``, ``val``, ``hours``. ``std`` is None below 3 seeds.
    """
    groups: dict[tuple[str, ...], dict[int, Mapping[str, Any]]] = {}
    for record in records:
        key = (record["data"], record["list"], record["name"], record["settings"])
        groups.setdefault(key, {})[record["seed"]] = record
    found = [_row(list(group.values())) for group in groups.values()]
    for row in found:
        alike = [r for r in found if (r["data"], r["list"], r["name"]) == (row["data"], row["list"], row["name"])]
        apart = differences([r["_first"] for r in alike])
        row["settings"] = apart[alike.index(row)] if len(alike) > 1 else []
    for row in found:
        del row["_first"]
    return sorted(found, key=_order)


def markdown(table: Sequence[Mapping[str, Any]], *, title: str = "Results") -> str:
    """The table as GitHub's Markdown, one for each data set, with the printed numbers' sources as footnotes.

    Args:
        table: of `rows`.
        title: the heading.
    """
    lines = [f"# {title}", "", NOTES, ""]
    for data in dict.fromkeys(row["data"] for row in table):
        rule = ["---:" if k in NUMBERS else "---" for k in range(len(COLUMNS))]
        lines += [f"## {data}", "", _line(COLUMNS), _line(rule)]
        lines += [_line(_cells(row)) for row in table if row["data"] == data] + [""]
    for text in dict.fromkeys(_counted(row) for row in table if row["conventions"]):
        lines += [f"How it was counted: {text}.", ""]
    for source in {row["printed"]["key"]: row["printed"] for row in table if row["printed"]}.values():
        lines += [f"[^{source['key']}]: {source['paper']}; {source['data']}; {source['network']}.", ""]
    return "\n".join(lines)


@cache
def printed_numbers() -> Mapping[str, Mapping[str, Any]]:
    """What the papers print, by recipe; mIoU in percent, with the ``paper``, its ``data`` and ``network``."""
    text = (resources.files("weakseg.report") / "printed.yaml").read_text("utf-8")
    return {key: {"key": key, **value} for key, value in yaml.safe_load(text).items()}


def printed(recipe: str) -> Mapping[str, Any] | None:
    """The numbers of the paper that `recipe` or its ``-mobile`` twin follows, or None."""
    return printed_numbers().get(recipe.removesuffix("-mobile"))


def percent(number: Mapping[str, Any] | None) -> str:
    """A cell: mean ± spread in percent, the mean alone below 3 seeds, a dash for None.

    >>> percent({"mean": 0.533, "std": 0.004, "values": []}), percent({"mean": 0.533, "std": None}), percent(None)
    ('53.3 ± 0.4', '53.3', '–')
    """
    if number is None:
        return DASH
    spread = "" if number["std"] is None else f" ± {100 * number['std']:.1f}"
    return f"{100 * number['mean']:.1f}{spread}"


def seeds_cell(seeds: Sequence[int]) -> str:
    """How many seeds, told apart where they are too few for a spread.

    >>> seeds_cell([0]), seeds_cell([0, 1]), seeds_cell([0, 1, 2])
    ('1 (single)', '2 (no spread)', '3')
    """
    return {1: "1 (single)", 2: "2 (no spread)"}.get(len(seeds), str(len(seeds)))


def _row(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    records = sorted(records, key=lambda r: r["seed"])
    first = records[0]
    kept = ("name", "recipe", "data", "list", "val_list", "supervision", "truth_photographs", "photographs")
    return {
        **{k: first[k] for k in kept},
        "backbones": list(dict.fromkeys(b["name"] for b in first["backbones"])),
        "seeds": [r["seed"] for r in records],
        "commits": list(dict.fromkeys(r["commit"] for r in records if r["commit"])),
        "conventions": first["conventions"],
        "printed": printed(first["recipe"]),
        "threshold": first["maps"] and first["maps"]["fixed"]["threshold"],
        "maps_fixed": _number(records, lambda r: r["maps"] and r["maps"]["fixed"]["miou"]),
        "maps_best": _number(records, lambda r: r["maps"] and r["maps"]["best"]["miou"]),
        "labels": _number(records, lambda r: r["labels"] and r["labels"]["miou"]),
        "val": _number(records, lambda r: r["val"] and r["val"]["miou"]),
        "hours": _number(records, lambda r: r["hours"]),
        "_first": first,
    }


def _number(records: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any] | None:
    """Mean and spread over the seeds; None if a seed lacks it, for the rest would be another mean."""
    values = [value(r) for r in records]
    if any(v is None for v in values):
        return None
    std = statistics.stdev(values) if len(values) >= ENOUGH else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of the papers, as printed.yaml lists them; others behind, the supervised reference last."""
    known = list(printed_numbers())
    place = known.index(row["printed"]["key"]) if row["printed"] else len(known)
    return row["data"], row["list"], "masks" in row["supervision"], place, row["name"], row["settings"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    method = f"`{row['name']}`" + (f" ({', '.join(row['settings'])})" if row["settings"] else "")
    hours = row["hours"]
    return [
        method,
        _supervision(row),
        ", ".join(row["backbones"]) or DASH,
        f"{row['list']} ({row['photographs']}), {row['val_list']}",
        seeds_cell(row["seeds"]),
        *(percent(row[k]) for k in ("maps_fixed", "maps_best", "labels", "val")),
        _printed_cell(row["printed"]),
        DASH if hours is None else f"{hours['mean']:.2f}",
        ", ".join(_commit(c) for c in row["commits"]) or DASH,
    ]


def _supervision(row: Mapping[str, Any]) -> str:
    words = [SUPERVISION.get(s, s) for s in row["supervision"]]
    if "masks" in row["supervision"] and row["truth_photographs"] < row["photographs"]:
        words[row["supervision"].index("masks")] += f" of {row['truth_photographs']}"
    return " + ".join(words) or DASH


def _printed_cell(source: Mapping[str, Any] | None) -> str:
    if source is None:
        return DASH
    numbers = (f"{source[k]:.1f}" if k in source else DASH for k in ("maps", "labels", "val"))
    return f"{' / '.join(numbers)} [^{source['key']}]"


def _commit(commit: str) -> str:
    head, plus, changes = commit.partition("+")
    return f"{head[:9]}{plus}{changes}"


def _counted(row: Mapping[str, Any]) -> str:
    return "; ".join(f"{what}: {how}" for what, how in row["conventions"].items() if what != "as in")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
