"""Instances as a step's output: written, taken over by another run, and judged against scenes' true objects."""

import json

import pytest

from weakseg import api
from weakseg.data.scenes import make_scenes
from weakseg.data.store import Store

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 32, 64, 128]}}
labels: irn
steps:
- name: cam
  method: cam.resnet38
  list: all
  set: {crop: 64, long_side: [64, 72], jitter: false, epochs: 1, batch_size: 4, lr: 0.02, new_factor: 1, momentum: 0.9,
        freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: seeds, method: labels.ir_label, scores: cam/full, list: all}
- name: irn
  method: irn
  scores: cam/strided
  seeds: seeds
  list: all
  set: {crop: 64, radius: 4, epochs: 1, batch_size: 4, width: 32, learn_backbone: true, pad: null, steps: 16, instances: true}
- {name: masks, method: evaluate.masks, seeds: irn, list: all}
- {name: instances, method: evaluate.instances, seeds: irn/instances, list: all, title: Instances}
"""


def quiet(line):
    pass


@pytest.mark.slow
def test_a_chain_writes_and_judges_instances(tmp_path):
    make_scenes(tmp_path / "scenes", count=8, seed=3, size=64)
    (tmp_path / "tiny.yaml").write_text(RECIPE)

    def go(out, **more):
        place = tmp_path / "tiny.yaml", tmp_path / "scenes", tmp_path / out
        return api.run(*place, device="cpu", workers=0, progress=False, say=quiet, **more)

    go("one")
    store = Store(tmp_path / "one/seed-0/steps/3-irn", ["scores", "labels", "instances"])
    assert len(store.done()) == 8
    found = store.read("scene_00000", "instances")
    labels = store.labels("scene_00000", "labels")
    assert tuple(found.masks.shape[1:]) == tuple(labels.shape) == (64, 64)
    report = json.loads((tmp_path / "one/report.json").read_text())
    rows = {row["name"]: row for row in report["summary"] if row["step"] == "instances"}
    assert len(rows) == 3
    assert all(0 <= row["mean"] <= 1 and row["unit"] == "AP" for row in rows.values())
    judged = json.loads((tmp_path / "one/seed-0/steps/5-instances/result.json").read_text())
    assert (judged["kind"], judged["of"], judged["result"]["images"]) == ("instances", "irn/instances", 8)
    lines = []
    api.run(
        tmp_path / "tiny.yaml",
        tmp_path / "scenes",
        tmp_path / "two",
        device="cpu",
        workers=0,
        progress=False,
        say=lines.append,
        reuse=[tmp_path / "one"],
    )
    assert sum(line.endswith("reused") for line in lines) == 5
    name = "seed-0/steps/3-irn/instances/scene_00000.json"
    assert (tmp_path / "one" / name).samefile(tmp_path / "two" / name)
