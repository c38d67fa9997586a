"""COCO JSON: sparse ids, crowds, overlaps, run lengths against pycocotools, and what strangers put into such files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from weakseg.data.coco import rasterise
from weakseg.data.dataset import open_dataset
from weakseg.types import WeaksegError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def content() -> dict[str, Any]:
    """a: a big dog (id 18) with a small cat (id 17) upon it and a crowd of people below; b: nothing; c: a crowd only."""
    return {
        "images": [
            {"id": i, "file_name": f"{n}.jpg", "width": 20, "height": 16} for i, n in ((5, "a"), (6, "b"), (9, "c"))
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"image_id": 5, "category_id": 17, "bbox": [4, 4, 4, 4], "segmentation": square(4, 4, 4), "iscrowd": 0},
            {"image_id": 5, "category_id": 18, "bbox": [2, 2, 10, 10], "segmentation": square(2, 2, 10), "iscrowd": 0},
            {
                "image_id": 5,
                "category_id": 1,
                "bbox": [0, 0, 20, 16],
                "iscrowd": 1,
                "segmentation": {"size": [16, 20], "counts": [4 * 16, 16 * 16]},
            },
            {"image_id": 9, "category_id": 1, "bbox": [0, 0, 20, 16], "iscrowd": 1, "segmentation": []},
        ],
    }


def coco(root: Path, data: dict[str, Any]) -> Path:
    (root / "images").mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (20, 16)).save(root / f"images/{name}.jpg")
    (root / "instances.json").write_text(json.dumps(data))
    return root


def test_coco(tmp_path: Path) -> None:
    data = open_dataset(coco(tmp_path, content()))
    assert (data.layout, data.classes) == ("coco", ("person", "cat", "dog"))  # COCO's order, gaps closed
    assert (data.ids, data.tags_source) == (("a", "b", "c"), "json")
    assert data.has == {"tags", "boxes", "masks", "instances"}
    assert [data.tags(id).tolist() for id in data.ids] == [[True, True, True], [False] * 3, [True, False, False]]
    sample = data.sample("a", truth=True)
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[4, 4, 8, 8], [2, 2, 12, 12]]
    assert sample.box_labels is not None
    assert sample.box_labels.tolist() == [2, 3]
    wanted = np.zeros((16, 20))
    wanted[:, 4:] = 255
    wanted[2:12, 2:12] = 3
    wanted[4:8, 4:8] = 2
    assert sample.mask is not None
    assert np.array_equal(sample.mask.numpy(), wanted)
    empty, unknown = data.truth("b"), data.truth("c")  # no objects; a crowd of unknown shape
    assert empty is not None
    assert unknown is not None
    assert empty.unique().tolist() == [0]
    assert unknown.unique().tolist() == [255]


def test_a_mask_file_goes_before_polygons(tmp_path: Path) -> None:
    root = coco(tmp_path, content())
    (root / "masks").mkdir()
    Image.fromarray(np.full((16, 20), 3, np.uint8)).save(root / "masks/a.png")
    truth = open_dataset(root).truth("a")
    assert truth is not None
    assert truth.unique().tolist() == [3]


def test_several_files_are_lists(tmp_path: Path) -> None:
    root = coco(tmp_path, content())
    (root / "instances.json").unlink()
    (root / "annotations").mkdir()
    images = content()["images"]
    for name, chosen in (("train2014", images[:2]), ("val2014", images[2:])):
        known = [i["id"] for i in chosen]
        part = content() | {"images": chosen}
        part["annotations"] = [a for a in part["annotations"] if a["image_id"] in known]
        (root / f"annotations/instances_{name}.json").write_text(json.dumps(part))
    data = open_dataset(root)
    assert data.list("train") == data.list("train2014") == ("a", "b")
    assert data.list("val") == ("c",)
    assert data.tags("c").tolist() == [True, False, False]


def test_run_lengths_agree_with_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = tuple(rng.integers(1, 40, 2).tolist())
        inside = rng.random(size) < rng.choice([0.02, 0.5, 0.98])
        packed = coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))
        text = {"size": packed["size"], "counts": packed["counts"].decode()}
        assert np.array_equal(rasterise(text, size), inside)


def test_polygons_agree_with_filled_shapes() -> None:
    assert rasterise(square(2, 3, 5), (12, 10)).nonzero()[0].tolist() == [y for y in range(3, 8) for _ in range(5)]
    two = rasterise([*square(0, 0, 2), *square(5, 5, 3)], (12, 10))
    assert two.sum() == 4 + 9
    assert not rasterise([[1, 1, 2, 2]], (12, 10)).any()
    assert not rasterise([], (12, 10)).any()


@pytest.mark.parametrize(
    "shape",
    [
        "text",
        [1, 2, 3],
        [[1, 2, 3]],
        [[1, 2, 3, "4", 5, 6]],
        [[1, 2, 3, float("nan"), 5, 6]],
        [[0, 0, 1e12, 0, 1e12, 1e12]],
        {"size": [5, 5], "counts": [25]},
        {"size": [12, 10]},
        {"size": [12, 10], "counts": [100]},
        {"size": [12, 10], "counts": [-5, 125]},
        {"size": [12, 10], "counts": "ooooooooooooooooooooo"},
        {"size": [12, 10], "counts": "\x01\x7f\u20ac"},
    ],
)
def test_strange_shapes_are_a_sentence(shape: Any) -> None:
    with pytest.raises(WeaksegError):
        rasterise(shape, (12, 10))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("images"), "no list 'images'"),
        (lambda d: d.update(annotations={}), "no list 'annotations'"),
        (lambda d: d["images"][0].update(file_name="../../a.jpg"), "leaves the data set's folder"),
        (lambda d: d["images"][0].update(file_name=7), "'file_name'"),
        (lambda d: d["images"].append(3), "'file_name'"),
        (lambda d: d["images"].append(d["images"][0]), "stands there twice"),
        (lambda d: d["categories"][0].update(id="x"), "category"),
        (lambda d: d["annotations"][0].update(image_id=77), "annotation 1: image_id 77"),
        (lambda d: d["annotations"][0].update(image_id=[5]), r"annotation 1: image_id \[5\]"),
        (lambda d: d["annotations"][0].update(category_id=77), "annotation 1: category_id 77"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "annotation 1: bbox"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, 10**400]), "annotation 1: bbox"),
        (lambda d: d["annotations"][0].pop("category_id"), "annotation 1: no 'image_id' and 'category_id'"),
        (lambda d: d["annotations"].insert(0, None), "annotation 1: no 'image_id'"),
    ],
)
def test_strange_files_are_a_sentence(tmp_path: Path, change: Any, said: str) -> None:
    data = content()
    change(data)
    with pytest.raises(WeaksegError, match=said):
        open_dataset(coco(tmp_path, data))


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"images": [1' + "0" * 5000 + "]}"])
def test_no_json_is_a_sentence(tmp_path: Path, text: str) -> None:
    root = coco(tmp_path, content())
    (root / "instances.json").write_text(text)
    with pytest.raises(WeaksegError, match=r"instances\.json"):
        open_dataset(root)


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared photographs")
def test_coco_sample_agrees_with_its_own_areas() -> None:
    """Each class of an image covers about what its polygons say, where nothing overlaps."""
    root = SHARED / "coco-sample"
    data = open_dataset(root)
    assert (len(data.ids), len(data.classes), data.classes[0], data.classes[-1]) == (128, 80, "person", "toothbrush")
    raw = json.loads((root / "instances.json").read_text())
    assert sum(len(found[1]) for id in data.ids if (found := data.boxes(id)) is not None) == len(raw["annotations"])
    stems = {i["id"]: Path(i["file_name"]).stem for i in raw["images"]}
    single = [i for i in stems if sum(a["image_id"] == i for a in raw["annotations"]) == 1]
    assert len(single) > 10
    for a in raw["annotations"]:
        if a["image_id"] in single:
            mask = data.truth(stems[a["image_id"]])
            assert mask is not None
            perimeter = 2 * (a["bbox"][2] + a["bbox"][3])
            assert abs(int((mask > 0).sum()) - a["area"]) < 2 * perimeter
            rows, columns = torch.nonzero(mask, as_tuple=True)
            x, y, _w, h = a["bbox"]
            assert abs(columns.min() - x) < 2
            assert abs(rows.max() + 1 - (y + h)) < 2
