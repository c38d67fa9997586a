"""Lists in three formats, tags.csv with its variants, class names."""

from pathlib import Path

import pytest

from weakseg.data.lists import read_classes, read_list, read_tags_csv
from weakseg.types import WeaksegError

IDS = ("2007_000032", "2007_000039", "a photo.v2")


@pytest.mark.parametrize(
    "text",
    [
        "2007_000032\n2007_000039\na photo.v2\n",
        "\ufeff2007_000032\r\n\r\n2007_000039  \r\na photo.v2",
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n"
        "/JPEGImages/2007_000039.jpg /SegmentationClassAug/2007_000039.png\na photo.v2\n",
        "JPEGImages/2007_000032.jpg\n2007_000039.JPG\na photo.v2.png\n2007_000032\n",
    ],
)
def test_the_list_formats_give_the_same_ids(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.txt").write_text(text, encoding="utf-8", newline="")
    assert read_list(tmp_path / "train.txt") == IDS


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeaksegError, match=r"t\.txt is not UTF-8"):
        read_list(tmp_path / "t.txt")
    with pytest.raises(WeaksegError, match=r"gone\.txt cannot be read"):
        read_list(tmp_path / "gone.txt")


def tags(tmp_path: Path, text: str) -> tuple[dict[str, tuple[str, ...]], list[str], list[str]]:
    (tmp_path / "tags.csv").write_text(text, encoding="utf-8", newline="")
    problems: list[str] = []
    notes: list[str] = []
    return read_tags_csv(tmp_path / "tags.csv", {"a", "b", "c.d"}, problems, notes), problems, notes


@pytest.mark.parametrize(
    "text",
    [
        "image,tags\na.jpg,cat;dog\nb,\nc.d.png,dog\n",
        "a,cat;dog\nb,\nc.d,dog\n",
        "\ufeffimage,tags\r\na.jpg, cat ; dog;\r\nb.JPG,\r\n\r\nimages/c.d.jpg,dog\r\n",
        'file,comment,labels\na,"x, y",cat;dog\nb,,\nc.d,,dog\n',
    ],
)
def test_tags_csv_variants_say_the_same(tmp_path: Path, text: str) -> None:
    assert tags(tmp_path, text) == ({"a": ("cat", "dog"), "b": (), "c.d": ("dog",)}, [], [])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("z.jpg,cat", "line 2: no photograph 'z.jpg'"),
        ("../../a.jpg,cat", "line 2: no photograph '../../a.jpg'"),
        ("a.jpg", "line 2: 1 columns"),
        ("a,cat,dog", "line 2: 3 columns"),
    ],
)
def test_rows_that_cannot_be_used_are_told_by_line(tmp_path: Path, row: str, said: str) -> None:
    found, problems, _ = tags(tmp_path, f"image,tags\n{row}\nb,dog\n")
    assert found == {"b": ("dog",)}
    assert len(problems) == 1
    assert said in problems[0]


def test_second_rows(tmp_path: Path) -> None:
    assert len(tags(tmp_path, "a,cat\na.jpg,cat\n")[2]) == 1
    problems = tags(tmp_path, "a,cat\na.jpg,dog\n")[1]
    assert "a has a second row with other tags" in problems[0]


def test_an_open_quote_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeaksegError, match=r"tags\.csv is no CSV file"):
        tags(tmp_path, 'a,"cat\n')


def test_class_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("background\ncat\n\n dog \n")
    assert read_classes(tmp_path / "classes.txt") == ("cat", "dog")
    assert read_classes(str(tmp_path / "classes.txt")) == ("cat", "dog")
    assert read_classes("cat, dog") == ("cat", "dog")
    assert read_classes(["cat", "dog"]) == ("cat", "dog")
    assert len(read_classes(",".join(f"class number {k}" for k in range(200)))) == 200  # longer than any file name
    assert len(read_classes([f"c{k}" for k in range(254)])) == 254
    for wrong, said in (
        ([f"c{k}" for k in range(255)], "255 classes; at most 254"),
        (["cat", "cat"], "twice"),
        ([], "no class name"),
        (["a;b"], "';'"),
        ("gone.txt", "no file of class names"),
    ):
        with pytest.raises(WeaksegError, match=said):
            read_classes(wrong)
