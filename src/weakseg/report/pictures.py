"""Pictures of a run: previews of its label maps, and the gallery of its report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from weakseg.data.dataset import Dataset
from weakseg.data.images import read_image
from weakseg.data.store import read_bytes, read_json, write_bytes, write_text
from weakseg.pipeline.plan import Planned
from weakseg.pipeline.recipe import Recipe
from weakseg.pipeline.run import Chain
from weakseg.progress import track
from weakseg.report.figures import heatmap, instance_overlay, jpeg, overlay, shrunk, with_legend
from weakseg.report.gallery import pick
from weakseg.types import LABELS, Instances, ScoreMap


def write_previews(dataset: Dataset, planned: Planned, folder: Path, *, progress: bool = False) -> None:
    """The step's label maps over their photographs as ``folder/<id>.jpg``, the names of their classes below.

    Those that show these label maps already are kept, those of other maps or of another list go.
    """
    note = folder / ".of"
    if not note.is_file() or read_bytes(note) != planned.fingerprint.encode():
        for file in folder.glob("*.jpg"):
            file.unlink()
        write_text(note, planned.fingerprint)
    missing = [id for id in planned.ids if not (folder / f"{id}.jpg").is_file()]
    store = planned.store
    with track(len(missing), "previews", show=progress) as advance:
        for id in missing:
            labels = store.labels(id, LABELS)
            shown = overlay(read_image(dataset.image_path(id)), labels)
            write_bytes(folder / f"{id}.jpg", jpeg(with_legend(shrunk(shown), labels, dataset.classes), None))
            advance()


def write_instance_previews(
    dataset: Dataset, ids: Sequence[str], read: Callable[[str], Instances], folder: Path, *, progress: bool = False
) -> None:
    """The instances of each photograph over it as ``folder/<id>.jpg``; those that are there are kept."""
    missing = [id for id in ids if not (folder / f"{id}.jpg").is_file()]
    with track(len(missing), "previews", show=progress) as advance:
        for id in missing:
            shown = instance_overlay(read_image(dataset.image_path(id)), read(id), dataset.classes)
            write_bytes(folder / f"{id}.jpg", jpeg(shown, None))
            advance()


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
                made[what] = p.store.read(id, _shown(what, p.step.writes))
        images = {}
        for what, value in made.items():
            if value is None:
                continue
            picture = made["photo"] if what == "photo" else _picture(made["photo"], value, chain.dataset.classes)
            path = out / "gallery" / f"{id}-{what}.jpg"
            write_bytes(path, jpeg(picture))
            images[what] = path.relative_to(run).as_posix()
        entries.append({"seed": chain.seed, "id": id, "miou": per_image[id], "rank": rank, "images": images})
    return entries


def _shown(what: str, writes: Sequence[str]) -> str:
    """Refiners that go on from scores write them before their labels; as masks the labels are shown."""
    return LABELS if what != "scores" and LABELS in writes else writes[0]


def _picture(photo: Any, value: Any, classes: Sequence[str]) -> Any:
    if isinstance(value, Instances):
        return instance_overlay(photo, value, classes)
    return heatmap(photo, value) if isinstance(value, ScoreMap) else overlay(photo, value)
