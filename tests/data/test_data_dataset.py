"""Layouts are recognised, classes ordered, tags taken from the right source, and truth given only when asked for."""

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weakseg.data.dataset import Dataset, open_dataset, open_photos
from weakseg.data.lists import VOC_CLASSES
from weakseg.types import WeaksegError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
realdata = [pytest.mark.realdata, pytest.mark.skipif(not SHARED.is_dir(), reason="no shared photographs")]


def photo(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)
    return path


def grey(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def xml(path: Path, *objects: tuple[str, int, int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes = "".join(
        f"<object><name>{n}</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><bndbox>"
        f"<xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    path.write_text(f"<annotation>{boxes}</annotation>")
    return path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three photographs 8 x 6; a has mask, boxes and saliency, b an empty XML, c nothing."""
    for id in "abc":
        photo(tmp_path / f"JPEGImages/{id}.jpg")
    xml(tmp_path / "Annotations/a.xml", ("dog", 1, 1, 4, 6), ("cat", 5, 2, 8, 6))
    xml(tmp_path / "Annotations/b.xml")
    mask = np.zeros((6, 8))
    mask[:, :4], mask[0] = 12, 255
    grey(tmp_path / "SegmentationClass/a.png", mask)
    grey(tmp_path / "SegmentationClassAug/a.png", mask * 0)
    grey(tmp_path / "SegmentationClassAug/b.png", mask * 0)
    grey(tmp_path / "Saliency/a.png", np.full((6, 8), 51))
    grey(tmp_path / "ContextClass/a.png", np.full((6, 8), 3))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (tmp_path / "ImageSets/SegmentationAug").mkdir()
    (tmp_path / "ImageSets/SegmentationAug/train_aug.txt").write_text("/JPEGImages/c.jpg /SegmentationClassAug/c.png\n")
    return tmp_path


def names(dataset: Dataset, id: str) -> set[str]:
    return {dataset.classes[k] for k in dataset.tags(id).nonzero().flatten().tolist()}


def test_voc(voc: Path) -> None:
    data = open_dataset(voc)
    assert (data.layout, data.classes, data.ids) == ("voc", VOC_CLASSES, ("a", "b", "c"))
    assert data.has == {"tags", "boxes", "saliency", "masks"}
    assert data.tags_source == "xml"
    assert data.lists == {"train": ("b", "a"), "train_aug": ("c",), "all": ("a", "b", "c")}
    assert names(data, "a") == {"cat", "dog"}
    assert names(data, "b") == set()
    with pytest.raises(WeaksegError, match="c has no tags: xml"):
        data.tags("c")
    sample = data.sample("a")
    assert sample.mask is None
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[0, 0, 4, 6], [4, 1, 8, 6]]
    assert sample.box_labels is not None
    assert sample.box_labels.tolist() == [12, 8]
    assert sample.saliency is not None
    assert torch.allclose(sample.saliency, torch.tensor(0.2))
    assert data.sample("b", truth=True).mask is not None  # from SegmentationClassAug
    mask = data.sample("a", truth=True).mask  # from SegmentationClass
    assert mask is not None
    assert mask.unique().tolist() == [0, 12, 255]
    assert data.context_path("a") == voc / "ContextClass/a.png"
    assert data.context_path("b") is None
    assert data.sample("c", need_tags=False).tags.sum() == 0
    assert data.sample("c", need_tags=False).boxes is None


def test_tags_csv_goes_before_xml_and_xml_can_be_asked_for(voc: Path) -> None:
    (voc / "tags.csv").write_text("image,tags\na.jpg,sheep\n")
    data = open_dataset(voc)
    assert (data.tags_source, names(data, "a"), data.untagged) == ("tags.csv", {"sheep"}, ("b", "c"))
    with pytest.raises(WeaksegError, match=r"b has no tags: tags\.csv"):
        data.tags("b")
    for asked in ("xml", "boxes"):
        assert names(open_dataset(voc, tags_from=asked), "a") == {"cat", "dog"}
    with pytest.raises(WeaksegError, match=r"tags from 'json'.*has tags\.csv, boxes"):
        open_dataset(voc, tags_from="json")


def test_tags_come_from_masks_only_if_asked_for(voc: Path) -> None:
    for path in (voc / "Annotations").iterdir():
        path.unlink()
    data = open_dataset(voc)
    assert data.tags_source == "none"
    assert "tags" not in data.has
    with pytest.raises(WeaksegError, match=r"add a tags\.csv"):
        data.tags("a")
    assert names(open_dataset(voc, tags_from="masks"), "a") == {"dog"}


@pytest.mark.parametrize("key", ["2007_000032", 2007000032])
def test_tags_from_cls_labels(tmp_path: Path, key: str | int) -> None:
    photo(tmp_path / "JPEGImages/2007_000032.jpg")
    vector = np.zeros(20, np.float32)
    vector[[0, 14]] = 1
    np.save(tmp_path / "cls_labels.npy", np.array({key: vector, "2011_000001": vector}))
    for asked in (None, tmp_path / "cls_labels.npy"):
        data = open_dataset(tmp_path, tags_from=asked)
        assert data.tags_source == "npy"
        assert names(data, "2007_000032") == {"aeroplane", "person"}
    with pytest.raises(WeaksegError, match="20 tags, but there are 2 classes"):
        open_dataset(tmp_path, classes="cat,dog")


def test_int_keys_of_coco_mean_the_number_that_ends_the_name(tmp_path: Path) -> None:
    photo(tmp_path / "COCO_train2014_000000000009.jpg")
    np.save(tmp_path / "l.npy", np.array({9: np.array([0, 1])}))
    data = open_dataset(tmp_path, classes="cat,dog", tags_from=tmp_path / "l.npy")
    assert names(data, "COCO_train2014_000000000009") == {"dog"}


def test_class_order(voc: Path) -> None:
    (voc / "classes.txt").write_text("background\ndog\ncat\n")
    assert open_dataset(voc).classes == ("dog", "cat")
    assert open_dataset(voc, classes=["cat", "dog", "cow"]).classes == ("cat", "dog", "cow")
    with pytest.raises(WeaksegError, match=r"id 12, but there are 2 classes"):
        open_dataset(voc).truth("a")
    with pytest.raises(WeaksegError, match=r"a: class 'dog' is not among"):
        open_dataset(voc, classes=["cat", "dogs"]).tags("a")


def test_lists_by_name_and_path(voc: Path) -> None:
    data = open_dataset(voc)
    assert data.list("train") == ("b", "a")
    (voc / "mine.txt").write_text("c\n")
    assert data.list(voc / "mine.txt") == data.list(str(voc / "mine.txt")) == ("c",)
    with pytest.raises(WeaksegError, match=r"no list 'trian' .*'train'"):
        data.list("trian")
    (voc / "ImageSets/Segmentation/val.txt").write_text("a\nz\n")
    with pytest.raises(WeaksegError, match=r"list 'val': 1 of its 2 ids have no photograph.*: z"):
        open_dataset(voc).list("val")


def test_boxes_are_clipped_and_empty_ones_dropped(voc: Path) -> None:
    xml(voc / "Annotations/a.xml", ("dog", 0, 0, 99, 6), ("cat", 5, 5, 4, 5))
    data = open_dataset(voc)
    raw = data.boxes("a")
    assert raw is not None
    assert raw[0].tolist() == [[-1, -1, 99, 6], [4, 4, 4, 5]]
    sample = data.sample("a")
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[0, 0, 8, 6]]
    assert sample.box_labels is not None
    assert sample.box_labels.tolist() == [12]


@pytest.mark.parametrize(
    "text",
    [
        "<annotation>",
        '<!DOCTYPE x [<!ENTITY e "dog">]><annotation><object><name>&e;</name></object></annotation>',
        "<annotation><object><bndbox/></object></annotation>",
        "<annotation><object><name>dog</name></object></annotation>",
        "<annotation><object><name>dog</name><bndbox><xmin>a</xmin></bndbox></object></annotation>",
    ],
)
def test_damaged_xml_is_named(voc: Path, text: str) -> None:
    (voc / "Annotations/a.xml").write_text(text)
    with pytest.raises(WeaksegError, match=r"a\.xml"):
        open_dataset(voc).sample("a")


def test_masks_and_saliency_of_another_size_are_refused(voc: Path) -> None:
    grey(voc / "SegmentationClass/a.png", np.zeros((5, 5)))
    with pytest.raises(WeaksegError, match=r"mask .*a\.png is 5 x 5"):
        open_dataset(voc).sample("a", truth=True)
    open_dataset(voc).sample("a")
    grey(voc / "Saliency/a.png", np.zeros((5, 5)))
    with pytest.raises(WeaksegError, match="saliency map"):
        open_dataset(voc).sample("a")


# --- plain folders ---


def test_folder_with_tags_csv(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        photo(tmp_path / "images" / name)
    (tmp_path / "tags.csv").write_text("a,zebra;ape\nb,\n")
    data = open_dataset(tmp_path)
    assert (data.layout, data.classes, data.has) == ("folder", ("ape", "zebra"), {"tags"})
    assert data.tags("a").tolist() == [True, True]
    assert data.tags("b").tolist() == [False, False]
    assert data.lists == {"train": ("a", "b"), "all": ("a", "b")}
    with pytest.raises(WeaksegError, match="no list 'val'"):
        data.list("val")


@pytest.mark.parametrize("inside", ["", "images/"])
def test_folder_per_class(tmp_path: Path, inside: str) -> None:
    for name in ("dog/a.jpg", "cat/b.jpg", "background/c.jpg"):
        photo(tmp_path / (inside + name))
    grey(tmp_path / "masks/a.png", np.full((6, 8), 2))
    data = open_dataset(tmp_path)
    assert (data.classes, data.tags_source, data.ids) == (("cat", "dog"), "folders", ("a", "b", "c"))
    assert [names(data, id) for id in data.ids] == [{"dog"}, {"cat"}, set()]
    photo(tmp_path / f"{inside}cat/a.png")
    with pytest.raises(WeaksegError, match=r"a: 2 photographs have this name \(.*cat/a.png, .*dog/a.jpg\)"):
        open_dataset(tmp_path)


def test_folder_lists_beside_other_texts(tmp_path: Path) -> None:
    for id in "ab":
        photo(tmp_path / f"{id}.jpg")
    (tmp_path / "tags.csv").write_text("a,cat\nb,cat\n")
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "thoughts.txt").write_text("a list it is not\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val.txt").write_text("b.jpg\n")
    assert open_dataset(tmp_path).lists == {"val": ("b",), "train": ("a",), "all": ("a", "b")}


def test_folder_boxes_xml_yolo_and_json(tmp_path: Path) -> None:
    wanted = [[2.0, 0.0, 6.0, 3.0]]
    for kind in ("xml", "yolo", "json"):
        root = tmp_path / kind
        photo(root / "a.jpg")
        grey(root / "saliency/a.png", np.zeros((6, 8)))
    xml(tmp_path / "xml/boxes/a.xml", ("dog", 3, 1, 6, 3))
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("1 0.5 0.25 0.5 0.5\n")
    (tmp_path / "yolo/classes.txt").write_text("cat\ndog\n")
    (tmp_path / "json/boxes.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 7, "name": "dog"}],'
        '"annotations": [{"image_id": 1, "category_id": 7, "bbox": [2, 0, 4, 3]}]}'
    )
    for kind in ("xml", "yolo", "json"):
        data = open_dataset(tmp_path / kind)
        assert data.layout == "folder"
        assert data.tags_source == kind
        assert data.has == {"tags", "boxes", "saliency"}
        sample = data.sample("a")
        assert sample.boxes is not None
        assert sample.boxes.tolist() == wanted
        assert names(data, "a") == {"dog"}


@pytest.mark.parametrize("line", ["1 0.5 0.5 0.5", "x 0.5 0.5 0.5 0.5", "-1 0 0 1 1", "0 nan 0.5 0.5 0.5"])
def test_damaged_yolo_is_named(tmp_path: Path, line: str) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(WeaksegError, match=r"a\.txt, line 2"):
        open_dataset(tmp_path, classes="cat,dog").boxes("a")


def test_boxes_lie_in_the_displayed_frame(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 8 x 4, displayed 4 wide, 8 high
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.25 1 0.5\n")
    sample = open_dataset(tmp_path, classes=["cat"]).sample("a")
    assert sample.size == (8, 4)
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[0, 0, 4, 4]]


# --- bare photographs, bad input ---


def test_open_photos(tmp_path: Path) -> None:
    for id in "abc":
        photo(tmp_path / f"{id}.jpg")
    data = open_photos(tmp_path)
    assert (data.classes, data.untagged, data.has) == ((), ("a", "b", "c"), frozenset())
    assert data.sample("a", need_tags=False).tags.shape == (0,)
    (tmp_path / "t.csv").write_text("a.jpg,dog\nb.jpg,\n")
    data = open_photos(tmp_path, tags_csv=tmp_path / "t.csv")
    assert (data.untagged, data.list("tagged"), data.classes) == (("c",), ("a", "b"), ("dog",))
    assert data.tags("b").tolist() == [False]
    assert open_photos(tmp_path, classes=["cat", "dog"], tags_csv=tmp_path / "t.csv").tags("a").tolist() == [
        False,
        True,
    ]


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    for folder, said in (("gone", "is not there"), ("empty", "no photograph")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        for opened in (open_dataset, open_photos):
            with pytest.raises(WeaksegError, match=said):
                opened(tmp_path / folder)
    photo(tmp_path / "p/a.jpg")
    with pytest.raises(WeaksegError, match="is a file"):
        open_dataset(tmp_path / "p/a.jpg")
    with pytest.raises(WeaksegError, match="nothing names the classes"):
        open_dataset(tmp_path / "p")
    with pytest.raises(WeaksegError, match=r"layout 'vok' .*'voc'"):
        open_dataset(tmp_path / "p", layout="vok")
    with pytest.raises(WeaksegError, match="no folder JPEGImages"):
        open_dataset(tmp_path / "p", layout="voc")
    (tmp_path / "p/tags.csv").write_text("a,dgo\nzz,cat\n")
    with pytest.raises(WeaksegError, match=r"line 2: no photograph 'zz'; the columns are .* \(and 1 more"):
        open_dataset(tmp_path / "p", classes="cat,dog")
    (tmp_path / "p/tags.csv").write_text("a,dgo\n")
    with pytest.raises(WeaksegError, match=r"a has the unknown tag 'dgo' \(did you mean 'dog'"):
        open_photos(tmp_path / "p", classes="cat,dog", tags_csv=tmp_path / "p/tags.csv")
    with pytest.raises(WeaksegError, match="no photograph 'z'"):
        open_dataset(tmp_path / "p", classes="cat,dgo").image_path("z")


def test_a_data_set_travels_to_worker_processes(voc: Path) -> None:
    again = pickle.loads(pickle.dumps(open_dataset(voc)))
    assert again.sample("a").boxes.tolist() == [[0, 0, 4, 6], [4, 1, 8, 6]]


@pytest.mark.slow
def test_a_hundred_thousand_photographs_open_quickly_and_small(tmp_path: Path) -> None:
    """Under 10 s and 300 MB; the photographs are links to one file, for only names are read."""
    import tracemalloc

    first = photo(tmp_path / "one.jpg")
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    ids = [f"{k:012d}" for k in range(100_000)]
    for start in range(0, len(ids), 1):
        if start % 20_000 == 0:  # a file has a limit of links
            first = photo(tmp_path / f"one{start}.jpg")
        os.link(first, tmp_path / f"JPEGImages/{ids[start]}.jpg")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("\n".join(ids))
    (tmp_path / "tags.csv").write_text("image,tags\n" + "".join(f"{id}.jpg,cat;dog\n" for id in ids))
    begun = time.perf_counter()
    assert len(open_dataset(tmp_path).list("train")) == 100_000
    assert time.perf_counter() - begun < 10
    tracemalloc.start()
    data = open_dataset(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100e6
    assert data.tags(ids[-1]).sum() == 2


# --- real photographs ---


@pytest.mark.parametrize("_", [pytest.param(None, marks=realdata)])
def test_voc_animals(_: None) -> None:
    data = open_dataset(SHARED / "voc-animals")
    assert data.classes == ("cat", "cow", "dog", "horse", "person", "sheep")
    assert {name: len(ids) for name, ids in data.lists.items()} == {
        "train": 1125,
        "train_small": 368,
        "val": 219,
        "all": 1344,
    }
    differ = 0
    for id in data.list("val"):
        sample = data.sample(id, truth=True)
        assert sample.mask is not None
        assert sample.saliency is not None
        differ += set(sample.mask.unique().tolist()) - {0, 255} != set(sample.present.tolist())
    assert differ == 0
