"""A data set says the same in every layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weakseg.data.check import check
from weakseg.data.convert import convert
from weakseg.data.dataset import Dataset, open_dataset
from weakseg.types import WeaksegError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
VOC_XML = "<annotation><object><name>a &amp; b</name><bndbox><xmin>2</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object></annotation>"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for folder in (
        "JPEGImages",
        "Annotations",
        "SegmentationClass",
        "Saliency",
        "ContextClass",
        "ImageSets/Segmentation",
    ):
        (root / folder).mkdir(parents=True)
    for k, id in enumerate(("x1", "x2", "x3")):
        Image.new("RGB", (8, 6), (k, 2, 3)).save(root / f"JPEGImages/{id}.jpg")
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 1:5], mask[0] = 2, 255
    Image.fromarray(mask).save(root / "SegmentationClass/x1.png")
    Image.fromarray(mask).save(root / "Saliency/x1.png")
    Image.fromarray(mask).save(root / "ContextClass/x1.png")
    (root / "Annotations/x1.xml").write_text(VOC_XML)
    (root / "Annotations/x2.xml").write_text("<annotation/>")
    (root / "classes.txt").write_text("zebra\na & b\n")
    (root / "tags.csv").write_text("x1,a & b;zebra\nx2,\n")
    (root / "ImageSets/Segmentation/train.txt").write_text("x2\nx1\n")
    return root


def same(one: Dataset, other: Dataset) -> None:
    assert (one.classes, one.ids, one.lists) == (other.classes, other.ids, other.lists)
    assert one.has == other.has
    assert one.untagged == other.untagged
    for id in one.ids:
        a, b = one.sample(id, truth=True, need_tags=False), other.sample(id, truth=True, need_tags=False)
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.tags, b.tags)
        for field in ("saliency", "mask"):
            x, y = getattr(a, field), getattr(b, field)
            assert (x is None) == (y is None)
            assert x is None or torch.equal(x, y)
        if a.boxes is not None and len(a.boxes):
            assert b.boxes is not None
            assert torch.allclose(a.boxes, b.boxes, atol=0.011)
            assert torch.equal(a.box_labels, b.box_labels)


@pytest.mark.parametrize("to", ["voc", "coco", "folder"])
def test_every_layout_says_the_same(source: Path, tmp_path: Path, to: str) -> None:
    assert convert(source, tmp_path / "out", to) == tmp_path / "out"
    found = open_dataset(tmp_path / "out")
    assert found.layout == to
    same(open_dataset(source), found)
    convert(tmp_path / "out", tmp_path / "back", "voc")
    same(open_dataset(source), open_dataset(tmp_path / "back"))
    assert (tmp_path / "back/ContextClass/x1.png").is_file()
    assert not list(tmp_path.rglob(".*"))
    assert check(tmp_path / "out").errors == ()


def test_a_data_set_without_lists_gets_none(source: Path, tmp_path: Path) -> None:
    (source / "ImageSets/Segmentation/train.txt").unlink()
    convert(source, tmp_path / "out", "folder")
    assert not (tmp_path / "out/lists").exists()


def test_nothing_is_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")
    with pytest.raises(WeaksegError, match="not empty"):
        convert(source, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(WeaksegError, match=r"convert to 'cocoa' \(did you mean 'coco'"):
        convert(source, tmp_path / "new", "cocoa")
    for name in ("tags.csv", "Annotations/x1.xml", "Annotations/x2.xml"):
        (source / name).unlink()
    with pytest.raises(WeaksegError, match="neither tags nor boxes"):
        convert(source, tmp_path / "new", "coco")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("key", ["2007_000032", 2007000032])
def test_cls_labels_become_tags_csv(tmp_path: Path, key: str | int) -> None:
    vector = np.zeros(20, np.float32)
    vector[[7, 14]] = 1
    np.save(tmp_path / "cls_labels.npy", np.array({key: vector}))
    written = convert(tmp_path / "cls_labels.npy", tmp_path / "new")
    assert written == tmp_path / "new/tags.csv"
    assert written.read_text() == "image,tags\n2007_000032,cat;person\n"
    with pytest.raises(WeaksegError, match="exists"):
        convert(tmp_path / "cls_labels.npy", written)
    with pytest.raises(WeaksegError, match="20 tags, but there are 2 class names"):
        convert(tmp_path / "cls_labels.npy", tmp_path / "other.csv", classes="cat,dog")


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared photographs")
def test_coco_sample_to_voc(tmp_path: Path) -> None:
    convert(SHARED / "coco-sample", tmp_path / "voc", "voc")
    same(open_dataset(SHARED / "coco-sample"), open_dataset(tmp_path / "voc"))
    objects = [
        len(d.instances(id).crowd)
        for d in (open_dataset(SHARED / "coco-sample"), open_dataset(tmp_path / "voc"))
        for id in d.ids[:20]
    ]
    assert 0 < sum(objects[20:]) <= sum(objects[:20])  # crowds and what others cover are left out
    convert(tmp_path / "voc", tmp_path / "coco", "coco")
    boxes = json.loads((tmp_path / "coco/instances.json").read_text())["annotations"]
    assert len(boxes) == len(json.loads((SHARED / "coco-sample/instances.json").read_text())["annotations"])
