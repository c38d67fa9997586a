"""Labels and predictions for one's own photographs: what is asked of the folders, and what becomes of each photograph."""

import json
import shutil

import pytest
import torch
from PIL import Image

from weakseg import api
from weakseg.data.dataset import open_photos
from weakseg.data.scenes import make_scenes
from weakseg.data.store import write_label_map
from weakseg.pipeline.labelling import FlatStore, labelling
from weakseg.pipeline.recipe import parse_recipe, read_recipe
from weakseg.types import LABELS, WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [8, 8, 16, 16]}}
labels: crf
predictions: segment
steps:
- name: cam
  method: cam.resnet38
  list: [train, val]
  set: {crop: 32, long_side: [32, 40], jitter: false, epochs: 1, batch_size: 4, lr: 0.02, new_factor: 1, momentum: 0.9,
        freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0], flip: false}
- {name: threshold, method: labels.threshold, scores: cam/full, list: [train, val], set: {background: 0.3}}
- {name: crf, method: crf.labels, seeds: threshold, list: [train, val], set: {iterations: 1}}
- {name: segment, method: deeplab.v1, seeds: crf, list: val}
- {name: tags, method: evaluate.tags, model: cam, list: val}
- {name: maps, method: evaluate.scores, scores: cam/full}
"""
LABEL = {"device": "cpu", "workers": 0, "progress": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Eight photographs, and the recipe."""
    place = tmp_path_factory.mktemp("labelling")
    make_scenes(place / "scenes", count=8, seed=3, size=64)
    shutil.copytree(place / "scenes" / "JPEGImages", place / "photos")
    (place / "tiny.yaml").write_text(RECIPE)
    return place


# --- the steps ---


def test_only_what_the_masks_depend_on_is_run_over_one_list():
    chain = labelling(parse_recipe(RECIPE, "t"))
    assert [s.name for s in chain.steps] == ["cam", "threshold", "crf", "tags"]
    assert {s.list for s in chain.steps} == {("train",)}
    assert chain.predictions is None


def test_every_recipe_that_makes_masks_can_label():
    for name in ("cam-crf-mobile", "eps-mobile", "amn-irn-mobile"):
        recipe = read_recipe(name)
        names = [s.name for s in labelling(recipe).steps]
        assert recipe.labels in names
        assert recipe.predictions not in names
    with pytest.raises(WeaksegError, match="makes no pseudo-masks"):
        labelling(parse_recipe(RECIPE.replace("labels: crf\n", ""), "t"))


# --- the folder of masks ---


@pytest.fixture
def photos(place):
    return open_photos(place / "photos", classes=("cat", "dog"))


def claim(folder, photos, digest="d", network="segment of runs/a"):
    store = FlatStore(folder)
    store.claim(photos, network=network, digest=digest)
    return store


def test_a_claimed_folder_goes_on_and_names_its_classes(photos, tmp_path):
    store = claim(tmp_path / "masks", photos)
    assert (tmp_path / "masks" / "classes.txt").read_text() == "cat\ndog\n"
    id, mask = photos.ids[0], torch.tensor([[0, 2]], dtype=torch.uint8)
    assert not store.has(id)
    store.write(id, {LABELS: mask})
    again = claim(tmp_path / "masks", photos)
    assert again.has(id)
    assert again.done() == {id}
    assert torch.equal(again.read(id, LABELS), mask)


def test_masks_of_another_network_strangers_files_and_photographs_are_refused(photos, tmp_path):
    claim(tmp_path / "masks", photos)
    with pytest.raises(WeaksegError, match="masks of another network, segment of runs/a; choose another --out"):
        claim(tmp_path / "masks", photos, digest="other")
    write_label_map(tmp_path / "mine" / "drawn.png", torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(WeaksegError, match=r"holds drawn.png, which no `weakseg predict` made"):
        claim(tmp_path / "mine", photos)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["drawn.png"]
    with pytest.raises(WeaksegError, match="holds the photographs"):
        claim(photos.root, photos)
    assert not list(photos.root.glob("*.txt"))


# --- label ---


@pytest.mark.slow
def test_label_skips_photographs_without_a_row_and_says_which(place, tmp_path):
    ids = sorted(f.stem for f in (place / "photos").iterdir())
    rows = [f"{ids[0]},", f"{ids[1]}.jpg,cat;dog", *(f"{id},dog" for id in ids[2:5]), f"{ids[5]},cat"]
    (tmp_path / "tags.csv").write_text("image,tags\n" + "\n".join(rows) + "\n")
    told, recipe = [], place / "tiny.yaml"
    made = api.label(place / "photos", tmp_path / "tags.csv", tmp_path / "out", recipe=recipe, say=told.append, **LABEL)
    assert made["skipped"] == ids[6:]
    assert any(line.startswith("skipped") and all(id in line for id in ids[6:]) for line in told)
    assert made["photographs"] == 6
    assert sorted(f.stem for f in made["labels"].glob("*.png")) == ids[:6]
    assert sorted(f.stem for f in made["previews"].glob("*.jpg")) == ids[:6]
    assert (made["labels"] / "classes.txt").read_text() == "cat\ndog\n"
    found = {}
    for id in ids[:6]:
        with Image.open(made["labels"] / f"{id}.png") as mask, Image.open(place / "photos" / f"{id}.jpg") as photo:
            assert (mask.mode, mask.size) == ("P", photo.size)
            found[id] = set(mask.tobytes())
    assert found[ids[0]] == {0}  # an empty cell: background only
    assert found[ids[1]] <= {0, 1, 2}
    assert all(found[id] <= {0, 2} for id in ids[2:5])
    manifest = json.loads((tmp_path / "out" / "seed-0" / "manifest.json").read_text())
    assert [s["photographs"]["outputs"] for s in manifest["steps"]] == [6, 6, 6, 6]


@pytest.mark.slow
def test_a_row_that_is_added_later_is_labelled_with_the_rest(place, tmp_path):
    """The classifier then learns from one more photograph: nothing is mixed without being asked for."""
    ids = sorted(f.stem for f in (place / "photos").iterdir())
    table = tmp_path / "tags.csv"
    table.write_text("".join(f"{id},cat\n" for id in ids[:4]))
    arguments = (place / "photos", table, tmp_path / "out")
    more = {"recipe": place / "tiny.yaml", "say": lambda line: None, **LABEL}
    api.label(*arguments, **more)
    table.write_text("".join(f"{id},cat\n" for id in ids[:5]))
    with pytest.raises(WeaksegError, match=r"1-cam \(.*the ids it learns from.*--overwrite"):
        api.label(*arguments, **more)
    made = api.label(*arguments, **more, overwrite=True)
    assert sorted(f.stem for f in made["labels"].glob("*.png")) == ids[:5]
