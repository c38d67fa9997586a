"""A part of a recipe on its own, its steps up to the pseudo-masks; and where predictions for new photographs go."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from weakseg.data.coco_write import write_coco_instances
from weakseg.data.dataset import Dataset
from weakseg.data.store import Store, read_json, read_label_map, write_json, write_label_map, write_text
from weakseg.pipeline.book import INSTANCES, read_instances
from weakseg.pipeline.evaluations import Tags
from weakseg.pipeline.recipe import Recipe, Resolved, parse_recipe, resolve
from weakseg.types import LABELS, Instances, LabelMap, Outputs, WeaksegError


def labelling(recipe: Recipe, run: Path | None = None, manifest: Mapping[str, Any] | None = None) -> Recipe:
    """The steps that `recipe.labels` depends on, over one list; with `run`, its fitted networks instead of training.

    An evaluation of a network's tags comes along: masks from a classifier that learned nothing are worth a warning.
    """
    if recipe.labels is None:
        raise WeaksegError(f"recipe {recipe.name} makes no pseudo-masks: it names no step as `labels`")
    by_name = {s.name: s for s in resolve(recipe)}
    wanted, queue = set(), [recipe.labels]
    while queue:
        step = by_name[queue.pop()]
        if step.name not in wanted:
            wanted.add(step.name)
            queue += [r.step for r in step.inputs if r is not step.saliency or _reads_saliency(step, run)]
            queue += [step.spec.model] if step.spec.model else []
    wanted |= {s.name for s in by_name.values() if isinstance(s.method, Tags) and s.spec.model in wanted}
    folders = {s["name"]: s["folder"] for s in manifest["steps"]} if manifest else {}
    steps = []
    for spec in (s for s in recipe.steps if s.name in wanted):
        update: dict[str, Any] = {"fit": "train", "list": ("train",)}
        if run is not None and by_name[spec.name].learns:
            update["fitted"] = str(run / "seed-0" / folders[spec.name] / "fit")
        if not _reads_saliency(by_name[spec.name], run):
            update["saliency"] = None
        steps.append(spec.model_copy(update=update))
    return recipe.model_copy(update={"steps": tuple(steps), "predictions": None})


def _reads_saliency(step: Resolved, run: Path | None) -> bool:
    """Whether the step looks at saliency when it labels: a network fitted before usually does not."""
    if run is None or not step.learns:
        return True
    return "saliency" in getattr(step.method, "needs_to_score", getattr(step.method, "needs", ()))


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that an ended run followed."""
    return parse_recipe(json.dumps(manifest["recipe"]), manifest["recipe"]["name"])


def prediction_store(method: Any, folder: Path) -> "PredictionStore":
    """Where the predictions of a segmenter for new photographs go: label maps flat, instances with one COCO JSON."""
    return InstanceStore(folder) if INSTANCES in getattr(method, "writes", ()) else FlatStore(folder)


class PredictionStore(Store):
    """What one network made of a folder of photographs, under one key, in a folder of its own.

    Attributes:
        key: of the outputs.
        files: patterns of the files it writes; those of anybody else are never overwritten.
    """

    key: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, (self.key,))

    def claim(self, dataset: Dataset, *, network: str, digest: str) -> None:
        """Begin, or go on with, the masks of one network in a folder that holds no others; write ``classes.txt``.

        Args:
            dataset: the photographs; their own folder is refused.
            network: what the network is called, for people.
            digest: what identifies it.

        Raises:
            WeaksegError: the folder holds photographs, or masks that this network did not make.
        """
        note = self.folder / ".weakseg.json"
        if any(dataset.image_path(id).parent.resolve() == self.folder.resolve() for id in dataset.ids[:1]):
            raise WeaksegError(f"{self.folder} holds the photographs; give the masks a folder of their own with --out")
        if note.is_file():
            earlier = read_json(note, dict)
            if earlier.get("digest") != digest:
                raise WeaksegError(
                    f"{self.folder} holds masks of another network, {earlier.get('network')}; "
                    "choose another --out, or remove the folder"
                )
        elif stranger := next((f for pattern in self.files for f in self.folder.glob(pattern)), None):
            raise WeaksegError(
                f"{self.folder} holds {stranger.name}, which no `weakseg predict` made; nothing is overwritten, "
                "so choose another --out"
            )
        write_text(self.folder / "classes.txt", "".join(f"{name}\n" for name in dataset.classes))
        write_json(note, {"network": network, "digest": digest})


class InstanceStore(PredictionStore):
    """Instances, as ``folder/instances/<id>.json`` and in the end all of them as one COCO JSON beside that folder."""

    key = INSTANCES
    files = (f"{INSTANCES}.json", f"{INSTANCES}/*.json", "previews/*.jpg")

    def finish(self, dataset: Dataset) -> None:
        """Write ``folder/instances.json`` of all photographs."""
        write_coco_instances(self.folder / f"{INSTANCES}.json", dataset, dataset.ids, self.instances)

    def instances(self, id: str) -> Instances:
        """The instances of `id`."""
        return read_instances(self, id)


class FlatStore(PredictionStore):
    """Label maps alone, as ``folder/<id>.png``: what people want who only came for masks."""

    key = LABELS
    files = ("*.png",)

    def path(self, id: str, key: str) -> Path:
        """``folder/<id>.png``."""
        return Path(self.folder) / f"{id}.png"

    def write(self, id: str, outputs: Outputs) -> None:
        """Write the label map of `id`."""
        write_label_map(self.path(id, LABELS), cast(LabelMap, outputs[LABELS]))

    def has(self, id: str) -> bool:
        """Whether `id` has its file."""
        return self.path(id, LABELS).is_file()

    def done(self) -> set[str]:
        """Ids that have their file."""
        return {f.stem for f in Path(self.folder).glob("*.png")}

    def read(self, id: str, key: str) -> Any:
        """The label map of `id`."""
        return read_label_map(self.path(id, key))
