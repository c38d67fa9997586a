"""Boundaries and confusion of folders, through the verb: numbers, table, and what is missing."""

import pytest
import torch

from weakseg import api
from weakseg.data.context import read_context
from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.data.store import write_label_map
from weakseg.evaluate.boundaries import evaluate_boundaries, of_masks
from weakseg.evaluate.folders import format_table
from weakseg.types import WeaksegError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Scenes, and masks that are the truth a few pixels to the right."""
    place = tmp_path_factory.mktemp("folders")
    make_scenes(place / "scenes", count=12, seed=1, size=64)
    dataset = open_dataset(place / "scenes")
    for id in dataset.ids:
        truth = dataset.truth(id)
        write_label_map(place / "pred" / f"{id}.png", truth.masked_fill(truth == 255, 0).roll(3, 1))
    return place


def judged(place, **more):
    scenes = place / "scenes"
    return api.evaluate(place / "pred", scenes / "SegmentationClass", classes=scenes / "classes.txt", **more)


def test_folders_give_the_numbers_of_the_functions(place):
    result = judged(place, boundaries=True, context=place / "scenes" / "ContextClass")
    dataset = open_dataset(place / "scenes")

    def shifted(id):
        truth = dataset.truth(id)
        return truth.masked_fill(truth == 255, 0).roll(3, 1)

    direct = evaluate_boundaries(shifted, of_masks(dataset.truth), dataset.ids)
    assert result["boundaries"]["tolerances"] == direct["tolerances"]
    pairs = {f"{p['class']}/{p['with']}": p for p in result["confusion_ratios"]["pairs"]}
    boat = pairs["boat/water"]
    water = wrong = right = 0
    for id in dataset.ids:
        context = read_context(dataset.context_path(id))
        pred, truth = shifted(id), dataset.truth(id)
        wrong += int(((context == 7) & (pred == 2) & (truth != 2)).sum())
        right += int(((pred == 2) & (truth == 2)).sum())
        water += int((context == 7).sum())
    assert water
    assert boat["ratio"] == wrong / right
    assert boat["iou"] == pytest.approx(result["iou"][2])


def test_nothing_more_is_done_unless_it_is_asked_for(place):
    result = judged(place)
    assert "boundaries" not in result
    assert "confusion_ratios" not in result
    assert "F1" not in format_table(result)


def test_the_table_prints_what_was_asked_for(place):
    result = judged(place, boundaries=True, confusion=True, pairs=["boat/train", "train/boat"])
    lines = format_table(result).splitlines()
    narrow = result["boundaries"]["tolerances"][0]
    assert any(f"0.75 % of the diagonal: precision {100 * narrow['precision']:.1f} %" in line for line in lines)
    assert any(line.startswith("boat / train") for line in lines)
    assert any(line.startswith("true boundaries: true masks") for line in lines)


def test_true_boundaries_of_a_folder(place):
    for path in sorted((place / "pred").glob("*.png"))[:2]:
        write_label_map(place / "edges" / path.name, torch.eye(64, dtype=torch.uint8))
    result = judged(place, true_boundaries=place / "edges")["boundaries"]
    assert (result["images"], result["without_truth"]) == (2, 10)
    assert result["conventions"]["true boundaries"] == "files of edges"


def test_what_is_missing_is_said(place, tmp_path):
    with pytest.raises(WeaksegError, match="no context labels"):
        judged(place, context=tmp_path)
    write_label_map(tmp_path / "inside" / "a.png", torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(WeaksegError, match=r"context_classes\.txt"):
        judged(place, context=tmp_path / "inside")
