"""The circumstances of a run that belong beside its numbers, in words, from its manifest (methods.md 1.5, design)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weakseg.pipeline.results import leading, without_paths
from weakseg.types import LATER

HASH = 12  # characters of a sha256 that a page shows


def circumstances(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Split, scales and flips, CRF, weights with their hash, and the source of saliency maps, if any is read.

    Args:
        manifest: of one seed; the others differ in the seed alone.

    Returns:
        What -> how, in the order a page shows them; no path of the machine in it.
    """
    recipe, steps = manifest["recipe"], manifest["steps"]
    specs = {s["name"]: s for s in recipe["steps"]}
    on_the_way = leading(specs, [recipe["predictions"], recipe["labels"]])
    made = [s for s in steps if not str(s["method"]).startswith("evaluate.")]
    found = {
        "split": _split(manifest["data"]["lists"], specs, steps),
        "scales and flips": _each(_views(s) for s in made),
        "CRF": _crf(made, on_the_way),
        "weights": _each(_weights(s) for s in made) or "no network was trained",
        "saliency maps": manifest["data"].get("saliency_source"),
    }
    return {what: str(without_paths(how)) for what, how in found.items() if how}


def _split(lists: Mapping[str, str], specs: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    """Which list the recipe's train and val are, with their sizes where a step has just that list."""
    sizes: dict[str, int] = {}
    for step in steps:
        spec = specs[step["name"]]
        if step["photographs"]["fit"]:
            sizes.setdefault(spec["fit"], step["photographs"]["fit"])
        if len(spec["list"]) == 1:
            sizes.setdefault(spec["list"][0], step["photographs"]["outputs"])
    named = {"train": lists["train"], "val": lists["val"], **{n: n for n in sizes if n not in lists}}
    words = []
    for role, name in named.items():
        count = f"{sizes[role]} photographs" if role in sizes else ""
        aside = ", ".join(w for w in (role if role != name else "", count) if w)
        words.append(f"{name} ({aside})" if aside else name)
    return "; ".join(words)


def _views(step: Mapping[str, Any]) -> str:
    """At which scales a network looks at a photograph, and whether at its mirror image too."""
    scales = step["constants"].get("scales")
    if not scales:
        return ""
    mirrored = ", each mirrored too" if step["constants"].get("flip") else ", not mirrored"
    return f"{step['name']} at {', '.join(f'{s:g}' for s in scales)}{mirrored}"


def _crf(steps: Sequence[Mapping[str, Any]], on_the_way: set[str]) -> str:
    """Steps with a dense CRF, those on the way to the result told from those beside it."""
    groups: dict[bool, list[str]] = {True: [], False: []}
    for step in steps:
        recipe = step["constants"].get("crf") or (
            step["constants"].get("recipe") or "on" if str(step["method"]).startswith("crf.") else None
        )
        if recipe:
            groups[step["name"] in on_the_way].append(f"{step['name']} ({recipe})")
    text = f"on in {', '.join(groups[True])}" if groups[True] else "off"
    return text + (f"; beside the result: {', '.join(groups[False])}" if groups[False] else "")


def _weights(step: Mapping[str, Any]) -> str:
    """Where the step's network begins."""
    backbone, found = step["backbone"], step["weights_sha256"]
    if backbone is None:
        return ""
    if found is None:
        start = "random"
    elif found == "pretrained":
        start = "timm's pretrained weights"
    elif found == LATER:
        start = "a network fitted before"
    else:
        start = f"a file of sha256 {found[:HASH]}..."
    return f"{backbone['name']} from {start}"


def _each(parts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(part for part in parts if part))
