"""Boxes decide fingerprints, photographs without an annotation are refused beforehand, and lists have parts."""

from pathlib import Path

import pytest

from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.pipeline.plan import Lists, plan
from weakseg.pipeline.recipe import parse_recipe, resolve
from weakseg.types import WeaksegError

RECIPE = """
steps:
- {name: fill, method: labels.box_fill, list: train}
- {name: copy, method: labels.merge, seeds: {base: fill}, list: train}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "scenes"
    make_scenes(root, 4, size=64, val_share=0.25)
    return root


def planned(root: Path, recipe: str = RECIPE):
    steps = resolve(parse_recipe(recipe, "boxes"))
    return {p.name: p for p in plan(steps, open_dataset(root), Lists(), root / "run", seed=0, precision="no")}


def test_a_moved_box_changes_the_step_and_what_follows(root):
    before, again = planned(root), planned(root)
    assert before["fill"].fingerprint == again["fill"].fingerprint
    xml = root / "Annotations" / f"{before['fill'].ids[0]}.xml"
    text = xml.read_text()
    try:
        start = text.index("<xmin>") + len("<xmin>")
        end = text.index("</xmin>")
        xml.write_text(text[:start] + str(int(float(text[start:end])) + 1) + text[end:])
        after = planned(root)
    finally:
        xml.write_text(text)
    assert after["fill"].parts["data"] != before["fill"].parts["data"]
    assert after["copy"].fingerprint != before["copy"].fingerprint
    assert after["copy"].parts["data"] == before["copy"].parts["data"]  # reads no box itself


def test_a_photograph_without_annotation_is_refused_by_name_before_work_begins(root):
    id = planned(root)["fill"].ids[0]
    xml = root / "Annotations" / f"{id}.xml"
    text = xml.read_text()
    xml.unlink()
    try:
        with pytest.raises(WeaksegError, match=f"1 of its photographs have no annotation with boxes \\({id}\\)"):
            planned(root)
    finally:
        xml.write_text(text)


def test_a_list_can_be_taken_in_part(root):
    dataset, lists = open_dataset(root), Lists(val="train")
    train = dataset.list("train")
    assert len(train) == 3
    assert lists.ids(dataset, "train[::2]") == (train[0], train[2])
    assert lists.ids(dataset, "val[1:]") == train[1:]
    assert lists.ids(dataset, "train[:2]") == train[:2]
    assert lists.meant("val[::10]") == "train[::10]"
    with pytest.raises(WeaksegError, match="no list"):
        lists.ids(dataset, "train[x]")
