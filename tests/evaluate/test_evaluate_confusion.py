"""Confusion over a list: sums, chosen pairs, classes left out; on generated scenes a careless mask is found out."""

import json

import pytest
import torch

from weakseg.data.context import context_names, read_context
from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import CONTEXT_CLASSES, make_scenes
from weakseg.evaluate.confusion import evaluate_confusion
from weakseg.types import WeaksegError

CLASSES = ["boat", "train", "table"]
CONTEXT = ["water", "rail", "sky"]


def row(*values):
    return torch.tensor([values], dtype=torch.uint8)


PRED = {"a": row(1, 1, 1, 0), "b": row(1, 1, 0, 0), "c": row(2, 2, 2, 2), "d": row(1, 1, 1, 1)}
TRUTH = {"a": row(1, 1, 0, 0), "b": row(1, 1, 0, 0), "c": row(0, 2, 2, 2), "d": None}
LABELS = {"a": row(0, 0, 1, 3), "b": row(0, 0, 1, 3), "c": row(2, 0, 0, 0), "d": row(1, 1, 1, 1)}


def judged(**more):
    options = {"read_context": lambda id: LABELS[id].long(), "context": CONTEXT, **more}
    return evaluate_confusion(PRED.get, TRUTH.get, list(TRUTH), CLASSES, **options)


def by_pair(result):
    return {f"{p['class']}/{p['with']}": p for p in result["pairs"]}


def test_ratio_and_iou_are_sums_over_photographs_annotated_in_both():
    result = judged(pairs=["boat/water", "train/rail", "boat/rail"])
    pairs = by_pair(result)
    assert pairs["boat/water"]["ratio"] == 1 / 4  # one pixel of water in a; four correct pixels of boat in a and b
    assert pairs["boat/water"]["iou"] == 4 / 5
    assert pairs["train/rail"] == {"class": "train", "with": "rail", "ratio": 1 / 3, "iou": 3 / 4, "co_occurrence": 1.0}
    assert pairs["boat/rail"]["ratio"] == 0
    assert result["mean_ratio"] == pytest.approx((1 / 4 + 1 / 3 + 0) / 3)
    assert (result["images"], result["without_truth"]) == (3, 1)
    json.dumps(result, allow_nan=False)


def test_pairs_are_chosen_by_what_stands_out_whatever_is_predicted():
    assert list(by_pair(judged())) == ["boat/water", "train/rail"]
    other = evaluate_confusion(
        lambda id: torch.zeros(1, 4, dtype=torch.uint8),
        TRUTH.get,
        list(TRUTH),
        CLASSES,
        read_context=lambda id: LABELS[id].long(),
        context=CONTEXT,
    )
    assert list(by_pair(other)) == ["boat/water", "train/rail"]
    assert by_pair(other)["boat/water"]["ratio"] is None  # no correct pixel
    assert other["mean_ratio"] is None


def test_co_occurrence_without_what_is_left_out():
    matrix = judged()["co_occurrence"]
    assert matrix["rows"] == CLASSES
    assert matrix["columns"] == CONTEXT
    assert matrix["values"] == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [None, None, None]]
    assert matrix["images"] == [2, 1, 0]
    less = judged(leave_out=["table", "sky"])["co_occurrence"]
    assert less["rows"] == ["boat", "train"]
    assert less["columns"] == ["water", "rail"]
    assert "train" not in [p["class"] for p in judged(leave_out=["train"])["pairs"]]


def test_tags_tell_the_classes_if_they_are_given():
    tags = {"a": [1, 1, 0], "b": [1, 0, 0], "c": [0, 1, 0]}
    matrix = judged(read_tags=lambda id: torch.tensor(tags[id], dtype=torch.bool))["co_occurrence"]
    assert matrix["values"][1] == [0.5, 0.5, 0.5]


def test_without_context_labels_classes_are_compared_with_one_another():
    pred = {"a": row(1, 1, 2, 0), "b": row(2, 2, 1, 1)}
    truth = {"a": row(1, 1, 1, 0), "b": row(2, 2, 2, 0)}
    result = evaluate_confusion(pred.get, truth.get, ["a", "b"], CLASSES, pairs=["boat/train"])
    assert result["pairs"][0]["ratio"] == 1 / 2  # one pixel of train taken for boat; two correct of boat
    assert result["class_ratios"][0][1] == 1 / 2  # background taken for boat
    assert result["class_ratios"][1][1] is None
    assert result["context"] is None
    assert result["co_occurrence"]["columns"] == ["boat", "train"]


def test_what_is_wrong_is_said():
    with pytest.raises(WeaksegError, match=r"CLASS/LABEL"):
        judged(pairs=["boat"])
    with pytest.raises(WeaksegError, match=r"'lake'; there are: water"):
        judged(pairs=["boat/lake"])
    with pytest.raises(WeaksegError, match="'chair'"):
        judged(leave_out=["chair"])
    with pytest.raises(WeaksegError, match="context labels"):
        judged(read_context=lambda id: None)


def test_on_scenes_a_mask_that_spills_is_told_from_the_true_one(tmp_path):
    make_scenes(tmp_path, count=24, seed=5, size=64)
    dataset = open_dataset(tmp_path)
    names = context_names(tmp_path)
    assert names == list(CONTEXT_CLASSES)

    def spilt(id):
        truth = dataset.truth(id).clone()
        truth[truth == 255] = 0
        grown = torch.nn.functional.max_pool2d(truth[None].float(), 9, 1, 4)[0].to(torch.uint8)
        return torch.where(truth > 0, truth, grown)

    def ratios(read):
        return evaluate_confusion(
            read,
            dataset.truth,
            dataset.ids,
            dataset.classes,
            read_context=lambda id: read_context(dataset.context_path(id)),
            context=names,
        )

    assert ratios(dataset.truth)["mean_ratio"] == 0
    assert ratios(spilt)["mean_ratio"] > 0.05
    boat = next(p for p in ratios(spilt)["pairs"] if p["class"] == "boat")
    assert boat["with"] == "water"
