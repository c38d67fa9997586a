"""Boundaries by hand, thinning against a plain reference, matching against an optimal assignment."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from weakseg.ops._matching import largest_matching
from weakseg.ops.boundaries import (
    MAX_DIST,
    WIDE_MAX_DIST,
    BoundaryCounts,
    boundary_counts,
    boundary_map,
    fill_ignored,
    match_boundaries,
    thin,
)
from weakseg.types import WeaksegError

EIGHT = np.ones((3, 3), int)


def labels(*rows):
    return torch.tensor([[int(c, 16) for c in row] for row in rows], dtype=torch.uint8)


def disc(size=80, radius=25.0, centre=(40, 40), value=1):
    y, x = np.mgrid[:size, :size]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    return torch.from_numpy((value * inside).astype(np.uint8))


def optimal(first, second, reach):
    """Pairs of the assignment that has as many as possible within reach: far ones cost more than all near ones."""
    distance = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
    rows, columns = linear_sum_assignment(np.where(distance <= reach, 0, 1))
    return int((distance[rows, columns] <= reach).sum())


def reference_thin(image):
    """Guo and Hall's conditions on whole arrays: x1 is east, then counter-clockwise."""
    steps = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
    image = np.pad(image, 1)
    while True:
        before = image.copy()
        for half in range(2):
            x = [np.roll(image, (-dy, -dx), (0, 1)) for dy, dx in steps]
            x.append(x[0])
            crossings = sum((~x[2 * i] & (x[2 * i + 1] | x[2 * i + 2])).astype(int) for i in range(4))
            n1 = sum((x[2 * i] | x[2 * i + 1]).astype(int) for i in range(4))
            n2 = sum((x[2 * i + 1] | x[2 * i + 2]).astype(int) for i in range(4))
            least = np.minimum(n1, n2)
            g3 = (x[1] | x[2] | ~x[7]) & x[0] if half == 0 else (x[5] | x[6] | ~x[3]) & x[4]
            image = image & ~((crossings == 1) & (least >= 2) & (least <= 3) & ~g3)
        if (image == before).all():
            return image[1:-1, 1:-1]


def test_the_tolerances_of_the_specification():
    assert MAX_DIST == 0.0075
    assert WIDE_MAX_DIST == 0.02


def test_laplacian_edges_of_a_square_by_hand():
    found = boundary_map(labels("00000", "01110", "01110", "01110", "00000"), thin=False)
    assert found.int().tolist() == [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]


def test_classes_that_touch_have_a_boundary_between_them_and_the_frame_has_none():
    assert boundary_map(labels("1122", "1122"), thin=False).int().tolist() == [[0, 1, 1, 0]] * 2
    assert not boundary_map(torch.ones(6, 7, dtype=torch.uint8)).any()
    assert not boundary_map(torch.zeros(6, 7, dtype=torch.uint8)).any()


def test_255_belongs_to_no_class_and_the_border_between_it_and_background_is_no_boundary():
    assert boundary_map(labels("0ff0").masked_fill(labels("0ff0") == 15, 255), thin=False).sum() == 0


def test_filled_borders_put_the_boundary_in_their_middle():
    mask = disc(radius=30)
    ring = disc(radius=32) - disc(radius=28)
    unsure = mask.masked_fill(ring > 0, 255)
    filled = fill_ignored(unsure)
    assert not (filled == 255).any()
    assert (filled != mask).float().mean() < 0.02
    assert unsure[40, 40 + 29] == 255  # left as it was
    assert (fill_ignored(torch.full((3, 3), 255, dtype=torch.uint8)) == 255).all()
    assert boundary_counts(mask, unsure, 0.01).f1 > boundary_counts(mask, unsure, 0.01, fill_truth=False).f1


def test_a_thinned_circle_is_one_closed_line_of_the_circles_length():
    line = boundary_map(disc())
    assert ndimage.label(line.numpy(), EIGHT)[1] == 1
    holes = ndimage.label(~line.numpy())[1]
    assert holes == 2  # inside and outside
    assert 0.85 * 2 * math.pi * 25 < line.sum() < 1.02 * 2 * math.pi * 25  # a diagonal step counts once
    blocks = line[1:, 1:] & line[:-1, 1:] & line[1:, :-1] & line[:-1, :-1]
    assert not blocks.any()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.2, 0.9))
def test_thinning_equals_the_reference_and_keeps_parts(seed, share):
    image = np.random.default_rng(seed).random((13, 17)) < share
    found = thin(torch.from_numpy(image)).numpy()
    np.testing.assert_array_equal(found, reference_thin(image))
    assert not (found & ~image).any()
    np.testing.assert_array_equal(thin(torch.from_numpy(found)).numpy(), found)
    assert ndimage.label(found, EIGHT)[1] == ndimage.label(image, EIGHT)[1]


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10_000), st.floats(0.5, 6.0), st.integers(0, 40), st.integers(0, 40))
def test_matching_is_as_large_as_an_optimal_assignment(seed, reach, n, m):
    generator = np.random.default_rng(seed)
    cells = generator.permutation(20 * 20)
    first = np.stack(np.divmod(np.sort(cells[:n]), 20), 1)
    second = np.stack(np.divmod(generator.permutation(20 * 20)[:m], 20), 1)
    expected = optimal(first, second, reach) if n and m else 0
    assert largest_matching(first, second, reach) == expected


def test_a_large_tangle_is_matched_as_scipy_does():
    """Where the closest pairs are the wrong choice for many: three rows of points for two."""
    generator = np.random.default_rng(0)
    first, second = (np.unique(generator.integers(0, 60, (900, 2)), axis=0) for _ in range(2))
    distance = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
    graph = csr_matrix((distance <= 1.5).astype(np.int8))
    assert largest_matching(first, second, 1.5) == (maximum_bipartite_matching(graph) >= 0).sum()


def test_the_closest_pair_is_given_up_where_that_makes_two():
    first, second = np.array([[0, 0], [0, 3]]), np.array([[0, 1], [0, -2]])
    assert largest_matching(first, second, 2.0) == 2  # 0-1 is the closest pair; 3 reaches only 1
    assert largest_matching(first, second, 1.9) == 1


def test_the_distance_is_a_fraction_of_the_diagonal_and_inclusive():
    one = torch.zeros(30, 40, dtype=torch.bool)  # diagonal 50
    one[10, 10] = True
    assert match_boundaries(one, one.roll(3, 1), 3 / 50).matched == 1
    assert match_boundaries(one, one.roll(4, 1), 3 / 50).matched == 0
    assert match_boundaries(one, one, 0.0).matched == 1


def test_one_true_pixel_pays_for_one_predicted_pixel_only():
    pred, truth = torch.zeros(2, 30, 30, dtype=torch.bool)
    pred[10:13, 10] = True
    truth[11, 11] = True
    counts = match_boundaries(pred, truth, 0.1)
    assert (counts.matched, counts.predicted, counts.true) == (1, 3, 1)
    assert counts.precision == pytest.approx(1 / 3)
    assert counts.recall == 1
    assert counts.f1 == pytest.approx(0.5)


def test_sums_over_a_list_and_lists_without_boundaries():
    total = BoundaryCounts(1, 3, 1) + BoundaryCounts(4, 5, 7)
    assert total == BoundaryCounts(5, 8, 8)
    assert total.f1 == 2 * total.precision * total.recall / (total.precision + total.recall)
    assert math.isnan(BoundaryCounts(0, 0, 3).precision)
    assert BoundaryCounts(0, 0, 3).f1 == 0
    assert math.isnan(BoundaryCounts().f1)


def test_equal_masks_score_one_and_a_shift_beyond_reach_little():
    mask = disc()
    assert boundary_counts(mask, mask).f1 == 1
    assert boundary_counts(disc(centre=(41, 40)), mask, 0.02).f1 > 0.95
    assert boundary_counts(disc(centre=(55, 40)), mask, 0.02).f1 < 0.4


def test_the_class_does_not_count():
    assert boundary_counts(disc(value=3), disc(value=1)).f1 == 1


def test_inputs_stay_as_they_are():
    mask = disc()
    mask[0, :3] = 255
    kept, edges = mask.clone(), boundary_map(mask)
    boundary_counts(mask, mask)
    thin(edges)
    fill_ignored(mask)
    assert torch.equal(mask, kept)
    assert torch.equal(edges, boundary_map(mask))


def test_what_is_wrong_is_said():
    with pytest.raises(WeaksegError, match="photograph"):
        match_boundaries(torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(WeaksegError, match="fraction"):
        match_boundaries(torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool), -1)
    with pytest.raises(WeaksegError, match=r"\(H, W\)"):
        boundary_map(torch.zeros(1, 3, 3, dtype=torch.uint8))
