"""Do masks end where objects do: boundary precision, recall and F1 over a list (EPS, sec. 5.1; methods.md 11)."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from scipy import io
from torch import Tensor

from weakseg.data.images import read_mask
from weakseg.evaluate._threads import each
from weakseg.ops.boundaries import (
    MAX_DIST,
    WIDE_MAX_DIST,
    BoundaryCounts,
    boundary_map,
    fill_ignored,
    match_boundaries,
    thin,
)
from weakseg.types import LabelMap, WeaksegError

FOLDERS = ("Boundaries", "cls")
"""Where a data set may keep true boundaries: PNGs, or SBD's ``cls/*.mat``."""


def evaluate_boundaries(
    read_pred: Callable[[str], LabelMap],
    read_boundaries: Callable[[str], Bool[Tensor, "h w"] | None],
    ids: Sequence[str],
    *,
    max_dists: Sequence[float] = (MAX_DIST, WIDE_MAX_DIST),
    source: str = "true masks",
    threads: int = 2,
) -> dict[str, Any]:
    """Boundary precision, recall and F1 from sums over the list; fractions 0-1, JSON-able (None: nothing to divide by).

    Args:
        read_pred: id -> label map at the photograph's size; its boundaries are class-agnostic.
        read_boundaries: id -> true boundaries, or None: that photograph is left out and counted (see `of_masks`, and
            `true_boundaries` for files).
        ids: the list.
        max_dists: tolerances as fractions of the diagonal; the first one is the headline.
        source: where the true boundaries are from, for the conventions.
        threads: photographs read and matched at once.

    Returns:
        ``precision``, ``recall`` and ``f1`` at the first tolerance; ``tolerances``: a row for each with ``max_dist``,
        the same three and ``matched``; ``predicted_pixels``, ``true_pixels``; ``per_image`` F1 by id; ``images``,
        ``without_truth``; ``conventions`` in words; ``seconds``, ``images_per_second``.

    Raises:
        WeaksegError: no photograph has true boundaries; sizes differ; no tolerance.
    """
    if not max_dists:
        raise WeaksegError("boundaries are matched within a tolerance; give one or more max_dists, such as 0.0075")

    def count(id: str) -> list[BoundaryCounts] | None:
        true = read_boundaries(id)
        if true is None:
            return None
        found = boundary_map(read_pred(id))
        return [match_boundaries(found, true, max_dist) for max_dist in max_dists]

    start = time.perf_counter()
    totals = [BoundaryCounts() for _ in max_dists]
    per_image: dict[str, float] = {}
    judged = 0
    for id, counts in each(count, ids, threads, "judge"):
        if counts is None:
            continue
        judged += 1
        totals = [total + one for total, one in zip(totals, counts, strict=True)]
        if not math.isnan(counts[0].f1):
            per_image[id] = counts[0].f1
    if not judged:
        raise WeaksegError(f"nothing to judge: none of {len(ids)} photographs has true boundaries ({source})")
    seconds = time.perf_counter() - start
    rows = [_row(max_dist, total) for max_dist, total in zip(max_dists, totals, strict=True)]
    return {
        "kind": "boundaries",
        **{k: rows[0][k] for k in ("precision", "recall", "f1")},
        "tolerances": rows,
        "predicted_pixels": totals[0].predicted,
        "true_pixels": totals[0].true,
        "per_image": per_image,
        "images": judged,
        "without_truth": len(ids) - judged,
        "conventions": {
            "boundary": "Laplacian edges of each class's mask, united over classes, thinned to one pixel",
            "matching": "one to one, as many pairs as possible within the tolerance, a fraction of the diagonal",
            "sums": "pixels of the whole list, then precision, recall and F1",
            "true boundaries": source,
        },
        "seconds": seconds,
        "images_per_second": judged / max(seconds, 1e-9),
    }


def of_masks(
    read_truth: Callable[[str], LabelMap | None], *, fill: bool = True
) -> Callable[[str], Bool[Tensor, "h w"] | None]:
    """True boundaries from true masks.

    Args:
        read_truth: id -> true mask, or None.
        fill: run boundaries amid borders of 255 (VOC's objects are framed by them) instead of at their inner rim.
    """

    def read(id: str) -> Bool[Tensor, "h w"] | None:
        truth = read_truth(id)
        if truth is None:
            return None
        return boundary_map(fill_ignored(truth) if fill else truth)

    return read


def true_boundaries(folder: Path) -> Callable[[str], Bool[Tensor, "h w"] | None]:
    """True boundaries from files: ``<id>.png``, or ``<id>.mat`` of SBD; an id without either has None.

    Raises:
        WeaksegError: there is no such folder, or it holds neither kind of file.
    """
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in (".png", ".mat")} if folder.is_dir() else {}
    if not files:
        raise WeaksegError(f"{folder} holds no boundaries; wanted are PNGs (not 0 = boundary) or SBD's .mat files")
    return lambda id: read_boundaries(files[id]) if id in files else None


def boundary_folder(root: Path) -> Path | None:
    """The folder in which the data set keeps true boundaries, or None."""
    return next((f for f in (root / n for n in FOLDERS) if f.is_dir() and _any_boundaries(f)), None)


def read_boundaries(path: Path) -> Bool[Tensor, "h w"]:
    """True boundaries of one photograph, thinned.

    Args:
        path: a PNG in which any value but 0 is a boundary, or a ``.mat`` file of SBD's ``cls`` folder, whose
            ``GTcls.Boundaries`` holds one map a class: they are united.

    Raises:
        WeaksegError: the file is damaged or of another kind.
    """
    if path.suffix == ".mat":
        return thin(torch.from_numpy(_sbd(path)))
    return thin(read_mask(path) > 0)


def _any_boundaries(folder: Path) -> bool:
    return any(p.suffix in (".png", ".mat") for p in folder.iterdir())


def _sbd(path: Path) -> np.ndarray:
    try:
        by_class = io.loadmat(path, simplify_cells=False)["GTcls"]["Boundaries"][0, 0]
        maps = [m.toarray() if hasattr(m, "toarray") else np.asarray(m) for m in by_class.ravel()]
        united: np.ndarray = np.logical_or.reduce([m != 0 for m in maps])
    except Exception as error:  # scipy raises ValueError, TypeError, KeyError, NotImplementedError, OSError ...
        raise WeaksegError(
            f"{path} is no SBD annotation with GTcls.Boundaries ({type(error).__name__}: {error}); "
            "the `cls` folder of SBD holds such files"
        ) from error
    return united


def _row(max_dist: float, total: BoundaryCounts) -> dict[str, Any]:
    numbers = {"precision": total.precision, "recall": total.recall, "f1": total.f1}
    plain = {k: None if math.isnan(v) else v for k, v in numbers.items()}
    return {"max_dist": max_dist, **plain, "matched": total.matched}
