"""One pass finds every fault that was planted, and none in a sound data set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakseg.data.check import check

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def grey(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def annotate(root: Path, id: str, *objects: tuple[str, int, int, int, int]) -> None:
    (root / "Annotations").mkdir(exist_ok=True)
    boxes = "".join(BOX.format(*o) for o in objects)
    (root / f"Annotations/{id}.xml").write_text(f"<annotation>{boxes}</annotation>")


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Ten photographs 8 x 6 of a dog each, with boxes, masks, saliency, tags and two lists."""
    rng = np.random.default_rng(0)
    ids = [f"p{k}" for k in range(10)]
    for id in ids:
        grey(tmp_path / f"JPEGImages/{id}.png", rng.integers(0, 255, (6, 8)))
        mask = np.zeros((6, 8))
        mask[2:4] = 2
        grey(tmp_path / f"SegmentationClass/{id}.png", mask)
        grey(tmp_path / f"Saliency/{id}.png", mask * 100)
        annotate(tmp_path, id, ("dog", 1, 3, 8, 4))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "tags.csv").write_text("image,tags\n" + "".join(f"{id},dog\n" for id in ids))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("\n".join(ids[:7]))
    (tmp_path / "lists/val.txt").write_text("\n".join(ids[7:]))
    return tmp_path


def test_a_sound_data_set(sound: Path) -> None:
    report = check(sound, strict=True)
    assert report.ok
    assert (report.errors, report.warnings) == ((), ())
    assert report.counts["photographs"] == report.counts["masks"] == report.counts["annotated photographs"] == 10
    assert report.counts["list train"] == 7
    assert report.lines() == [report.lines()[-1]]
    assert report.lines()[-1].endswith("0 errors, 0 warnings")


def test_every_planted_fault_is_found_in_one_pass(sound: Path) -> None:
    half = (sound / "JPEGImages/p0.png").read_bytes()
    (sound / "JPEGImages/p0.png").write_bytes(half[: len(half) // 2])
    grey(sound / "SegmentationClass/p1.png", np.zeros((5, 5)))
    grey(sound / "Saliency/p2.png", np.zeros((5, 5)))
    grey(sound / "SegmentationClass/p3.png", np.full((6, 8), 9))
    annotate(sound, "p4", ("dgo", 1, 1, 4, 4))
    annotate(sound, "p5", ("dog", 1, 1, 40, 4), ("dog", 5, 5, 2, 5))
    (sound / "Annotations/p6.xml").write_text("<annotation>")
    (sound / "lists/val.txt").write_text("p7\np8\np9\nlost\np1\n")
    (sound / "JPEGImages/p8.jpg").write_bytes((sound / "JPEGImages/p8.png").read_bytes())
    (sound / "tags.csv").write_text((sound / "tags.csv").read_text().replace("p7,dog", "p7,dgo") + "strange,cat\n")
    report = check(sound)
    assert not report.ok
    for fault in (
        "p0.png cannot be read",
        "p1.png is 5 x 5, its photograph 6 x 8",
        "saliency map",
        "p3.png holds id 9, but there are 2 classes",
        "p4: a box has the unknown class 'dgo' (did you mean 'dog'?)",
        "p5: the box of 'dog' (0, 0, 40, 4) reaches outside of the photograph of 8 x 6",
        "p5: the box of 'dog' (4, 4, 2, 5) has no area",
        "p6.xml is no readable XML",
        "lost: there is no such photograph, but it is in list val",
        "p8: 2 photographs have this name",
        "p7 has the unknown tag 'dgo' (did you mean 'dog'?)",
        "no photograph 'strange'",
    ):
        assert sum(fault in line for line in report.errors) == 1, fault
    assert len(report.errors) == 12
    assert report.warnings == (
        "p1: in lists train and val",
        "p7: sources disagree (tags.csv: nothing; xml: dog; masks: dog)",
    )


def test_disagreements_are_warnings_and_strict_makes_them_errors(sound: Path) -> None:
    annotate(sound, "p0", ("cat", 1, 3, 8, 4))
    grey(sound / "SegmentationClass/p1.png", np.full((6, 8), 1))
    (sound / "lists/val.txt").write_text("p8\np9\n")
    (sound / "tags.csv").write_text((sound / "tags.csv").read_text().replace("p9,dog\n", ""))
    grey(sound / "SegmentationClass/alone.png", np.zeros((6, 8)))
    report = check(sound)
    assert report.ok
    assert report.warnings == (
        "1 photograph in no list: p7",
        "1 mask without a photograph: alone",
        "p0: sources disagree (tags.csv: dog; xml: cat; masks: dog)",
        "p1: sources disagree (tags.csv: dog; xml: dog; masks: cat)",
        "p9: no tags in tags.csv",
    )
    strict = check(sound, strict=True)
    assert not strict.ok
    assert (len(strict.errors), strict.warnings) == (5, ())


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_folder_that_cannot_be_opened_is_one_error(tmp_path: Path, make: object) -> None:
    make(tmp_path / "d")  # type: ignore[operator]
    report = check(tmp_path / "d")
    assert not report.ok
    assert len(report.errors) == 1


def test_too_many_classes(sound: Path) -> None:
    (sound / "classes.txt").write_text("\n".join(f"c{k}" for k in range(255)))
    assert "255 classes; at most 254" in check(sound).errors[0]


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared photographs")
def test_real_photographs() -> None:
    report = check(SHARED / "voc-animals")
    assert report.ok
    assert [line.split(":")[0] for line in report.warnings] == [
        "2007_000904",
        "2007_006944",
        "2008_008521",
        "2009_002588",
        "2011_000834",
    ]
    assert check(SHARED / "coco-sample", strict=True).ok
