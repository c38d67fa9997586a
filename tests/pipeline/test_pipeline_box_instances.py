"""Boxes to instances to Mask R-CNN on scenes in COCO's layout: every artefact, and the same numbers from the files."""

import contextlib
import io
import json
from dataclasses import replace

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weakseg import api
from weakseg.data.convert import convert
from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.data.store import Store
from weakseg.evaluate.instances import evaluate_instances
from weakseg.ops.boxes import box_masks
from weakseg.pipeline.recipe import override, read_recipe, resolve
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 32, create: {channels: [8, 16, 16, 16]}}
labels: fill
predictions: maskrcnn
steps:
- {name: fill, method: labels.box_fill, list: train}
- {name: instances, method: instances.boxes, seeds: fill, list: train}
- name: maskrcnn
  method: maskrcnn.mobile
  seeds: {crf: fill}
  list: val
  set: {channels: 16, hidden: 32, samples: 32, proposals: 50, anchor: 4, train_long: [64, 64], long_side: 64, epochs: 1,
        batch_size: 2, freeze_bn: false, freeze_affine: false, freeze_stem: false, score_threshold: 0.0, detections: 5}
- {name: pseudo, method: evaluate.instances, seeds: instances/instances, list: train, title: Pseudo}
- {name: network, method: evaluate.instances, seeds: maskrcnn, list: val, title: Mask R-CNN}
"""


LEARNING = """
backbone: {name: resnet10t, weights: null, output_stride: 32, create: {channels: [32, 64, 128, 256]}}
steps:
- {name: truth, method: labels.truth, list: train}
- name: maskrcnn
  method: maskrcnn.mobile
  seeds: truth
  list: train
  set: {channels: 32, hidden: 64, samples: 32, proposals: 100, anchor: 4, train_long: [128, 128], long_side: 128,
        epochs: 100, batch_size: 4, optimiser: adamw, lr: 0.002, weight_decay: 0.01, warmup: 20, freeze_bn: false,
        freeze_affine: false, freeze_stem: false}
- {name: judged, method: evaluate.instances, seeds: maskrcnn, list: train}
"""


def quiet(line):
    pass


@pytest.mark.slow
def test_boxes_become_instances_and_a_network(tmp_path):
    make_scenes(tmp_path / "scenes", count=8, seed=3, size=64)
    convert(tmp_path / "scenes", tmp_path / "coco", "coco")
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    api.run(
        tmp_path / "tiny.yaml", tmp_path / "coco", tmp_path / "run", device="cpu", workers=0, progress=False, say=quiet
    )
    seed = tmp_path / "run/seed-0"
    rows = json.loads((seed / "steps/4-pseudo/result.json").read_text())["result"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = (
            COCO(str(tmp_path / "coco/instances.json")),
            COCO(str(seed / "instances/instances_instances.json")),
        )
        judge = COCOeval(truth, found, "segm")
        judge.params.imgIds = found.getImgIds()
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert rows["ap"] == pytest.approx(judge.stats[0])
    assert rows["ap"] > 0
    predicted = json.loads((seed / "instances/instances_maskrcnn.json").read_text())
    assert len(predicted["images"]) == 2
    judged = json.loads((seed / "steps/5-network/result.json").read_text())["result"]
    assert 0 <= judged["ap"] <= 1
    check_predictions(tmp_path / "run", tmp_path / "scenes/JPEGImages", tmp_path / "found")


def check_predictions(run, photos, out):
    """`predict` of a network of instances: one COCO JSON, a file and a preview a photograph, nothing twice."""
    api.predict(run, photos, out, device="cpu", progress=False, say=quiet)
    ids = sorted(f.stem for f in photos.iterdir())
    assert sorted(f.stem for f in (out / "instances").iterdir()) == ids
    assert sorted(f.stem for f in (out / "previews").iterdir()) == ids
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(out / "instances.json"))
    assert [image["file_name"] for image in found.dataset["images"]] == [f"{id}.jpg" for id in ids]
    assert [c["name"] for c in found.dataset["categories"]] == (out / "classes.txt").read_text().split()
    photo = found.dataset["images"][0]
    assert all(found.annToMask(a).shape == (photo["height"], photo["width"]) for a in found.imgToAnns[photo["id"]])
    before = {f: f.stat().st_mtime_ns for f in (out / "instances").iterdir()}
    api.predict(run, photos, out, device="cpu", progress=False, say=quiet)
    assert before == {f: f.stat().st_mtime_ns for f in (out / "instances").iterdir()}
    (out / ".weakseg.json").unlink()
    with pytest.raises(WeaksegError, match=r"holds instances\.json, which no `weakseg predict` made"):
        api.predict(run, photos, out, device="cpu", progress=False, say=quiet)


@pytest.mark.slow
def test_mask_rcnn_learns_four_scenes_by_heart(tmp_path):
    """From scratch, through the loop: boxes and masks of the photographs it learned from are found."""
    make_scenes(tmp_path / "scenes", count=5, seed=0, size=128)
    convert(tmp_path / "scenes", tmp_path / "coco", "coco")
    (tmp_path / "learning.yaml").write_text(LEARNING)
    api.run(
        tmp_path / "learning.yaml", tmp_path / "coco", tmp_path / "run", device="cpu", workers=0, progress=False,
        say=quiet,
    )  # fmt: skip
    steps = tmp_path / "run/seed-0/steps"
    masks = json.loads((steps / "3-judged/result.json").read_text())["result"]
    assert masks["ap50"] > 0.5
    dataset, store = open_dataset(tmp_path / "coco"), Store(steps / "2-maskrcnn", ("instances",))
    boxes = evaluate_instances(
        lambda id: as_boxes(store.read(id, "instances")),
        lambda id: (as_boxes(dataset.instances(id).instances), dataset.instances(id).crowd),
        dataset.list("train"),
        dataset.classes,
    )
    assert boxes["ap50"] > 0.5
    losses = json.loads((steps / "2-maskrcnn/fit/fit.json").read_text())
    for name in ("objectness", "cls", "mask"):
        assert losses["losses_last"][name] < 0.5 * losses["losses_first"][name]


def as_boxes(found):
    """The same instances, each filling its box: AP of masks is then AP of boxes, to the pixel."""
    return replace(found, masks=box_masks(found.boxes.round(), tuple(found.masks.shape[1:])))


@pytest.mark.parametrize("name", ["bana-instances-mobile", "bana-instances-coco"])
def test_a_recipe_takes_a_fitted_classifier_for_unseen_classes(name, tmp_path):
    settings = [f"bap.fitted={tmp_path}", "bap.agnostic=true", "bap.known_classes=6"]
    steps = {s.name: s for s in resolve(override(read_recipe(name), settings))}
    assert steps["bap"].spec.fitted == str(tmp_path)
    assert (steps["bap"].method.agnostic, steps["bap"].method.known_classes) == (True, 6)
    assert steps["maskrcnn"].backbone["output_stride"] == 32
    assert steps["maskrcnn"].method.reliable_only


def test_a_recipe_judges_instances_of_unseen_classes_without_training(tmp_path):
    steps = resolve(override(read_recipe("bana-transfer-mobile"), [f"bap.fitted={tmp_path}"]))
    assert [s.name for s in steps if s.learns] == ["bap"]
    own, mobile = steps[0], {s.name: s for s in resolve(read_recipe("bana-instances-mobile"))}["bap"]
    assert own.method == replace(mobile.method, agnostic=True, known_classes=6)
    assert own.backbone == mobile.backbone
    assert {"crf-instances", "ret-instances"} <= {s.name for s in steps if s.evaluates}


def test_pseudo_masks_of_the_paper_all_have_the_score_one():
    steps = {s.name: s for s in resolve(read_recipe("bana-instances-coco"))}
    assert steps["instances"].method.confidence == "one"  # methods.md 11
