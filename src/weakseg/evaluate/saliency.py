"""Saliency maps against one another and against the true foreground, and which classes EPS finds in them.

The estimated saliency map of EPS (Lee et al., CVPR 2021, Fig. 3; methods.md 11) is meant to correct the given one:
restore objects that it misses, remove what belongs to no class. Errors are the two numbers of that field: mean absolute
error, and the F-measure with beta^2 = 0.3 of Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weakseg.data.images import read_saliency
from weakseg.data.store import read_label_map, read_score_maps
from weakseg.evaluate._threads import each
from weakseg.evaluate.conventions import plain
from weakseg.methods.eps import Eps, estimated_saliency, foreground_and_background, overlap, saliency_loss
from weakseg.models.eps import EpsNet
from weakseg.ops.saliency import saliency_of
from weakseg.types import BACKGROUND, IGNORE, SALIENCY, LabelMap, Sample, WeaksegError

BETA2 = 0.3
"""Weight of recall in the F-measure: precision counts more."""
LEVELS = 51
"""Thresholds 0, 0.02 ... 1 of the curve."""


def absolute_error(saliency: Tensor, target: Tensor, known: Tensor | None = None) -> float:
    """Mean absolute error over the pixels that are `known` (all if None); nan if there is none.

    Args:
        saliency: float (H, W), 0-1.
        target: float or bool (H, W), 0-1: another saliency map, or the true foreground.
        known: bool (H, W).

    >>> absolute_error(torch.tensor([[0.5, 1.0]]), torch.tensor([[True, False]]))
    0.75
    """
    error = (saliency - target.to(saliency.dtype)).abs()
    return float((error if known is None else error[known]).mean())


def precision_recall(saliency: Tensor, foreground: Tensor, known: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall of ``saliency > t`` for every threshold, over the `known` pixels.

    Args:
        saliency: float (H, W), 0-1.
        foreground, known: bool (H, W).
        thresholds: float (T,), ascending.

    Returns:
        Two float64 (T,). Where nothing exceeds a threshold precision is 0; without foreground recall is 0.

    >>> salient, truth = torch.tensor([[0.9, 0.6, 0.2]]), torch.tensor([[True, False, True]])
    >>> p, r = precision_recall(salient, truth, torch.ones_like(truth), torch.tensor([0.1, 0.5]))
    >>> p.round(decimals=2).tolist(), r.tolist()
    ([0.67, 0.5], [1.0, 0.5])
    """
    bins = thresholds.numel() + 1
    place = torch.bucketize(saliency[known], thresholds)  # how many thresholds are below the value
    hits = torch.bincount(place[foreground[known]], minlength=bins).double()
    found = torch.bincount(place, minlength=bins).double()
    above_hits, above = (c.flip(0).cumsum(0).flip(0)[1:] for c in (hits, found))
    return above_hits / above.clamp(min=1), above_hits / hits.sum().clamp(min=1)


def f_measure(precision: Tensor, recall: Tensor) -> Tensor:
    """(1 + 0.3) P R / (0.3 P + R), 0 where both are 0.

    >>> f_measure(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0]))
    tensor([0.8125, 0.0000])
    """
    below = BETA2 * precision + recall
    return (1 + BETA2) * precision * recall / below.where(below > 0, 1.0)


def evaluate_saliency(
    read: Callable[[str], Tensor],
    read_given: Callable[[str], Tensor | None],
    read_truth: Callable[[str], LabelMap | None],
    ids: Sequence[str],
    *,
    threads: int = 1,
) -> dict[str, Any]:
    """Errors of a list of saliency maps, beside those of the maps that were given.

    Args:
        read: id -> the map under judgement, float (1, H, W), 0-1.
        read_given: id -> the given saliency map, or None.
        read_truth: id -> true mask, or None; its foreground is every class, 255 is not counted.
        ids: the list.
        threads: photographs read at once.

    Returns:
        ``error_to_given``, mean absolute error over photographs that have both; ``estimated`` and ``given``, each
        ``error`` against the true foreground, ``f_measure`` at 0.5 and the best one with its threshold (of precision
        and recall averaged over photographs, as is the custom); ``photographs`` and ``without_truth``. None where
        nothing can be compared.
    """
    thresholds = torch.linspace(0, 1, LEVELS)
    rows: dict[str, list[tuple[float, Tensor, Tensor]]] = {"estimated": [], "given": []}
    to_given, without_truth = [], 0

    def look(id: str) -> tuple[float | None, dict[str, tuple[float, Tensor, Tensor]] | None]:
        maps = {"estimated": read(id)[0], "given": _plane(read_given(id))}
        present = {name: m for name, m in maps.items() if m is not None}
        distance = absolute_error(*present.values()) if len(present) == 2 else None
        truth = read_truth(id)
        if truth is None or not bool((truth != IGNORE).any()):
            return distance, None
        if wrong := [name for name, m in present.items() if m.shape != truth.shape]:
            raise WeaksegError(
                f"the {wrong[0]} saliency map is {tuple(present[wrong[0]].shape)}, the true mask {tuple(truth.shape)} "
                "(height, width); resize the map to the photograph's size"
            )
        known, foreground = truth != IGNORE, (truth != IGNORE) & (truth != BACKGROUND)
        return distance, {
            name: (absolute_error(m, foreground, known), *precision_recall(m, foreground, known, thresholds))
            for name, m in present.items()
        }

    for _, (distance, errors) in each(look, ids, threads):
        to_given += [distance] if distance is not None else []
        without_truth += errors is None
        for name, row in (errors or {}).items():
            rows[name].append(row)
    return {
        "error_to_given": sum(to_given) / len(to_given) if to_given else None,
        **{name: _summary(found, thresholds) if found else None for name, found in rows.items()},
        "photographs": len(ids),
        "without_truth": without_truth,
    }


def evaluate_saliency_folder(
    maps: Path | str, truth: Path | str, given: Path | str | None = None, *, threads: int = 2
) -> dict[str, Any]:
    """`evaluate_saliency` of a folder of saliency maps, whoever made them.

    Args:
        maps: folder of 8-bit PNGs, or of score maps with the key ``saliency``, such as a step's own.
        truth: folder of true masks of the same file stems; maps without truth are compared with `given` alone.
        given: folder like `maps`, to be compared with.
        threads: files read at once.

    Raises:
        WeaksegError: an empty or missing folder; files without a saliency map.
    """
    read, ids = _reader(Path(maps), "saliency maps")
    read_given, have = (None, set[str]()) if given is None else _reader(Path(given), "given saliency maps")
    truths = {p.stem: p for p in sorted(Path(truth).iterdir()) if p.suffix == ".png"} if Path(truth).is_dir() else {}
    if not truths:
        raise WeaksegError(f"{truth} holds no PNG; it should hold the true masks, one a photograph")
    return evaluate_saliency(
        read,
        lambda id: None if read_given is None or id not in have else read_given(id),
        lambda id: read_label_map(truths[id]) if id in truths else None,
        sorted(ids),
        threads=threads,
    )


def format_saliency(result: Mapping[str, Any]) -> str:
    """The result of `evaluate_saliency` for a terminal."""
    lines = []
    for name, about in (("estimated", "these maps"), ("given", "the given maps")):
        if (found := result[name]) is not None:
            lines.append(
                f"{about}: mean absolute error {found['error']:.3f} to the true foreground, F-measure "
                f"{found['f_measure']:.3f} at 0.5, {found['best']['f_measure']:.3f} at the best threshold "
                f"{found['best']['threshold']:.2f}, chosen on the truth"
            )
    if result["error_to_given"] is not None:
        lines.append(f"mean absolute error between the two: {result['error_to_given']:.3f}")
    return "\n".join([*lines, f"{result['photographs']} photographs, {result['without_truth']} without truth"])


class Selection(NamedTuple):
    """The map selection of one photograph.

    Attributes:
        overlaps: float (C,), O of each class; nan for absent ones.
        foreground, background, saliency: float (1, h, w), 0-1: M_fg, M_bg and M_s.
    """

    overlaps: Tensor
    foreground: Tensor
    background: Tensor
    saliency: Tensor


def map_selection(method: Eps, model: EpsNet, sample: Sample) -> Selection:
    """What EPS' map selection sees of a photograph in training, without crop: one view, at feature resolution."""
    maps, saliency = method.localize(model, sample)
    tags = sample.tags[None].to(maps.device)
    front, back = foreground_and_background(maps, tags, method.select(maps, saliency, tags))
    overlaps = overlap(maps, saliency, method.per_pixel).where(tags, torch.nan)
    return Selection(overlaps[0], front[0], back[0], saliency[0])


def foreground_share(overlaps: Tensor, taus: Sequence[float]) -> Tensor:
    """How often each class is foreground of the saliency map, for each tau of the map selection (EPS, Eq. (2)).

    Args:
        overlaps: float (N, C), the overlap of each photograph's classes; nan where a class is absent.
        taus: thresholds, 0-1.

    Returns:
        float (len(taus), C), shares of the photographs with that class; nan for a class that none has.

    >>> overlaps = torch.tensor([[0.9, float("nan")], [0.3, 0.5]])
    >>> foreground_share(overlaps, [0.2, 0.4])
    tensor([[1.0000, 1.0000],
            [0.5000, 1.0000]])
    """
    present = ~overlaps.isnan()
    above = torch.stack([(overlaps > tau).sum(0) for tau in taus]).to(overlaps.dtype)
    return above / present.sum(0)


def lambda_errors(foreground: Tensor, background: Tensor, saliency: Tensor, lams: Sequence[float]) -> Tensor:
    """The saliency loss of given M_fg and M_bg at each lambda (EPS, Eqs. (1) and (3)): float (len(lams),).

    Args:
        foreground, background, saliency: float, of one shape, 0-1.
        lams: weights of the foreground, 0-1.

    >>> lambda_errors(torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([1.0]), [0.0, 1.0])
    tensor([0.2500, 0.2500])
    """
    return torch.stack([saliency_loss(saliency, estimated_saliency(foreground, background, lam)) for lam in lams])


def _reader(folder: Path, what: str) -> tuple[Callable[[str], Tensor], set[str]]:
    """A reader of saliency maps, float (1, H, W), by id, and the ids."""
    inner = folder / "scores" if (folder / "scores").is_dir() else folder
    files = {p.stem: p for p in sorted(inner.iterdir()) if p.suffix in (".png", ".npz")} if inner.is_dir() else {}
    if not files:
        raise WeaksegError(f"{folder} holds no {what}; wanted are PNGs, or .npz files with the key {SALIENCY!r}")

    def read(id: str) -> Tensor:
        path = files[id]
        if path.suffix == ".npz":
            return saliency_of(read_score_maps(path, [SALIENCY])[SALIENCY])
        return read_saliency(path).as_subclass(Tensor)

    return read, set(files)


def _plane(saliency: Tensor | None) -> Tensor | None:
    return None if saliency is None else saliency.as_subclass(Tensor)[0]


def _summary(rows: Sequence[tuple[float, Tensor, Tensor]], thresholds: Tensor) -> dict[str, Any]:
    errors, precisions, recalls = zip(*rows, strict=True)
    measure = f_measure(torch.stack(precisions).mean(0), torch.stack(recalls).mean(0))
    best = int(measure.argmax())
    return {
        "error": sum(errors) / len(errors),
        "f_measure": float(measure[len(measure) // 2]),
        "best": {"threshold": float(thresholds[best]), "f_measure": float(measure[best])},
        "thresholds": plain(thresholds),
        "curve": plain(measure),
    }
