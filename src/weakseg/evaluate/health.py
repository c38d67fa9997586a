"""Health checks between stages, in plain words with the likely cause. They know tags and outputs, never the truth.

Users of this field lose days to a classifier that learned nothing and to masks that are all background: every later
stage runs without complaint and ends with the number of an empty mask. The limits below are generous on purpose; what
they catch is broken, not weak.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

from weakseg.evaluate._threads import each
from weakseg.evaluate.conventions import names
from weakseg.ops.metrics import TagScores
from weakseg.types import BACKGROUND, IGNORE, LabelMap

Level: TypeAlias = Literal["ok", "warning", "error"]

LEARNED_NOTHING, WEAK = 0.1, 0.3  # share of the way from chance to perfect tag mAP
ALL, MANY, FEW = 0.99, 0.5, 0.02  # shares of pixels or photographs
ONE_CLASS = 0.95  # share of one class in all foreground pixels
WITHOUT_A_PIXEL = 0.2  # share of the tags that no pixel stands for
UNDECIDED = 0.6  # share of pixels that are 255
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: a title for the list, a text with numbers, the likely cause and what to do."""

    level: Level
    title: str
    text: str


def check_classifier(scores: TagScores, classes: Sequence[str] | None = None) -> list[Finding]:
    """Has the classifier learned its tags? Near chance, its score maps are noise and so is all that follows.

    Args:
        scores: of `ops.metrics.tag_map`; ``lift`` below is the share of the way from chance to perfect.
        classes: the C foreground names, to name those it did not learn.

    >>> import torch
    >>> lucky = torch.tensor([0.26]), torch.tensor([0.25])
    >>> [f.level for f in check_classifier(TagScores(*lucky, mean=0.26, chance=0.25))]
    ['error']
    """
    numbers = f"Tag mAP {_percent(scores.mean)}, chance {_percent(scores.chance)}."
    if scores.mean != scores.mean:
        return [Finding("error", "No tag to learn", "No class has a positive photograph; look at the tags.")]
    if scores.chance > 1 - 1e-9:
        return [Finding("warning", "Every photograph has every tag", f"{numbers} Such tags teach no class apart.")]
    lift = (scores.mean - scores.chance) / (1 - scores.chance)
    if lift < LEARNED_NOTHING:
        cause = (
            "Most often the step was too large (learning rate 0.01 / 0.1 together with momentum 0.9 does exactly this; "
            "take 0.001 / 0.01, or no momentum), else the wrong mean and std for these weights, weights that did not "
            "load, or too few epochs. Score maps made from it are noise: mend this stage first."
        )
        return [Finding("error", "The classifier learned nothing", f"{numbers} {cause}")]
    if lift < WEAK:
        cause = "More epochs, a smaller learning rate or stronger pre-trained weights may help."
        return [Finding("warning", "The classifier is weak", f"{numbers} {cause}")]
    pairs = zip(scores.per_class.tolist(), scores.per_class_chance.tolist(), strict=True)
    behind = [k for k, (ap, chance) in enumerate(pairs) if ap == ap and ap - chance < LEARNED_NOTHING * (1 - chance)]
    if behind:
        which = ", ".join(classes[k] if classes else f"class {k + 1}" for k in behind[:EXAMPLES])
        text = f"{numbers} Near chance: {which}. Rare classes need more photographs or more epochs."
        return [Finding("warning", f"{_count(len(behind), 'class')} not learned", text)]
    return [Finding("ok", "The classifier learned its tags", numbers)]


def mask_stats(
    read: Callable[[str], LabelMap],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    tags: Callable[[str], Tensor] | None = None,
    threads: int = 2,
) -> dict[str, Any]:
    """Count what label maps hold, for `check_masks` and `check_predictions`; JSON-able.

    Args:
        read: id -> label map.
        ids: the list.
        classes: the C foreground names.
        tags: id -> bool (C,), or None if the tags are not to be looked at.
        threads: photographs read at once.

    Returns:
        ``images``; ``classes`` (background first) and their ``pixels``; ``ignored`` pixels; ``empty_images`` without a
        foreground pixel, ``full_images`` without a background pixel; and with tags ``tags`` (how many there are),
        ``without_pixel`` (how many of them no pixel stands for), ``without_pixel_by_class``, ``stray_images`` and
        ``stray_pixels`` of classes their photograph is not tagged with, ``examples`` (ids of each trouble).
    """
    size = len(classes) + 1

    def count(id: str) -> np.ndarray:
        return np.bincount(read(id).cpu().numpy().ravel(), minlength=256)

    pixels = np.zeros(256, np.int64)
    empty: list[str] = []
    full: list[str] = []
    bare: list[str] = []
    stray: list[str] = []
    tagged, missed, stray_pixels = 0, np.zeros(size - 1, np.int64), 0
    for id, counts in each(count, ids, threads):
        pixels += counts
        objects = counts[1:IGNORE]
        if not objects.any():
            empty.append(id)
        if not counts[BACKGROUND] and objects.any():
            full.append(id)
        if tags is None:
            continue
        present = tags(id).cpu().numpy().astype(bool)
        tagged += int(present.sum())
        absent_pixels = int(objects.sum() - objects[: size - 1][present].sum())
        without = present & (objects[: size - 1] == 0)
        missed += without
        stray_pixels += absent_pixels
        bare += [id] if without.any() else []
        stray += [id] if absent_pixels else []
    stats: dict[str, Any] = {
        "images": len(ids),
        "classes": names(list(classes)),
        "pixels": pixels[:size].tolist(),
        "ignored": int(pixels[IGNORE]),
        "empty_images": len(empty),
        "full_images": len(full),
        "examples": {"empty": empty[:EXAMPLES], "without_pixel": bare[:EXAMPLES], "stray": stray[:EXAMPLES]},
    }
    if tags is not None:
        stats |= {
            "tags": tagged,
            "without_pixel": int(missed.sum()),
            "without_pixel_by_class": missed.tolist(),
            "stray_images": len(stray),
            "stray_pixels": stray_pixels,
        }
    return stats


def check_masks(stats: dict[str, Any]) -> list[Finding]:
    """Are pseudo-masks fit to teach a network? `stats` of `mask_stats` with tags."""
    found = _collapsed(
        stats,
        "The score maps are flat or the background threshold is too high; a classifier near chance does this too.",
        "The background threshold is too low, or the maps are not normalised to 0..1.",
    )
    if stats["images"] and stats["ignored"] > UNDECIDED * (sum(stats["pixels"]) + stats["ignored"]):
        share = _percent(stats["ignored"] / (sum(stats["pixels"]) + stats["ignored"]))
        text = f"{share} of the pixels are 255 and teach nothing; bring the two thresholds closer together."
        found.append(Finding("warning", "Most pixels are undecided", text))
    if stats.get("tags") and stats["without_pixel"] > WITHOUT_A_PIXEL * stats["tags"]:
        text = (
            f"{stats['without_pixel']} of {stats['tags']} tags have no pixel in their photograph "
            f"({_worst(stats)}; {_examples(stats, 'without_pixel')}). The background threshold is too high for them, "
            "or a stronger class of the same photograph takes their place."
        )
        found.append(Finding("warning", "Present classes without a pixel", text))
    if stats.get("stray_images"):
        text = (
            f"{_count(stats['stray_images'], 'photograph')} of {stats['images']} hold {stats['stray_pixels']} pixels "
            f"of classes they are not tagged with ({_examples(stats, 'stray')}). Masks made from tags never do: the "
            "tags changed since, or the masks belong to another class list."
        )
        found.append(Finding("warning", "Pixels of absent classes", text))
    return found or [Finding("ok", "The masks look sound", _summary(stats))]


def check_predictions(stats: dict[str, Any]) -> list[Finding]:
    """Did the segmentation network collapse? `stats` of `mask_stats`; tags are not needed."""
    found = _collapsed(
        stats,
        "The network collapsed to background: pseudo-masks that are nearly empty, a learning rate that is too high for "
        "these weights, or training that diverged. Look at the masks it was taught with, then at its loss.",
        "The network predicts background nowhere: look at the share of background in the masks it was taught with.",
    )
    never = [n for n, p in zip(stats["classes"][1:], stats["pixels"][1:], strict=True) if not p]
    if not found and len(never) > MANY * (len(stats["classes"]) - 1):
        some = ", ".join(never[:EXAMPLES]) + (", ..." if len(never) > EXAMPLES else "")
        text = (
            f"{len(never)} of {_count(len(stats['classes']) - 1, 'class')} never occur in {stats['images']} "
            f"predictions ({some}). Too few steps, or masks in which they hardly occur."
        )
        found.append(Finding("warning", "Most classes are never predicted", text))
    return found or [Finding("ok", "The predictions look sound", _summary(stats))]


def _collapsed(stats: dict[str, Any], empty_cause: str, full_cause: str) -> list[Finding]:
    """All background, no background, all one class."""
    background, objects = stats["pixels"][BACKGROUND], np.array(stats["pixels"][1:])
    decided = background + int(objects.sum())
    if not stats["images"] or not decided:
        return [Finding("error", "Nothing was labelled", f"{stats['images']} label maps hold no pixel but 255.")]
    share = background / decided
    if share > ALL:
        return [Finding("error", "All background", f"{_percent(share)} of the pixels are background. {empty_cause}")]
    found = []
    if stats["empty_images"] > MANY * stats["images"]:
        text = (
            f"{stats['empty_images']} of {stats['images']} photographs hold nothing but background "
            f"({_examples(stats, 'empty')}). {empty_cause}"
        )
        found.append(Finding("warning", "Many masks are all background", text))
    if share < FEW:
        text = f"Only {_percent(share)} of the pixels are background. {full_cause}"
        found.append(Finding("error", "Hardly any background", text))
    largest = int(objects.argmax())
    if len(objects) > 2 and objects[largest] > ONE_CLASS * objects.sum():
        name = stats["classes"][1 + largest]
        text = (
            f"{_percent(objects[largest] / objects.sum())} of the foreground is {name}. If the photographs show other "
            "classes too, the class list is shifted or training collapsed to its most frequent class."
        )
        found.append(Finding("warning", f"All one class: {name}", text))
    return found


def _summary(stats: dict[str, Any]) -> str:
    total = sum(stats["pixels"])
    seen = sum(p > 0 for p in stats["pixels"][1:])
    text = f"{_percent(stats['pixels'][BACKGROUND] / total)} background, {seen} of {len(stats['classes']) - 1} classes"
    return text + f" occur, {stats['empty_images']} of {stats['images']} photographs are empty."


def _worst(stats: dict[str, Any]) -> str:
    by_class = stats["without_pixel_by_class"]
    order = sorted(range(len(by_class)), key=lambda k: -by_class[k])[:3]
    return ", ".join(f"{stats['classes'][k + 1]} {by_class[k]}" for k in order if by_class[k])


def _examples(stats: dict[str, Any], trouble: str) -> str:
    return "for example " + ", ".join(stats["examples"][trouble])


def _count(n: int, noun: str) -> str:
    plural = {"class": "classes"}.get(noun, f"{noun}s")
    return f"{n} {noun if n == 1 else plural}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
