"""YOLO's text files: pycocotools fills them exactly, OpenCV as it fills polygons, and they come back."""

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from toy_masks import CLASSES, MASKS, TINY, drawn, export, outgoing, read_back, same
from weakseg.data import coco as data_coco
from weakseg.data.formats import yolo
from weakseg.types import WeaksegError


def without_ignore(mask):
    return np.where(mask == 255, 0, mask).astype(np.uint8)


def polygons(text, size):
    """(class, corners in pixels) of each line, as any reader of the format has them."""
    for line in text.splitlines():
        index, *numbers = line.split()
        yield int(index), np.array(numbers, float).reshape(-1, 2) * (size[1], size[0])


def by_pycocotools(text, size):
    mask = np.zeros(size, np.uint8)
    for index, corners in polygons(text, size):
        inside = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([corners.ravel().tolist()], *size))) > 0
        assert not mask[inside].any()
        mask[inside] = index + 1
    return mask


def check(mask):
    text, wanted = yolo.encode(mask), without_ignore(mask)
    assert np.array_equal(by_pycocotools(text, mask.shape), wanted)
    assert np.array_equal(yolo.decode(text, mask.shape, range(1, 255)), wanted)


@pytest.mark.parametrize("name", MASKS)
def test_there_and_back_but_for_255(name):
    check(MASKS[name])


@given(TINY)
@settings(deadline=None, max_examples=100)
def test_any_mask_there_and_back(mask):
    check(mask)


def test_six_digits_are_enough_for_wide_photographs():
    mask = np.zeros((3, 9973), np.uint8)
    mask[1, ::7] = 1
    mask[0, 5000:9973] = 2
    check(mask)


@pytest.mark.parametrize("name", MASKS)
def test_opencv_adds_a_row_and_a_column_at_most(name):
    """Ultralytics fills by OpenCV, which takes corners for pixels and draws the outline too."""
    mask = without_ignore(MASKS[name])
    height, width = mask.shape
    for value in np.unique(mask[mask > 0]):
        canvas, wanted = np.zeros(mask.shape, np.uint8), np.zeros((height + 1, width + 1), bool)
        for index, corners in polygons(yolo.encode(mask), mask.shape):
            if index + 1 == value:
                cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 1)
        for down in (0, 1):
            for right in (0, 1):
                wanted[down : down + height, right : right + width] |= mask == value
        assert np.array_equal(canvas > 0, wanted[:height, :width])


def test_by_hand():
    assert yolo.encode(drawn("22..", "....")) == "1 0 0 0.5 0 0.5 0.5 0 0.5\n"
    assert yolo.encode(drawn("..", ".z", "..")) == "253 0.5 0.333333 1 0.333333 1 0.666667 0.5 0.666667\n"
    assert yolo.encode(drawn("#.")) == ""
    box = "0 0.5 0.5 1 0.5\n\n1 0 0 1 0 1 0.25 0 0.25\n"
    assert yolo.decode(box, (4, 2), (7, 9)).tolist() == drawn("99", "77", "77", "..").tolist()


def test_files_and_names(tmp_path):
    size = {id: mask.shape for id, mask in MASKS.items()}.get
    out = export("yolo", tmp_path / "x")
    table = yaml.safe_load((out / "data.yaml").read_text())
    assert table == {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(CLASSES))}
    assert (out / "labels/empty.txt").read_text() == ""
    same(read_back("yolo", out, None, size), {id: without_ignore(mask) for id, mask in MASKS.items()})
    same(read_back("yolo", out / "data.yaml", None, size), {id: without_ignore(mask) for id, mask in MASKS.items()})
    with pytest.raises(WeaksegError, match=r"\.txt bears no size of its photograph; give --photos"):
        read_back("yolo", out)
    with pytest.raises(WeaksegError, match="use --per region"):
        yolo.export(outgoing(per="class"), tmp_path / "y", lambda: None)


def test_names_are_matched_and_folders_are_read(tmp_path):
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/val").mkdir()
    (tmp_path / "labels/classes.txt").write_text("dog\n")
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "labels/val/b.v2.txt").write_text("1 0.5 0.5 1 1\n")
    (tmp_path / "data.yaml").write_text("names: [dog, 'no']")
    same(read_back("yolo", tmp_path, ("no", "cat", "dog"), lambda id: (1, 1)), {"a": drawn("3"), "b.v2": drawn("1")})
    (tmp_path / "data.yaml").write_text(yolo.encode_yaml(("dog", "no", "né: x", "12")))
    assert yolo.decode_yaml((tmp_path / "data.yaml").read_text()) == ("dog", "no", "né: x", "12")
    with pytest.raises(WeaksegError, match=r"data.yaml: no class 'né: x' \(there are: dog, no, 12\)"):
        read_back("yolo", tmp_path, ("dog", "no", "12"), lambda id: (1, 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x 0 0 1 0 1 1", "line 1: 'x 0 0 1 0 1 1' is not 'class x y"),
        ("0 0 0 1 0 1", "is not 'class x y"),
        ("0 0 0", "is not 'class x y"),
        ("0 0 0 1 0 1 nan", "is not 'class x y"),
        ("0 0 0 1 0 1 1e300", "is not 'class x y"),
        ("-1 0 0 1 0 1 1", "is not 'class x y"),
        ("0 0 0 1 0 1 1\n2 0 0 1 0 1 1", "line 2: class 2, but there are 2 names"),
        ("0 " + "-0.9 0 1.9 0 " * 90, "longer than"),
    ],
    ids=range(8),
)
def test_what_a_stranger_makes_up(tmp_path, text, says, monkeypatch):
    monkeypatch.setattr(data_coco, "MAX_LENGTH", 4000)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(text)
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}")
    with pytest.raises(WeaksegError, match=f"a.txt, .*{says}"):
        read_back("yolo", tmp_path, None, lambda id: (9, 9))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: [", "is no readable YAML"),
        ("a: 1", "names no classes"),
        ("names: {0: cat, 2: dog}", "names no classes"),
        ("names: [cat, [dog]]", "names no classes"),
        ("!!python/object/apply:os.system ['true']", "is no readable YAML"),
        ("- x", "names no classes"),
    ],
)
def test_names_that_are_none(text, says):
    with pytest.raises(WeaksegError, match=says):
        yolo.decode_yaml(text)


def test_no_folder_of_yolo(tmp_path):
    with pytest.raises(WeaksegError, match=r"data.yaml cannot be read"):
        read_back("yolo", tmp_path, None)
    (tmp_path / "data.yaml").write_text("names: [cat]")
    with pytest.raises(WeaksegError, match=r"holds no labels/\*.txt"):
        read_back("yolo", tmp_path, None)
