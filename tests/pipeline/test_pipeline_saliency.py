"""Where saliency comes from: the data set, a folder, or the built-in estimate; and EPS end to end on a few scenes."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from weakseg import api
from weakseg.data.dataset import open_dataset, open_photos
from weakseg.data.scenes import make_scenes
from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.ops.saliency import barrier_saliency, saliency_score_map
from weakseg.pipeline.plan import Lists, plan
from weakseg.pipeline.recipe import parse_recipe, resolve, with_builtin_saliency
from weakseg.types import ScoreMap, WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 32, 64, 128]}}
labels: threshold
steps:
- name: eps
  method: eps.voc
  list: [train, val]
  set: {crop: 64, long_side: [64, 72], jitter: false, iterations: null, epochs: 2, batch_size: 4, lr: 0.02,
        new_factor: 1, momentum: 0.9, freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: threshold, method: labels.threshold, scores: eps/full, list: [train, val], set: {background: 0.2}}
- {name: maps, method: evaluate.scores, scores: eps/full}
- {name: tags, method: evaluate.tags, model: eps, list: val}
- {name: selection, method: evaluate.selection, model: eps, list: val}
"""


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Twelve scenes, and the same without saliency maps."""
    place = tmp_path_factory.mktemp("saliency")
    make_scenes(place / "scenes", count=12, seed=3, size=64)
    shutil.copytree(place / "scenes", place / "bare", ignore=shutil.ignore_patterns("Saliency"))
    (place / "tiny.yaml").write_text(RECIPE)
    return place


def go(place, out, data="scenes", recipe="tiny.yaml", **more):
    return api.run(
        place / recipe, place / data, place / out, device="cpu", workers=0, progress=False, say=quiet, **more
    )


def manifest_of(run):
    return json.loads((run / "seed-0" / "manifest.json").read_text())


def planned(text, data, recipe=parse_recipe):
    return plan(resolve(recipe(text, "t")), data, Lists(), data.root / "none", seed=0, precision="no")


# --- the seam ---


def test_a_data_set_without_saliency_is_answered_with_both_ways_out(place):
    with pytest.raises(WeaksegError, match=r"learns from saliency maps.*--saliency FOLDER.*--saliency builtin"):
        go(place, "never", data="bare")
    assert not (place / "never").exists()


def test_photographs_that_lack_a_map_are_named_before_training(place, tmp_path):
    shutil.copytree(place / "scenes", tmp_path / "scenes")
    first = open_dataset(tmp_path / "scenes").list("train")[0]
    (tmp_path / "scenes" / "Saliency" / f"{first}.png").unlink()
    with pytest.raises(WeaksegError, match=rf"1 of its 9 photographs have no saliency map \({first}\).*builtin"):
        planned(RECIPE, open_dataset(tmp_path / "scenes"))


def test_a_folder_takes_the_place_of_the_data_sets_maps(place, tmp_path):
    data = open_dataset(place / "scenes")
    for id in data.ids:
        height, width = data.sample(id).size
        Image.fromarray(np.full((height, width), 51, np.uint8)).save(tmp_path / f"{id}.png")
    (tmp_path / "notes.txt").write_text("no map")
    given = open_dataset(place / "bare", saliency=tmp_path)
    assert "saliency" in given.has
    assert (data.saliency_source, given.saliency_source) == ("data set", f"folder {tmp_path.name}")
    assert float(given.sample(data.ids[0]).saliency.unique()) == pytest.approx(0.2)
    assert given.sample(data.ids[0], saliency=False).saliency is None
    assert open_dataset(place / "bare").saliency_source == "none"
    assert "saliency" in open_photos(place / "bare" / "JPEGImages", saliency=tmp_path).has


def test_a_folder_of_other_names_or_none_is_refused(place, tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "holiday.png")
    with pytest.raises(WeaksegError, match="no saliency map of a photograph"):
        open_dataset(place / "bare", saliency=tmp_path)
    with pytest.raises(WeaksegError, match="no folder of saliency maps"):
        open_dataset(place / "bare", saliency=tmp_path / "missing")


def test_the_built_in_step_goes_in_front_of_the_steps_that_need_it():
    recipe = with_builtin_saliency(parse_recipe(RECIPE, "t"))
    assert [s.name for s in recipe.steps][:3] == ["saliency", "eps", "threshold"]
    assert [s.saliency for s in recipe.steps] == [None, "saliency", None, None, None, "saliency"]
    assert recipe.steps[0].list == ("train", "val")
    eps = resolve(recipe)[1]
    assert (eps.saliency.step, eps.saliency.key) == ("saliency", "saliency")
    with pytest.raises(WeaksegError, match="no step is left"):
        with_builtin_saliency(recipe)
    other = with_builtin_saliency(parse_recipe(RECIPE.replace("name: maps", "name: saliency"), "t"))
    assert other.steps[0].name == "saliency-builtin"
    with pytest.raises(WeaksegError, match="no earlier step"):
        resolve(parse_recipe(RECIPE.replace("method: eps.voc", "method: eps.voc\n  saliency: salience"), "t"))
    with pytest.raises(WeaksegError, match="writes full, strided"):
        resolve(parse_recipe(RECIPE.replace("scores: eps/full", "scores: eps/full, saliency: eps/saliency", 1), "t"))


def test_the_source_is_part_of_the_fingerprint(place):
    own, bare = open_dataset(place / "scenes"), open_dataset(place / "bare")
    built = planned(RECIPE, bare, lambda text, name: with_builtin_saliency(parse_recipe(text, name)))
    again = planned(RECIPE, own, lambda text, name: with_builtin_saliency(parse_recipe(text, name)))
    assert planned(RECIPE, own)[0].fingerprint != built[1].fingerprint
    assert built[1].fingerprint == again[1].fingerprint  # the data set's own maps then do not matter
    assert built[1].parts["saliency"].startswith(built[0].fingerprint)


def test_a_view_reads_the_steps_map_and_not_the_data_sets(place, tmp_path):
    data, store = open_dataset(place / "scenes"), Store(tmp_path, ("saliency", "full"))
    id = data.ids[0]
    size = data.sample(id).size
    level = saliency_score_map(torch.full((1, *size), 0.25))
    classes = ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.rand(1, *size), size)
    store.write(id, {"saliency": level, "full": classes})
    sample = View(data, (id,), saliency=(store, "saliency"))[0]
    assert sample.saliency.shape == (1, *size)
    assert float((sample.saliency - 0.25).abs().max()) < 5e-4
    with pytest.raises(WeaksegError, match="name a step that makes one"):
        View(data, (id,), saliency=(store, "full"))[0]


def test_predefined_classes_are_ids_in_the_plan(place):
    text = RECIPE.replace("crop: 64,", "crop: 64, strategy: predefined, predefined: [cat, sofa],")
    data = open_dataset(place / "scenes")
    parts = planned(text, data)[0].parts
    assert parts["set.predefined"] == [data.classes.index("cat") + 1]


# --- end to end ---


@pytest.fixture(scope="module")
def ended(place):
    text = RECIPE + "- {name: estimate, method: evaluate.saliency, scores: eps/saliency, list: [train, val]}\n"
    text += "- {name: anew, method: evaluate.saliency, model: eps, list: [train, val]}\n"
    (place / "estimated.yaml").write_text(text)
    return go(place, "run", recipe="estimated.yaml", set=["eps.estimated=true"])


@pytest.mark.slow
def test_eps_on_scenes_writes_maps_labels_and_its_source(place, ended):
    seed = place / "run" / "seed-0"
    store = Store(seed / "steps" / "1-eps", ("full", "strided", "saliency"))
    assert len(store.done()) == 12
    assert len(list((seed / "labels").glob("*.png"))) == 12
    losses = [json.loads(line) for line in (seed / "steps" / "1-eps" / "fit" / "log.jsonl").read_text().splitlines()]
    assert any("saliency" in json.dumps(line) for line in losses)
    assert manifest_of(place / "run")["data"]["saliency_source"] == "data set"
    assert ended["conventions"]["saliency maps"] == "data set"
    judged = {e["step"]: e["result"] for e in ended["evaluations"]}
    data = open_dataset(place / "scenes")
    errors = [
        float((store.read(id, "saliency").scores - data.sample(id).saliency).abs().mean())
        for id in (*data.list("train"), *data.list("val"))
    ]
    assert judged["estimate"]["error_to_given"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert judged["estimate"]["given"]["error"] < 0.5
    assert judged["anew"]["error_to_given"] == pytest.approx(judged["estimate"]["error_to_given"], abs=5e-4)
    share = np.array(judged["selection"]["share"], dtype=float)
    assert share.shape == (4, len(data.classes))
    assert (np.diff(share[:, ~np.isnan(share[0])], axis=0) <= 0).all()  # a higher tau keeps fewer


@pytest.mark.slow
def test_the_built_in_estimate_is_labelled_and_fills_in(place):
    report = go(place, "built", data="bare", saliency="builtin", set=["saliency.contrast=0"])
    manifest = manifest_of(place / "built")
    assert manifest["data"]["saliency_source"] == "builtin, training-free"
    assert report["conventions"]["saliency maps"] == "builtin, training-free"
    assert "builtin, training-free" in (place / "built" / "report.html").read_text()
    assert [s["name"] for s in manifest["steps"]][:2] == ["saliency", "eps"]
    data = open_dataset(place / "bare")
    stored = Store(place / "built" / "seed-0" / "steps" / "1-saliency", ("saliency",)).read(data.ids[0], "saliency")
    wanted = barrier_saliency(data.sample(data.ids[0]).image.as_subclass(torch.Tensor), contrast=0)
    torch.testing.assert_close(stored.scores, wanted, atol=5e-4, rtol=0)


@pytest.mark.slow
def test_a_given_folder_is_named_in_the_manifest_and_dry_run_plans(place):
    folder = place / "scenes" / "Saliency"
    plans = go(place, "given", data="bare", saliency="builtin", dry_run=True)
    assert [s["name"] for s in plans["steps"]][:2] == ["saliency", "eps"]
    go(place, "given", data="bare", saliency=folder)
    assert manifest_of(place / "given")["data"]["saliency_source"] == "folder Saliency"


@pytest.mark.slow
def test_labelling_new_photographs_needs_saliency_only_to_train(place, ended):
    photos = place / "bare" / "JPEGImages"
    ids = [f.stem for f in sorted(photos.iterdir())]
    tags = open_dataset(place / "bare")
    names = [";".join(np.array(tags.classes)[tags.tags(id).numpy()]) for id in ids]
    (place / "tags.csv").write_text("image,tags\n" + "\n".join(f"{i},{n}" for i, n in zip(ids, names, strict=True)))
    go(place, "plain")
    more = {"device": "cpu", "progress": False, "workers": 0, "say": quiet}
    made = api.label(photos, place / "tags.csv", place / "mine", run=place / "plain", **more)
    assert made["photographs"] == 12
    with pytest.raises(WeaksegError, match="--saliency builtin"):  # this run also writes estimates, which compare
        api.label(photos, place / "tags.csv", place / "yours", run=place / "run", **more)
    made = api.label(
        photos, place / "tags.csv", place / "fresh", recipe=place / "tiny.yaml", saliency="builtin", **more
    )
    assert made["photographs"] == 12
