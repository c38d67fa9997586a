"""Caffe's ResNet101: names, counts and sizes of the published files; values against torchvision's, rebuilt."""

import re

import pytest
import torch
import torchvision
from torch import nn

from weakseg.models.backbones import build_backbone
from weakseg.models.resnet101 import CaffeResNet101
from weakseg.types import LATER, Backbone

SOME_SHAPES = {
    "layer1.conv1.conv.weight": (64, 3, 7, 7),
    "layer1.conv1.bn.bias": (64,),
    "layer2.block1.reduce.conv.weight": (64, 64, 1, 1),
    "layer2.block1.shortcut.bn.weight": (256,),
    "layer3.block4.conv3x3.conv.weight": (128, 128, 3, 3),
    "layer4.block23.increase.conv.weight": (1024, 256, 1, 1),
    "layer5.block1.shortcut.conv.weight": (2048, 1024, 1, 1),
    "layer5.block3.increase.bn.weight": (2048,),
}


@pytest.fixture(scope="module")
def meta():
    with torch.device("meta"):
        return build_backbone(Backbone("resnet101_caffe", None, 8))


def test_counts_and_names(meta):
    """deeplabv1_resnet101 has 42,543,189 parameters with its 21 x 2048 classifier and bias, 314 tensors with those."""
    assert sum(p.numel() for p in meta.parameters()) == 42_543_189 - 21 * 2049
    assert len(list(meta.parameters())) == 314 - 2
    assert len(list(meta.buffers())) == 312
    shapes = {n: tuple(p.shape) for n, p in meta.net.named_parameters()}
    assert {n: shapes[n] for n in SOME_SHAPES} == SOME_SHAPES


@pytest.mark.parametrize(("size", "side"), [(321, 41), (448, 57), (512, 65)])
def test_output_sizes(meta, size, side):
    maps = meta(torch.empty(1, 3, size, size, device="meta"))
    assert [m.shape[1] for m in maps] == list(meta.channels)
    assert tuple(maps[-1].shape) == (1, 2048, side, side)


def test_strides_and_dilations(meta):
    convs = {n: m for n, m in meta.net.named_modules() if isinstance(m, nn.Conv2d)}
    assert {n for n, m in convs.items() if m.stride != (1, 1)} == {
        "layer1.conv1.conv",
        "layer3.block1.reduce.conv",
        "layer3.block1.shortcut.conv",
    }
    dilations = {n: m.dilation[0] for n, m in convs.items() if m.dilation != (1, 1)}
    expected = {f"layer4.block{i}.conv3x3.conv": 2 for i in range(1, 24)}
    assert dilations == expected | {f"layer5.block{i}.conv3x3.conv": 4 for i in range(1, 4)}


@pytest.mark.slow
def test_values_are_those_of_torchvision_with_strides_moved():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet101(weights=None).eval()
    theirs.maxpool.ceil_mode = True
    theirs.layer2[0].conv1.stride, theirs.layer2[0].conv2.stride = (2, 2), (1, 1)
    for layer, dilation in ((theirs.layer3, 2), (theirs.layer4, 4)):
        layer[0].downsample[0].stride = (1, 1)
        for block in layer:
            block.conv2.stride, block.conv2.padding, block.conv2.dilation = (1, 1), (dilation,) * 2, (dilation,) * 2
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape) * 0.1)
    ours = CaffeResNet101().eval()
    ours.load_state_dict({_renamed(n): v for n, v in theirs.state_dict().items() if not n.startswith("fc.")})
    images = torch.randn(1, 3, 66, 50)
    with torch.inference_mode():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        expected = [x]
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            expected.append(layer(expected[-1]))
        for a, b in zip(ours(images), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_frozen_batch_norm_stays_in_inference_mode():
    with torch.device("meta"):
        model = build_backbone(Backbone("resnet101_caffe", LATER, 8), freeze_bn=True, freeze_affine=True)
    assert model.training
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 104
    assert not any(m.training or m.weight.requires_grad for m in norms)


def _renamed(name: str) -> str:
    """``layer2.0.conv3.weight`` -> ``layer3.block1.increase.conv.weight``."""
    parts = {"conv1": "reduce.conv", "conv2": "conv3x3.conv", "conv3": "increase.conv", "downsample.0": "shortcut.conv"}
    parts |= {"bn1": "reduce.bn", "bn2": "conv3x3.bn", "bn3": "increase.bn", "downsample.1": "shortcut.bn"}
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", name):
        layer, block, part, kind = found.groups()
        return f"layer{int(layer) + 1}.block{int(block) + 1}.{parts[part]}.{kind}"
    stem, _, kind = name.partition(".")
    return f"layer1.conv1.{'conv' if stem == 'conv1' else 'bn'}.{kind}"
