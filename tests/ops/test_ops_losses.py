"""Losses against torch's own, hand-worked numbers and finite differences."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import multilabel_soft_margin_loss

from weakseg.ops.losses import balanced_cross_entropy, cross_entropy, multilabel_soft_margin


def labels_with_ignore(seed: int = 0, classes: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (2, 5, 6), generator=g, dtype=torch.uint8)
    labels[:, 0] = 255
    return labels


def test_soft_margin_equals_torch():
    torch.manual_seed(0)
    logits, tags = torch.randn(6, 5) * 3, (torch.rand(6, 5) > 0.6).float()
    torch.testing.assert_close(multilabel_soft_margin(logits, tags), multilabel_soft_margin_loss(logits, tags))
    torch.testing.assert_close(multilabel_soft_margin(logits, tags.bool()), multilabel_soft_margin_loss(logits, tags))


def test_soft_margin_survives_large_logits():
    loss = multilabel_soft_margin(torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 1.0]]))
    assert float(loss) == 1e4


def test_cross_entropy_equals_torch():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6), labels_with_ignore()
    torch.testing.assert_close(
        cross_entropy(logits, labels), torch_cross_entropy(logits, labels.long(), ignore_index=255)
    )


def test_balanced_by_hand():
    # three background pixels with p = 1/2, one foreground pixel with p = 1/4, one ignored pixel that would cost a lot
    odds = math.log(3)
    logits = torch.tensor([[[[0.0, 0.0, 0.0, odds, 50.0]], [[0.0, 0.0, 0.0, 0.0, -50.0]]]])
    labels = torch.tensor([[[0, 0, 0, 1, 255]]], dtype=torch.uint8)
    expected = math.log(2) + math.log(4)
    assert float(balanced_cross_entropy(logits, labels, half=False)) == pytest.approx(expected)
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(expected / 2)


def test_balanced_ignores_the_area_of_background():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, :2, :2] = 2
    background = (logits[:, :, 2:], labels[:, 2:])
    twice = torch.cat([logits, background[0]], 2), torch.cat([labels, background[1]], 1)
    only_bg = labels.clone()
    only_bg[only_bg == 2] = 255
    bg, bg_twice = (cross_entropy(x, torch.where(y == 2, 255, y)) for x, y in ((logits, labels), twice))
    change = balanced_cross_entropy(*twice) - balanced_cross_entropy(logits, labels)
    torch.testing.assert_close(change, (bg_twice - bg) / 2)


@pytest.mark.parametrize("fill", [255, 0, 3])
def test_missing_terms_are_zero_and_finite(fill):
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    labels = torch.full((1, 3, 3), fill, dtype=torch.uint8)
    for loss in (cross_entropy(logits, labels), balanced_cross_entropy(logits, labels)):
        (grad,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()
        assert (float(loss.detach()) == 0) == (fill == 255)
        assert bool((grad == 0).all()) == (fill == 255)


def test_without_the_guard_an_empty_mean_is_nan_as_in_the_published_tools():
    logits, background = torch.randn(1, 3, 1, 2), torch.zeros(1, 1, 2, dtype=torch.uint8)
    assert balanced_cross_entropy(logits, background, guard=False).isnan()
    assert cross_entropy(logits, background + 255, guard=False).isnan()
    both = torch.tensor([[[0, 2]]], dtype=torch.uint8)
    for function in (cross_entropy, balanced_cross_entropy):
        assert torch.equal(function(logits, both, guard=False), function(logits, both))


def test_ignored_pixels_get_no_gradient():
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    labels = labels_with_ignore()
    for function in (cross_entropy, balanced_cross_entropy):
        (grad,) = torch.autograd.grad(function(logits, labels), logits)
        assert bool((grad[:, :, 0] == 0).all())
        assert bool((grad[:, :, 1:] != 0).any())


def test_half_precision_is_summed_in_float32():
    logits = torch.randn(1, 3, 64, 64, dtype=torch.bfloat16)
    assert cross_entropy(logits, torch.zeros(1, 64, 64, dtype=torch.uint8)).dtype == torch.float32


def test_gradients():
    labels = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)
    logits = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    for function in (cross_entropy, balanced_cross_entropy):
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, labels), logits)
    tags = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    x = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: multilabel_soft_margin(x, tags), x)
