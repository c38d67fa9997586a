"""Confusion ratios and co-occurrence, counted by hand and pixel by pixel."""

import math

import pytest
import torch

from weakseg.ops.confusion import class_confusion, co_occurrence, confusion_ratio, context_counts, present
from weakseg.ops.metrics import confusion_matrix
from weakseg.types import WeaksegError


def ids(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


PRED = ids([1, 1, 1, 1], [1, 0, 2, 255])
TRUTH = ids([1, 1, 0, 0], [255, 1, 0, 0])
CONTEXT = torch.tensor([[0, 3, 3, 3], [3, 0, 1, 3]])


def test_false_pixels_of_a_context_label_by_hand():
    counts = context_counts(PRED, CONTEXT, TRUTH, num_classes=3, num_context=3)
    # label 3: at (0, 1) the truth says class 1, so it is right; two background pixels and the 255 are taken for 1;
    # the predicted 255 is nothing
    assert counts.tolist() == [[0, 0, 1], [0, 0, 0], [0, 3, 0]]


def test_counts_equal_a_loop_over_pixels():
    g = torch.Generator().manual_seed(0)
    pred, truth = torch.randint(0, 5, (2, 20, 30), generator=g).to(torch.uint8)
    context = torch.randint(0, 300, (20, 30), generator=g)
    expected = torch.zeros(300, 5, dtype=torch.int64)
    for p, t, k in zip(*(m.flatten().tolist() for m in (pred, truth, context)), strict=True):
        if k > 0 and p != t:
            expected[k - 1, p] += 1
    assert torch.equal(context_counts(pred, context, truth, 5, 300), expected)


def test_the_ratio_divides_by_correct_pixels_of_the_class():
    matrix = confusion_matrix(PRED, TRUTH, 3)
    ratio = confusion_ratio(context_counts(PRED, CONTEXT, TRUTH, 3, 3), matrix)
    assert ratio[2, 1] == 3 / 2
    assert math.isnan(ratio[0, 2])  # no correct pixel of class 2


def test_classes_among_themselves():
    matrix = torch.tensor([[50, 10, 4, 9], [5, 20, 6, 0], [0, 8, 0, 1]])
    ratio = class_confusion(matrix)
    assert ratio[0, 1] == 10 / 20
    assert ratio[1, 0] == 5 / 50
    assert ratio[2, 1] == 8 / 20
    assert all(math.isnan(ratio[k, k]) for k in range(3))
    assert math.isnan(ratio[0, 2])
    assert matrix[0].tolist() == [50, 10, 4, 9]


def test_co_occurrence_by_hand():
    boat_train = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=torch.bool)
    water_rail_sky = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    found = co_occurrence(boat_train, water_rail_sky)
    assert found.tolist() == [[2 / 3, 1 / 3, 1.0], [0.0, 1.0, 1.0]]
    assert co_occurrence(boat_train, boat_train).diagonal().tolist() == [1, 1]
    assert math.isnan(co_occurrence(torch.zeros(4, 1, dtype=torch.bool), water_rail_sky)[0, 0])


def test_presence_counts_pixels():
    assert present(ids([0, 1, 3, 3, 255]), 3).tolist() == [True, False, True]
    assert present(ids([0, 1, 3, 3, 255]), 3, min_pixels=2).tolist() == [False, False, True]


def test_what_is_wrong_is_said():
    with pytest.raises(WeaksegError, match="differ in size"):
        context_counts(PRED, CONTEXT[:1], TRUTH, 3, 3)
    with pytest.raises(WeaksegError, match="label 3"):
        context_counts(PRED, CONTEXT, TRUTH, 3, 2)
    with pytest.raises(WeaksegError, match="beyond 1"):
        context_counts(PRED, CONTEXT, TRUTH, 2, 3)
    with pytest.raises(WeaksegError, match="same classes"):
        confusion_ratio(torch.zeros(2, 3), torch.zeros(4, 5))
    with pytest.raises(WeaksegError, match="both sides"):
        co_occurrence(torch.ones(2, 3), torch.ones(3, 3))
