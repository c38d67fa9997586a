"""Charts as SVG inside the page: they take its colours, light or dark, and need no library in the browser."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

WIDTH, NARROW, HEIGHT = 640, 400, 300  # of the curve, of the histogram beside it, of both
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 28, 48
TICKS = 5
SMALL, LEVELS, BODY = (200, 170), 33, 0.42  # of a small chart: pixels, points of an outline, half a violin's share
THIN = 0.004  # share of its widest place at which an outline ends

environment = Environment(
    loader=PackageLoader("weakseg.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
"""Everything that comes from data is escaped."""


def threshold_curve(
    thresholds: Sequence[float],
    curves: Sequence[Sequence[float]],
    *,
    fixed: float,
    plateau: tuple[float, float] | None = None,
) -> Markup:
    """mIoU against the background threshold: a thin line a seed, their mean bold, the fixed and the best one marked.

    Args:
        thresholds: (n,), sorted.
        curves: one (n,) for each seed, fractions 0-1.
        fixed: the threshold that was chosen beforehand.
        plateau: range of thresholds to shade.
    """
    mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
    best = max(range(len(mean)), key=lambda i: mean[i])
    near = min(range(len(mean)), key=lambda i: abs(thresholds[i] - fixed))
    levels = _steps(max(1e-3, *map(max, curves)))
    top = levels[-1]
    low, high = thresholds[0], thresholds[-1]

    def x(t: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (t - low) / ((high - low) or 1), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top, 1)

    def line(values: Sequence[float]) -> str:
        return " ".join(f"{x(t)},{y(v)}" for t, v in zip(thresholds, values, strict=True))

    def mark(i: int) -> dict[str, float]:
        return {"x": x(thresholds[i]), "y": y(mean[i]), "threshold": thresholds[i], "value": 100 * mean[i]}

    return _draw(
        "curve.svg",
        WIDTH,
        x_ticks=[
            {"at": x(low + (high - low) * k / TICKS), "text": f"{low + (high - low) * k / TICKS:.1f}"}
            for k in range(TICKS + 1)
        ],
        y_ticks=[{"at": y(level), "text": f"{100 * level:.0f}"} for level in levels],
        seeds=[line(values) for values in curves] if len(curves) > 1 else [],
        mean=line(mean),
        area=f"{line(mean)} {x(high)},{y(0)} {x(low)},{y(0)}",
        fixed=mark(near),
        best=mark(best),
        plateau=None if plateau is None else {"x": x(plateau[0]), "width": x(plateau[1]) - x(plateau[0])},
    )


def histogram(edges: Sequence[float], counts: Sequence[float], label: str) -> Markup:
    """Bars of `counts` between `edges`, from 0 to 1, with `label` under the axis."""
    top = max([*counts, 1])
    span = NARROW - LEFT - RIGHT
    step = span / len(counts)
    bars = []
    for k, count in enumerate(counts):
        height = round((HEIGHT - TOP - BOTTOM) * count / top, 1)
        title = f"{edges[k]:.2f} to {edges[k + 1]:.2f}: {count:g}"
        bars.append(
            {"x": round(LEFT + k * step + 1, 1), "y": HEIGHT - BOTTOM - height, "height": height, "title": title}
        )
    ticks = [{"at": LEFT + span * k / TICKS, "text": f"{k / TICKS:.1f}"} for k in range(TICKS + 1)]
    return _draw(
        "histogram.svg", NARROW, bars=bars, bar_width=round(step - 2, 1), x_ticks=ticks, top=f"{top:g}", label=label
    )


def violins(values: Mapping[str, Sequence[float]], label: str) -> Markup:
    """A small chart of distributions side by side: outlines with the middle half and the median.

    Args:
        values: source -> its values, 0-1, at least one; ``truth`` has a colour of its own.
        label: for those who hear the page.
    """
    width, height = SMALL
    left, top, bottom = 30, 10, height - 10
    step = (width - left) / max(1, len(values))

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * float(value), 1)

    def violin(place: int, source: str, own: Sequence[float]) -> dict[str, Any]:
        x = left + (place + 0.5) * step
        found = density(own)
        levels, half = (row[found > THIN] for row in (np.linspace(0, 1, LEVELS), BODY * step * found))
        sides = [*zip(x + half, levels, strict=True), *zip((x - half)[::-1], levels[::-1], strict=True)]
        lower, median, upper = np.quantile(own, (0.25, 0.5, 0.75))
        return {
            "place": "t" if source == "truth" else place,
            "x": round(x, 1),
            "outline": " ".join(f"{a:.1f},{y(b)}" for a, b in sides),
            **{"lower": y(lower), "median": y(median), "upper": y(upper)},
            "title": f"{source}: median {100 * median:.0f}, middle half {100 * lower:.0f} to {100 * upper:.0f}",
        }

    drawn = [violin(place, *pair) for place, pair in enumerate(values.items()) if pair[1]]
    ticks = [{"at": y(k / 2), "text": f"{50 * k}"} for k in range(3)]
    values_of = {"width": width, "height": height, "left": left, "y_ticks": ticks, "violins": drawn, "label": label}
    return Markup(environment.get_template("violins.svg").render(values_of))  # the template has escaped


def density(values: Sequence[float], levels: int = LEVELS) -> np.ndarray:
    """How dense values of 0-1 lie at even levels, over the highest; float (levels,), 0-1.

    A Gaussian kernel of Silverman's width, 0.03 or more, mirrored at 0 and at 1, beyond which nothing can lie.

    >>> density([0.0, 0.0, 1.0], 3).round(2)
    array([1.  , 0.27, 0.5 ])
    """
    known, at = np.asarray(values, float), np.linspace(0, 1, levels)
    spread = min(float(known.std()), float(np.subtract(*np.quantile(known, (0.75, 0.25)))) / 1.34 or np.inf)
    width = max(0.9 * spread * len(known) ** -0.2, 0.03)
    mirrored = np.concatenate([known, -known, 2 - known])
    found: np.ndarray = np.exp(-(((at[:, None] - mirrored) / width) ** 2) / 2).sum(axis=1)
    return found / found.max()


def _draw(template: str, width: int, **values: Any) -> Markup:
    box = {
        "width": width,
        "height": HEIGHT,
        "left": LEFT,
        "right": width - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
    }
    return Markup(environment.get_template(template).render(box=box, **values))  # the template has escaped


def _steps(value: float) -> list[float]:
    """Round fractions from 0 to just above `value`, for the ticks of an axis."""
    step = next((s for s in (0.02, 0.05, 0.1) if value <= TICKS * s), 0.2)
    return [round(k * step, 2) for k in range(math.ceil(value / step - 1e-9) + 1)]
