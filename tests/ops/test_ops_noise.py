"""The noise-aware loss and its rivals: by hand, by torch.distributions, by finite differences, and without pixels."""

import math

import pytest
import torch
from torch.distributions import Categorical

from weakseg.ops.losses import balanced_cross_entropy
from weakseg.ops.noise import (
    agreement,
    bootstrapped,
    bootstrapping_beta,
    confidence,
    entropy,
    mean_over,
    noise_aware_loss,
    pixel_cross_entropy,
    reliable_labels,
)


def labels(*values):
    return torch.tensor(values, dtype=torch.uint8)[None, None]


def logits(seed=0, dtype=torch.float64):
    return torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_agreement_leaves_padding_out():
    reliable, unreliable = agreement(labels(1, 1, 255, 0, 0), labels(1, 2, 255, 255, 0))
    assert reliable[0, 0].tolist() == [True, False, False, False, True]
    assert unreliable[0, 0].tolist() == [False, True, False, True, False]
    assert reliable_labels(labels(1, 1, 255, 0, 0), labels(1, 2, 255, 255, 0))[0, 0].tolist() == [1, 255, 255, 255, 0]


def test_confidence_by_hand():
    s = torch.tensor([0.5, -0.25, 0.2]).reshape(1, 3, 1, 1)  # D = 1.5, 0.75, 1.2
    for c, ratio in enumerate((1.0, 0.5, 0.8)):
        assert float(confidence(s, labels(c), 7)) == pytest.approx(ratio**7)
        assert float(confidence(s, labels(c), 1)) == pytest.approx(ratio)
    worst = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)
    assert float(confidence(worst, labels(0))) == 0
    assert float(confidence(torch.full((1, 2, 1, 1), -1.0), labels(0))) == 0  # no direction at all: no confidence
    assert float(confidence(s, labels(255))) == 1.0  # that of background, which nobody reads


def test_a_large_gamma_is_a_hard_constraint():
    s = torch.tensor([0.5, 0.4]).reshape(1, 2, 1, 1)
    assert float(confidence(s, labels(0), 500)) == 1
    assert float(confidence(s, labels(1), 500)) < 1e-14


def test_means_over_regions_by_hand():
    loss = torch.tensor([[1.0, 2.0, 4.0, float("nan")]])
    pixels = torch.tensor([[True, True, True, False]])
    assert float(mean_over(loss, pixels)) == pytest.approx(7 / 3)
    weight = torch.tensor([[1.0, 0.5, 0.0, float("inf")]])
    assert float(mean_over(loss, pixels, weight)) == pytest.approx((1 + 1) / 1.5)


def test_no_pixel_and_no_confidence_give_zero_with_a_gradient():
    x = logits().requires_grad_()
    y = torch.zeros(2, 3, 5, dtype=torch.uint8)
    loss = pixel_cross_entropy(x, y)
    for pixels, weight in (
        (torch.zeros(2, 3, 5, dtype=torch.bool), None),
        (torch.zeros(2, 3, 5, dtype=torch.bool), torch.rand(2, 3, 5)),
        (torch.ones(2, 3, 5, dtype=torch.bool), torch.zeros(2, 3, 5)),
    ):
        value = mean_over(loss, pixels, weight)
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert float(value.detach()) == 0
        assert float(gradient.abs().max()) == 0
        assert mean_over(loss, pixels, weight, guard=False).isnan()  # methods.md 7.7, row 15


def test_the_published_loss_divides_zero_by_zero_where_a_region_is_empty():
    x, everywhere = logits(), torch.zeros(2, 3, 5, dtype=torch.uint8)
    cosines = x.tanh()
    guarded = noise_aware_loss(x, cosines, everywhere, everywhere)
    published = noise_aware_loss(x, cosines, everywhere, everywhere, guard=False)
    assert float(guarded["wce"]) == 0
    assert published["wce"].isnan()
    torch.testing.assert_close(published["ce"], guarded["ce"], rtol=0, atol=0)
    nowhere = torch.full_like(everywhere, 255)
    for balanced in (False, True):
        losses = noise_aware_loss(x, cosines, nowhere, nowhere, unreliable="ignore", balanced=balanced, guard=False)
        assert losses["ce"].isnan()


def test_cross_entropy_and_entropy_are_those_of_a_distribution():
    x, y = logits(), torch.randint(0, 4, (2, 3, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    known = Categorical(logits=x.movedim(1, -1))
    torch.testing.assert_close(pixel_cross_entropy(x, y).double(), -known.log_prob(y.long()), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy(x), known.entropy())
    y[0, 0, 0] = 255
    assert float(pixel_cross_entropy(x, y)[0, 0, 0]) == 0
    assert float(entropy(torch.tensor([1000.0, 0.0]).reshape(1, 2, 1, 1))) == 0  # certain, and no nan


def test_bootstrapping_lies_between_the_label_and_the_network():
    x, y = logits(), torch.ones(2, 3, 5, dtype=torch.uint8)
    torch.testing.assert_close(bootstrapped(x, y, 1.0), pixel_cross_entropy(x, y).double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(bootstrapped(x, y, 0.0), entropy(x))
    torch.testing.assert_close(bootstrapped(x, y, 0.3), 0.3 * bootstrapped(x, y, 1.0) + 0.7 * entropy(x))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(bootstrapped(x, y, 0.0).sum(), x)
    assert (
        float(gradient.abs().max()) < 1e-12
    )  # the target is a constant, and cross-entropy with oneself is at its foot


def test_beta_is_polynomial():
    assert [bootstrapping_beta(t, 100) for t in (0, 50, 100)] == pytest.approx([1.0, 0.5**0.9, 0.0])


@pytest.mark.parametrize("kind", ["ce", "wce", "entropy"])
def test_gradients_agree_with_finite_differences(kind):
    g = torch.Generator().manual_seed(3)
    x = (torch.rand(1, 3, 2, 2, generator=g, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    y = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)
    pixels = y != 255

    def value(s):
        loss = -(20 * s).log_softmax(1).gather(1, torch.where(pixels, y, 0).long()[:, None])[:, 0]
        if kind == "ce":
            return mean_over(loss, pixels)
        if kind == "entropy":
            return mean_over(entropy(20 * s), pixels)
        return mean_over(loss, pixels, confidence(s, y))

    assert torch.autograd.gradcheck(value, (x,))
    if kind == "wce":  # sigma is not a constant
        constant = torch.autograd.grad(mean_over(pixel_cross_entropy(20 * x, y), pixels, confidence(x, y).detach()), x)[
            0
        ]
        assert not torch.allclose(torch.autograd.grad(value(x), x)[0], constant)


def test_the_loss_by_hand():
    """Two reliable pixels of cost ln 2, two unreliable ones with sigma 1 and 1/4."""
    s = torch.zeros(1, 2, 1, 4)
    s[0, 0, 0, 2:] = 1.0  # D = 2 and 1: the network is for class 0
    crf, ret = labels(0, 1, 0, 1), labels(0, 1, 1, 0)
    reliable, others = agreement(crf, ret)
    loss = pixel_cross_entropy(s, crf)
    assert float(mean_over(loss, reliable)) == pytest.approx(math.log(2))
    right, wrong = math.log(1 + math.exp(-1)), 1 + math.log(1 + math.exp(-1))
    sigma = confidence(s, crf, gamma=2)
    assert float(mean_over(loss, others, sigma)) == pytest.approx((right + wrong / 4) / 1.25)


def test_balanced_over_the_reliable_pixels_is_the_balanced_loss_of_their_labels():
    g = torch.Generator().manual_seed(5)
    logits, cosines = torch.randn(2, 4, 5, 6, generator=g), torch.rand(2, 4, 5, 6, generator=g)
    crf, ret = (torch.randint(0, 4, (2, 5, 6), generator=g).to(torch.uint8) for _ in range(2))
    crf[0, 0] = 255
    found = noise_aware_loss(logits, cosines, crf, ret, balanced=True)
    wanted = balanced_cross_entropy(logits, reliable_labels(crf, ret), half=False)
    torch.testing.assert_close(found["ce"], wanted)
    torch.testing.assert_close(found["wce"], noise_aware_loss(logits, cosines, crf, ret)["wce"])
