"""Filling rates, unreliable regions and classes of boxes: by hand, and against scikit-learn."""

import json
import random

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from weakseg.evaluate import boxes as module
from weakseg.evaluate.boxes import evaluate_box_classes, evaluate_filling, evaluate_unreliable
from weakseg.evaluate.masks import evaluate_masks
from weakseg.ops.boxes import box_confusion
from weakseg.types import WeaksegError

CLASSES = ("a", "b", "c")
TRUTH = torch.tensor([[1, 1, 0, 255], [1, 0, 2, 2]], dtype=torch.uint8)
FILLED = torch.tensor([[1, 1, 1, 0], [1, 1, 2, 2]], dtype=torch.uint8)
BOXES = (torch.tensor([[0.0, 0.0, 3.0, 2.0], [2.0, 1.0, 4.0, 2.0]]), torch.tensor([1, 2]))


def filling(maps, truths, boxes=None, **options):
    boxes = dict.fromkeys(truths, BOXES) if boxes is None else boxes
    readers = {name: own.get for name, own in maps.items()}
    return evaluate_filling(readers, truths.get, boxes.get, list(truths), CLASSES, threads=1, **options)


# --- filling rates ---


def test_filling_rates_by_hand():
    """The first box has six pixels: three of its class in truth, five in the filled map (one belongs to class 2)."""
    found = filling({"crf": {"x": FILLED}, "ret": {"x": TRUTH}}, {"x": TRUTH})
    assert found["sources"] == ["crf", "ret", "truth"]
    assert found["per_class"]["boxes"] == [1, 1, 0]
    assert found["per_class"]["values"] == {
        "crf": [[0.8333], [1.0], []],
        "ret": [[0.5], [1.0], []],
        "truth": [[0.5], [1.0], []],
    }
    assert found["per_class"]["mean"]["crf"] == [pytest.approx(5 / 6), 1.0, None]
    assert found["mean"] == pytest.approx({"crf": 11 / 12, "ret": 0.75, "truth": 0.75})
    assert found["error"] == pytest.approx({"crf": 1 / 6, "ret": 0.0})
    assert (found["boxes"], found["images"], found["left_out"]) == (2, 1, 0)
    json.dumps(found, allow_nan=False)


def test_the_error_is_box_by_box_and_does_not_cancel():
    empty, full = torch.zeros_like(TRUTH), torch.ones_like(TRUTH)
    half = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.uint8)
    whole = (torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([1]))
    truths = {"x": half, "y": half}
    found = filling({"crf": {"x": empty, "y": full}}, truths, dict.fromkeys(truths, whole))
    assert found["mean"] == {"crf": 0.5, "truth": 0.5}
    assert found["error"] == {"crf": 0.5}


def test_255_counts_neither_way_and_a_box_of_nothing_else_is_left_out():
    unknown = torch.full_like(TRUTH, 255)
    doubtful = torch.where(torch.tensor([[False, False, False, True], [True, True, False, False]]), 255, FILLED)
    found = filling({"crf": {"x": doubtful, "y": unknown}}, {"x": TRUTH, "y": TRUTH})
    assert found["per_class"]["values"]["crf"] == [[0.75], [1.0], []]
    assert found["boxes"] == 2


def test_photographs_without_truth_boxes_or_objects():
    none = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    truths = {"x": TRUTH, "y": None, "z": TRUTH, "w": TRUTH}
    maps = {"crf": dict.fromkeys(truths, FILLED)}
    found = filling(maps, truths, {"x": BOXES, "y": BOXES, "z": None, "w": none})
    assert (found["images"], found["left_out"], found["boxes"]) == (2, 2, 2)
    nothing = filling(maps, {"w": TRUTH}, {"w": none})
    assert nothing["mean"] == {"crf": None, "truth": None}
    with pytest.raises(WeaksegError, match="none of 1 photographs"):
        filling(maps, {"y": None}, {"y": BOXES})
    with pytest.raises(WeaksegError, match="x: label maps of"):
        filling({"crf": {"x": FILLED[:1]}}, {"x": TRUTH})


def test_of_many_boxes_the_distribution_is_kept(monkeypatch):
    monkeypatch.setattr(module, "MOST", 5)
    count = 101
    boxes = (torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(count, 1), torch.ones(count, dtype=torch.int64))
    truths = {"x": torch.ones(10, 10, dtype=torch.uint8)}
    masks = {f"p{k}": (torch.arange(100).reshape(10, 10) < k).to(torch.uint8) for k in range(count)}
    one = (boxes[0][:1], boxes[1][:1])
    order = random.Random(0).sample(sorted(masks), count)
    found = evaluate_filling({"crf": masks.get}, lambda id: truths["x"], lambda id: one, order, CLASSES, threads=3)
    assert found["per_class"]["values"]["crf"][0] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found["mean"]["crf"] == pytest.approx(0.5)
    assert found["per_class"]["boxes"] == [count, 0, 0]


# --- unreliable regions ---


def test_unreliable_regions_by_hand():
    """Of seven known pixels two are unreliable, one of class 1 and one of class 2; the others are right."""
    reliable = TRUTH.clone()
    reliable[0, 0] = reliable[1, 3] = 255
    found = evaluate_unreliable({"x": reliable}.get, {"x": TRUTH}.get, ["x"], CLASSES, threads=1)
    assert found["share"] == pytest.approx(2 / 7)
    assert found["share_per_class"] == [0.0, pytest.approx(1 / 3), pytest.approx(1 / 2), None]
    assert found["dropped"]["miou"] == 1.0
    assert found["as_errors"]["miou"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    json.dumps(found, allow_nan=False)


def test_both_conventions_are_those_of_two_evaluations_of_masks():
    g = torch.Generator().manual_seed(0)
    truths = {id: torch.randint(0, 4, (9, 8), generator=g).to(torch.uint8) for id in "xyz"}
    maps = {id: torch.where(torch.rand(9, 8, generator=g) < 0.3, 255, t) for id, t in truths.items()}
    maps["x"][:4] = 1
    truths["y"][0] = 255
    ids = ["x", "y", "z", "missing"]
    found = evaluate_unreliable(maps.get, truths.get, ids, CLASSES, threads=2)
    for key, how in (("dropped", "drop"), ("as_errors", "miss")):
        alone = evaluate_masks(maps.get, truths.get, ids, CLASSES, ignored_prediction=how)
        for number in ("miou", "iou", "precision", "recall", "pixel_accuracy", "confusion", "conventions"):
            assert found[key][number] == alone[number]
    assert (found["images"], found["without_truth"]) == (3, 1)


# --- classes of boxes ---


def test_classes_of_boxes_against_sklearn():
    g = torch.Generator().manual_seed(0)
    found = {f"p{k}": (torch.randn(k, 4, generator=g), torch.randint(1, 3, (k,), generator=g)) for k in range(7)}
    ids = [*found, "nobody"]
    result = evaluate_box_classes(found.get, ids, CLASSES)
    truth = torch.cat([labels for _, labels in found.values()]).numpy()
    chosen = torch.cat([logits.argmax(1) for logits, _ in found.values()]).numpy()
    assert result["accuracy"] == pytest.approx(accuracy_score(truth, chosen))
    recalls = recall_score(truth, chosen, labels=[1, 2], average=None)
    assert result["per_class"] == [pytest.approx(recalls[0]), pytest.approx(recalls[1]), None]
    assert result["class_mean"] == pytest.approx(recalls.mean())
    np.testing.assert_array_equal(result["confusion"], confusion_matrix(truth, chosen, labels=range(4)))
    assert result["as_background"] == pytest.approx((chosen == 0).mean())
    assert (result["boxes"], result["images"], result["left_out"]) == (21, 7, 1)
    json.dumps(result, allow_nan=False)


def test_what_cannot_be_classified():
    with pytest.raises(WeaksegError, match="none of 1 photographs has a box"):
        evaluate_box_classes(lambda id: None, ["x"], CLASSES)
    with pytest.raises(WeaksegError, match="other classes"):
        box_confusion(torch.zeros(2, 3), torch.tensor([1, 2]), 4)
    with pytest.raises(WeaksegError, match="ids 1 to 3"):
        box_confusion(torch.zeros(1, 4), torch.tensor([4]), 4)
    assert int(box_confusion(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 4).sum()) == 0
