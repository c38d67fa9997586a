"""A folded BatchNorm against the BatchNorm itself, in outputs and in gradients."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn

from weakseg.models.backbones import build_backbone
from weakseg.models.folding import fold_norms, folded_weight
from weakseg.types import Backbone


def _measured(net: nn.Module) -> nn.Module:
    """The same network with statistics, scales and shifts that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
                (module.weight, 0.5),
                (module.bias, -0.5),
            ):
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator))
    return net


def _nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "plain": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)),
        "same": nn.Sequential(
            Conv2dSame(3, 4, 3, stride=2), BatchNormAct2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        ),
        "mobilenetv2": timm.create_model("mobilenetv2_050", features_only=True, output_stride=16),
        "resnet": timm.create_model("resnet10t", features_only=True, output_stride=16),
        "efficientnet": timm.create_model("efficientnet_b0", features_only=True),
        "preact": timm.create_model("resnetv2_50", features_only=True),
    }


@pytest.mark.parametrize(
    ("name", "least"), [("plain", 2), ("same", 1), ("mobilenetv2", 50), ("resnet", 14), ("efficientnet", 47)]
)
def test_folded_network_equals_the_plain_one(name: str, least: int) -> None:
    plain = _measured(_nets()[name])
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) >= least
    images = torch.rand(2, 3, 48, 40)
    results = []
    for net in (plain, folded):
        net.train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        outputs = net(images)
        last = outputs if isinstance(outputs, torch.Tensor) else outputs[-1]
        last.square().mean().backward()
        results.append((last.detach(), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}))
    (expected, slopes), (got, folded_slopes) = results
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert slopes.keys() == folded_slopes.keys()
    for key, slope in slopes.items():
        torch.testing.assert_close(folded_slopes[key], slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()) + 1e-9)


def test_training_statistics_are_still_learnt() -> None:
    plain = _nets()["plain"]
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    images = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(folded.train()(images), plain.train()(images))
    assert not torch.equal(folded[1].running_mean, torch.zeros(4))
    torch.testing.assert_close(folded[1].running_mean, plain[1].running_mean)


def test_names_survive_and_copies_are_independent() -> None:
    net = _nets()["plain"]
    names = list(net.state_dict())
    fold_norms(net)
    assert list(net.state_dict()) == names
    copied = copy.deepcopy(net).eval()
    images = torch.rand(1, 3, 8, 8)
    before = copied(images)
    with torch.no_grad():
        net[0].weight.zero_()
        net[1].running_var.fill_(9)
    torch.testing.assert_close(copied(images), before)


class _Shared(nn.Module):
    """The convolution's output goes to the BatchNorm, and somewhere else."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.conv, self.norm, self.where = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), where

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = self.conv(x)
        if self.where == "sum":
            return [self.norm(y) + y]
        if self.where == "twice":
            return [self.norm(y) + self.norm(self.conv(y))]
        return [y, self.norm(y)]


@pytest.mark.parametrize("where", ["sum", "twice", "output"])
def test_a_convolution_that_others_read_is_left_alone(where: str) -> None:
    net = _Shared(where)
    assert fold_norms(net) == 0
    assert type(net.conv) is nn.Conv2d


def test_preactivation_network_is_unchanged_in_value() -> None:
    plain = _measured(_nets()["preact"]).eval()
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) > 0
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for expected, got in zip(plain(images), folded(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_folded_weight_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    for tensor, value in (
        (conv.weight, 2.0),
        (conv.bias, 1.0),
        (norm.running_mean, 3.0),
        (norm.running_var, 4.0),
        (norm.weight, 6.0),
        (norm.bias, 5.0),
    ):
        tensor.data.fill_(value)
    weight, bias = folded_weight(conv, norm)  # (2x + 1 - 3) / 2 * 6 + 5 = 6x - 1
    assert weight.item() == 6
    assert bias.item() == -1


def test_built_backbone_is_folded() -> None:
    model = build_backbone(Backbone("mobilenetv2_050", weights=None))
    assert sum(type(m).__name__ in ("_Conv", "_SameConv") for m in model.modules()) > 50 - 1
