"""labelme's JSON: exact there and back, opened as labelme opens it, and what people draw in it."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from matplotlib.path import Path
from PIL import Image

from toy_masks import CLASSES, MASKS, TINY, drawn, export, outgoing, png, read_back, same
from weakseg.data.formats import labelme
from weakseg.data.formats._exchange import label_values
from weakseg.types import WeaksegError

VALUES = label_values(("cat", "dog"))


def shape(label, kind, points, **more):
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


def content(*shapes, **more):
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.jpg", "imageData": None,
            "imageHeight": 4, "imageWidth": 6, **more}  # fmt: skip


def mask_shape(label, points, pixels, **more):
    return shape(label, "mask", points, mask=base64.b64encode(png(pixels)).decode(), **more)


def as_labelme_reads_it(file):
    """Rows y0..y1 and columns x0..x1, both included, of each shape's PNG."""
    data = json.loads(file.read_text())
    got = np.zeros((data["imageHeight"], data["imageWidth"]), np.uint8)
    values = label_values(CLASSES)
    for each in data["shapes"]:
        (x0, y0), (x1, y1) = each["points"]
        inside = np.array(Image.open(io.BytesIO(base64.b64decode(each["mask"])))).astype(bool)
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()  # noqa: PT018
        assert not got[y0 : y1 + 1, x0 : x1 + 1][inside].any()
        got[y0 : y1 + 1, x0 : x1 + 1][inside] = values[each["label"]]
    return got


def test_there_and_back(tmp_path):
    out = export("labelme", tmp_path)
    same(read_back("labelme", out), MASKS)
    same({id: as_labelme_reads_it(out / f"{id}.json") for id in MASKS}, MASKS)


@given(TINY)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask_there_and_back(tmp_path, mask):
    for per in ("region", "class"):
        same(read_back("labelme", export("labelme", tmp_path / per, {"a": mask}, per=per)), {"a": mask})


def test_what_is_written(tmp_path):
    (tmp_path / "photos").mkdir()
    photos = tmp_path / "photos"
    labelme.export(
        outgoing({"a": drawn("...", ".##")}, ("cat", "dog"), photos=photos), tmp_path / "out" / "x", lambda: None
    )
    found = json.loads((tmp_path / "out/x/a.json").read_text())
    encoded = found["shapes"][0].pop("mask")
    assert np.array(Image.open(io.BytesIO(base64.b64decode(encoded)))).tolist() == [[1, 1]]
    assert found == {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {"label": "ignore", "points": [[1, 1], [2, 1]], "group_id": None, "description": "", "shape_type": "mask", "flags": {}}
        ],
        "imagePath": "../../photos/a.jpg",
        "imageData": None,
        "imageHeight": 2,
        "imageWidth": 3,
    }  # fmt: skip
    assert (tmp_path / "out/x/labels.txt").read_text().split() == ["__ignore__", "_background_", "cat", "dog", "ignore"]


def test_what_people_draw_the_later_shapes_on_top():
    drawing = content(
        shape("cat", "polygon", [[0, 0], [4, 0], [4, 2], [0, 2]]),
        shape("dog", "rectangle", [[5.0, 4.0], [3.0, 1.0]]),
        mask_shape("__ignore__", [[0.0, 0.0], [1.0, 1.0]], [[0, 1], [1, 0]]),
        shape("_background_", "polygon", [[2, 0], [3, 0], [3, 1], [2, 1]]),
        shape("Ignore", None, [[5, 0], [6, 0], [6, 1], [5, 1]]),
        shape("cat", "polygon", [[0, 3], [3, 3]]),  # two corners hold nothing
    )
    got = labelme.decode(drawing, VALUES)
    assert got.tolist() == drawn("1#.1.#", "#1122.", "...22.", "...22.").tolist()


def test_a_pixel_belongs_to_a_polygon_if_its_centre_does():
    corners = [[2.3, 1.1], [17.6, 4.2], [12.4, 18.7], [9.1, 9.3], [3.2, 15.9]]
    got = labelme.decode(content(shape("cat", "polygon", corners), imageHeight=20, imageWidth=20), VALUES) > 0
    path = Path([*corners, corners[0]])
    centres = np.stack(np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5), axis=-1).reshape(-1, 2)
    inside, wide, narrow = (path.contains_points(centres, radius=r).reshape(20, 20) for r in (0, 0.2, -0.2))
    sure = wide == narrow  # pycocotools counts in fifths of a pixel
    assert sure.sum() > 370
    assert np.array_equal(got[sure], inside[sure])


def test_the_order_of_the_classes(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content(shape("dog", "polygon", []), shape("ape", "polygon", []))))
    (tmp_path / "b.json").write_text(json.dumps(content(shape("cat", "polygon", []))))
    assert labelme.open_file(tmp_path, None, lambda id: None).classes == ("ape", "cat", "dog")
    assert labelme.open_file(tmp_path / "b.json", None, lambda id: None).ids == ("b",)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\nape\n")
    assert labelme.open_file(tmp_path, None, lambda id: None).classes == ("dog", "cat", "ape")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (content(shape("cow", "polygon", [])), r"shape 1: no class 'cow' \(there are: cat, dog\)"),
        (content(shape("cat", "circle", [[0, 0], [1, 1]])), "shape 1 is a circle, which has no area"),
        (content(shape("cat", "rectangle", [[0, 0]])), "shape 1 is a rectangle"),
        (content(shape("cat", "polygon", [[0, 0], [1]])), "wanted a list of points"),
        (content(shape("cat", "polygon", [[0, 0], [1, None]])), "'None' is no coordinate"),
        (content(shape("cat", "polygon", [[0, 0], [9e9, 0], [1, 1]])), "is no coordinate"),
        (content(shape("cat", "polygon", [[0, 0], [900, 0], [1, 1]])), "far outside"),
        (content(shape(None, "polygon", [])), "'label' is 'None', wanted text"),
        (content(shape("cat", "mask", [[0, 0], [1, 1]])), "'mask' is 'None', wanted text"),
        (content(shape("cat", "mask", [[0, 0], [1, 1]], mask="é")), "no base64"),
        (content(shape("cat", "mask", [[0, 0], [1, 1]], mask="QUJD")), "its mask is no PNG"),
        (content(mask_shape("cat", [[0, 0], [1, 1]], [[1, 1]])), "its mask is 2x1, wanted 2x2"),
        (content(mask_shape("cat", [[5, 0], [6, 0]], [[1, 1]])), "leaves the photograph"),
        (content(mask_shape("cat", [[-1, 0], [0, 0]], [[1, 1]])), "leaves the photograph"),
        (content(mask_shape("cat", [[0, 0]], [[1]])), "a mask has two corners"),
        (content(imageHeight=10**6, imageWidth=10**6), "1000000 x 1000000 pixels, more than"),
        (content(imageHeight=None), "6 x None is no size"),
        ({"shapes": {}}, "'shapes' is '{}', wanted a list"),
        ([], "'shapes' is 'None'"),
    ],
)  # fmt: skip
def test_what_a_stranger_makes_up(tmp_path, bad, says):
    (tmp_path / "a.json").write_text(json.dumps(bad))
    with pytest.raises(WeaksegError, match=f"a.json.*{says}"):
        read_back("labelme", tmp_path, ("cat", "dog"))


def test_no_folder_of_labelme(tmp_path):
    with pytest.raises(WeaksegError, match=r"holds no .json file"):
        read_back("labelme", tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(WeaksegError, match=r"a.json is no readable labelme JSON"):
        read_back("labelme", tmp_path)
