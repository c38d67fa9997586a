"""Boxes to instances to Mask R-CNN on scenes in COCO's layout: every artefact, and the same numbers from the files."""

import contextlib
import io
import json

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weakseg import api
from weakseg.data.convert import convert
from weakseg.data.scenes import make_scenes
from weakseg.pipeline.recipe import override, read_recipe, resolve

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 32, create: {channels: [8, 16, 16, 16]}}
labels: fill
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


@pytest.mark.parametrize("name", ["bana-instances-mobile", "bana-instances-coco"])
def test_a_recipe_takes_a_fitted_classifier_for_unseen_classes(name, tmp_path):
    settings = [f"bap.fitted={tmp_path}", "bap.agnostic=true", "bap.known_classes=6"]
    steps = {s.name: s for s in resolve(override(read_recipe(name), settings))}
    assert steps["bap"].spec.fitted == str(tmp_path)
    assert (steps["bap"].method.agnostic, steps["bap"].method.known_classes) == (True, 6)
    assert steps["maskrcnn"].backbone["output_stride"] == 32
    assert steps["maskrcnn"].method.reliable_only
