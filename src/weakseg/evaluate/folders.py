"""A folder of masks or score maps against a folder of true masks, whoever made them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from weakseg.data.context import NAME_FILES, SUFFIXES, context_names, read_context
from weakseg.data.store import read_bytes, read_label_map, read_score_maps
from weakseg.evaluate.activation import random_share
from weakseg.evaluate.boundaries import evaluate_boundaries, of_masks, true_boundaries
from weakseg.evaluate.confusion import evaluate_confusion
from weakseg.evaluate.masks import Counts, count_masks, summarise
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.ops.metrics import AbsentClass, IgnoredPrediction
from weakseg.types import MAX_CLASSES, LabelMap, WeaksegError

SHOWN = 10  # file names that an error lists


def evaluate_folders(
    pred: Path | str,
    truth: Path | str,
    classes: Path | str | Sequence[str] | None = None,
    *,
    ignored_prediction: IgnoredPrediction = "miss",
    absent: AbsentClass = "irn",
    threads: int = 2,
) -> dict[str, Any]:
    """mIoU of the PNG label maps in `pred` against those of the same file stem in `truth`.

    Args:
        pred: folder of label maps, palette or 8-bit grey PNG.
        truth: folder of true masks; each needs a prediction.
        classes: foreground names, one a line in a file, or a list; None: as many classes as ids occur.
        ignored_prediction, absent: conventions, see `ops.metrics.iou_table`.
        threads: files read at once.

    Returns:
        As `evaluate_masks`, and ``extra_predictions``: how many predictions no truth was found for.

    Raises:
        WeaksegError: an empty or missing folder, a missing prediction, a mask of another size, an unknown class id.
    """
    predictions, truths = _files(pred, "predictions"), _files(truth, "true masks")
    missing = sorted(set(truths) - set(predictions))
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise WeaksegError(
            f"{len(missing)} of {len(truths)} true masks have no prediction of the same file stem in {pred}: "
            f"{', '.join(missing[:SHOWN])}{more}; predict them, or give --truth a folder of the judged masks alone"
        )
    names = None if classes is None else _names(classes)
    counts = count_masks(
        lambda id: read_label_map(predictions[id]),
        lambda id: read_label_map(truths[id]),
        sorted(truths),
        1 + (MAX_CLASSES if names is None else len(names)),
        threads=threads,
    )
    if names is None:
        counts, names = _only_seen(counts)
    result = summarise(counts, names, ignored_prediction=ignored_prediction, absent=absent)
    return {**result, "extra_predictions": len(set(predictions) - set(truths))}


def analyse_folders(
    pred: Path | str,
    truth: Path | str,
    classes: Sequence[str],
    *,
    boundaries: Path | str | bool = False,
    confusion: bool = False,
    context: Path | str | None = None,
    pairs: Sequence[str] = (),
    threads: int = 2,
) -> dict[str, Any]:
    """Boundaries and confusion of the label maps in `pred`; files as in `evaluate_folders`.

    Args:
        pred, truth: folders of label maps and of true masks.
        classes: the C foreground names.
        boundaries: whether to judge boundaries; a folder: of true boundaries, PNG or SBD's .mat, instead of those of
            the true masks.
        confusion: whether to tell what classes are confused with.
        context: folder of context labels, PNG or PASCAL-Context's .mat, with their names in ``context_classes.txt`` or
            ``labels.txt`` there or beside it; asks for `confusion`.
        pairs: ``"train/rail"``: the pairs to list, see `evaluate_confusion`.
        threads: photographs at once.

    Returns:
        ``boundaries`` of `evaluate_boundaries` and ``confusion_ratios`` of `evaluate_confusion`, as far as asked for.
    """
    predictions, truths = _files(pred, "predictions"), _files(truth, "true masks")
    ids = sorted(set(truths) & set(predictions))

    def read_pred(id: str) -> LabelMap:
        return read_label_map(predictions[id])

    def read_truth(id: str) -> LabelMap:
        return read_label_map(truths[id])

    found: dict[str, Any] = {}
    if boundaries is not False:
        given = None if boundaries is True else Path(boundaries)
        read = of_masks(read_truth) if given is None else true_boundaries(given)
        source = "true masks" if given is None else f"files of {given.name}"
        found["boundaries"] = evaluate_boundaries(read_pred, read, ids, source=source, threads=threads)
    if confusion or pairs or context is not None:
        labels, known = (None, []) if context is None else _context(Path(context))
        found["confusion_ratios"] = evaluate_confusion(
            read_pred, read_truth, ids, classes, read_context=labels, context=known, pairs=pairs, threads=threads
        )
    return found


def evaluate_score_folder(
    scores: Path | str,
    truth: Path | str,
    classes: Path | str | Sequence[str],
    *,
    key: str = "full",
    thresholds: int = 256,
    fixed: float = 0.2,
    share: float = 1.0,
    seed: int = 0,
    absent: AbsentClass = "irn",
    threads: int = 2,
) -> dict[str, Any]:
    """Threshold curve, best thresholds and activations of the score maps (.npz) in `scores`, such as a step's own.

    Args:
        scores: folder of ``<id>.npz`` files, or one that holds them in ``scores/``, as a run's step folder does.
        truth: folder of true masks of the same stems; score maps without truth are left out.
        classes: foreground names, one a line in a file, or a list.
        key: which maps of a file; they have the size of the truth.
        thresholds, fixed, absent, threads: see `evaluate_scores`.
        share: a random part of the photographs, see `random_share`; AMN takes 0.1 of COCO.
        seed: of that choice.

    Returns:
        As `evaluate_scores`.

    Raises:
        WeaksegError: an empty or missing folder, no score map with truth, a file without `key`, a map of another size.
    """
    folder = Path(scores) / "scores" if (Path(scores) / "scores").is_dir() else Path(scores)
    found, truths = _files(folder, "score maps", ".npz"), _files(truth, "true masks")
    ids = random_share(sorted(set(found) & set(truths)), share, seed)
    if not ids:
        raise WeaksegError(f"none of the {len(found)} score maps in {folder} has a true mask of its stem in {truth}")

    result = evaluate_scores(
        lambda id: read_score_maps(found[id], [key])[key],
        lambda id: read_label_map(truths[id]),
        ids,
        _names(classes),
        thresholds=thresholds,
        fixed=fixed,
        absent=absent,
        threads=threads,
    )
    return {**result, "without_truth": len(set(found) - set(truths))}


def format_table(result: dict[str, Any]) -> str:
    """The result of `evaluate_masks`, `evaluate_folders` or `evaluate_scores` for a terminal, in percent."""
    best = result.get("best")
    rows = result if best is None else result["fixed"]
    width = max(len(name) for name in result["classes"])
    lines = [f"{'':{width}}    IoU  precision  recall"]
    for name, *values in zip(result["classes"], rows["iou"], rows["precision"], rows["recall"], strict=True):
        iou, precision, recall = (f"{100 * v:5.1f}" if v is not None else "    -" for v in values)
        lines.append(f"{name:{width}}  {iou}      {precision}   {recall}")
    lines += ["", f"mIoU {100 * rows['miou']:.1f} over {result['images']} images"]
    if best is not None:
        lines[-1] += f" at the fixed background threshold {rows['threshold']:.3f}"
        lines.append(f"mIoU {100 * best['miou']:.1f} at the best, {best['threshold']:.3f}, chosen on the truth")
        lines += _threshold_lines(result)
    else:
        lines.append(
            f"pixel accuracy {_percent(result['pixel_accuracy'])}, background {_percent(result['background_share'])} "
            f"(truth {_percent(result['truth_background_share'])}), predicted 255 {_percent(result['ignored_share'])}, "
            f"an all-background mask would score {100 * result['all_background_miou']:.1f}"
        )
    if result.get("extra_predictions"):
        lines.append(f"{result['extra_predictions']} predictions without a true mask were left out")
    if result["without_truth"]:
        lines.append(f"{result['without_truth']} photographs without a true mask were left out")
    lines += _boundary_lines(result.get("boundaries")) + _confusion_lines(result.get("confusion_ratios"))
    lines += [f"{what}: {how}" for what, how in result["conventions"].items()]
    return "\n".join(lines)


def _threshold_lines(result: dict[str, Any]) -> list[str]:
    """How much the threshold matters: the plateau, each photograph's own best one, how high maps are on objects."""
    (first, last), own, inside = result["plateau"], result["per_image_best"], result["foreground_activation"]
    lines = [
        f"within one point of the best from {first:.3f} to {last:.3f}, a width of {result['plateau_width']:.3f}; "
        f"area under the curve {result['area']:.3f}"
    ]
    if own["mean"] is not None:
        lines.append(f"each photograph's own best threshold: {own['mean']:.3f} ± {own['std']:.3f}")
    shares = zip(inside["edges"], inside["edges"][1:], inside["share"], strict=False)
    return [*lines, "objects' own maps on them: " + ", ".join(f"{a:g}-{b:g} {_percent(s)}" for a, b, s in shares)]


def _boundary_lines(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return []
    rows = [
        f"boundaries within {100 * row['max_dist']:g} % of the diagonal: precision {_percent(row['precision'])}, "
        f"recall {_percent(row['recall'])}, F1 {_percent(row['f1'])}"
        for row in result["tolerances"]
    ]
    return ["", *rows, f"true boundaries: {result['conventions']['true boundaries']}, {result['images']} images"]


def _confusion_lines(result: dict[str, Any] | None) -> list[str]:
    """A table of pairs: the class, what is taken for it, the ratio, and the class's IoU over the same photographs."""
    if result is None:
        return []
    width = max([len(f"{row['class']} / {row['with']}") for row in result["pairs"]], default=0)
    lines = ["", f"{'':{width}}  confusion  IoU  seen together"]
    for row in result["pairs"]:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3f}"
        iou = "-" if row["iou"] is None else f"{100 * row['iou']:.1f}"
        pair = f"{row['class']} / {row['with']}"
        lines.append(f"{pair:{width}}  {ratio:>9}  {iou:>4}  {_percent(row['co_occurrence']):>8}")
    return [*lines, f"confusion ratio: {result['conventions']['confusion ratio']} ({result['images']} images)"]


def _context(folder: Path) -> tuple[Callable[[str], Tensor | None], list[str]]:
    """A reader of context labels, and their names."""
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES} if folder.is_dir() else {}
    if not files:
        raise WeaksegError(f"{folder} holds no context labels; wanted are PNGs or PASCAL-Context's .mat files")
    known = context_names(folder, folder.parent)
    if known is None:
        raise WeaksegError(f"the labels in {folder} have no names; give {NAME_FILES[0]}, one name a line, there")
    return lambda id: read_context(files[id]) if id in files else None, known


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _files(folder: Path | str, what: str, suffix: str = ".png") -> dict[str, Path]:
    folder, kind = Path(folder), "PNG" if suffix == ".png" else suffix[1:]
    if not folder.is_dir():
        raise WeaksegError(f"{folder} is no folder; it should hold the {what} as {kind}")
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() == suffix and not p.name.startswith(".")}
    if not files:
        raise WeaksegError(f"{folder} holds no {kind}; it should hold the {what}, one file a photograph")
    return files


def _names(classes: Path | str | Sequence[str]) -> list[str]:
    if isinstance(classes, (str, Path)):
        try:
            text = read_bytes(Path(classes)).decode()
        except UnicodeDecodeError as error:
            raise WeaksegError(f"{classes} is not UTF-8 text; it should hold one class name a line") from error
        classes = [line.strip() for line in text.splitlines() if line.strip()]
    found = [name for k, name in enumerate(classes) if not (k == 0 and name.lower() in ("background", "_background_"))]
    if not found or len(found) > MAX_CLASSES:
        raise WeaksegError(f"a class list holds 1 to {MAX_CLASSES} foreground names, one a line; got {len(found)}")
    return found


def _only_seen(counts: Counts) -> tuple[Counts, list[str]]:
    """Without a class list the largest id that occurs ends it."""
    seen = counts.matrix[:, :-1]
    largest = max(1, *(int(k) for k in (seen.sum(0) + seen.sum(1) + counts.matrix[:, -1]).nonzero()))
    keep = [*range(largest + 1), -1]
    matrix = counts.matrix[: largest + 1][:, keep]
    counts = Counts(matrix, counts.per_image, counts.without_truth, counts.with_ignored, counts.seconds)
    return counts, [f"class {k}" for k in range(1, largest + 1)]
