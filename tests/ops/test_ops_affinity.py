"""Pairs, paths, affinities and their losses, against definitions written out cell by cell."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from weakseg.ops.affinity import (
    affinity_losses,
    displacement_losses,
    edge_affinity,
    label_pairs,
    masked_mean,
    pair_offsets,
    path,
    sources,
    targets,
    walk_affinity,
)
from weakseg.types import WeaksegError


@pytest.mark.parametrize(("radius", "count"), [(5, 34), (10, 152)])
def test_the_published_sets_of_pairs_and_paths(radius, count):
    """methods.md 3 and 4: 34 and 152 offsets; with their mirror images and the cell itself they fill an open disc."""
    offsets = pair_offsets(radius)
    assert len(offsets) == len(set(offsets)) == count
    disc = {(y, x) for y in range(-20, 21) for x in range(-20, 21) if math.hypot(y, x) < radius}
    assert set(offsets) | {(-y, -x) for y, x in offsets} | {(0, 0)} == disc


@pytest.mark.parametrize("offset", pair_offsets(10))  # those of radius 5 are among them
def test_a_path_is_what_lies_less_than_one_from_the_segment_in_its_box(offset):
    end = np.array(offset, float)
    expected = set()
    for y in range(0, offset[0] + 1):
        for x in range(min(0, offset[1]), max(0, offset[1]) + 1):
            along = np.dot((y, x), end) / np.dot(end, end) * end
            if np.linalg.norm(np.array((y, x)) - along) < 1 - 1e-9:
                expected.add((y, x))
    assert set(path(offset)) == expected
    assert {(0, 0), offset} <= expected


def test_paths_by_hand():
    """The corners (0, -2) and (2, 0) lie sqrt 2 from the diagonal to (2, -2); those of (1, 1) only 1 / sqrt 2."""
    assert path((0, 4)) == ((0, 0), (0, 1), (0, 2), (0, 3), (0, 4))
    assert path((1, 1)) == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert path((2, -2)) == ((0, -1), (0, 0), (1, -2), (1, -1), (1, 0), (2, -2), (2, -1))
    assert path((3, 1)) == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1))  # at most 3 / sqrt 10 away
    assert path((1, -3)) == ((0, -3), (0, -2), (0, -1), (0, 0), (1, -3), (1, -2), (1, -1), (1, 0))


def test_sources_see_all_their_targets():
    cells = torch.arange(20 * 24).reshape(20, 24)
    source, target = sources(cells, 5), targets(cells, 5)
    assert source.shape == (16, 16)  # rows except the last 4, columns except 4 at either side
    assert target.shape == (34, 16, 16)
    for p, (dy, dx) in enumerate(pair_offsets(5)):
        assert torch.equal(target[p], source + 24 * dy + dx)
    assert sources(torch.zeros(128, 128), 10).shape == (119, 110)


def test_a_map_too_small_for_its_radius_is_a_sentence():
    with pytest.raises(WeaksegError, match="5x9 at least"):
        sources(torch.zeros(5, 8), 5)


def test_edge_affinity_is_one_minus_the_maximum_on_the_path():
    edges = torch.rand(2, 12, 15, generator=torch.Generator().manual_seed(0))
    got = edge_affinity(edges, 4)
    for b in range(2):
        for p, (dy, dx) in enumerate(pair_offsets(4)):
            for y in range(9):
                for x in range(9):
                    strongest = max(float(edges[b, y + j, x + 3 + i]) for j, i in path((dy, dx)))
                    assert float(got[b, p, y, x]) == pytest.approx(1 - strongest, abs=1e-7)


def test_the_gradient_of_an_affinity():
    edges = torch.rand(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: edge_affinity(e, 3).square(), edges)
    weight = torch.randn(2, 12, 4, 4, dtype=torch.float64)
    (got,) = torch.autograd.grad((edge_affinity(edges, 3) * weight).sum(), edges)
    expected = torch.zeros_like(got)
    for b, p, y, x in np.ndindex(2, 12, 4, 4):
        cells = [(y + j, x + 2 + i) for j, i in path(pair_offsets(3)[p])]
        strongest = max(cells, key=lambda c: float(edges[b, c[0], c[1]].detach()))
        expected[b, strongest[0], strongest[1]] -= weight[b, p, y, x]
    torch.testing.assert_close(got, expected)


def test_equal_edges_share_no_gradient_the_first_takes_it():
    edges = torch.full((1, 2, 3), 0.5, requires_grad=True)
    edge_affinity(edges, 2).sum().backward()
    assert edges.grad is not None
    assert float(edges.grad.sum()) == -4  # one for each pair of the one source


def test_affinity_of_every_cell_for_a_walk():
    edge = torch.rand(5, 6, generator=torch.Generator().manual_seed(2))
    got = walk_affinity(edge, 5)
    assert got.shape == (34, 5, 6)
    for p, (dy, dx) in enumerate(pair_offsets(5)):
        for y, x in np.ndindex(5, 6):
            inside = y + dy < 5 and 0 <= x + dx < 6
            expected = 1 - max(float(edge[y + j, x + i]) for j, i in path((dy, dx))) if inside else 0.0
            assert float(got[p, y, x]) == pytest.approx(expected, abs=1e-7)


def test_which_pairs_teach_what():
    labels = torch.randint(0, 4, (2, 9, 13), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    labels[labels == 3] = 255
    pairs = label_pairs(labels, 4)
    for b, p, y, x in np.ndindex(2, len(pair_offsets(4)), 6, 7):
        dy, dx = pair_offsets(4)[p]
        one, other = int(labels[b, y, x + 3]), int(labels[b, y + dy, x + 3 + dx])
        known = 255 not in (one, other)
        assert bool(pairs.background[b, p, y, x]) == (known and one == other == 0)
        assert bool(pairs.foreground[b, p, y, x]) == (known and one == other != 0)
        assert bool(pairs.negative[b, p, y, x]) == (known and one != other)


def test_affinity_losses_by_hand():
    """Sources (0, 1) of a 2 x 3 map, radius 2: right, below left, below, below right."""
    labels = torch.tensor([[[0, 0, 0], [7, 0, 255]]], dtype=torch.uint8)
    affinity = torch.tensor([0.9, 0.3, 0.5, 0.1]).reshape(1, 4, 1, 1)
    losses = affinity_losses(affinity, label_pairs(labels, 2))
    assert float(losses["affinity_background"]) == pytest.approx(-(math.log(0.9) + math.log(0.5)) / 2 / 4, rel=1e-4)
    assert float(losses["affinity_foreground"]) == 0
    assert float(losses["affinity_negative"]) == pytest.approx(-math.log(0.7) / 2, rel=1e-4)


def test_means_are_over_the_batch_and_guarded():
    labels = torch.zeros(2, 2, 3, dtype=torch.uint8)
    labels[1] = 255
    one = torch.ones(2, 4, 1, 1)
    for affinity, expected in ((one, 0.0), (torch.zeros_like(one), -math.log(1e-5) / 4)):
        losses = affinity_losses(affinity, label_pairs(labels, 2))
        assert float(losses["affinity_background"]) == pytest.approx(expected, abs=1e-4)
    labels[:] = 255
    affinity = torch.rand(2, 4, 1, 1, requires_grad=True)
    losses = affinity_losses(affinity, label_pairs(labels, 2))
    sum(losses.values()).backward()
    assert all(float(v.detach()) == 0 for v in losses.values())
    assert affinity.grad is not None
    assert not affinity.grad.any()


def test_extreme_affinities_have_finite_gradients():
    labels = torch.tensor([[[0, 0, 0], [7, 0, 0]]], dtype=torch.uint8)
    affinity = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 4, 1, 1).requires_grad_()
    sum(affinity_losses(affinity, label_pairs(labels, 2)).values()).backward()
    assert affinity.grad is not None
    assert affinity.grad.isfinite().all()


def test_displacement_losses_against_sums_over_pairs():
    g = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 3, (2, 7, 9), generator=g, dtype=torch.uint8)
    labels[0, 2] = 255
    displacement = torch.randn(2, 2, 7, 9, generator=g)
    pairs, sums, counts = label_pairs(labels, 3), {"f": 0.0, "b": 0.0}, {"f": 0, "b": 0}
    for b, p, y, x in np.ndindex(2, 12, 5, 5):
        dy, dx = pair_offsets(3)[p]
        one, other = int(labels[b, y, x + 2]), int(labels[b, y + dy, x + 2 + dx])
        gap = displacement[b, :, y, x + 2] - displacement[b, :, y + dy, x + 2 + dx]
        if one == other and one != 255:
            key = "f" if one else "b"
            wanted = torch.tensor([dy, dx]) if one else torch.zeros(2)
            sums[key] += float((gap - wanted).abs().sum())
            counts[key] += 1
    losses = displacement_losses(displacement, pairs, 3)
    assert float(losses["displacement_foreground"]) == pytest.approx(sums["f"] / (2 * counts["f"]) / 2, rel=1e-5)
    assert float(losses["displacement_background"]) == pytest.approx(sums["b"] / (2 * counts["b"]) / 2, rel=1e-5)


def test_pointing_at_a_common_centre_costs_nothing():
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    to_centre = torch.stack([5 - y, 6 - x])[None]  # cells, (dy, dx)
    losses = displacement_losses(to_centre, label_pairs(torch.full((1, 12, 12), 4, dtype=torch.uint8), 5), 5)
    assert float(losses["displacement_foreground"]) == pytest.approx(0, abs=1e-6)
    still = displacement_losses(
        torch.ones_like(to_centre), label_pairs(torch.zeros(1, 12, 12, dtype=torch.uint8), 5), 5
    )
    assert float(still["displacement_background"]) == 0


def test_nothing_is_zero():
    assert float(masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool))) == 0


def test_inputs_stay():
    edges = torch.rand(1, 6, 8)
    before = edges.clone()
    walk_affinity(edges[0], 3)
    edge_affinity(F.pad(edges, (1, 1)), 3)
    assert torch.equal(edges, before)
