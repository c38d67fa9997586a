"""COCO JSON of masks: pycocotools and weakseg's own layout open it, and anybody's polygons come back."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image
from pycocotools.coco import COCO

from toy_masks import CLASSES, MASKS, TINY, drawn, export, read_back, same
from weakseg.data import coco as data_coco
from weakseg.data.dataset import open_dataset
from weakseg.data.formats import coco
from weakseg.types import WeaksegError


def without_ignore(masks):
    return {id: np.where(mask == 255, 0, mask).astype(np.uint8) for id, mask in masks.items()}


def opened(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def foreign(path, annotations, **more):
    content = {
        "images": [{"id": 70, "file_name": "photos/a.jpg", "width": 4, "height": 3}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [{"id": k, "image_id": 70, **a} for k, a in enumerate(annotations)],
        **more,
    }
    path.write_text(json.dumps(content))
    return path


def test_there_and_back_but_for_255(tmp_path):
    same(read_back("coco", export("coco", tmp_path / "x.json")), without_ignore(MASKS))


@given(TINY)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask_there_and_back(tmp_path, mask):
    for per in ("region", "class"):
        got = read_back("coco", export("coco", tmp_path / "x.json", {"a": mask}, per=per))
        same(got, without_ignore({"a": mask}))


def test_pycocotools_opens_it(tmp_path):
    table = opened(export("coco", tmp_path / "x.json"))
    assert {c["name"]: c["id"] for c in table.loadCats(table.getCatIds())}["class 254"] == 254
    names = {image["file_name"]: image for image in table.loadImgs(table.getImgIds())}
    for id, mask in without_ignore(MASKS).items():
        image, got = names[f"{id}.jpg"], np.zeros_like(mask)
        assert (image["height"], image["width"]) == mask.shape
        for annotation in table.loadAnns(table.getAnnIds(imgIds=image["id"])):
            inside = table.annToMask(annotation) > 0
            ys, xs = np.nonzero(inside)
            box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == inside.sum()
            assert not got[inside].any()  # regions do not overlap
            got[inside] = annotation["category_id"]
        assert np.array_equal(got, mask)


def test_weakseg_opens_it(tmp_path):
    export("coco", tmp_path / "instances.json")
    for id, mask in MASKS.items():
        Image.new("RGB", mask.shape[::-1]).save(tmp_path / f"{id}.jpg")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == CLASSES
    same({id: dataset.truth(id).numpy() for id in dataset.ids}, without_ignore(MASKS))


def test_a_region_or_a_class_is_an_annotation():
    mask = drawn("1.1", "#2.")
    assert [(a["category_id"], a["area"]) for a in coco.encode(mask, 1)] == [(1, 1), (1, 1), (2, 1)]
    assert [(a["category_id"], a["area"]) for a in coco.encode(mask, 1, per="class")] == [(1, 2), (2, 1)]
    assert coco.encode(drawn("..12"), 7, first=3)[1] == {
        "id": 4, "image_id": 7, "category_id": 2, "bbox": [3, 0, 1, 1], "area": 1, "iscrowd": 0,
        "segmentation": {"size": [1, 4], "counts": "31"},
    }  # fmt: skip


SQUARE = {"category_id": 9, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]], "bbox": [0, 0, 3, 2]}
RUNS = {"category_id": 4, "segmentation": {"size": [3, 4], "counts": [4, 1, 7]}, "iscrowd": 1, "bbox": [1, 1, 1, 1]}
BOX = {"category_id": 4, "segmentation": [], "bbox": [3, 1, 1, 2]}


def test_polygons_run_lengths_and_boxes_the_later_ones_on_top(tmp_path):
    path = foreign(tmp_path / "x.json", [SQUARE, RUNS, BOX])
    same(read_back("coco", path, None), {"a": drawn("222.", "2121", "...1")})  # by number: dog, cat
    assert coco.open_file(path, None, lambda id: None).classes == ("dog", "cat")
    same(read_back("coco", path, ("cat", "dog")), {"a": drawn("111.", "1212", "...2")})
    same(read_back("coco", foreign(path, [RUNS, SQUARE]), ("cat", "dog")), {"a": drawn("111.", "111.", "....")})


def test_a_listed_photograph_without_annotation_is_background(tmp_path):
    same(read_back("coco", foreign(tmp_path / "x.json", []), None), {"a": drawn("....", "....", "....")})


IMAGE = {"id": 70, "file_name": "a.jpg", "width": 4, "height": 3}


@pytest.mark.parametrize(
    ("annotations", "more", "says"),
    [
        ([{**SQUARE, "category_id": 5}], {}, "category_id 5 is no category"),
        ([{**SQUARE, "category_id": True}], {}, "'category_id' is 'True', wanted a whole number"),
        ([{**SQUARE, "image_id": 3}], {}, "image_id 3 is no image"),
        ([{**SQUARE, "segmentation": [[0, 0, 1e99, 0, 3, 2]]}], {}, "annotation 0: a polygon"),
        ([{**SQUARE, "segmentation": [[0, 0, 1e4, 0, 3, 2]]}], {}, "far outside"),
        ([{**SQUARE, "segmentation": [[-3, 0, 7, 0] * 900]}], {}, "longer than"),
        ([{**SQUARE, "segmentation": [[0, 0, float("nan"), 0, 3, 2]]}], {}, "a polygon is a flat list"),
        ([{**SQUARE, "segmentation": {"size": [3, 4], "counts": [99]}}], {}, "do not add up"),
        ([{**SQUARE, "segmentation": {"size": [30000, 30000], "counts": [9]}}], {}, "run lengths for size"),
        ([{**SQUARE, "segmentation": "x"}], {}, "neither polygons nor run lengths"),
        ([{"category_id": 9, "bbox": [1, 2]}], {}, "neither a segmentation nor a box"),
        ([{"category_id": 9}], {}, "'bbox' is 'None', wanted a list"),
        ([], {"images": {}}, "'images' is '{}', wanted a list"),
        ([], {"images": [{**IMAGE, "file_name": "../a.jpg"}]}, "leaves its folder"),
        ([], {"images": [{**IMAGE, "file_name": "/etc/a.jpg"}]}, "leaves its folder"),
        ([], {"images": [{**IMAGE, "file_name": ".jpg"}]}, "cannot name a mask"),
        ([], {"images": [IMAGE, {**IMAGE, "id": 2, "file_name": "b/a.png"}]}, "two photographs are called 'a'"),
        ([], {"images": [IMAGE, {**IMAGE, "file_name": "b.png"}]}, "image ids: two photographs are called '70'"),
        ([], {"images": [{**IMAGE, "width": 10**9}]}, "1000000000 x 3 pixels, more than"),
        ([], {"images": [{**IMAGE, "width": 10**400}]}, "pixels, more than"),
        ([], {"images": [{**IMAGE, "width": 0}]}, "0 x 3 is no size"),
        ([], {"images": [{"id": 1, "file_name": "a.jpg"}]}, "None x None is no size"),
        ([], {"categories": [{"id": 1}]}, "'name' is 'None', wanted text"),
        ([], {"categories": []}, "no class name"),
    ],
)  # fmt: skip
def test_what_a_stranger_makes_up(tmp_path, annotations, more, says, monkeypatch):
    monkeypatch.setattr(data_coco, "MAX_LENGTH", 4000)
    with pytest.raises(WeaksegError, match=says):
        read_back("coco", foreign(tmp_path / "x.json", annotations, **more), None)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b"[" * 200_000, b'{"images": 1' + b"0" * 5000 + b"}"])
def test_no_json_of_coco(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(WeaksegError, match=r"x.json(:| is no readable COCO JSON)"):
        read_back("coco", tmp_path / "x.json", None)


def test_a_category_that_is_no_class(tmp_path):
    with pytest.raises(WeaksegError, match=r"categories: no class 'dog' \(did you mean 'dgo'"):
        read_back("coco", foreign(tmp_path / "x.json", [BOX]), ("cat", "dgo"))
    same(read_back("coco", foreign(tmp_path / "x.json", [SQUARE]), ("cat",)), {"a": drawn("111.", "111.", "....")})
