"""Label maps against loops over pixels."""

import numpy as np
import pytest
import torch

from weakseg.ops.labels import box_fill, class_ids, foreground, local_labels, merge, resized_scores, threshold, winners
from weakseg.types import ScoreMap, WeaksegError


def u8(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.uint8)


def test_threshold_equals_a_loop():
    torch.manual_seed(0)
    maps = ScoreMap(u8([7, 3]), torch.rand(2, 6, 5), (6, 5))
    out = threshold(maps, 0.6)
    for y, x in np.ndindex(6, 5):
        best = max(range(2), key=lambda k: float(maps.scores[k, y, x]))
        expected = int(maps.ids[best]) if float(maps.scores[best, y, x]) > 0.6 else 0
        assert int(out[y, x]) == expected
    assert set(out.unique().tolist()) == {0, 3, 7}


def test_ties_go_to_background_then_to_the_first():
    maps = ScoreMap(u8([7, 3]), torch.tensor([[[0.5, 0.2]], [[0.5, 0.2]]]), (1, 2))
    assert threshold(maps, 0.2).tolist() == [[7, 0]]


def test_threshold_resizes_and_handles_no_class():
    maps = ScoreMap(u8([4]), torch.ones(1, 2, 2), (5, 9))
    assert threshold(maps, 0.3).tolist() == [[4] * 9] * 5
    assert threshold(maps, 0.3, (2, 3)).shape == (2, 3)
    empty = ScoreMap(u8([]), torch.zeros(0, 2, 2), (5, 9))
    assert threshold(empty, 0.3).tolist() == [[0] * 9] * 5
    assert threshold(empty, 0.3).dtype == torch.uint8
    assert resized_scores(empty).shape == (0, 5, 9)


def with_background(seed=0, size=(6, 5)) -> ScoreMap:
    g = torch.Generator().manual_seed(seed)
    return ScoreMap(u8([7, 0, 3]), torch.rand(3, *size, generator=g), size)


def test_the_constant_takes_the_place_of_a_background_map():
    maps = with_background()
    without = ScoreMap(u8([7, 3]), maps.scores[[0, 2]], maps.size)
    for t in (0.0, 0.3, 0.9):
        assert threshold(maps, t).tolist() == threshold(without, t).tolist()
    only = ScoreMap(u8([0]), torch.full((1, 2, 2), 0.1), (5, 9))
    assert threshold(only, 0.0).tolist() == [[0] * 9] * 5


def test_foreground_leaves_background_out_and_the_rest_alone():
    maps = with_background()
    left = foreground(maps)
    assert (left.ids.tolist(), left.size) == ([7, 3], maps.size)
    assert torch.equal(left.scores, maps.scores[[0, 2]])
    assert foreground(left) is left
    boxes = ScoreMap(u8([0, 4, 4]), torch.rand(3, 2, 2), (2, 2), torch.tensor([-1, 0, 1], dtype=torch.int32))
    assert foreground(boxes).box.tolist() == [0, 1]


def test_winners_equal_an_argmax_over_dense_channels():
    maps = with_background()
    assert winners(maps).tolist() == maps.dense(8).argmax(0).tolist()
    tie = ScoreMap(u8([7, 0, 3]), torch.full((3, 1, 2), 0.5), (1, 2))
    assert winners(tie).tolist() == [[0, 0]]
    assert winners(maps, (12, 10)).shape == (12, 10)
    with pytest.raises(WeaksegError, match=r"no background map \(ids \[7\]\)"):
        winners(ScoreMap(u8([7]), torch.ones(1, 1, 1), (1, 1)))


def test_merge():
    base, over = u8([[1, 2, 255, 255]]), u8([[255, 0, 255, 3]])
    assert merge(base, over).tolist() == [[1, 0, 255, 3]]
    assert base.tolist() == [[1, 2, 255, 255]]
    with pytest.raises(ValueError, match="photograph"):
        merge(base, u8([[1]]))


def test_box_fill_equals_a_loop_of_the_smallest_box():
    g = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 12, (6, 2), generator=g).float()
    sides = torch.randint(1, 9, (6, 2), generator=g).float() + torch.arange(6)[:, None] / 16  # no two areas equal
    boxes, labels = torch.cat([corners, corners + sides], dim=1).round(), torch.arange(1, 7)
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).tolist()
    out = box_fill(boxes, labels, (10, 14))
    for y, x in np.ndindex(10, 14):
        inside = [
            k for k, (left, top, right, bottom) in enumerate(boxes.tolist()) if left <= x < right and top <= y < bottom
        ]
        smallest = {int(labels[k]) for k in inside if area[k] == min(area[j] for j in inside)} or {0}
        assert int(out[y, x]) in smallest


def test_box_fill_outside_and_none():
    outside = torch.tensor([[-5.0, -5.0, 2.0, 1.0], [30.0, 30.0, 40.0, 40.0], [-9.0, 0.0, -3.0, 2.0]])
    assert box_fill(outside, torch.tensor([1, 2, 3]), (2, 4)).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert not box_fill(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (2, 4)).any()


def test_class_ids_of_names_and_ids():
    classes = ("cat", "sofa", "chair")
    assert class_ids(["chair", 1, "sofa"], classes) == (3, 1, 2)
    assert class_ids(["couch", "cat"], classes, optional={"couch"}) == (1,)
    assert class_ids([], classes) == ()
    with pytest.raises(WeaksegError, match=r"missed names 'couch'; the classes are cat, sofa, chair"):
        class_ids(["couch"], classes, what="missed")
    for wrong in (0, 4):
        with pytest.raises(WeaksegError, match=f"id {wrong}; class ids are 1 to 3"):
            class_ids([wrong], classes)


def test_local_labels_round_trip():
    labels = u8(np.random.default_rng(0).choice([0, 17, 200, 255], (8, 8)))
    ids, local = local_labels(labels)
    valid = labels != 255
    assert ids.tolist() == [0, 17, 200]
    assert (local[~valid] == 255).all()
    assert (ids[local[valid].long()] == labels[valid]).all()
