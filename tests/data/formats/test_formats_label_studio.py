"""Label Studio's tasks: exact there and back, and what people draw in it."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from toy_masks import CLASSES, MASKS, TINY, drawn, export, outgoing, read_back, same
from weakseg.data.formats import label_studio
from weakseg.data.formats._brush import encode_brush
from weakseg.data.formats._exchange import label_values
from weakseg.types import WeaksegError

VALUES = label_values(("cat", "dog"))


def annotated(path):
    """The tasks as they come back when somebody submits what is predicted."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = [{"result": p["result"], "was_cancelled": False} for p in task["predictions"]]
    path.write_text(json.dumps(tasks))
    return path


def there_and_back(path, masks, **more):
    got = read_back(
        "label-studio", annotated(export("label-studio", path, masks, **more)), size=lambda id: masks[id].shape
    )
    same(got, masks)


def test_there_and_back(tmp_path):
    there_and_back(tmp_path / "x.json", MASKS)


@given(TINY)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask_there_and_back(tmp_path, mask):
    for per in ("region", "class"):
        there_and_back(tmp_path / "x.json", {"a": mask}, per=per)


def test_what_is_written(tmp_path):
    (tmp_path / "my photos").mkdir()
    label_studio.export(
        outgoing({"a": drawn("1.", ".1")}, ("cat", "a & <b>"), photos=tmp_path / "my photos", per="class"),
        tmp_path / "x.json",
        lambda: None,
    )
    (task,) = json.loads((tmp_path / "x.json").read_text())
    rle = task["predictions"][0]["result"][0]["value"].pop("rle")
    assert rle == encode_brush(drawn("1.", ".1") > 0)
    assert task == {
        "data": {"image": "/data/local-files/?d=my%20photos/a.jpg", "weakseg_id": "a"},
        "predictions": [
            {
                "model_version": "weakseg",
                "result": [
                    {
                        "id": "a-1", "from_name": "tag", "to_name": "image", "type": "brushlabels",
                        "original_width": 2, "original_height": 2, "image_rotation": 0,
                        "value": {"format": "rle", "brushlabels": ["cat"]},
                    }
                ],
            }
        ],
    }  # fmt: skip
    root = ElementTree.parse(tmp_path / "x.xml").getroot()
    image, brush = root.find("Image"), root.find("BrushLabels")
    assert (image.get("name"), image.get("value")) == ("image", "$image")
    assert (brush.get("name"), brush.get("toName")) == ("tag", "image")
    labels = [(label.get("value"), label.get("background")) for label in brush]
    assert labels == [("cat", "#800000"), ("a & <b>", "#008000"), ("ignore", "#e0e0c0")]


def drawn_shape(kind, label, value, size=(4, 6), **more):
    return {"type": kind, "original_height": size[0], "original_width": size[1], "image_rotation": 0,
            "value": {kind: [label], **value}, **more}  # fmt: skip


def brush(label, mask, **more):
    return drawn_shape("brushlabels", label, {"format": "rle", "rle": encode_brush(mask > 0)}, mask.shape, **more)


POLYGON = drawn_shape("polygonlabels", "cat", {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "closed": True})
RECTANGLE = drawn_shape("rectanglelabels", "dog", {"x": 0, "y": 25, "width": 100, "height": 25, "rotation": 0})
BRUSH = brush("ignore", drawn("......", "......", "......", ".1...."))
CHOICE = {"type": "choices", "value": {"choices": ["good"]}}


def test_brushes_polygons_and_rectangles_the_later_ones_on_top():
    got = label_studio.decode([CHOICE, POLYGON, RECTANGLE, BRUSH], VALUES, "x")
    assert got.tolist() == drawn("111...", "222222", "......", ".#....").tolist()
    got = label_studio.decode([RECTANGLE, POLYGON], VALUES, "x")
    assert got.tolist() == drawn("111...", "111222", "......", "......").tolist()
    assert label_studio.decode([CHOICE], VALUES, "x") is None


def test_a_rectangle_turned_about_its_first_corner():
    """A quarter turn clockwise, in pixels: 4 right and 2 down become 2 left and 4 down."""
    turned = drawn_shape(
        "rectanglelabels", "cat", {"x": 50, "y": 0, "width": 50, "height": 20, "rotation": 90}, size=(10, 8)
    )
    wanted = np.zeros((10, 8), np.uint8)
    wanted[0:4, 2:4] = 1
    assert np.array_equal(label_studio.decode([turned], VALUES, "x"), wanted)


def tasks(path, *given):
    path.write_text(json.dumps(list(given)))
    return path


def task(image="/data/upload/1/0a1b2c3d-a.jpg", **more):
    return {"id": 1, "data": {"image": image}, **more}


def test_the_last_annotation_that_was_not_skipped(tmp_path):
    one, other = brush("cat", drawn("11")), brush("dog", drawn(".1"))
    kept = [
        {"result": [one], "updated_at": "2024-01-03"},
        {"result": [other], "updated_at": "2024-01-02"},
        {"result": [other], "updated_at": "2024-01-04", "was_cancelled": True},
    ]
    path = tasks(tmp_path / "x.json", task(annotations=kept))
    same(read_back("label-studio", path, None), {"a": drawn("11")})
    undated = [{"result": [one]}, {"result": [other]}]
    same(read_back("label-studio", tasks(path, task(annotations=undated)), None), {"a": drawn(".1")})


def test_what_nobody_looked_at_is_left_out(tmp_path):
    done = [{"result": []}]
    path = tasks(
        tmp_path / "x.json",
        task("a.jpg", annotations=done, predictions=[{"result": [BRUSH]}]),
        task("b.jpg", annotations=[], predictions=[{"result": [BRUSH]}]),
        task("c.jpg", annotations=[{"result": [BRUSH], "was_cancelled": True}]),
        task("d.jpg"),
    )
    incoming = label_studio.open_file(path, ("cat",), lambda id: (1, 2))
    assert incoming.notes == ("2 of 4 tasks have no annotation that was submitted; they are left out",)
    assert {id: incoming.read(id).tolist() for id in incoming.ids} == {"a": [[0, 0]], "d": [[0, 0]]}
    with pytest.raises(WeaksegError, match="nobody has looked at its tasks"):
        read_back("label-studio", export("label-studio", tmp_path / "y.json"))


@pytest.mark.parametrize(
    ("image", "id"),
    [
        ("/data/local-files/?d=photos/sub/a%20b.jpg", "a b"),
        ("/data/upload/12/0a1b2c3d-holiday.v2.png", "holiday.v2"),
        ("s3://bucket/folder/a.JPG", "a"),
        ("https://somewhere.org/photos/0a1b2c3d-a.jpg?x=1", "0a1b2c3d-a"),
        ("C:\\photos\\a.jpg", "a"),
    ],
)
def test_the_photograph_of_an_address(tmp_path, image, id):
    path = tasks(tmp_path / "x.json", task(image, annotations=[{"result": [BRUSH]}]))
    assert label_studio.open_file(path, CLASSES, lambda id: None).ids == (id,)


def test_the_order_of_the_classes(tmp_path):
    path = tasks(tmp_path / "x.json", task(annotations=[{"result": [RECTANGLE, POLYGON, BRUSH]}]))
    assert label_studio.open_file(path, None, lambda id: None).classes == ("cat", "dog")
    (tmp_path / "x.xml").write_text(label_studio.encode_config(("dog", "bird", "cat")))
    assert label_studio.open_file(path, None, lambda id: None).classes == ("dog", "bird", "cat")
    (tmp_path / "x.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>')
    with pytest.raises(WeaksegError, match=r"x.xml defines entities"):
        label_studio.open_file(path, None, lambda id: None)
    (tmp_path / "x.xml").write_text("<View>")
    with pytest.raises(WeaksegError, match=r"x.xml is no readable XML"):
        label_studio.open_file(path, None, lambda id: None)


def changed(shape, **value):
    return {**shape, "value": {**shape["value"], **value}}


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ([brush("cow", drawn("1"))], "result 1: no class 'cow'"),
        ([changed(BRUSH, rle=[1, 2, 300])], "run lengths are whole numbers of 0..255"),
        ([changed(BRUSH, rle="abc")], "'rle' is 'abc', wanted a list"),
        ([changed(BRUSH, rle=[])], "end early"),
        ([changed(BRUSH, brushlabels=["cat", "dog"])], "wanted one"),
        ([changed(BRUSH, brushlabels=None)], "'brushlabels' is 'None', wanted a list"),
        ([{**BRUSH, "original_width": 5}], "run lengths of 96 values, a photograph of 5x4 has 80"),
        ([{**BRUSH, "original_width": 10**7, "original_height": 10**7}], "pixels, more than"),
        ([{**BRUSH, "original_width": None}], "None x 4 is no size"),
        ([{**BRUSH, "image_rotation": 90}], "was turned in Label Studio"),
        ([BRUSH, brush("cat", drawn("1"))], "was turned in Label Studio"),
        ([{**BRUSH, "type": "ellipselabels"}], "is of type ellipselabels; draw it"),
        ([{**BRUSH, "type": None}], "'type' is 'None'"),
        ([changed(POLYGON, points=[[0, 0], [1e8, 0], [3, 3]])], "far outside"),
        ([changed(POLYGON, points=[[0, 0], ["1", 0], [3, 3]])], "'1' is no coordinate"),
        ([changed(RECTANGLE, width=None)], "'None' is no coordinate"),
        (["x"], "'type' is 'None'"),
        ({}, "'result' is '{}', wanted a list"),
    ],
)  # fmt: skip
def test_what_a_stranger_makes_up(tmp_path, result, says):
    path = tasks(tmp_path / "x.json", task(annotations=[{"result": result}]))
    with pytest.raises(WeaksegError, match=says):
        read_back("label-studio", path, ("cat", "dog"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"a": 1}, "holds no list of tasks"),
        ([{"image": "a.jpg"}], "task 1: 'data' is 'None'"),
        ([{"data": {"text": "hello"}}], "names no photograph"),
        ([{"data": {"weakseg_id": "../a"}}], "leaves its folder"),
        ([{"data": {"image": "a.jpg"}, "annotations": 3}], "no list of objects"),
        ([{"data": {"image": "a.jpg"}}, {"data": {"image": "b/a.jpg"}}], "two photographs are called 'a'"),
    ],
)
def test_no_tasks_of_label_studio(tmp_path, given, says):
    (tmp_path / "x.json").write_text(json.dumps(given))
    with pytest.raises(WeaksegError, match=says):
        read_back("label-studio", tmp_path / "x.json")
