"""Masks to annotation tools and back through the command line."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from toy_masks import drawn
from weakseg import api, cli
from weakseg.data import formats
from weakseg.data.store import read_label_map, write_label_map

MASKS = {"a": drawn("11..", "1.22"), "b": drawn("....", "....")}
RECIPE = "backbone: {name: resnet10t, weights: null}\nlabels: truth\nsteps:\n- {name: truth, method: labels.truth, list: train}\n"


@pytest.fixture
def place(tmp_path):
    """A run folder (``run``) and its photographs (``data/images``)."""
    (tmp_path / "data/images").mkdir(parents=True)
    for id, mask in MASKS.items():
        write_label_map(tmp_path / f"run/seed-0/labels/{id}.png", torch.from_numpy(mask))
        Image.new("RGB", mask.shape[::-1]).save(tmp_path / f"data/images/{id}.jpg")
    (tmp_path / "run/seed-0/manifest.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    return tmp_path


@pytest.fixture
def weakseg(capfd):
    """Run the command line in this process: (exit code, what it printed)."""

    def call(*arguments):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["weakseg", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capfd.readouterr()
        return ended.value.code or 0, printed.out + printed.err

    return call


@pytest.mark.parametrize("tool", formats.names())
def test_there_and_back(place, weakseg, tool):
    images, out = place / "data/images", place / "out"
    code, text = weakseg("export", place / "run", "--to", tool, "--out", out, "--photos", images)
    assert (code, "taken to be" in text) == (0, False), text
    target = out / formats.load(tool).FILE if formats.load(tool).FILE else out
    assert text.splitlines()[-1] == f"2 masks for {tool} in {target}"
    if tool == "label-studio":
        target.write_text(target.read_text().replace('"predictions"', '"annotations"'))
    code, text = weakseg("import", target, "--from", tool, "--out", place / "data/masks", "--photos", images)
    assert code == 0, text
    assert "1 of 2 photographs have no annotation: their masks are background alone" in text
    assert text.splitlines()[-1] == f"2 masks of 2 classes in {place / 'data/masks'}"
    for id, mask in MASKS.items():
        assert np.array_equal(read_label_map(place / f"data/masks/{id}.png").numpy(), mask)
    assert (place / "data/masks/classes.txt").read_text() == "cat\ndog\n"


@pytest.mark.parametrize("tool", formats.names())
def test_without_photographs_it_is_said_what_is_assumed_where_it_matters(place, weakseg, tool):
    code, text = weakseg("export", place / "run", "--to", tool, "--out", place / "out")
    assert code == 0
    assert ("each photograph is taken to be ID.jpg" in text) == (tool in ("coco", "labelme", "label-studio"))


@pytest.mark.slow
def test_corrected_masks_enter_a_run_as_its_truth(place, weakseg):
    corrected = place / "data/corrected.zip"
    assert weakseg("export", place / "run", "--to", "cvat", "--out", corrected)[0] == 0
    assert weakseg("import", corrected, "--from", "cvat", "--out", place / "data/masks")[0] == 0
    (place / "data/classes.txt").write_text("cat\ndog\n")
    (place / "truth.yaml").write_text(RECIPE)
    api.run(place / "truth.yaml", place / "data", place / "new", device="cpu", workers=0, progress=False, say=print)
    for id, mask in MASKS.items():
        assert np.array_equal(read_label_map(place / f"new/seed-0/labels/{id}.png").numpy(), mask)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["export", "run", "--to", "cvt", "--out", "o"],
            "nothing is exported to 'cvt' (did you mean 'cvat'",
        ),
        (["export", "nowhere", "--to", "cvat", "--out", "o"], "nowhere is no folder"),
        (["export", "run", "--to", "cvat", "--out", "o", "--what", "predictions"], "holds no predictions"),
        (["export", "run", "--to", "cvat", "--out", "o", "--seed", "3"], "of seed 3; there are the seeds 0"),
        (["export", "run", "--to", "yolo", "--out", "o", "--per", "class"], "use --per region"),
        (["export", "run", "--to", "cvat", "--out", "o", "--classes", "cat"], "no file of class names"),
        (["export", "run", "--to", "coco", "--out", "o", "--photos", "run"], "holds no photographs"),
        (["import", "nowhere", "--from", "cvat", "--out", "o"], "nowhere is not there"),
        (["import", "junk", "--from", "cvta", "--out", "o"], "did you mean 'cvat'"),
        (["import", "junk", "--from", "cvat", "--out", "o"], "junk is no readable zip"),
        (["import", "junk", "--from", "coco", "--out", "o"], "junk is no readable COCO JSON"),
        (["import", "junk", "--from", "label-studio", "--out", "o"], "junk is no readable Label Studio JSON"),
        (["import", "junk", "--from", "labelme", "--out", "o"], "junk is no readable labelme JSON"),
        (["import", "junk", "--from", "yolo", "--out", "o"], "junk names no classes"),
        (["import", "run", "--from", "coco", "--out", "o"], "run cannot be read: Is a directory"),
        (["import", "run", "--from", "cvat", "--out", "o"], "run is no readable zip"),
    ],
    ids=lambda value: " ".join(value[:6]) if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_one_sentence(place, weakseg, monkeypatch, arguments, says):
    monkeypatch.chdir(place)
    (place / "junk").write_bytes(b"hello\n")
    code, text = weakseg(*arguments)
    last = text.strip().splitlines()[-1]
    assert code == 1, text
    assert last.startswith("weakseg: ")
    assert says in last
    assert "Traceback" not in text
    assert "fault of weakseg" not in text
    assert not (place / "o").exists()
