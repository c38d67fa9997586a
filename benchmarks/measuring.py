"""What every benchmark shares: seconds in turns, summaries of ratios, rows of the table, and their file."""

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"
SIZE = (375, 500)
"""(H, W) of a typical photograph of PASCAL VOC."""


def timed(function: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Seconds on the clock, and the result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def in_turns(*works: Callable[[], Any], repeats: int, warm_up: bool = True) -> list[tuple[float, ...]]:
    """Seconds of each work, `repeats` times one after the other: what disturbs a turn disturbs all alike."""
    if warm_up:
        for work in works:
            work()
    return [tuple(timed(work)[0] for work in works) for _ in range(repeats)]


def summary(values: Iterable[float]) -> dict[str, float]:
    """Median, least and largest value."""
    values = list(values)
    return {key: float(f"{f(values):.4g}") for key, f in (("median", statistics.median), ("min", min), ("max", max))}


def row(
    work: str, measure: str, target: float, values: Sequence[float], *, at_least: bool, **more: Any
) -> dict[str, Any]:
    """A line of the table.

    Args:
        work: what was done.
        measure: what `values` are: a ratio to whom, seconds, bytes.
        target: what the median has to reach, or must not exceed.
        values: of every repeat.
        at_least: which of the two.
        more: whatever helps to understand the row; ``note`` appears in the table.
    """
    found = summary(values)
    met = found["median"] >= target if at_least else found["median"] <= target
    limit = f"{'>=' if at_least else '<='} {target:g}"
    print(f"{'met   ' if met else 'MISSED'} {work}: {measure} {found['median']:g} ({limit})", flush=True)
    return {
        "work": work,
        "measure": measure,
        "target": limit,
        "measured": found,
        "met": met,
        "repeats": len(values),
        **more,
    }


def check(name: str, difference: float, tolerance: float) -> float:
    """`difference`, or the end of the benchmark: a fast answer has to be the right one."""
    if not difference <= tolerance:
        raise SystemExit(f"{name}: differs from the plain version by {difference:.3g}, more than {tolerance:g}")
    return float(f"{difference:.3g}")


def arguments(description: str, *, repeats: int = 5) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, default=Path("../shared/data/voc-animals"), help="VOC layout; generated scenes otherwise"
    )
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser


def save(name: str, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write ``NAME.json``: the rows, and where and with what they were measured."""
    libraries = ("torch", "numba", "numpy", "pillow")
    head = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {library: version(library) for library in libraries},
        "commit": commit(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**head, "rows": list(rows)}, indent=1) + "\n")


def commit() -> str:
    """Short hash of the working tree's commit; empty outside of a repository."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def processor() -> str:
    """The model name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class PeakMemory:
    """Bytes that this process held at most within the block, beyond what it held before (Linux; 0 elsewhere)."""

    def __enter__(self) -> "PeakMemory":
        self.bytes = 0
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)  # else what was freed before serves again and is not seen
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text("5")  # the peak starts from here
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _status("VmHWM") - self._before


def _status(key: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)
