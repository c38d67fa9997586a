"""``report.html`` from a run folder's ``report.json``: one file with everything in it, for people."""

import base64
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from markupsafe import Markup

from weakseg._words import duration
from weakseg.data.store import colour, read_bytes, read_json, write_text
from weakseg.evaluate.conventions import conventions
from weakseg.ops.thresholds import ONE_POINT
from weakseg.report.analyses import boundary_rows, confusion_cards, mean_of, ratio, title_of
from weakseg.report.asked import checkpoint_cards, probe_cards, selection_cards
from weakseg.report.boxes import class_columns, filling_cards, unreliable_rows
from weakseg.report.charts import environment, histogram, threshold_curve
from weakseg.types import WeaksegError

IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
FRACTIONS = (
    "mIoU",
    "mAP",
    "IoU",
    "AP",
    "F1",
    "precision",
    "recall",
    "accuracy",
    "filling rate",
    "of all pixels",
    "of all boxes",
)
"""Units that are fractions in JSON and points on the page."""
LEGEND = 40  # classes that a legend still helps with
LEVELS = {"error": 0, "warning": 1}


def write_report(run_folder: Path | str) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    The page embeds its images and style, asks no network for anything and follows the reader's light or dark setting.
    Sections whose data is missing are left out, images that are missing are told in their place.

    Raises:
        WeaksegError: no or a damaged ``report.json``; an image path that leads out of the run folder.
    """
    run = Path(run_folder)
    data = read_json(run / "report.json")
    if not isinstance(data, dict):
        raise WeaksegError(f"{run / 'report.json'} holds no report; run `weakseg run` again to write it")
    try:
        page = render(data, run)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise WeaksegError(
            f"{run / 'report.json'} is damaged or of another version ({type(error).__name__}: {error}); "
            "the command that made the run writes it again"
        ) from error
    write_text(run / "report.html", page)
    return run / "report.html"


def render(data: Mapping[str, Any], run: Path) -> str:
    """The page of a report's data; images are read from `run`."""
    classes = list(data.get("classes", ()))
    evaluations = _groups(data.get("evaluations", ()))
    columns = [c for group in evaluations for c in _columns(group)]
    findings = _findings(data.get("findings", ()))
    rows = [_headline(row) for row in data.get("summary", ())]
    times, total = _times(data.get("times", ()))
    return environment.get_template("report.html").render(
        style=Markup(environment.get_template("style.css").render()),  # our own file
        points=points,
        width=lambda value: f"{100 * min(max(value, 0.0), 1.0):.1f}",
        duration=duration,
        recipe=data.get("recipe", "run"),
        about=data.get("about"),
        seeds=list(data.get("seeds", ())),
        classes=classes,
        summary=rows,
        any_truth=any(row["by_truth"] for row in rows),
        findings=[f for f in findings if f["level"] in LEVELS],
        sound=[f for f in findings if f["level"] not in LEVELS],
        sweeps=[_sweep(group) for group in evaluations if group[0]["kind"] == "sweep"],
        columns=columns,
        class_rows=_class_rows(["background", *classes], columns),
        tag_tables=[_tags(group, classes) for group in evaluations if group[0]["kind"] == "tags"],
        boundaries=boundary_rows(group for group in evaluations if group[0]["kind"] == "boundaries"),
        confusions=confusion_cards(group for group in evaluations if group[0]["kind"] == "confusion"),
        fillings=filling_cards(group for group in evaluations if group[0]["kind"] == "filling"),
        unreliable=unreliable_rows(group for group in evaluations if group[0]["kind"] == "unreliable"),
        by_class=class_columns(group for group in evaluations if group[0]["kind"] in ("coverage", "box_classes")),
        selections=selection_cards(group for group in evaluations if group[0]["kind"] == "selection"),
        probes=probe_cards(group for group in evaluations if group[0]["kind"] == "probes"),
        checkpoints=checkpoint_cards(group for group in evaluations if group[0]["kind"] == "checkpoints"),
        ratio=ratio,
        legend=_legend(classes) if len(classes) <= LEGEND else [],
        gallery=_gallery(data.get("gallery", ()), run),
        times=times,
        total_seconds=total,
        conventions=data.get("conventions", {}),
        departures=_departures(evaluations),
        command=data.get("command"),
        versions=data.get("versions", {}),
    )


def points(fraction: float | None) -> str:
    """A fraction 0-1 in points, a dash for None.

    >>> points(0.4412), points(None)
    ('44.1', '–')
    """
    return "\N{EN DASH}" if fraction is None else f"{100 * fraction:.1f}"


def number(value: float, unit: str | None) -> str:
    """A headline number as text: fractions in points, ratios and widths as they are.

    >>> number(0.4412, "mIoU"), number(1.77617, "FP / TP")
    ('44.1', '1.78')
    """
    return points(value) if unit in FRACTIONS else f"{value:.3g}"


def _headline(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the headline table; its numbers as text, and in percent of the bar where they are fractions."""
    unit = row.get("unit")
    values = [v for v in row["values"] if v is not None]
    mean, std = row.get("mean"), row.get("std")
    return {
        "name": row["name"],
        "split": row.get("split"),
        "unit": unit,
        "by_truth": bool(row.get("truth", "chosen on the truth" in row["name"] or "best threshold" in row["name"])),
        "mean": "\N{EN DASH}" if mean is None else number(mean, unit),
        "std": None if std is None or len(values) < 2 else number(std, unit),
        "bar": _percent(mean) if unit in FRACTIONS and mean is not None else None,
        "dots": [_percent(v) for v in values] if unit in FRACTIONS and len(values) > 1 else [],
    }


def _percent(fraction: float) -> float:
    return round(100 * min(max(fraction, 0.0), 1.0), 2)


def _findings(findings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Errors first; what several seeds found alike stands once, with the first seed's numbers."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for f in findings:
        group = groups.setdefault((f["step"], f["level"], f["title"]), {**f, "seeds": []})
        group["seeds"].append(f.get("seed", 0))
    return sorted(groups.values(), key=lambda f: LEVELS.get(f["level"], 2))


def _groups(evaluations: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Evaluations of the same step by different seeds, together."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for e in evaluations:
        groups.setdefault((e["step"], e["kind"], e.get("of"), e.get("split")), []).append(e)
    return list(groups.values())


def _sweep(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Curves of all seeds on one chart, with the mean of the numbers that each seed reports."""
    results = [e["result"] for e in group]
    thresholds = results[0]["curve"]["thresholds"]
    curves = [r["curve"]["miou"] for r in results if r["curve"]["thresholds"] == thresholds]
    mean = [statistics.fmean(values) for values in zip(*curves, strict=True)]
    best = max(range(len(mean)), key=mean.__getitem__)
    plateau = _plateau(thresholds, mean, best)
    own = [r["per_image_best"] for r in results if r.get("per_image_best")]
    counts = [sum(values) for values in zip(*(o["counts"] for o in own), strict=True)]
    fixed = results[0]["fixed"]["threshold"]
    return {
        "title": title_of(group[0]),
        "split": group[0].get("split"),
        "seeds": len(curves),
        "curve": threshold_curve(thresholds, curves, fixed=fixed, plateau=plateau),
        "fixed": fixed,
        "fixed_miou": mean_of(r["fixed"]["miou"] for r in results),
        "best": statistics.fmean(r["best"]["threshold"] for r in results),
        "best_miou": mean_of(r["best"]["miou"] for r in results),
        "plateau": plateau,
        "area": statistics.fmean(r["area"] for r in results),
        "histogram": histogram(own[0]["edges"], counts, "best threshold, photographs") if own else None,
        "own_mean": mean_of(o["mean"] for o in own),
        "own_std": mean_of(o["std"] for o in own),
    }


def _plateau(thresholds: Sequence[float], miou: Sequence[float], best: int) -> tuple[float, float]:
    """First and last threshold around the best one within a point of it."""
    first = last = best
    while first > 0 and miou[first - 1] >= miou[best] - ONE_POINT:
        first -= 1
    while last + 1 < len(miou) and miou[last + 1] >= miou[best] - ONE_POINT:
        last += 1
    return thresholds[first], thresholds[last]


def _columns(group: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Columns of the class table: label maps, with unreliable pixels both ways; score maps at the fixed threshold."""
    kind, results, title = group[0]["kind"], [e["result"] for e in group], title_of(group[0])
    if kind == "masks":
        parts = {title: results}
    elif kind == "sweep":  # the fixed threshold alone, the honest one
        parts = {f"{title} at {results[0]['fixed']['threshold']:.2f}": [r["fixed"] for r in results]}
    elif kind == "unreliable":
        parts = {
            f"{title} left out": [r["dropped"] for r in results],
            f"{title} as errors": [r["as_errors"] for r in results],
        }
    else:
        return []
    return [{"split": group[0].get("split"), "by_truth": False, **_column(*part)} for part in parts.items()]


def _column(title: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    column: dict[str, Any] = {"title": title, "miou": mean_of(r["miou"] for r in results)}
    for key in ("iou", "precision", "recall"):
        column[key] = [mean_of(values) for values in zip(*(r[key] for r in results), strict=True)]
    return column


def _class_rows(names: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "colour": _css(k),
            "values": [c["iou"][k] for c in columns],
            "pairs": [(c["precision"][k], c["recall"][k]) for c in columns],
        }
        for k, name in enumerate(names)
    ]


def _tags(group: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    results = [e["result"] for e in group]
    per_class = [mean_of(values) for values in zip(*(r["per_class"] for r in results), strict=True)]
    return {
        "title": title_of(group[0]),
        "split": group[0].get("split"),
        "mean": mean_of(r["mean"] for r in results),
        "chance": mean_of(r["chance"] for r in results),
        "rows": [{"name": n, "value": v} for n, v in zip(classes, per_class, strict=True)],
    }


def _legend(classes: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": name, "colour": _css(k)} for k, name in enumerate(classes, start=1)]


def _css(k: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(k))


def _gallery(entries: Iterable[Mapping[str, Any]], run: Path) -> list[tuple[Any, list[dict[str, Any]]]]:
    """(seed, its entries with embedded images), in order."""
    by_seed: dict[Any, list[dict[str, Any]]] = {}
    for entry in entries:
        images = [{"what": what, "uri": _embedded(run, path)} for what, path in entry["images"].items()]
        by_seed.setdefault(entry.get("seed", 0), []).append({**entry, "images": images})
    return list(by_seed.items())


def _embedded(run: Path, path: str) -> str | None:
    """The image as a data URI; None if the file is missing."""
    kind = IMAGE_TYPES.get(PurePosixPath(path).suffix.lower())
    file = (run / path).resolve()
    if kind is None or not file.is_relative_to(run.resolve()):
        raise WeaksegError(f"report.json names {path!r} as an image; a JPEG or PNG inside the run folder was wanted")
    if not file.is_file():
        return None
    return f"data:{kind};base64,{base64.b64encode(read_bytes(file)).decode()}"


def _times(times: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], float]:
    """Rows of (step, stage), mean over seeds with their share of the whole; and the seconds of all seeds together."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for t in times:
        if t.get("seconds") is not None:
            groups.setdefault((t["step"], t.get("stage", "")), []).append(t)
    means = {key: statistics.fmean(t["seconds"] for t in group) for key, group in groups.items()}
    whole = sum(means.values()) or 1.0
    rows = [
        {
            "step": step,
            "stage": stage,
            "seconds": means[step, stage],
            "share": means[step, stage] / whole,
            "speed": mean_of(t.get("images_per_second") for t in group),
        }
        for (step, stage), group in groups.items()
    ]
    return rows, sum(t["seconds"] for group in groups.values() for t in group)


def _departures(evaluations: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """Evaluations whose conventions are not the default ones."""
    default, found = conventions(), []
    for group in evaluations:
        own = group[0]["result"].get("conventions") or default
        changed = [f"{what} {how}" for what, how in own.items() if default.get(what, how) != how and what != "as in"]
        if changed:
            found.append({"title": title_of(group[0]), "text": f"{'; '.join(changed)} (as in {own.get('as in', '?')})"})
    return found
