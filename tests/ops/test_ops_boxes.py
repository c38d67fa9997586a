"""Boxes as pixels: hand-worked cases, numpy slices, and the published code's rounding."""

import numpy as np
import pytest
import torch

from weakseg.ops.boxes import (
    box_masks,
    centre_boxes,
    class_masks,
    definite_background,
    filling_prior,
    filling_rates,
    grown_edges,
    paste_by_class,
    pixel_boxes,
    shifted,
    truncated_boxes,
)
from weakseg.ops.labels import box_fill


def random_boxes(count, size, seed=0):
    g = np.random.default_rng(seed)
    height, width = size
    x = np.sort(g.uniform(-3, width + 3, (count, 2)), axis=1)
    y = np.sort(g.uniform(-3, height + 3, (count, 2)), axis=1)
    return torch.tensor(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1), dtype=torch.float32)


def test_masks_are_slices_of_the_rounded_box():
    size, boxes = (17, 23), random_boxes(40, (17, 23))
    for mask, (x0, y0, x1, y1) in zip(box_masks(boxes, size), boxes.numpy().round().astype(int), strict=True):
        expected = np.zeros(size, bool)
        expected[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
        if expected.any():
            assert np.array_equal(mask.numpy(), expected)
        assert int(mask.sum()) >= 1


def test_a_box_is_never_without_a_pixel_and_never_outside():
    boxes = torch.tensor([[2.0, 3.0, 3.0, 4.0], [5.3, 1.1, 5.4, 1.2], [9.0, 5.0, 12.0, 9.0], [-4.0, -4.0, -1.0, -1.0]])
    whole = pixel_boxes(boxes, (6, 10))
    assert whole.tolist() == [[2, 3, 3, 4], [5, 1, 6, 2], [9, 5, 10, 6], [0, 0, 1, 1]]
    assert box_masks(boxes, (6, 10)).sum(dim=(1, 2)).tolist() == [1, 1, 1, 1]


def test_the_definite_background_is_what_box_fill_leaves():
    size, boxes = (20, 30), random_boxes(3, (20, 30), seed=4)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    filled = box_fill(boxes, torch.tensor([1, 2, 3]), size)
    assert torch.equal(definite_background(boxes, size), filled == 0)
    valid = torch.zeros(size, dtype=torch.bool)
    valid[:, :4] = True
    assert torch.equal(definite_background(boxes, size, valid), (filled == 0) & valid)
    assert bool(definite_background(torch.zeros(0, 4), size).all())
    assert not bool(definite_background(torch.tensor([[0.0, 0.0, 30.0, 20.0]]), size).any())


def test_class_masks_are_unions_and_later_boxes_overwrite():
    boxes = torch.tensor([[0.0, 0.0, 3.0, 1.0], [2.0, 0.0, 5.0, 1.0], [1.0, 0.0, 4.0, 1.0]])
    labels, ids = torch.tensor([4, 4, 9]), torch.tensor([0, 4, 9])
    assert class_masks(boxes, labels, ids, (1, 5)).int()[:, 0].tolist() == [[1] * 5, [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
    maps = torch.stack([torch.full((1, 5), v) for v in (0.1, 0.2, 0.3)])
    pasted = paste_by_class(maps, boxes, labels, ids[1:])[:, 0]
    torch.testing.assert_close(pasted, torch.tensor([[0.1, 0.1, 0.2, 0.2, 0.2], [0, 0.3, 0.3, 0.3, 0]]))
    assert paste_by_class(torch.zeros(0, 2, 2), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0)).shape == (0, 2, 2)


def test_the_published_coordinates_land_low_as_often_as_was_counted():
    """methods.md 7.7, row 20: 13, 18 and 11 values for sides 333, 375 and 500."""
    for side, low in ((333, 13), (375, 18), (500, 11)):
        whole = torch.arange(side, dtype=torch.float32)
        boxes = torch.stack([whole, torch.zeros(side), whole, torch.zeros(side)], 1)
        moved = truncated_boxes(boxes, (2, side))[:, 0] - whole
        assert int((moved != 0).sum()) == low
        assert set(moved.tolist()) == {0.0, -1.0}


def test_published_edges():
    boxes = torch.tensor([[0.0, 5.0, 321.0, 320.5], [3.0, 3.0, 330.0, 321.0]])
    assert grown_edges(boxes, (321, 321)).tolist() == [[0, 5, 322, 320.5], [3, 3, 322, 322]]
    assert shifted(boxes, 1)[0].tolist() == [1, 6, 321, 320.5]
    assert boxes[0].tolist() == [0, 5, 321, 320.5]


def test_the_centre_keeps_its_share_of_the_area():
    boxes = random_boxes(10, (50, 80), seed=2)
    small = centre_boxes(boxes, 0.2)
    area = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, small)]
    torch.testing.assert_close(area[1] / area[0], torch.full((10,), 0.2))
    torch.testing.assert_close(small[:, :2] + small[:, 2:], boxes[:, :2] + boxes[:, 2:])


def test_the_filling_prior_knows_outside_centre_and_the_ring():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 8.0, 4.0]])
    labels, ids = torch.tensor([3, 5]), torch.tensor([0, 3, 5])
    prior = filling_prior(boxes, labels, ids, (10, 12), centre=0.25, filling=0.6)
    torch.testing.assert_close(prior.sum(0), torch.ones(10, 12))
    assert prior[:, 9, 11].tolist() == [1, 0, 0]  # outside
    torch.testing.assert_close(prior[:, 9, 0], torch.tensor([0.4, 0.6, 0.0]))  # only in the first box
    torch.testing.assert_close(prior[:, 0, 5], torch.tensor([0.4, 0.3, 0.3]))  # in both, in neither's centre
    assert prior[:, 5, 5].tolist() == [0, 1, 0]  # centre of the first
    assert prior[:, 2, 5].tolist() == [0, 0, 1]  # centre of the second, which is the smaller
    none = filling_prior(boxes, labels, ids, (10, 12), centre=0.0, filling=0.6)
    assert float(none[:, 5, 5].max()) == pytest.approx(0.6)
    empty = filling_prior(torch.zeros(0, 4), torch.zeros(0), torch.tensor([0]), (2, 2))
    assert empty.tolist() == [[[1, 1], [1, 1]]]


def test_filling_rates_leave_ignored_pixels_out():
    masks = torch.zeros(4, 6, dtype=torch.uint8)
    masks[:2, :3] = 7
    masks[0, 0] = 255
    boxes = torch.tensor([[0.0, 0.0, 3.0, 4.0], [3.0, 0.0, 6.0, 4.0], [0.0, 0.0, 1.0, 1.0]])
    rates = filling_rates(masks, boxes, torch.tensor([7, 7, 7]))
    assert rates[:2].tolist() == pytest.approx([5 / 11, 0.0])
    assert bool(rates[2].isnan())
    assert filling_rates(masks, torch.zeros(0, 4), torch.zeros(0)).shape == (0,)
