"""ResNet38: names, counts and sizes of the published checkpoints, blocks against functions written out."""

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, relu

from weakseg.models.backbones import batch_norms, build_backbone
from weakseg.models.resnet38d import Bottleneck, PlainBlock, ResNet38d, set_dropouts
from weakseg.models.weights import load_state
from weakseg.types import LATER, Backbone, WeaksegError

BACKBONE = Backbone("resnet38d", None, output_stride=8)
SOME_SHAPES = {
    "conv1a.weight": (64, 3, 3, 3),
    "b2.conv_branch1.weight": (128, 64, 1, 1),
    "b2_2.bn_branch2b1.weight": (128,),
    "b4_5.conv_branch2b1.weight": (512, 512, 3, 3),
    "b5.conv_branch2b1.weight": (1024, 512, 3, 3),
    "b5_1.conv_branch2a.weight": (512, 1024, 3, 3),
    "b6.conv_branch2a.weight": (512, 1024, 1, 1),
    "b6.conv_branch2b1.weight": (1024, 512, 3, 3),
    "b7.bn_branch2b2.weight": (2048,),
    "b7.conv_branch2b2.weight": (4096, 2048, 1, 1),
    "b7.conv_branch1.weight": (4096, 2048, 1, 1),
    "bn7.bias": (4096,),
}


@pytest.fixture(scope="module")
def meta():
    with torch.device("meta"):
        return build_backbone(BACKBONE)


def test_counts_and_names(meta):
    assert sum(p.numel() for p in meta.parameters()) == 105_070_912
    assert len(list(meta.parameters())) == 117
    assert len(list(meta.buffers())) == 111
    shapes = {n: tuple(p.shape) for n, p in meta.net.named_parameters()}
    assert {n: shapes[n] for n in SOME_SHAPES} == SOME_SHAPES
    assert not [n for n in shapes if n.endswith("bias") and ".bn_" not in n and not n.startswith("bn7")]


@pytest.mark.parametrize(("size", "side"), [(321, 41), (448, 56), (512, 64)])
def test_output_sizes(meta, size, side):
    maps = meta(torch.empty(1, 3, size, size, device="meta"))
    assert [m.shape[1] for m in maps] == list(meta.channels) == [128, 256, 512, 1024, 4096]
    for name, channels in (("conv4", 512), ("conv5", 1024), ("conv6", 4096)):
        assert tuple(maps[ResNet38d.taps[name]].shape) == (1, channels, side, side)


def test_dilations_and_strides(meta):
    convs = {n: m for n, m in meta.net.named_modules() if isinstance(m, nn.Conv2d)}
    dilated = {n: m.dilation[0] for n, m in convs.items() if m.dilation != (1, 1)}
    assert dilated == {
        "b5.conv_branch2b1": 2,
        "b5_1.conv_branch2a": 2,
        "b5_1.conv_branch2b1": 2,
        "b5_2.conv_branch2a": 2,
        "b5_2.conv_branch2b1": 2,
        "b6.conv_branch2b1": 4,
        "b7.conv_branch2b1": 4,
    }
    strided = {n for n, m in convs.items() if m.stride != (1, 1)}
    assert strided == {f"b{i}.conv_branch{j}" for i in (2, 3, 4) for j in ("1", "2a")}


def test_plain_block_written_out():
    torch.manual_seed(0)
    block = measured(PlainBlock(4, 6, 8, stride=2, dilations=(1, 2))).eval()
    x = torch.randn(2, 4, 11, 10)
    active = relu(norm(block.bn_branch2a, x))
    middle = relu(norm(block.bn_branch2b1, conv2d(active, block.conv_branch2a.weight, stride=2, padding=1)))
    expected = conv2d(middle, block.conv_branch2b1.weight, padding=2, dilation=2)
    expected = expected + conv2d(active, block.conv_branch1.weight, stride=2)
    torch.testing.assert_close(block(x), expected)
    same = measured(PlainBlock(4, 6, 4, dilations=(2, 2))).eval()
    assert same.conv_branch1 is None
    torch.testing.assert_close(same(x) - x, same.residual(relu(norm(same.bn_branch2a, x))))


def test_bottleneck_written_out_and_its_dropout():
    torch.manual_seed(0)
    block = measured(Bottleneck(4, 16, dilation=4)).eval()
    x = torch.randn(2, 4, 9, 10)
    active = relu(norm(block.bn_branch2a, x))
    quarter = relu(norm(block.bn_branch2b1, conv2d(active, block.conv_branch2a.weight)))
    half = relu(norm(block.bn_branch2b2, conv2d(quarter, block.conv_branch2b1.weight, padding=4, dilation=4)))
    expected = conv2d(half, block.conv_branch2b2.weight) + conv2d(active, block.conv_branch1.weight)
    torch.testing.assert_close(block(x), expected)
    calls = []
    block.dropout.register_forward_hook(lambda module, inputs, output: calls.append(tuple(output.shape)))
    block.dropout.p = 1 - 1e-9
    dropped = block.train()(x) - conv2d(relu(norm(block.bn_branch2a, x, training=True)), block.conv_branch1.weight)
    assert calls == [(2, 4, 9, 10), (2, 8, 9, 10)]
    assert float(dropped.detach().abs().max()) < 1e-5  # whole channels, all of them


def test_dropouts_are_settable():
    with torch.device("meta"):
        model = build_backbone(Backbone("resnet38d", None, 8, create={"dropouts": [0.2, 0.2]}))
        assert (model.net.b6.dropout.p, model.net.b7.dropout.p) == (0.2, 0.2)
        assert set_dropouts(model, (0.3, 0.5))
    assert (model.net.b6.dropout.p, model.net.b7.dropout.p) == (0.3, 0.5)
    assert not set_dropouts(nn.Linear(2, 2), (0.1, 0.1))
    with pytest.raises(WeaksegError, match="two probabilities"):
        set_dropouts(model, (0.3, 1.5))


def test_frozen_parts_of_the_papers():
    """CAM, PSA, SEAM, EPS and AEFT: conv1a, b2, b2_1, b2_2 and every BatchNorm, nothing else."""
    with torch.device("meta"):
        model = build_backbone(Backbone("resnet38d", LATER, 8), freeze_bn=True, freeze_affine=True)
        model.freeze_until(0)
    fixed = {n.removeprefix("net.") for n, p in model.named_parameters() if not p.requires_grad}
    norms = {n for n in fixed if "bn" in n.split(".")[-2]}
    assert len(norms) == 2 * len(batch_norms(model))
    assert {n.split(".")[0] for n in fixed - norms} == {"conv1a", "b2", "b2_1", "b2_2"}
    assert not any(m.training for m in batch_norms(model))


@pytest.mark.slow
def test_folded_network_on_a_small_photograph():
    """The pieces in their order, with frozen BatchNorm folded into the convolutions."""
    torch.manual_seed(0)
    plain = measured(ResNet38d()).eval()
    folded = build_backbone(Backbone("resnet38d", LATER, 8), freeze_bn=True)
    load_state(folded.net, plain.state_dict(), "memory")
    images = torch.randn(1, 3, 65, 49)
    with torch.inference_mode():
        expected = plain(images)
        x = plain.conv1a(images)
        for name in ("b2", "b2_1", "b2_2", "b3", "b3_1", "b3_2", "b4", *(f"b4_{i}" for i in range(1, 6))):
            x = plain.get_submodule(name)(x)
        torch.testing.assert_close(expected[2], relu(norm(plain.b5.bn_branch2a, x)))
        for name in ("b5", "b5_1", "b5_2"):
            x = plain.get_submodule(name)(x)
        torch.testing.assert_close(expected[3], relu(norm(plain.b6.bn_branch2a, x)))
        torch.testing.assert_close(expected[4], relu(norm(plain.bn7, plain.b7(plain.b6(x)))))
        for a, b in zip(folded.eval()(images), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_wrong_stride_options_and_download():
    with torch.device("meta"):
        with pytest.raises(WeaksegError, match="output stride 8"):
            build_backbone(Backbone("resnet38d", None, 16))
        with pytest.raises(WeaksegError, match="pad_type"):
            build_backbone(Backbone("resnet38d", None, 8, create={"pad_type": "same"}))
        with pytest.raises(WeaksegError, match=r"ilsvrc-cls_rna.*weakseg weights convert"):
            build_backbone(Backbone("resnet38d", output_stride=8))


def norm(module, x, training=False):
    mean, var = module.running_mean, module.running_var
    if training:
        return batch_norm(x, None, None, module.weight, module.bias, True, eps=module.eps)
    return batch_norm(x, mean, var, module.weight, module.bias, eps=module.eps)


def measured(net):
    """Statistics, scales and shifts that are not the identity."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.8), (module.bias, -0.2)):
                tensor.data.copy_(low + 0.4 * torch.rand(tensor.shape))
            module.weight.data.copy_(0.6 + 0.4 * torch.rand(module.weight.shape))
    return net
