"""Pictures of a run: previews of its label maps, and the gallery of its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weakseg.data.dataset import Dataset
from weakseg.data.images import read_image
from weakseg.data.store import Store, read_json, write_bytes
from weakseg.pipeline.recipe import Recipe
from weakseg.pipeline.run import Chain
from weakseg.report.figures import heatmap, jpeg, overlay
from weakseg.report.gallery import pick
from weakseg.types import LABELS, ScoreMap


def write_previews(dataset: Dataset, store: Store, ids: Sequence[str], folder: Path) -> None:
    """The label maps over their photographs, as JPEG."""
    for id in ids:
        target = folder / f"{id}.jpg"
        if not target.is_file():
            write_bytes(target, jpeg(overlay(read_image(dataset.image_path(id)), store.labels(id, LABELS))))


def gallery(recipe: Recipe, chain: Chain, out: Path, run: Path) -> list[dict[str, Any]]:
    """Pictures of the best, median and worst photographs by the IoU of the last judged label maps."""
    judged = [p for p in chain.steps.values() if p.step.spec.method == "evaluate.masks"]
    if not judged:
        return []
    per_image = read_json(judged[-1].folder / "result.json")["result"]["per_image"]
    entries = []
    for id, rank in pick(per_image):
        made = {"photo": read_image(chain.dataset.image_path(id)), "truth": chain.dataset.truth(id)}
        shown = {
            "scores": next((p for p in chain.steps.values() if hasattr(p.step.method, "score")), None),
            "pseudo-mask": chain.steps.get(recipe.labels or ""),
            "prediction": chain.steps.get(recipe.predictions or ""),
        }
        for what, p in shown.items():
            if p is not None and id in p.ids:
                made[what] = p.store.read(id, p.step.writes[0])
        images = {}
        for what, value in made.items():
            if value is None:
                continue
            picture = made["photo"] if what == "photo" else _picture(made["photo"], value)
            path = out / "gallery" / f"{id}-{what}.jpg"
            write_bytes(path, jpeg(picture))
            images[what] = path.relative_to(run).as_posix()
        entries.append({"seed": chain.seed, "id": id, "miou": per_image[id], "rank": rank, "images": images})
    return entries


def _picture(photo: Any, value: Any) -> Any:
    return heatmap(photo, value) if isinstance(value, ScoreMap) else overlay(photo, value)
