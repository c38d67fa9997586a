"""What a dry run says: the state of each step, and a time that is within a factor of two of the run's."""

import json
import time

import pytest

from weakseg import api, methods
from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.pipeline.estimate import estimate
from weakseg.pipeline.execute import plan_seeds, run_recipe
from weakseg.pipeline.plan import Lists
from weakseg.pipeline.recipe import override, parse_recipe, read_recipe, shipped
from weakseg.pipeline.run import Options
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [32, 64, 128, 256]}}
labels: crf
steps:
- name: cam
  method: cam.resnet38
  list: [train, val]
  set: {crop: 128, long_side: [128, 160], jitter: false, epochs: 4, batch_size: 8, lr: 0.02, new_factor: 1,
        momentum: 0.9, freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0, 1.5]}
- {name: threshold, method: labels.threshold, scores: cam/full, list: [train, val], set: {background: 0.3}}
- {name: crf, method: crf.labels, seeds: threshold, list: [train, val]}
- {name: masks, method: evaluate.masks, seeds: crf, list: val}
"""
ONE_CORE = Options(device="cpu", workers=0, threads=1, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimate") / "scenes"
    make_scenes(folder, count=24, seed=3, size=128)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimate") / "small"
    make_scenes(folder, count=6, seed=3, size=64)
    return open_dataset(folder)


def small(**settings):
    quick = {"cam.crop": 32, "cam.long_side": [32, 40], "cam.epochs": 1, "cam.scales": [1.0]}
    return override(parse_recipe(RECIPE, "t"), {**quick, **settings})


def estimated(recipe, data, out, runs=(), seeds=1):
    plans = plan_seeds(recipe, data, out, seeds=seeds, lists=Lists(), options=ONE_CORE)
    return estimate(plans, data, list(runs), ONE_CORE)


def quiet(line):
    pass


@pytest.mark.slow
def test_done_reused_half_done_and_to_do(data, tmp_path):
    fresh = estimated(small(), data, tmp_path / "a", seeds=2)
    assert [r["state"] for r in fresh["steps"]] == ["to do"] * 8
    assert fresh["seconds"] == pytest.approx(sum(r["seconds"] for r in fresh["steps"]))
    assert fresh["steps"][0]["work"] == "18 to learn from, 24 photographs"
    assert not list(tmp_path.iterdir())
    run_recipe(small(), data, tmp_path / "a", options=ONE_CORE, say=quiet)
    again = estimated(small(), data, tmp_path / "a", seeds=2)
    assert [r["state"] for r in again["steps"]] == ["done"] * 4 + ["to do"] * 4
    assert [r["seconds"] == 0 for r in again["steps"][:4]] == [True] * 4
    other = estimated(small(**{"threshold.background": 0.2}), data, tmp_path / "b", [tmp_path / "a"])
    assert [r["state"] for r in other["steps"]] == ["reused", "to do", "to do", "to do"]
    (tmp_path / "a" / "seed-0" / "steps" / "3-crf" / "done.json").unlink()
    assert estimated(small(), data, tmp_path / "a")["steps"][2]["state"] == "half done"


@pytest.mark.slow
def test_the_time_is_within_a_factor_of_two(data, tmp_path, monkeypatch):
    """In seconds of one core's work, so that what else this machine does has no say."""
    recipe = parse_recipe(RECIPE, "t")
    run_recipe(small(), data, tmp_path / "warm", options=ONE_CORE, say=quiet)  # kernels are compiled
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    told = {r["name"]: r["seconds"] for r in estimated(recipe, data, tmp_path / "run")["steps"]}
    run_recipe(recipe, data, tmp_path / "run", options=ONE_CORE, say=quiet)
    taken = {}
    for note in (tmp_path / "run" / "seed-0" / "steps").glob("*/done.json"):
        done = json.loads(note.read_text())
        taken[done["name"]] = done["seconds"]
    assert 0.5 < sum(told.values()) / sum(taken.values()) < 2, (told, taken)
    assert 0.5 < told["cam"] / taken["cam"] < 2, (told, taken)


def test_a_dry_run_says_what_would_stop_the_run(data, tmp_path):
    (tmp_path / "t.yaml").write_text(RECIPE)
    with pytest.raises(WeaksegError, match=r"step cam \(cam.resnet38\) cannot be set up"):
        api.run(tmp_path / "t.yaml", data.root, tmp_path / "o", set={"cam.crop": 0}, dry_run=True, device="cpu")
    assert not (tmp_path / "o").exists()


TINY = {"name": "resnet10t", "weights": None, "output_stride": 16, "create": {"channels": [8, 16, 16, 16]}}
QUICK = {"freeze_bn": False, "freeze_affine": False, "freeze_stem": False, "learn_backbone": True}
QUICK |= {"crop": 96, "batch_size": 2, "scales": [1.0], "long_side": 64, "train_long": [64, 64]}
QUICK |= {"channels": 16, "hidden": 16, "samples": 8, "proposals": 20}
QUICK |= {"known_classes": None}  # of a fitted network, which a tiny recipe has not


def tiny(name):
    """A recipe that ships, on a network of a few channels that asks for no weights."""
    recipe = read_recipe(name)
    steps = tuple(s.model_copy(update={"set": {**s.set, **quick(s.method)}}) for s in recipe.steps)
    return recipe.model_copy(update={"backbone": TINY, "steps": steps})


def quick(name):
    if name.startswith("evaluate.") or not hasattr(method := methods.load(name), "objective"):
        return {}
    known = {k: v for k, v in QUICK.items() if hasattr(method, k)}
    return known | ({"long_side": [32, 40]} if isinstance(getattr(method, "long_side", 0), tuple) else {})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped() if name.endswith("-mobile")])
def test_every_step_of_a_recipe_that_ships_can_be_timed(name, scenes, tmp_path):
    if "box-grabcut" in name:
        pytest.importorskip("cv2")
    told = estimated(tiny(name), scenes, tmp_path / "run")
    working = {s.name for s in read_recipe(name).steps if not str(s.method).startswith("evaluate.")}
    assert working <= {r["name"] for r in told["steps"]}
    assert told["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_a_step_that_reads_maps_of_boxes_is_timed_on_such_maps(scenes, tmp_path):
    """bana.labels wants one of background and one of each box, where others want one of each tag."""
    steps = tuple(s for s in tiny("bana-mobile").steps if s.name in ("bap", "labels", "crf"))
    recipe = tiny("bana-mobile").model_copy(update={"steps": steps, "predictions": None})
    told = estimated(recipe, scenes, tmp_path / "run")["steps"]
    assert [r["name"] for r in told] == ["bap", "labels", "crf"]
    assert told[0]["seconds"] > 0
