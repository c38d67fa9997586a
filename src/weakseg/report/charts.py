"""Charts as SVG inside the page: they take its colours, light or dark, and need no library in the browser."""

import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

WIDTH, NARROW, HEIGHT = 640, 400, 300  # of the curve, of the histogram beside it, of both
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 28, 48
TICKS = 5

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
