"""Which masks go out to a tool, and where the corrected ones are put."""

import doctest
import importlib
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toy_masks import MASKS, drawn
from weakseg.data import formats
from weakseg.data.dataset import open_dataset
from weakseg.data.formats._exchange import photo_id
from weakseg.data.interchange import export_masks, find_masks, import_masks
from weakseg.data.store import TEMPORARY, read_label_map, write_label_map
from weakseg.types import WeaksegError

A, B = drawn("1..", ".#2"), drawn("...", "...")


def folder(path, names="cat\ndog\n", **masks):
    """A folder of masks with a classes.txt."""
    for id, mask in (masks or {"a": A, "b": B}).items():
        write_label_map(path / f"{id}.png", torch.from_numpy(mask))
    if names:
        (path / "classes.txt").write_text(names)
    return path


def photos(path, size=(3, 2), ids=("a", "b"), suffix=".png"):
    path.mkdir(parents=True, exist_ok=True)
    for id in ids:
        Image.new("RGB", size).save(path / f"{id}{suffix}")
    return path


def run_folder(path):
    """A run with labels of two seeds, and predictions of the first."""
    for seed in (0, 1):
        folder(path / f"seed-{seed}/labels", "", a=A, b=B)
        (path / f"seed-{seed}/manifest.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    folder(path / "seed-0/predictions", "", c=B)
    return path


def test_every_tool_keeps_the_promises_of_its_folder():
    assert formats.names() == ["coco", "cvat", "label-studio", "labelme", "yolo"]
    for name in formats.names():
        module = formats.load(name)
        assert bool(module.SUFFIX) == bool(module.FILE)
        assert module.FILE.endswith(module.SUFFIX)
        assert all(callable(getattr(module, verb)) for verb in ("written", "export", "open_file"))
        assert isinstance(module.NAMES_PHOTOS, bool)
    with pytest.raises(WeaksegError, match=r"'cvt' is no annotation tool that is known \(did you mean 'cvat'"):
        formats.load("cvt")


@pytest.mark.parametrize("name", ["", *(m.name for m in pkgutil.iter_modules(formats.__path__))])
def test_the_examples_of_the_docstrings(name):
    module = importlib.import_module(f"weakseg.data.formats.{name}".rstrip("."))
    ran = doctest.testmod(module)
    assert (ran.failed, ran.attempted > 0) == (0, ">>>" in Path(module.__file__).read_text())


@pytest.mark.parametrize("tool", formats.names())
def test_out_and_in_again_as_the_masks_of_a_data_set(tmp_path, tool):
    source, images = folder(tmp_path / "masks"), photos(tmp_path / "data/images")
    seen = []
    target, count = export_masks(source, tmp_path / "out", tool, photos=images, tick=lambda *n: seen.append(n))
    assert (count, seen) == (2, [(1, 2), (2, 2)])
    if tool == "label-studio":
        target.write_text(target.read_text().replace('"predictions"', '"annotations"'))
    done = import_masks(target, tmp_path / "data/masks", tool, photos=images)
    assert (done.ids, done.classes, done.empty) == (("a", "b"), ("cat", "dog"), ("b",))
    dataset = open_dataset(tmp_path / "data", classes=tmp_path / "data/masks/classes.txt", tags_from="masks")
    kept = A if tool not in ("coco", "yolo") else np.where(A == 255, 0, A)  # which say that they leave 255 out
    assert np.array_equal(dataset.truth("a").numpy(), kept)
    assert np.array_equal(dataset.truth("b").numpy(), B)
    assert dataset.tags("a").tolist() == [True, True]
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("tool", formats.names())
def test_written_names_every_file(tmp_path, tool):
    source = folder(tmp_path / "masks")
    _target, _ = export_masks(source, tmp_path / "out", tool)
    files = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    for file in files:
        for other in files:
            other.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"mine")
        with pytest.raises(WeaksegError, match="exists; nothing was written"):
            export_masks(source, tmp_path / "out", tool)
        assert [f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()] == [b"mine"]
    export_masks(source, tmp_path / "out", tool, overwrite=True)
    assert {file: file.read_bytes() for file in files} == files  # and equal masks give equal bytes


def test_the_masks_of_a_run(tmp_path):
    run = run_folder(tmp_path / "run")
    masks, classes = find_masks(run, None)
    assert (sorted(masks), classes) == (["a", "b"], ("cat", "dog"))
    assert masks["a"] == run / "seed-0/labels/a.png"
    assert find_masks(run, None, seed=1)[0]["a"] == run / "seed-1/labels/a.png"
    assert list(find_masks(run, None, "predictions")[0]) == ["c"]
    assert find_masks(run, "ape,bee")[1] == ("ape", "bee")
    for what, seed, says in (
        ("labels", 2, "holds no labels .* of seed 2; there are the seeds 0, 1"),
        ("predictions", 1, "holds no predictions .* of seed 1: has the run ended.*See also --what labels"),
    ):
        with pytest.raises(WeaksegError, match=says):
            find_masks(run, None, what, seed)


@pytest.mark.parametrize("table", ["labels/classes.txt", "classes.txt"])
def test_the_masks_of_the_verb_label(tmp_path, table):
    (tmp_path / "seed-0").mkdir()
    folder(tmp_path / "labels", "", a=A)
    (tmp_path / table).write_text("cat\ndog\n")
    masks, classes = find_masks(tmp_path, None)
    assert (list(masks), classes) == (["a"], ("cat", "dog"))


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda p: None, "is no folder; give a run folder"),
        (lambda p: p.mkdir(), r"holds no labels \(PNG\); give a run folder"),
        (lambda p: folder(p, ""), "nothing names the classes"),
        (lambda p: folder(p, "cat\n"), "a.png holds id 2, but there are 1 names"),
        (lambda p: folder(p, "cat\nignore\n"), "a class called 'ignore' could not be told from 255"),
        (lambda p: folder(p, "cat\nBackground\n"), "a class called 'Background' could not be told from 0"),
        (lambda p: folder(p, **{" a": A}), "outer blanks; rename the mask"),
        (lambda p: folder(p, **{"a\nb": A}), "line breaks"),
        (lambda p: (folder(p), Image.new("RGB", (3, 2)).save(p / "a.png")), "a.png is a PNG of mode RGB"),
        (lambda p: (folder(p), (p / "a.png").write_bytes(b"x")), "a.png is no readable PNG"),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("tool", ["cvat", "coco"])
def test_masks_that_cannot_go_out(tmp_path, tool, prepare, says):
    prepare(tmp_path / "masks")
    with pytest.raises(WeaksegError, match=says):
        export_masks(tmp_path / "masks", tmp_path / "out", tool)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.parent.name != "masks"]


def test_photographs_give_names_and_sizes(tmp_path):
    source = folder(tmp_path / "masks")
    images = photos(tmp_path / "photos/images", suffix=".webp")
    target, _ = export_masks(source, tmp_path / "x.json", "coco", photos=tmp_path / "photos")
    assert target == tmp_path / "x.json"
    assert [image["file_name"] for image in json.loads(target.read_text())["images"]] == ["a.webp", "b.webp"]
    export_masks(source, tmp_path / "labelme", "labelme", photos=tmp_path / "photos")
    assert json.loads((tmp_path / "labelme/a.json").read_text())["imagePath"] == "../photos/images/a.webp"
    photos(images, (2, 3), ("b",), ".webp")
    with pytest.raises(WeaksegError, match=r"b.png is 3x2, its photograph 2x3"):
        export_masks(source, tmp_path / "y.json", "coco", photos=images)
    (images / "a.webp").unlink()
    with pytest.raises(WeaksegError, match="has no photograph of 1 of the 2 masks: a;"):
        export_masks(source, tmp_path / "y.json", "coco", photos=images)
    with pytest.raises(WeaksegError, match="holds no photographs"):
        export_masks(source, tmp_path / "y.json", "coco", photos=tmp_path / "nowhere")
    assert not (tmp_path / "y.json").exists()


def test_nothing_is_overwritten_by_an_import(tmp_path):
    target, _ = export_masks(folder(tmp_path / "masks"), tmp_path, "cvat")
    out = tmp_path / "out"
    folder(out, "", b=A)
    with pytest.raises(WeaksegError, match=r"b.png exists; nothing was written, so name another --out or give --over"):
        import_masks(target, out, "cvat")
    assert [file.name for file in out.iterdir()] == ["b.png"]
    import_masks(target, out, "cvat", overwrite=True)
    assert np.array_equal(read_label_map(out / "b.png").numpy(), B)
    assert sorted(file.name for file in out.iterdir()) == ["a.png", "b.png", "classes.txt"]


def test_the_order_of_the_classes_is_that_of_the_data_set(tmp_path):
    target, _ = export_masks(folder(tmp_path / "masks"), tmp_path / "x.json", "coco")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classes.txt").write_text("dog\nbird\ncat\n")
    done = import_masks(target, tmp_path / "data/masks", "coco")
    assert done.classes == ("dog", "bird", "cat")
    assert done.notes == (f"the order of the classes is that of {(tmp_path / 'data').resolve() / 'classes.txt'}",)
    assert read_label_map(tmp_path / "data/masks/a.png").tolist() == drawn("3..", "..1").tolist()
    given = import_masks(target, tmp_path / "data/masks", "coco", classes="cat,dog", overwrite=True)
    assert (given.classes, given.notes) == (("cat", "dog"), ())
    assert (tmp_path / "data/masks/classes.txt").read_text() == "cat\ndog\n"
    with pytest.raises(WeaksegError, match=r"no class 'dog' \(did you mean 'dgo'"):
        import_masks(target, tmp_path / "new", "coco", classes="cat,dgo")
    assert not (tmp_path / "new").exists()


def test_photographs_are_compared(tmp_path):
    target, _ = export_masks(folder(tmp_path / "masks"), tmp_path, "cvat")
    with pytest.raises(WeaksegError, match=r"has no photograph 'b'; add it"):
        import_masks(target, tmp_path / "out", "cvat", photos=photos(tmp_path / "one", ids=("a",)))
    assert not (tmp_path / "out").exists()
    with pytest.raises(WeaksegError, match="the mask of a is 3x2 pixels, its photograph 2x3"):
        import_masks(target, tmp_path / "out", "cvat", photos=photos(tmp_path / "turned", (2, 3)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "c:a.jpg", "a\0.jpg", "a\nb.jpg", ".jpg", "", "\udcff.jpg"])
def test_a_name_that_leaves_its_folder_or_is_none(name):
    with pytest.raises(WeaksegError, match="x: "):
        photo_id(name, "x")


@pytest.mark.parametrize("tool", formats.names())
def test_all_masks_there_and_back_through_files(tmp_path, tool):
    names = "".join(f"class {k}\n" for k in range(1, 255))
    source = folder(tmp_path / "masks", names, **MASKS)
    for id, mask in MASKS.items():
        photos(tmp_path / "photos", mask.shape[::-1], (id,))
    target, _ = export_masks(source, tmp_path / "out", tool)
    if tool == "label-studio":
        target.write_text(target.read_text().replace('"predictions"', '"annotations"'))
    import_masks(target, tmp_path / "back", tool, photos=tmp_path / "photos")
    for id, mask in MASKS.items():
        wanted = mask if tool not in ("coco", "yolo") else np.where(mask == 255, 0, mask)
        assert np.array_equal(read_label_map(tmp_path / "back" / f"{id}.png").numpy(), wanted), id
