"""From displacements to instances, on hand-made fields and against plain loops."""

import math

import numpy as np
import pytest
import torch

from weakseg.ops.instances import centroid_clusters, detect_instances, follow, mask_boxes, split_by_cluster
from weakseg.types import WeaksegError


def two_centres(height=20, width=30):
    """A field that points to (9, 7) in the left half and to (9, 22) in the right one."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([9 - y, torch.where(x < width / 2, 7.0, 22.0) - x])


def walked_by_loops(field: np.ndarray, steps: int) -> np.ndarray:
    _, height, width = field.shape
    out = np.zeros((2, height, width), int)
    for y0, x0 in np.ndindex(height, width):
        y, x = float(y0), float(x0)
        for _ in range(steps):
            fy, fx = math.floor(y), math.floor(x)
            move = np.zeros(2)
            for j in (0, 1):
                for i in (0, 1):
                    weight = (y - fy if j else 1 - (y - fy)) * (x - fx if i else 1 - (x - fx))
                    if weight:
                        move += weight * field[:, fy + j, fx + i]
            y, x = min(max(y + move[0], 0.0), height - 1.0), min(max(x + move[1], 0.0), width - 1.0)
        out[:, y0, x0] = round(y), round(x)
    return out


def test_cells_end_at_their_centre():
    ends = follow(two_centres())
    assert set(ends[0].flatten().tolist()) == {9}
    assert torch.equal(ends[1], torch.where(torch.arange(30) < 15, 7, 22).expand(20, 30))


def test_following_is_the_loop():
    g = torch.Generator().manual_seed(0)
    field = torch.randn(2, 7, 9, generator=g, dtype=torch.float64)
    for steps in (0, 1, 5):
        np.testing.assert_array_equal(follow(field, steps).numpy(), walked_by_loops(field.numpy(), steps))


def test_nobody_leaves_the_map():
    out = follow(torch.full((2, 5, 6), 3.7), 10)
    assert torch.equal(out[0], torch.full((5, 6), 4))
    assert torch.equal(out[1], torch.full((5, 6), 5))


def test_one_cluster_a_centre_of_small_displacements():
    field = two_centres()
    clusters = centroid_clusters(follow(field), field)
    assert torch.equal(clusters, (torch.arange(30) >= 15).long().expand(20, 30))


def test_the_threshold_is_on_the_length():
    field = torch.zeros(2, 1, 3)
    field[:, 0, 1] = torch.tensor([1.5, 2.0])  # length 2.5
    centroids = follow(torch.zeros(2, 1, 3))
    assert centroid_clusters(centroids, field, 2.5).tolist() == [[1, 0, 2]]  # cut in two; the middle is on its own
    assert centroid_clusters(centroids, field, 2.51).tolist() == [[0, 0, 0]]


def test_regions_touch_at_sides_not_at_corners():
    field = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]] * 2)
    clusters = centroid_clusters(follow(torch.zeros(2, 2, 2)), field)
    assert clusters.tolist() == [[1, 0], [0, 2]]


def test_splitting_keeps_every_score_once():
    scores = torch.rand(3, 6, 7)
    clusters = torch.randint(0, 4, (6, 7), generator=torch.Generator().manual_seed(0))
    split = split_by_cluster(scores, clusters).reshape(3, 4, 6, 7)
    torch.testing.assert_close(split.sum(dim=1), scores)
    for n in range(4):
        assert torch.equal(split[:, n] > 0, (scores > 0) & (clusters == n))


def test_detection_by_hand():
    """Background .25; parts of 4 connected cells; 10 % of 24 cells = 2.4."""
    one = torch.tensor([[0.9, 0.8, 0.0, 0.0, 0.0, 0.3], [0.7, 0.0, 0.0, 0.0, 0.6, 0.0], [0.0] * 6, [0.0] * 6])
    other = torch.tensor(
        [[0.0, 0.9, 0.0, 0.0, 0.0, 0.0], [0.0] * 6, [0.0, 0.0, 0.4, 0.4, 0.5, 0.0], [0.25] + [0.0] * 5]
    )
    found = detect_instances(torch.stack([one, other]), torch.tensor([3, 3]), 0.25, 0.1)
    assert found.labels.tolist() == [3] * 5
    areas = found.masks.flatten(1).sum(dim=1).tolist()
    assert areas == [2, 1, 1, 1, 3]
    torch.testing.assert_close(found.scores, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5]))
    assert found.boxes.tolist()[4] == [2, 2, 5, 3]
    assert not (found.masks.sum(dim=0) > 1).any()
    exact = detect_instances(torch.stack([one, other]), torch.tensor([3, 3]), 0.25, 3 / 24)
    assert float(exact.scores[4]) == 0.5  # "less than" the share


def test_nothing_found_is_empty():
    found = detect_instances(torch.zeros(2, 4, 5), torch.tensor([1, 2]))
    assert found.masks.shape == (0, 4, 5)
    assert found.boxes.shape == (0, 4)
    assert detect_instances(torch.zeros(0, 4, 5), torch.zeros(0)).masks.shape == (0, 4, 5)


@pytest.mark.parametrize("size", [(108, 225), (109, 100), (300, 500)])
def test_a_part_of_exactly_the_smallest_area_keeps_its_score(size):
    maps = torch.zeros(1, *size)
    area = size[0] * size[1] // 100
    maps[0].view(-1)[:area] = 0.5
    assert detect_instances(maps, torch.tensor([1])).scores.tolist() == [0.5]
    maps[0].view(-1)[0] = 0
    assert detect_instances(maps, torch.tensor([1])).scores.tolist() == [0]


def test_boxes_are_half_open():
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[0, 1:3, 2:6] = True
    assert mask_boxes(mask).tolist() == [[2, 1, 6, 3], [0, 0, 0, 0]]


def test_one_id_a_map():
    with pytest.raises(WeaksegError, match="one id a map"):
        detect_instances(torch.zeros(2, 4, 5), torch.tensor([1]))
