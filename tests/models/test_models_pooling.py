"""Poolings by name: what each is made of, and the published layer written out."""

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, relu

from weakseg.models.pooling import GatedPyramid, Pooling, build_pooling
from weakseg.ops.pooling import bin_means
from weakseg.types import WeaksegError


def maps(seed=0):
    return torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(seed))


def made(name, **options):
    torch.manual_seed(0)
    return build_pooling(name, 3, **options)


def test_six_convolutions_without_bias():
    """Sec. 9.2: 2C to 2 channels, one for each side of each of three merges, as PyTorch begins them."""
    layer = made("gpp")
    convolutions = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(c.weight.shape) for c in convolutions] == [(2, 6, 3, 3)] * 6
    assert all(c.bias is None and c.padding == (1, 1) for c in convolutions)
    torch.manual_seed(0)
    torch.testing.assert_close(convolutions[0].weight, nn.Conv2d(6, 2, 3, padding=1, bias=False).weight)


def test_the_layer_written_out():
    """Coarse to fine with modules instead of functions, as sec. 9.2 reads."""
    layer, f = made("gpp"), maps()
    levels = [interpolate(adaptive_avg_pool2d(f, r), (20, 20), mode="bilinear") for r in (2, 4, 8, 16)]
    merged = levels[0]
    for level, plus, minus in zip(levels[1:], layer.positive, layer.negative, strict=True):
        a = torch.sigmoid(plus(torch.cat([relu(merged), relu(level)], 1)))
        b = torch.sigmoid(minus(torch.cat([relu(-merged), relu(-level)], 1)))
        up = a[:, [0]] * relu(merged) + a[:, [1]] * relu(level)
        down = b[:, [0]] * relu(-merged) + b[:, [1]] * relu(-level)
        merged = up / 2 - down / 2
    logits = (relu(merged) * relu(f)).mean((2, 3)) - (relu(-merged) * relu(-f)).mean((2, 3))
    pooled = layer(f)
    torch.testing.assert_close(pooled.pyramid, merged)
    torch.testing.assert_close(pooled.logits, logits)


@pytest.mark.parametrize("name", get_args(Pooling))
def test_every_name_pools_and_learns(name):
    layer, f = made(name), maps().requires_grad_()
    pooled = layer(f)
    assert pooled.logits.shape == (2, 3)
    assert pooled.pyramid.shape == f.shape
    pooled.logits.sum().backward()
    assert f.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_ablations():
    f = maps()
    assert made("gap")(f).pyramid is f
    torch.testing.assert_close(made("gap")(f).logits, f.mean((2, 3)))
    for r in (2, 4, 8, 16):
        layer = made(f"gpp_{r}")
        assert not list(layer.parameters())
        torch.testing.assert_close(layer(f).pyramid, bin_means(f, r))
    levels = [bin_means(f, r) for r in (2, 4, 8, 16)]
    torch.testing.assert_close(made("gpp_mean")(f).pyramid, sum(levels) / 4)
    assert not list(made("gpp_mean").parameters())
    forward, inverse = made("gpp"), made("gpp_fine_to_coarse")
    assert forward.state_dict().keys() == inverse.state_dict().keys()
    torch.testing.assert_close(inverse(f).pyramid, forward.aggregate(levels[::-1]))
    positive, negative = made("gpp_positive")(f).logits, made("gpp_negative")(f).logits
    assert (positive >= 0).all()
    assert (negative <= 0).all()
    torch.testing.assert_close(made("gpp")(f).logits, positive + negative)
    assert len(list(made("gpp_no_negative_gate").parameters())) == 3


def test_bins_are_a_constant():
    layer = made("gpp", bins=(1, 3))
    assert len(list(layer.parameters())) == 2
    torch.testing.assert_close(made("gpp", bins=(8,))(maps()).logits, made("gpp_8")(maps()).logits)
    for bins in ((), (0, 2), (4, 2), (2, 2)):
        with pytest.raises(WeaksegError, match="bins of a pyramid rise"):
            made("gpp", bins=bins)
    with pytest.raises(WeaksegError, match="there is no pooling 'max'; there are gap, gpp"):
        build_pooling("max", 3)


def test_an_average_costs_no_random_number():
    torch.manual_seed(3)
    build_pooling("gap", 3)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == after
    assert isinstance(build_pooling("gpp", 3), GatedPyramid)


def test_half_precision_ends_before_the_pyramid():
    layer, f = made("gpp"), maps()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = layer(f.to(torch.bfloat16))
    assert pooled.logits.dtype == pooled.pyramid.dtype == torch.float32
    torch.testing.assert_close(pooled.logits, layer(f.to(torch.bfloat16).float()).logits, rtol=0, atol=0)
