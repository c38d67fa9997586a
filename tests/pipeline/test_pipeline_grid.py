"""Sweeps: which runs a grid makes, what they reuse, and the table over classes."""

import functools
import json

import pytest

from weakseg import api
from weakseg.data.scenes import make_scenes
from weakseg.pipeline.grid import class_table, combinations, run_grid
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 32, 64, 128]}}
labels: threshold
steps:
- name: eps
  method: eps.voc
  set: {crop: 64, long_side: [64, 72], jitter: false, iterations: null, epochs: 1, batch_size: 4, lr: 0.02,
        new_factor: 1, momentum: 0.9, freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: threshold, method: labels.threshold, scores: eps/full, set: {background: 0.2}}
- {name: masks, method: evaluate.masks, seeds: threshold, list: train}
"""


def test_the_grid_is_a_product_with_names_for_folders():
    found = combinations({"eps.lam": [0.5, 1], "eps.strategy": ["naive", "adaptive"]})
    assert len(found) == 4
    assert found["eps.lam=1,eps.strategy=naive"] == {"eps.lam": 1, "eps.strategy": "naive"}
    assert list(combinations({"eps.scales": [[0.5, 1.0]]})) == ["eps.scales=_0.5,_1.0_"]
    for bad in ({}, {"eps.tau": []}, {"eps.tau": 0.4}, {"eps.strategy": "naive"}):
        with pytest.raises(WeaksegError, match="list of values"):
            combinations(bad)
    with pytest.raises(WeaksegError, match="twice"):
        combinations({"eps.tau": [0.4, 0.4]})


def test_each_run_may_reuse_those_before_it(tmp_path):
    calls = []

    def run(**arguments):
        calls.append(arguments)
        return {"summary": len(calls)}

    found = run_grid({"a.b": [1, 2, 3]}, tmp_path, run)
    assert found == {"a.b=1": {"summary": 1}, "a.b=2": {"summary": 2}, "a.b=3": {"summary": 3}}
    assert [c["out"] for c in calls] == [tmp_path / f"a.b={n}" for n in (1, 2, 3)]
    assert calls[2] == {"out": tmp_path / "a.b=3", "set": {"a.b": 3}, "reuse": [tmp_path / "a.b=1", tmp_path / "a.b=2"]}


def test_the_table_is_the_mean_over_seeds(tmp_path):
    for seed, iou in ((0, [0.9, 0.5, None]), (1, [0.7, 0.3, None])):
        path = tmp_path / "run" / f"seed-{seed}" / "steps" / "3-masks" / "result.json"
        path.parent.mkdir(parents=True)
        miou = sum(iou[:2]) / 2
        path.write_text(
            json.dumps({"kind": "masks", "result": {"classes": ["background", "cat", "dog"], "miou": miou, "iou": iou}})
        )
    table = class_table({"naive": tmp_path / "run"}, "masks")
    assert table["classes"] == ["background", "cat", "dog"]
    assert table["iou"]["naive"] == [pytest.approx(0.8), pytest.approx(0.4), None]
    assert table["miou"]["naive"] == pytest.approx(0.6)
    with pytest.raises(WeaksegError, match="no ended evaluation 'maps'"):
        class_table({"naive": tmp_path / "run"}, "maps")


@pytest.mark.slow
def test_strategies_of_eps_on_scenes(tmp_path):
    make_scenes(tmp_path / "scenes", count=12, seed=3, size=64)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    run = functools.partial(
        api.run,
        tmp_path / "tiny.yaml",
        tmp_path / "scenes",
        device="cpu",
        workers=0,
        progress=False,
        say=lambda _: None,
    )
    found = run_grid({"eps.strategy": ["adaptive", "naive", "predefined", "baseline"]}, tmp_path / "grid", run)
    table = class_table({name: tmp_path / "grid" / name for name in found}, "masks")
    assert set(table["miou"]) == set(found)
    assert all(len(column) == len(table["classes"]) for column in table["iou"].values())
    shown = found["eps.strategy=naive"]["summary"][0]["values"]
    assert table["miou"]["eps.strategy=naive"] == pytest.approx(shown[0])
