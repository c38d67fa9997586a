"""PSA's affinities: each pair by its definition, gradients by finite differences, labels by hand, cells at the border."""

import numpy as np
import pytest
import torch

from weakseg.ops.affinity import pair_offsets
from weakseg.ops.psa_affinity import (
    affinity_labels,
    feature_affinity,
    feature_walk_affinity,
    fitting_radius,
    pool_scores,
    with_background,
)
from weakseg.types import WeaksegError


def random_features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_labels_of_two_alphas():
    """Columns: sure class 2, sure background, contested, nothing at all, class 1 although background wins later."""
    low = torch.tensor([[0.2, 0.9, 0.6, 0.0, 0.1], [0.1, 0.1, 0.1, 0.0, 0.8], [0.7, 0.0, 0.3, 0.0, 0.1]])
    high = torch.tensor([[0.0, 0.8, 0.1, 0.0, 0.9], [0.1, 0.2, 0.2, 0.0, 0.1], [0.9, 0.0, 0.7, 0.0, 0.0]])
    labels = affinity_labels(low[None, :, None], high[None, :, None])
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[[2, 0, 255, 255, 0]]]


@pytest.mark.parametrize(("score", "label"), [(0.9e-5, 255), (1.1e-5, 0)])
def test_cells_without_scores_are_unknown(score, label):
    low = torch.zeros(1, 2, 1, 1)
    high = low.clone()
    high[0, 0] = score  # the larger of both CRFs counts
    assert affinity_labels(low, high).item() == label


def test_ties_go_to_background_then_to_the_smaller_id():
    half = torch.full((1, 3, 1, 1), 0.5)
    assert affinity_labels(half, half).item() == 0
    no_background = torch.tensor([0.0, 0.5, 0.5]).view(1, 3, 1, 1)
    assert affinity_labels(no_background, no_background).item() == 1


def test_labels_want_two_scores_of_one_shape():
    with pytest.raises(WeaksegError, match="one shape"):
        affinity_labels(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))


def test_background_follows_the_surest_class():
    scores = torch.tensor([[[0.0, 0.6, 1.0]], [[0.0, 0.2, 0.3]]])
    made = with_background(scores, 16)
    assert made[0, 0].tolist() == pytest.approx([1.0, 0.4**16, 0.0])
    assert torch.equal(made[1:], scores)
    assert with_background(scores * 1.5, 0.5).isfinite().all()  # what lies above 1 has no root
    assert with_background(scores[:0], 16).tolist() == [[[1.0, 1.0, 1.0]]]


def test_pooling_is_the_mean_with_zeros_beyond_the_map():
    scores = random_features(2, 3, 21, 10).abs()
    padded = np.zeros((2, 3, 24, 16))
    padded[:, :, :21, :10] = scores.numpy()
    expected = padded.reshape(2, 3, 3, 8, 2, 8).mean(axis=(3, 5))
    np.testing.assert_allclose(pool_scores(scores, 8).numpy(), expected, rtol=1e-5)
    assert pool_scores(scores[0], 8).shape == (3, 3, 2)


@pytest.mark.parametrize("radius", [2, 4, 5])
def test_affinity_of_every_pair(radius):
    f = random_features(2, 3, 8, 12)
    made = feature_affinity(f, radius)
    margin = radius - 1
    assert made.shape == (2, len(pair_offsets(radius)), 8 - margin, 12 - 2 * margin)
    for b, p, y, x in np.ndindex(*made.shape):
        dy, dx = pair_offsets(radius)[p]
        gap = f[b, :, y, x + margin] - f[b, :, y + dy, x + margin + dx]
        assert float(made[b, p, y, x]) == pytest.approx(float((-gap.abs().mean()).exp()), rel=1e-5)


def test_34_pairs_for_each_of_the_published_sources():
    assert feature_affinity(torch.zeros(1, 1, 56, 56), 5).shape == (1, 34, 52, 48)


def test_gradient_by_finite_differences():
    f = random_features(2, 3, 4, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: feature_affinity(f, 3), f)


def test_gradient_of_equal_features_is_zero():
    f = torch.ones(1, 4, 5, 9, requires_grad=True)
    feature_affinity(f, 5).sum().backward()
    assert f.grad is not None
    assert not f.grad.any()


def test_inputs_stay_as_they_were():
    f = random_features(1, 3, 6, 9)
    before = f.clone()
    feature_affinity(f, 3)
    assert torch.equal(f, before)


def test_a_map_without_a_source_is_refused():
    with pytest.raises(WeaksegError, match="radius 5"):
        feature_affinity(torch.zeros(1, 2, 4, 20), 5)


def test_walk_affinity_is_zero_where_a_cell_is_no_source():
    f = random_features(3, 7, 11)
    made = feature_walk_affinity(f, 4)
    assert made.shape == (len(pair_offsets(4)), 7, 11)
    assert torch.equal(made[:, :4, 3:8], feature_affinity(f[None], 4)[0])
    assert not made[:, 4:].any()
    assert not made[:, :, :3].any()
    assert not made[:, :, 8:].any()
    assert feature_walk_affinity(f, 1).shape == (0, 7, 11)


def test_the_radius_shrinks_below_eleven_cells():
    assert [fitting_radius((side, 40), 5) for side in (12, 11, 10, 9, 5, 3, 2, 1)] == [5, 5, 4, 4, 2, 1, 0, 0]
    assert fitting_radius((40, 10), 5) == 4
    kept = [fitting_radius((side, 40), 5, shrink=False) for side in (10, 5, 4)]
    assert kept == [5, 5, 1]
    for height, width in np.ndindex(30, 30):
        radius = fitting_radius((height + 1, width + 1), 5, shrink=bool((height + width) % 2))
        assert radius < 2 or (height + 1 >= radius and width + 1 >= 2 * radius - 1)  # there is a source


def test_walk_affinity_of_all_pairs_of_the_map():
    f = random_features(3, 5, 6)
    made = feature_walk_affinity(f, 3, border=True)
    for p, (dy, dx) in enumerate(pair_offsets(3)):
        for y, x in np.ndindex(5, 6):
            if y + dy < 5 and 0 <= x + dx < 6:
                wanted = float((-(f[:, y, x] - f[:, y + dy, x + dx]).abs().mean()).exp())
                assert float(made[p, y, x]) == pytest.approx(wanted, rel=1e-5)
