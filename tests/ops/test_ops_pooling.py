"""Gated pyramid pooling against hand-worked cases, a reference in NumPy and finite differences."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from scipy.special import expit

from weakseg.ops.pooling import (
    BINS,
    bin_means,
    gated_merge,
    gates,
    mean_of_levels,
    merge,
    pyramid,
    signed_logits,
)


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference_bins(map_, bins):
    """Means of r x r bins (borders at floor and ceil, as a bin covers every pixel it touches), then bilinear."""
    h, w = map_.shape
    means = np.empty((bins, bins))
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * h // bins, -(-(i + 1) * h // bins))
            means[i, j] = map_[rows, j * w // bins : -(-(j + 1) * w // bins)].mean()
    out = np.empty((h, w))
    for y in range(h):
        for x in range(w):
            v, u = max((y + 0.5) * bins / h - 0.5, 0), max((x + 0.5) * bins / w - 0.5, 0)
            top, left = int(v), int(u)
            below, right = min(top + 1, bins - 1), min(left + 1, bins - 1)
            a, b = v - top, u - left
            out[y, x] = (
                (1 - a) * ((1 - b) * means[top, left] + b * means[top, right])
                + a * ((1 - b) * means[below, left] + b * means[below, right])
            )  # fmt: skip
    return out


@pytest.mark.parametrize("size", [(40, 40), (13, 17), (5, 3)])
@pytest.mark.parametrize("bins", BINS)
def test_bins_are_means_enlarged(size, bins):
    """40 x 40 is the published size, on which 16 does not divide; the last is smaller than the bins."""
    f = maps(1, 2, *size)
    got = bin_means(f, bins)
    for c in range(2):
        np.testing.assert_allclose(got[0, c].numpy(), reference_bins(f[0, c].numpy(), bins), atol=1e-12)


def test_uniform_maps_stay_uniform_and_signed():
    f = torch.full((1, 1, 40, 40), -3.0)
    for level in pyramid(f):
        torch.testing.assert_close(level, f)


def reference_gates(x, y, weight):
    """x, y (C, h, w), weight (2, 2C, 3, 3): correlation with zeros around, by scipy."""
    both = np.concatenate([np.maximum(x, 0), np.maximum(y, 0)])
    sums = [sum(correlate(m, k, mode="constant") for m, k in zip(both, kernel, strict=True)) for kernel in weight]
    return expit(np.stack(sums))


def reference_merge(x, y, a, b):
    pos, neg = np.maximum, np.minimum
    return (a[0] * pos(x, 0) + a[1] * pos(y, 0) + b[0] * neg(x, 0) + b[1] * neg(y, 0)) / 2


def test_gates_by_hand():
    """One class, one pixel: conv sees the kernels' centres only; negative inputs do not open a gate."""
    x, y = torch.tensor([[[[2.0]]]]), torch.tensor([[[[-1.0]]]])
    weight = torch.zeros(2, 2, 3, 3)
    weight[0, 0, 1, 1], weight[1, 1, 1, 1] = 1.0, 5.0
    got = gates(x, y, weight).flatten()
    assert got.tolist() == pytest.approx([1 / (1 + np.exp(-2)), 0.5])


def test_merge_by_hand():
    """x = (4, -2), y = (2, -6), alpha = (.5, .25), beta = (1, .5): (2 + .5) / 2 and -(2 + 3) / 2."""
    x, y = torch.tensor([4.0, -2.0]).view(1, 2, 1, 1), torch.tensor([2.0, -6.0]).view(1, 2, 1, 1)
    alpha, beta = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1), torch.tensor([1.0, 0.5]).view(1, 2, 1, 1)
    assert merge(x, y, alpha, beta).flatten().tolist() == [1.25, -2.5]
    assert merge(x, y, alpha).flatten().tolist() == [1.25, -4.0]  # beta = 1


def test_the_whole_merge_against_numpy():
    f = maps(1, 3, 9, 11)
    levels = pyramid(f, (2, 4, 8))
    weights = maps(4, 2, 6, 3, 3, seed=1) * 0.2
    positive, negative = weights[:2], weights[2:]
    expected = levels[0][0].numpy()
    for level, w, v in zip(levels[1:], positive.numpy(), negative.numpy(), strict=True):
        p = level[0].numpy()
        expected = reference_merge(expected, p, reference_gates(expected, p, w), reference_gates(-expected, -p, v))
    np.testing.assert_allclose(gated_merge(levels, positive, negative)[0].numpy(), expected, atol=1e-12)
    without = levels[0][0].numpy()
    for level, w in zip(levels[1:], positive.numpy(), strict=True):
        p = level[0].numpy()
        without = reference_merge(without, p, reference_gates(without, p, w), np.ones(2))
    np.testing.assert_allclose(gated_merge(levels, positive, None)[0].numpy(), without, atol=1e-12)


def test_a_change_of_sign_swaps_the_sides():
    """G(-f) with the gates of both sides swapped is -G(f)."""
    f, weights = maps(2, 2, 8, 8), maps(6, 2, 4, 3, 3, seed=1)
    one = gated_merge(pyramid(f), weights[:3], weights[3:])
    other = gated_merge(pyramid(-f), weights[3:], weights[:3])
    torch.testing.assert_close(one, -other)
    torch.testing.assert_close(signed_logits(one, f), -signed_logits(other, -f))


def test_permuted_classes():
    """The gates are shared by the classes: with their inputs permuted alike, so is the pyramid."""
    f, weights = maps(1, 3, 8, 8), maps(6, 2, 6, 3, 3, seed=1)
    order = torch.tensor([2, 0, 1])
    both = torch.cat([order, order + 3])
    one = gated_merge(pyramid(f), weights[:3], weights[3:])
    other = gated_merge(pyramid(f[:, order]), weights[:3, :, both], weights[3:, :, both])
    torch.testing.assert_close(other, one[:, order])


def test_one_level_has_nothing_to_merge():
    level = maps(1, 2, 4, 4)
    assert gated_merge([level], [], []) is level
    with pytest.raises(ValueError, match="want 1 weights"):
        gated_merge([level, level], [], None)
    with pytest.raises(ValueError, match="0 levels"):
        gated_merge([], [], None)


def test_the_mean_aggregator():
    assert mean_of_levels([torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), -3.0)]).item() == -1.0


def test_logits_by_hand():
    """Agreeing in sign counts: positive (2*3 + 0 + 0 + 0)/4, negative (1*6 + 0.5*2)/4; the pixel that disagrees is 0."""
    pooled = torch.tensor([[[[2.0, 1.0, -1.0, -0.5]]]])
    f = torch.tensor([[[[3.0, -5.0, -6.0, -2.0]]]])
    assert signed_logits(pooled, f).item() == pytest.approx(1.5 - 1.75)
    assert signed_logits(pooled, f, "positive").item() == pytest.approx(1.5)
    assert signed_logits(pooled, f, "negative").item() == pytest.approx(-1.75)


@pytest.mark.parametrize("sides", ["both", "positive", "negative"])
def test_gradients_by_finite_differences(sides):
    f = maps(1, 1, 4, 3).requires_grad_()
    weights = (maps(2, 2, 2, 3, 3, seed=1) * 0.3).requires_grad_()

    def logits(f, weights):
        return signed_logits(gated_merge(pyramid(f, (1, 2)), weights[:1], weights[1:]), f, sides)

    assert torch.autograd.gradcheck(logits, (f, weights))


def test_inputs_stay_as_they_were():
    f, weights = maps(1, 2, 6, 6), maps(6, 2, 4, 3, 3, seed=1)
    before = f.clone(), weights.clone()
    signed_logits(gated_merge(pyramid(f), weights[:3], weights[3:]), f)
    torch.testing.assert_close(f, before[0], rtol=0, atol=0)
    torch.testing.assert_close(weights, before[1], rtol=0, atol=0)
