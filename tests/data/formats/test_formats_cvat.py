"""CVAT's zip: exact there and back, what CVAT writes, and zips that nobody should open."""

import io
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from toy_masks import CLASSES, MASKS, TINY, drawn, export, outgoing, png, read_back, same
from weakseg.data.formats import cvat
from weakseg.types import WeaksegError


def zipped(path, members, **more):
    with zipfile.ZipFile(path, "w", **more) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


LABELMAP = "# label:color_rgb:parts:actions\ndog:0,0,200::\nbackground:0,0,0::\ncat:250,50,83:head,tail:run\n"
PIXELS = [[[0, 0, 0], [250, 50, 83]], [[0, 0, 200], [224, 224, 192]]]
EXPORT = {
    "labelmap.txt": LABELMAP,
    "ImageSets/Segmentation/default.txt": "a\n",
    "SegmentationClass/a.png": png(PIXELS),
    "SegmentationObject/a.png": b"not looked at",
}


def test_there_and_back(tmp_path):
    same(read_back("cvat", export("cvat", tmp_path / "x.zip")), MASKS)


@given(TINY)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask_there_and_back(tmp_path, mask):
    same(read_back("cvat", export("cvat", tmp_path / "x.zip", {"a": mask})), {"a": mask})


def test_what_is_written(tmp_path):
    masks = {"b": drawn("1.2", "1#2"), "a": drawn("1.1")}
    path = export("cvat", tmp_path / "x.zip", masks, classes=("cat", "dog"))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".txt")}
        images = {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist() if "png" in name}
    assert texts == {
        "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"
        "ignore:224,224,192::\n",
        "ImageSets/Segmentation/default.txt": "b\na\n",
    }
    assert {image.mode for image in images.values()} == {"RGB"}
    assert np.array(images["SegmentationClass/b.png"]).tolist() == [
        [[128, 0, 0], [0, 0, 0], [0, 128, 0]],
        [[128, 0, 0], [224, 224, 192], [0, 128, 0]],
    ]
    assert np.array(images["SegmentationObject/b.png"]).tolist() == [
        [[128, 0, 0], [0, 0, 0], [0, 128, 0]],
        [[128, 0, 0], [128, 128, 0], [0, 128, 0]],  # the ignored pixel is the third object
    ]
    assert np.array(images["SegmentationObject/a.png"]).tolist() == [[[128, 0, 0], [0, 0, 0], [0, 128, 0]]]


def test_more_regions_than_objects():
    mask = np.zeros((40, 40), np.uint8)
    mask[::2, ::2] = 1  # 400 single pixels
    mask[1, 1] = 2
    numbers = np.array(Image.open(io.BytesIO(cvat.encode_objects(mask))))
    assert numbers[0, 0].tolist() == numbers[38, 38].tolist() == [128, 0, 0]
    assert numbers[1, 1].tolist() == [0, 128, 0]


def test_ignore_is_no_label_where_it_does_not_occur(tmp_path):
    with zipfile.ZipFile(export("cvat", tmp_path / "x.zip", {"a": drawn("1.")})) as archive:
        assert b"ignore" not in archive.read("labelmap.txt")


def test_equal_masks_give_equal_bytes(tmp_path):
    one, other = export("cvat", tmp_path / "x.zip"), export("cvat", tmp_path / "y.zip")
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("top", ["", "task/"])
def test_what_cvat_exports(tmp_path, top):
    path = zipped(tmp_path / "x.zip", {top + name: data for name, data in EXPORT.items()})
    same(read_back("cvat", path, None), {"a": drawn(".2", "1#")})  # the file's order: dog, cat
    assert cvat.open_file(path, None, lambda id: None).classes == ("dog", "cat")
    same(read_back("cvat", path, ("cat", "bird", "dog")), {"a": drawn(".1", "3#")})


def test_palette_images_and_their_last_index(tmp_path):
    image = Image.fromarray(np.array([[7, 3], [9, 255]], np.uint8))
    colours = [0] * 768
    colours[7 * 3 : 7 * 3 + 3], colours[3 * 3 : 3 * 3 + 3], colours[765:] = [250, 50, 83], [0, 0, 200], [255, 255, 255]
    image.putpalette(colours)
    path = zipped(tmp_path / "x.zip", {**EXPORT, "SegmentationClass/a.png": png(image)})
    same(read_back("cvat", path, ("cat", "dog")), {"a": drawn("12", ".#")})


def test_listed_photographs_without_a_mask(tmp_path):
    listed = {**EXPORT, "ImageSets/Segmentation/train.txt": "sub/b\nc.jpg\n"}
    path = zipped(tmp_path / "x.zip", listed)
    got = read_back("cvat", path, ("cat", "dog"), lambda id: (2, 3))
    assert sorted(got) == ["a", "b", "c"]
    assert got["b"].tolist() == got["c"].tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(WeaksegError, match=r"b has no annotation and nothing tells its size; give --photos"):
        read_back("cvat", path, ("cat", "dog"))


def test_a_label_that_is_no_class_matters_only_where_it_occurs(tmp_path):
    path = zipped(tmp_path / "x.zip", EXPORT)
    with pytest.raises(WeaksegError, match=r"a.png: no class 'dog' \(did you mean 'dgo'"):
        read_back("cvat", path, ("cat", "dgo"))
    blank = {**EXPORT, "SegmentationClass/a.png": png([[[0, 0, 0]]])}
    same(read_back("cvat", zipped(tmp_path / "y.zip", blank), ("bird",)), {"a": drawn(".")})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"SegmentationClass/a.png": png([[[1, 2, 3]]])}, r"SegmentationClass/a.png has the colour \(1, 2, 3\)"),
        ({"SegmentationClass/a.png": b"\x89PNG nothing"}, "a.png is no PNG"),
        ({"SegmentationClass/a.png": png(PIXELS)[:20]}, "is no size"),
        ({"SegmentationClass/a.png": png(PIXELS)[:-30]}, "a.png is no readable PNG"),
        ({"labelmap.txt": "cat:1,2::\n"}, "'cat:1,2::' is not label:r,g,b"),
        ({"labelmap.txt": "cat:1,2,300::\n"}, "is not label:r,g,b"),
        ({"labelmap.txt": "cat:1,2,3::\ndog:1,2,3::\n"}, r"'cat' and 'dog' share the colour \(1, 2, 3\)"),
        ({"labelmap.txt": "background:0,0,0::\n"}, "no class name"),
        ({"labelmap.txt": b"\xff\xfe\xfa"}, "labelmap.txt is not UTF-8"),
        ({"SegmentationClass/../../../evil.png": png(PIXELS)}, "leaves its folder"),
        ({"SegmentationClass/.hidden.png": png(PIXELS)}, "cannot name a mask"),
        ({"SegmentationClass/sub/a.png": png(PIXELS)}, "two photographs are called 'a'"),
        ({"ImageSets/Segmentation/default.txt": "../../etc/passwd\n"}, "leaves its folder"),
    ],
)
def test_damaged_and_hostile_contents(tmp_path, change, says):
    with pytest.raises(WeaksegError, match=says):
        read_back("cvat", zipped(tmp_path / "x.zip", {**EXPORT, **change}), None)
    assert [file.name for file in tmp_path.iterdir()] == ["x.zip"]


def test_damaged_and_hostile_zips(tmp_path, monkeypatch):
    for data in (b"", b"PK\x03\x04 no zip", export("cvat", tmp_path / "y.zip").read_bytes()[:400]):
        (tmp_path / "x.zip").write_bytes(data)
        with pytest.raises(WeaksegError, match="is no readable zip"):
            read_back("cvat", tmp_path / "x.zip")
    with pytest.raises(WeaksegError, match=r"holds no labelmap.txt"):
        read_back("cvat", zipped(tmp_path / "x.zip", {"a.txt": "b"}))
    good = zipped(tmp_path / "x.zip", EXPORT).read_bytes()
    at = good.index(png(PIXELS)) + 40
    (tmp_path / "x.zip").write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    with pytest.raises(WeaksegError, match=r"a.png is damaged \(Bad CRC"):
        read_back("cvat", tmp_path / "x.zip", None)
    monkeypatch.setattr(cvat, "_MAX_PNG", 1000)
    bomb = {**EXPORT, "SegmentationClass/a.png": bytes(1_000_000)}
    with pytest.raises(WeaksegError, match="unpacks to more than 1,000 bytes"):
        read_back("cvat", zipped(tmp_path / "x.zip", bomb, compression=zipfile.ZIP_DEFLATED), None)


def test_a_claimed_size_is_not_believed(tmp_path):
    huge = bytearray(png(PIXELS))
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    path = zipped(tmp_path / "x.zip", {**EXPORT, "SegmentationClass/a.png": bytes(huge)})
    with pytest.raises(WeaksegError, match="60000 x 60000 pixels, more than"):
        read_back("cvat", path, None)


@pytest.mark.parametrize("name", ["a:b", "#x"])
def test_a_class_that_labelmap_cannot_hold(tmp_path, name):
    with pytest.raises(WeaksegError, match="has no place for ':' and '#'"):
        cvat.export(outgoing(classes=(name, *CLASSES[1:])), tmp_path / "x.zip", lambda: None)
    assert not list(tmp_path.iterdir())
