"""``python -m weakseg`` alone and under a launcher: two processes write what one writes, byte for byte."""

import hashlib
import json
import os
import socket
import subprocess
import sys

import pytest

from weakseg import api
from weakseg.data.scenes import make_scenes

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [8, 8, 16, 16]}}
labels: crf
predictions: segment
steps:
- name: cam
  method: cam.resnet38
  list: [train, val]
  set: {crop: 32, long_side: [32, 40], jitter: false, epochs: 2, batch_size: 4, lr: 0.02, new_factor: 1, momentum: 0.9,
        freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: threshold, method: labels.threshold, scores: cam/full, list: [train, val], set: {background: 0.3}}
- {name: crf, method: crf.labels, seeds: threshold, list: [train, val], set: {iterations: 2}}
- name: segment
  method: deeplab.v1
  seeds: crf
  list: val
  set: {crop: 32, iterations: null, epochs: 1, batch_size: 4, scales: [1.0], freeze_bn: false, freeze_affine: false}
- {name: tags, method: evaluate.tags, model: cam, list: val}
- {name: maps, method: evaluate.scores, scores: cam/full}
- {name: masks, method: evaluate.masks, seeds: crf, list: train}
- {name: borders, method: evaluate.boundaries, seeds: crf, list: train}
- {name: pairs, method: evaluate.confusion, seeds: crf, list: train}
- {name: network, method: evaluate.masks, seeds: segment, list: val}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Eleven scenes (an odd number), a run of one process, and the recipe with its fitted networks."""
    place = tmp_path_factory.mktemp("ranks")
    make_scenes(place / "scenes", count=11, seed=3, size=64)
    (place / "tiny.yaml").write_text(RECIPE)
    one = api.run(
        place / "tiny.yaml", place / "scenes", place / "trained",
        device="cpu", workers=0, progress=False, say=lambda line: None,
    )  # fmt: skip
    assert one["gallery"]
    assert {r["unit"]: len(r["values"]) for r in one["summary"] if r["step"] == "borders"} == {
        "F1": 1, "precision": 1, "recall": 1
    }  # fmt: skip
    fitted = place / "trained" / "seed-0" / "steps"
    text = RECIPE.replace("name: cam\n", f"name: cam\n  fitted: {fitted / '1-cam' / 'fit'}\n")
    text = text.replace("name: segment\n", f"name: segment\n  fitted: {fitted / '4-segment' / 'fit'}\n")
    (place / "fitted.yaml").write_text(text)
    return place


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launched(processes, *arguments):
    """The command line in so many processes, as ``accelerate launch`` starts them; one without a launcher."""
    launcher = [] if processes == 1 else [
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port()),
    ]  # fmt: skip
    return subprocess.run(
        [sys.executable, *launcher, "-m", "weakseg", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def run(place, recipe, out, processes, *more):
    return launched(
        processes, "run", place / recipe, "--data", place / "scenes", "--out", place / out,
        "--device", "cpu", "--no-progress", "--workers", 0, *more,
    )  # fmt: skip


def digests(run):
    """sha256 of the score maps, masks, predictions and weights of a run."""
    wanted = [f for f in sorted(run.rglob("*")) if f.suffix in (".npz", ".png", ".safetensors")]
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in wanted}


def judged(run):
    """What the report and every evaluation say, but for how long it took."""
    told = json.loads((run / "report.json").read_text())
    report = {k: told[k] for k in ("summary", "conventions", "findings", "evaluations", "gallery", "classes")}
    results = {f.parent.name: json.loads(f.read_text()) for f in run.rglob("result.json")}
    return without_times([report, results])


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in ("seconds", "images_per_second")}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_two_processes_write_what_one_writes(place):
    """Scoring, refining, predicting and judging with networks that are fitted: training splits its batches."""
    one, two = run(place, "fitted.yaml", "one", 1), run(place, "fitted.yaml", "two", 2)
    assert one.returncode == 0, one.stderr[-3000:]
    assert two.returncode == 0, two.stderr[-3000:]
    assert digests(place / "one") == digests(place / "two")
    assert len([n for n in digests(place / "two") if n.endswith(".npz")]) == 11
    assert judged(place / "one") == judged(place / "two")
    for lines in (one, two):  # of two processes one speaks
        assert lines.stderr.count("[seed 0, 1/10] cam (cam.resnet38): ") == 2
        assert lines.stdout.count("report: ") + lines.stderr.count("report: ") == 2


@pytest.mark.slow
def test_two_processes_train_and_end_the_run(place):
    """Batches of 4 are split in two; the steps end, the report is whole, and a second command finds all of it done."""
    done = run(place, "tiny.yaml", "both", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    names = set(digests(place / "both"))
    assert names == set(digests(place / "trained"))
    again = run(place, "tiny.yaml", "both", 2)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count(": done before") == 10


@pytest.mark.slow
def test_a_fault_under_a_launcher_is_said_once(place):
    done = run(place, "tiny.yaml", "never", 2, "--set", "cam.crp=3")
    assert done.returncode != 0
    assert done.stderr.count("weakseg: step cam (cam.resnet38) has no setting 'crp'") == 1
    assert not (place / "never").exists()


@pytest.mark.slow
def test_the_module_is_the_command_line():
    done = launched(1, "run", "cam-crf-mobil", "--data", "nowhere", "--out", "never")
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("weakseg: there is no recipe 'cam-crf-mobil' (did you mean 'cam-crf-mobile'")
