"""A whole chain on a few scenes: artefacts, skipping, refusal, reuse, the verbs on its result, and a killed run."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from weakseg import api
from weakseg.data.images import read_image
from weakseg.data.scenes import make_scenes
from weakseg.data.store import read_label_map
from weakseg.pipeline import book
from weakseg.report.figures import jpeg, overlay
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 32, 64, 128]}}
labels: crf
predictions: segment
steps:
- name: cam
  method: cam.resnet38
  list: [train, val]
  set: {crop: 64, long_side: [64, 72], jitter: false, epochs: 2, batch_size: 4, lr: 0.02, new_factor: 1, momentum: 0.9,
        freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: threshold, method: labels.threshold, scores: cam/full, list: [train, val], set: {background: 0.3}}
- {name: crf, method: crf.labels, seeds: threshold, list: [train, val], set: {iterations: 2}}
- name: segment
  method: deeplab.v1
  seeds: crf
  list: val
  set: {crop: 64, iterations: null, epochs: 1, batch_size: 4, scales: [1.0], freeze_bn: false, freeze_affine: false}
- {name: tags, method: evaluate.tags, model: cam, list: val}
- {name: maps, method: evaluate.scores, scores: cam/full}
- {name: network, method: evaluate.masks, seeds: segment, list: val}
"""


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("chain")
    make_scenes(place / "scenes", count=16, seed=3, size=64)
    (place / "tiny.yaml").write_text(RECIPE)
    return place


def go(place, out, **more):
    return api.run(place / "tiny.yaml", place / "scenes", place / out, device="cpu", progress=False, say=quiet, **more)


@pytest.fixture(scope="module")
def ended(place):
    return go(place, "run", workers=0)


def bytes_of(run):
    """sha256 of every score map, mask, prediction and weight of a run."""
    wanted = [f for f in sorted((run / "seed-0").rglob("*")) if f.suffix in (".npz", ".png", ".safetensors")]
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in wanted}


@pytest.mark.slow
def test_the_chain_writes_every_artefact(place, ended):
    seed = place / "run" / "seed-0"
    assert len(list((seed / "labels").glob("*.png"))) == 16
    assert len(list((seed / "labels" / "previews").glob("*.jpg"))) == 16
    assert len(list((seed / "predictions").glob("*.png"))) == 4
    manifest = json.loads((seed / "manifest.json").read_text())
    assert [s["name"] for s in manifest["steps"]][:4] == ["cam", "threshold", "crf", "segment"]
    assert all(s["truth"] == 0 for s in manifest["steps"] if s["name"] in ("cam", "threshold", "crf", "segment"))
    assert ended["report"].is_file()
    assert {r["unit"] for r in ended["summary"]} == {"mAP", "mIoU"}
    assert ended["gallery"]


@pytest.mark.slow
def test_the_gallery_shows_the_label_maps_of_a_refiner_that_writes_scores_too(place, ended):
    head, tail = RECIPE.split("- {name: threshold")[0], "- {name: network, method: evaluate.masks, seeds: crf}\n"
    refiner = "- {name: crf, method: crf.scores, scores: cam/full, set: {alpha: 2}}\n"
    (place / "scores.yaml").write_text(head.replace("predictions: segment\n", "") + refiner + tail)
    told = api.run(
        place / "scores.yaml",
        place / "scenes",
        place / "scored",
        reuse=[place / "run"],
        device="cpu",
        progress=False,
        say=quiet,
    )
    entry = told["gallery"][0]
    photo = read_image(place / "scenes" / "JPEGImages" / f"{entry['id']}.jpg")
    labels = read_label_map(place / "scored" / "seed-0" / "labels" / f"{entry['id']}.png")
    assert (place / "scored" / entry["images"]["pseudo-mask"]).read_bytes() == jpeg(overlay(photo, labels))


@pytest.mark.slow
def test_an_ended_run_is_skipped_and_another_configuration_refused(place, ended):
    before = bytes_of(place / "run")
    lines = []
    api.run(place / "tiny.yaml", place / "scenes", place / "run", device="cpu", progress=False, say=lines.append)
    assert sum("done before" in line for line in lines) == 7
    assert bytes_of(place / "run") == before
    with pytest.raises(WeaksegError, match=r"2-threshold \(set.background: 0.3 -> 0.5\)"):
        go(place, "run", set=["threshold.background=0.5"])
    assert bytes_of(place / "run") == before


@pytest.mark.slow
def test_reuse_takes_matching_steps_and_dry_run_writes_nothing(place, ended):
    plan = go(place, "other", set=["threshold.background=0.5"], reuse=[place / "run"], dry_run=True)
    states = {s["name"]: s["state"] for s in plan["steps"]}
    assert states["cam"] == "reused"
    assert states["crf"] == "to do"
    assert not (place / "other").exists()
    go(place, "other", set=["threshold.background=0.5"], reuse=[place / "run"])
    cam = "seed-0/steps/1-cam/fit/model.safetensors"
    assert (place / "run" / cam).stat().st_ino == (place / "other" / cam).stat().st_ino


@pytest.mark.slow
def test_the_manifest_tells_the_commit_that_the_run_began_with(place, ended, monkeypatch):
    monkeypatch.setattr(book, "git_commit", lambda folder: "before")

    def update_the_checkout(line):
        monkeypatch.setattr(book, "git_commit", lambda folder: "after")

    api.run(place / "tiny.yaml", place / "scenes", place / "updated", reuse=[place / "run"], device="cpu",
            progress=False, say=update_the_checkout)  # fmt: skip
    assert json.loads((place / "updated" / "seed-0" / "manifest.json").read_text())["git_commit"] == "before"
    assert book.git_commit(place) == "after"


@pytest.mark.slow
def test_predict_and_label_use_an_ended_run(place, ended):
    photos = place / "scenes" / "JPEGImages"
    api.predict(place / "run", photos, place / "predicted", device="cpu", progress=False, say=quiet)
    made = sorted((place / "predicted").glob("*.png"))
    assert len(made) == 16
    with Image.open(made[0]) as mask:
        assert (mask.mode, mask.size) == ("P", (64, 64))
    for own in (place / "run" / "seed-0" / "predictions").glob("*.png"):  # the run's own list is among the photographs
        assert (place / "predicted" / own.name).read_bytes() == own.read_bytes()
    ids = [f.stem for f in sorted(photos.iterdir())][:3]
    (place / "tags.csv").write_text(f"image,tags\n{ids[0]},cat\n{ids[1]}.jpg,\n")
    manifest = place / "run" / "seed-0" / "manifest.json"
    recorded = manifest.read_text()
    elsewhere = json.loads(recorded)  # the file that training began with lies relative to another folder, or nowhere
    elsewhere["recipe"]["backbone"] |= {"weights": "../gone.safetensors"}
    manifest.write_text(json.dumps(elsewhere))
    told = []
    try:
        result = api.label(
            photos, place / "tags.csv", place / "mine", run=place / "run", device="cpu", progress=False, say=told.append
        )
    finally:
        manifest.write_text(recorded)
    assert result["photographs"] == 2
    assert not any("learns" in line for line in told)
    assert ids[2] in result["skipped"]
    with Image.open(place / "mine" / "labels" / f"{ids[1]}.png") as mask:
        assert mask.getextrema() == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["steps/1-cam/fit/log.jsonl", "steps/1-cam/scores", "steps/4-segment/fit/log.jsonl"])
def test_a_killed_run_ends_with_the_same_bytes(place, ended, stage):
    out = place / f"killed-{stage.replace('/', '-')}"
    command = [sys.executable, "-c", "from weakseg.cli import main; main()", "run", str(place / "tiny.yaml"),
               "--data", str(place / "scenes"), "--out", str(out), "--device", "cpu", "--no-progress", "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    watched, deadline = out / "seed-0" / stage, time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if watched.is_file() or (watched.is_dir() and any(watched.iterdir())):
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "report.json").exists()
    go(place, out.name)
    assert bytes_of(out) == bytes_of(place / "run")
