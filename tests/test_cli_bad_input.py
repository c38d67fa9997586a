"""What people get wrong, through the command line: one clear sentence, no traceback, nothing half written or lost."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from filelock import FileLock
from PIL import Image

from weakseg import cli
from weakseg.data.scenes import make_scenes
from weakseg.data.store import TEMPORARY, write_tensors

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [8, 8, 16, 16]}}
labels: threshold
steps:
- name: cam
  method: cam.resnet38
  list: [train, val]
  set: {crop: 32, long_side: [32, 40], jitter: false, epochs: 1, batch_size: 4, lr: 0.02, new_factor: 1, momentum: 0.9,
        freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0], flip: false}
- {name: threshold, method: labels.threshold, scores: cam/full, list: [train, val], set: {background: 0.3}}
- {name: masks, method: evaluate.masks, seeds: threshold, list: val}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Eight scenes in VOC layout (``voc``), and as photographs with a tags.csv and a classes.txt (``plain``)."""
    place = tmp_path_factory.mktemp("bad")
    make_scenes(place / "voc", count=8, seed=3, size=64)
    (place / "plain").mkdir()
    shutil.copytree(place / "voc" / "JPEGImages", place / "plain" / "images")
    ids = sorted(f.stem for f in (place / "plain" / "images").iterdir())
    (place / "plain" / "tags.csv").write_text("image,tags\n" + "".join(f"{id},cat;dog\n" for id in ids))
    (place / "plain" / "classes.txt").write_text("cat\ndog\n")
    (place / "tiny.yaml").write_text(RECIPE)
    return place


@pytest.fixture
def voc(place, tmp_path):
    return shutil.copytree(place / "voc", tmp_path / "voc")


@pytest.fixture
def plain(place, tmp_path):
    return shutil.copytree(place / "plain", tmp_path / "plain")


def exit_code(arguments):
    """Run the command line in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["weakseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return ended.value.code or 0


@pytest.fixture
def weakseg(capfd):
    """Run the command line in this process: (exit code, what it printed)."""

    def call(*arguments):
        code, printed = exit_code(arguments), capfd.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture
def refused(weakseg):
    """Run the command line, see that it refuses as it should, and return its sentence."""

    def call(*arguments):
        code, text = weakseg(*arguments)
        last = text.strip().splitlines()[-1]
        assert code == 1, text
        assert last.startswith("weakseg: "), text
        assert "Traceback" not in text
        assert "fault of weakseg" not in text
        return last

    return call


def run(place, data, out, *more):
    return (
        "run", place / "tiny.yaml", "--data", data, "--out", out, "--device", "cpu", "--no-progress", "--workers", 0,
        *more,
    )  # fmt: skip


def contents(folder):
    """sha256 of every file by name; none may be a temporary one."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != ".lock"]
    assert not [f for f in files if f.name.startswith(TEMPORARY)]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def halve(photo):
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])


def listed(data, name="train"):
    return (data / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()


# --- known before anything is written ---


def edit(name, change):
    """What spoils a data set: a file's text, changed."""

    def spoil(data):
        (data / name).write_text(change((data / name).read_text()))

    return spoil


def swapped(text):
    return "".join(",".join(reversed(line.split(","))) + "\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "cam-crf-mobile", "--data", "empty", "--out", "o"], "photograph"),
        (["run", "cam-crf-mobil", "--data", ".", "--out", "o"], "did you mean 'cam-crf-mobile'"),
        (["run", "demo", "--data", ".", "--out", "o", "--set", "cam.crp=3"], "did you mean 'crop'"),
        (["run", "demo", "--data", ".", "--out", "o", "--weights", "weights.pth"], "missing"),
        (["predict", "empty", ".", "--out", "o"], "run folder"),
        (["review", "nowhere", "empty", "--out", "o"], "nowhere is no folder; give a run folder"),
        (["review", "empty", "empty", "--out", "o"], "empty holds no labels (PNG)"),
        (["report", "empty"], "report.json"),
        (["evaluate", "--pred", "empty", "--truth", "empty"], "PNG"),
        (["weights", "convert", "weights.pth", "w.safetensors"], "not readable weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_every_verb_refuses_what_it_cannot_use(tmp_path, monkeypatch, refused, arguments, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    monkeypatch.chdir(tmp_path)
    assert says in refused(*arguments)
    assert not (tmp_path / "o").exists()


def test_a_check_of_nothing(tmp_path, weakseg):
    code, text = weakseg("data", "check", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere is not there" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (edit("tags.csv", lambda t: t.replace("dog", "dgo", 1)), "unknown tag 'dgo' (did you mean 'dog'?)"),
        (edit("tags.csv", lambda t: t + "holiday,cat\n"), "line 10: no photograph 'holiday'"),
        (edit("tags.csv", swapped), "line 1: no photograph 'tags'; the columns are image,tag1;tag2"),
        (edit("tags.csv", lambda t: t.replace(",cat;dog", "")), "line 2: 1 columns; write image,tag1;tag2"),
        (edit("tags.csv", lambda t: t.replace("cat;dog", '"cat')), "tags.csv is no CSV file"),
        (edit("tags.csv", lambda t: t + t.splitlines()[-1].replace("dog", "")), "has a second row with other tags"),
        (edit("classes.txt", lambda t: "".join(f"c{k}\n" for k in range(255))), "255 classes; at most 254"),
        (edit("classes.txt", lambda t: t + "cat\n"), "class 'cat' stands there twice"),
        (lambda data: (data / "tags.csv").unlink(), "needs tags, which"),
    ],
)
def test_tags_and_classes_that_cannot_be_used(place, plain, tmp_path, refused, weakseg, spoil, says):
    spoil(plain)
    assert says in refused(*run(place, plain, tmp_path / "out", "--val-list", "train"))
    assert not (tmp_path / "out").exists()
    if (plain / "tags.csv").exists():
        code, text = weakseg("data", "check", plain, "--no-progress")
        assert (code, "Traceback" in text) == (1, False)
        assert says in text


LISTS = "ImageSets/Segmentation"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (edit(f"{LISTS}/train.txt", lambda t: ""), "the list 'train' is empty, there is nothing to learn from"),
        (edit(f"{LISTS}/val.txt", lambda t: "\n"), "the list 'val' is empty, there is nothing to do"),
        (edit(f"{LISTS}/train.txt", lambda t: t + "holiday\n"), "1 of its 7 ids have no photograph"),
        (lambda data: [f.unlink() for f in (data / "JPEGImages").iterdir()], "holds no photograph"),
        (lambda data: (data / LISTS / "val.txt").unlink(), "has no list 'val'"),
    ],
)
def test_lists_and_photographs_that_are_not_there(place, voc, tmp_path, refused, spoil, says):
    spoil(voc)
    assert says in refused(*run(place, voc, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_photograph_without_its_file_is_named(place, voc, tmp_path, refused, weakseg):
    gone = listed(voc)[0]
    (voc / "JPEGImages" / f"{gone}.jpg").unlink()
    (voc / "tags.csv").unlink()  # the tags then come from XML, and the list is what names the photograph
    assert gone in refused(*run(place, voc, tmp_path / "out"))
    code, text = weakseg("data", "check", voc, "--no-progress")
    assert code == 1
    assert f"error: {gone}: there is no such photograph, but it is in list train" in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("method: cam.res", "metod: cam.res", "steps.0.metod is no key of a step (did you mean 'method'"),
        ("labels: thre", "lables: thre", "lables is no key of a recipe (did you mean 'labels'?)"),
        ("cam.resnet38", "cam.resnet83", "'cam.resnet83' names no method (did you mean 'resnet38'"),
        ("crop: 32", "crp: 32", "has no setting 'crp' (did you mean 'crop'?)"),
        ("crop: 32", "crop: big", "crop: input should be a valid integer"),
        ("crop: 32", "crop: 0", "wanted a size of at least 1 pixel"),
        ("weights: null", "wieghts: null", "a backbone has no key 'wieghts' (did you mean 'weights'?)"),
        ("resnet10t", "resnet10x", "no backbone 'resnet10x'"),
        ("scores: cam/full", "scores: can/full", "names no earlier step (did you mean 'cam'?)"),
        ("labels: threshold", "labels: treshold", "labels names no step 'treshold' (did you mean 'threshold'?)"),
        ("steps:", "steps: [", "is not YAML"),
    ],
)
def test_a_typo_in_a_recipe_is_answered_with_the_nearest_match(place, tmp_path, refused, old, new, says):
    (tmp_path / "typo.yaml").write_text(RECIPE.replace(old, new, 1))
    said = refused("run", tmp_path / "typo.yaml", "--data", place / "voc", "--out", tmp_path / "out")
    assert says in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--set", "cm.crop=3"), "the recipe has no step 'cm' (did you mean 'cam'?)"),
        (("--set", "crop=3"), "--set wants STEP.KEY=VALUE"),
        (("--train-list", "trian"), "has no list 'trian' (did you mean 'train'"),
        (("--precision", "fp17"), 'precision "fp17" is unknown'),
        (("--device", "gpu"), 'device "gpu" is unknown'),
        (("--reuse", "nowhere"), "nowhere is no run folder"),
        (("--layout", "vok"), "layout 'vok' is none of"),
        (("--tags-from", "mask"), "tags from 'mask'"),
        (("--saliency", "nowhere"), "no folder of saliency maps nowhere"),
    ],
)
def test_an_option_that_means_nothing(place, tmp_path, refused, more, says):
    assert says in refused(*run(place, place / "voc", tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("note", "says"),
    [
        (None, "weights.safetensors.json is missing: write what the network was trained with"),
        ({"name": "resnet18"}, "holds resnet18, recipe tiny trains resnet10t"),
        ({"name": "resnet10t", "create": {"channels": [8, 8, 16, 16]}}, "step cam: .* does not fit this network"),
    ],
)
def test_weights_of_another_network(place, tmp_path, refused, note, says):
    weights = tmp_path / "weights.safetensors"
    write_tensors(weights, {"conv1.weight": torch.zeros(8, 3, 3, 3)}, {})
    if note is not None:
        note |= {"mean": [0.5] * 3, "std": [0.5] * 3}
        weights.with_name("weights.safetensors.json").write_text(json.dumps(note))
    assert re.search(says, refused(*run(place, place / "voc", tmp_path / "out", "--weights", weights)))
    assert not (tmp_path / "out").exists()


def test_label_without_a_table_or_without_a_row(place, tmp_path, refused):
    label = ("label", place / "plain" / "images", "--out", tmp_path / "out", "--recipe", place / "tiny.yaml", "--tags")
    assert "nowhere.csv cannot be read" in refused(*label, tmp_path / "nowhere.csv")
    (tmp_path / "tags.csv").write_text("image,tags\n")
    assert "nothing names the classes" in refused(*label, tmp_path / "tags.csv")
    assert "has no row for any of the 8" in refused(*label, tmp_path / "tags.csv", "--classes", "cat,dog")
    assert not (tmp_path / "out").exists()


# --- found out on the way: what is finished stays ---


def test_a_truncated_photograph_is_named_and_the_rest_stays(place, voc, tmp_path, refused, weakseg):
    broken = voc / "JPEGImages" / f"{listed(voc, 'val')[-1]}.jpg"
    good = broken.read_bytes()
    halve(broken)
    code, text = weakseg("data", "check", voc, "--no-progress")
    assert code == 1
    assert f"{broken} cannot be read as an image" in text
    out = tmp_path / "out"
    assert f"{broken} cannot be read as an image" in refused(*run(place, voc, out))
    before = contents(out)
    assert "seed-0/steps/1-cam/fit/model.safetensors" in before
    assert "seed-0/manifest.json" not in before
    broken.write_bytes(good)
    assert "1-cam (data: the photographs or labels it reads)" in refused(*run(place, voc, out))
    assert contents(out) == before
    assert weakseg(*run(place, voc, out, "--overwrite"))[0] == 0
    after = contents(out)
    assert {name: after[name.replace("1-cam", "1-cam.old-1")] for name in before} == before
    assert "report.json" in after


def test_a_mask_of_another_size_is_named(place, voc, tmp_path, refused, weakseg):
    mask = voc / "SegmentationClass" / f"{listed(voc, 'val')[0]}.png"
    with Image.open(mask) as image:
        image.resize((32, 32)).save(mask)
    size = f"{mask} is 32 x 32, its photograph 64 x 64"
    code, text = weakseg("data", "check", voc, "--no-progress")
    assert code == 1
    assert size in text
    assert size in refused(*run(place, voc, tmp_path / "out"))
    assert "(64, 64) and the truth (32, 32)" in refused(
        "evaluate", "--pred", place / "voc" / "SegmentationClass", "--truth", mask.parent, "--no-progress"
    )


def test_a_loss_that_is_no_number_is_named_with_its_step(place, tmp_path, refused):
    said = refused(*run(place, place / "voc", tmp_path / "out", "--set", "cam.lr=1e30", "--set", "cam.epochs=4"))
    assert re.search(r'the loss "cls" became (nan|inf|-inf) at step [12] \(epoch 1, learning rate', said)
    assert "seed-0/steps/1-cam/fit/model.safetensors" not in contents(tmp_path / "out")


@pytest.fixture(scope="module")
def ended(place):
    """A run of ``tiny.yaml`` that ended."""
    assert exit_code(run(place, place / "voc", place / "ended")) == 0
    return place / "ended"


def test_another_configuration_in_an_ended_run(place, ended, refused):
    before = contents(ended)
    said = refused(*run(place, place / "voc", ended, "--set", "cam.crop=48"))
    assert "1-cam (set.crop: 32 -> 48); and with them 2-threshold, 3-masks" in said
    assert "--overwrite" in said
    assert contents(ended) == before


def test_a_second_process_on_one_run(place, ended, refused):
    before = contents(ended)
    with FileLock(ended / ".lock"):
        assert f"another process is working on {ended}" in refused(*run(place, place / "voc", ended))
    assert contents(ended) == before


@pytest.mark.parametrize("room", [0, 3, 9, 14])
def test_a_full_disk_loses_no_finished_file(place, ended, tmp_path, refused, weakseg, monkeypatch, room):
    """After `room` files the disk is full; the same command, once there is room, ends as an undisturbed run."""
    out, left, sync = tmp_path / "out", [room], os.fsync

    def fsync(file):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert "cannot be written: the disk is full; make room" in refused(*run(place, place / "voc", out))
    before = {name: digest for name, digest in contents(out).items() if "checkpoint" not in name}
    assert weakseg(*run(place, place / "voc", out))[0] == 0
    after = contents(out)
    kept = (".npz", ".png", "model.safetensors")
    assert {n: d for n, d in before.items() if n.endswith(kept)}.items() <= after.items()
    assert {n: d for n, d in after.items() if n.endswith(kept)} == {
        n: d for n, d in contents(ended).items() if n.endswith(kept)
    }


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [200, 500])
def test_a_small_disk_that_really_fills_up(place, tmp_path, kilobytes):
    out = tmp_path / "small"
    out.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(out)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("only an administrator may mount a small disk")
    try:
        arguments = [str(a) for a in run(place, place / "voc", out)]
        done = subprocess.run([sys.executable, "-m", "weakseg", *arguments], capture_output=True, text=True)
        contents(out)
    finally:
        subprocess.run(["umount", str(out)], check=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the disk is full; make room" in done.stderr.splitlines()[-1]
