"""BANA on a few scenes: the recipes' steps in small, every analysis with its numbers, and all of them on the page."""

import json

import pytest
import torch

from weakseg import api
from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.data.store import Store
from weakseg.ops.boxes import box_masks, filling_rates
from weakseg.pipeline.recipe import read_recipe, resolve
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [8, 16, 16, 16]}}
labels: crf
predictions: segment
steps:
- name: bap
  method: bana.bap_mobile
  list: [train, val]
  set: {crop: 64, epochs: 1, batch_size: 3, freeze_bn: false, freeze_affine: false}
- {name: labels, method: bana.labels, model: bap, scores: bap/full, list: [train, val]}
- {name: crf, method: labels.merge, seeds: {base: labels/crf}, list: [train, val]}
- name: segment
  method: bana.nal_mobile
  seeds: {crf: labels/crf, ret: labels/ret}
  list: val
  set: {channels: 16, crop: 64, epochs: 1, batch_size: 3, freeze_bn: false, freeze_affine: false, freeze_stem: false}
- {name: unreliable, method: evaluate.unreliable, seeds: labels/reliable, list: train, title: Where they disagree}
- {name: filling, method: evaluate.filling, seeds: {crf: labels/crf, ret: labels/ret}, list: train, title: Filling}
- {name: cam-precision, method: evaluate.coverage, scores: bap/full, list: train, set: {count: soft}, title: Activation}
- {name: box-classes, method: evaluate.box_classes, model: bap, list: val, title: Boxes}
"""


def quiet(line):
    pass


def go(place, recipe):
    (place / "tiny.yaml").write_text(recipe)
    api.run(place / "tiny.yaml", place / "scenes", place / "run", device="cpu", workers=0, progress=False, say=quiet)
    return place / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("bana")
    make_scenes(place / "scenes", count=8, seed=3, size=64)
    return go(place, RECIPE)


def result_of(run, step):
    return json.loads(next((run / "seed-0/steps").glob(f"*-{step}/result.json")).read_text())["result"]


@pytest.mark.slow
def test_the_filling_rates_are_those_of_the_files(run):
    data, store = open_dataset(run.parent / "scenes"), Store(run / "seed-0/steps/2-labels", ("crf", "ret", "reliable"))
    ids = data.list("train")
    for name in ("crf", "ret", "truth"):
        rates, labels = [], []
        for id in ids:
            own = data.truth(id) if name == "truth" else store.labels(id, name)
            rates.append(filling_rates(own, *data.boxes(id)))
            labels.append(data.boxes(id)[1])
        rates, labels = torch.cat(rates), torch.cat(labels)
        found = result_of(run, "filling")["per_class"]["values"][name]
        for k in range(len(data.classes)):
            assert found[k] == pytest.approx(sorted(rates[labels == k + 1].tolist()), abs=1e-4)
    assert sum(result_of(run, "filling")["per_class"]["boxes"]) == len(rates)


@pytest.mark.slow
def test_the_precision_is_that_of_the_maps(run):
    data, store = open_dataset(run.parent / "scenes"), Store(run / "seed-0/steps/1-bap", ("full",))
    count = len(data.classes)
    true, everywhere = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for id in data.list("train"):
        maps, truth = store.read(id, "full"), data.truth(id)
        for k in range(count):  # u_c: the highest of the boxes of a class
            own = maps.scores[maps.ids == k + 1]
            u = own.amax(0).double() if len(own) else torch.zeros(truth.shape)
            true[k] += u[truth == k + 1].sum()
            everywhere[k] += u[truth != 255].sum()
    found = result_of(run, "cam-precision")["per_class"]["precision"]
    for k in range(count):
        assert found[k] == (None if everywhere[k] == 0 else pytest.approx(float(true[k] / everywhere[k]), rel=1e-5))


@pytest.mark.slow
def test_the_other_analyses_and_the_page(run):
    data = open_dataset(run.parent / "scenes")
    unreliable, boxes = result_of(run, "unreliable"), result_of(run, "box-classes")
    store = Store(run / "seed-0/steps/2-labels", ("crf", "ret", "reliable"))
    apart = [(store.labels(id, "crf") != store.labels(id, "ret"))[data.truth(id) != 255] for id in data.list("train")]
    assert unreliable["share"] == pytest.approx(float(torch.cat(apart).double().mean()))
    assert unreliable["as_errors"]["miou"] <= unreliable["dropped"]["miou"]
    assert boxes["boxes"] == sum(len(data.boxes(id)[1]) for id in data.list("val"))
    inside = [box_masks(data.boxes(id)[0], data.truth(id).shape).any(0) for id in data.list("train")]
    assert unreliable["share"] <= float(torch.cat([i.flatten() for i in inside]).double().mean()) + 0.1
    page = (run / "report.html").read_text()
    for section in ("filling", "unreliable", "by-class"):
        assert f'<section id="{section}">' in page
    report = json.loads((run / "report.json").read_text())
    assert {"filling", "unreliable", "coverage", "box_classes"} <= {e["kind"] for e in report["evaluations"]}
    assert "Boxes" in {row["name"] for row in report["summary"]}


def test_the_recipes_ask_for_the_analyses():
    for name in ("bana-mobile", "bana-gap-mobile", "bana-voc"):
        steps = {s.name: s for s in resolve(read_recipe(name))}
        assert {"filling", "unreliable", "cam-precision", "box-classes"} <= set(steps)
        assert steps["cam-precision"].method.count == "soft"
        assert set(steps["filling"].seeds) == {"crf", "ret"}
        assert steps["box-classes"].lists == ("val",)
    for name in ("bana-mobile", "bana-gap-mobile", "bana-semi-mobile"):
        steps = {s.name: s for s in resolve(read_recipe(name))}
        assert steps["segment"].spec.method == "bana.nal_mobile"
        assert not steps["segment"].spec.set


@pytest.mark.parametrize(
    ("step", "wants"),
    [("{method: evaluate.filling}", "wants `seeds`"), ("{method: evaluate.box_classes}", "a step of bana.bap")],
)
def test_what_an_analysis_lacks_is_said(tmp_path, step, wants):
    make_scenes(tmp_path / "scenes", count=2, seed=3, size=64)
    with pytest.raises(WeaksegError, match=wants):
        go(tmp_path, f"steps:\n- {{name: judge, list: train, {step[1:]}")
