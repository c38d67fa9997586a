"""VGG16 of PSA, BANA and LargeFOV: names, counts, sizes, pools and dilations."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from weakseg.models.backbones import backbone_from_name, build_backbone
from weakseg.models.vgg16 import Vgg16, configure
from weakseg.types import Backbone, WeaksegError

BACKBONE = Backbone("vgg16d", None, output_stride=8)


@pytest.fixture(scope="module")
def meta():
    with torch.device("meta"):
        return build_backbone(BACKBONE)


def test_counts_and_names(meta):
    """psa_vgg16_cls has 20,504,384 parameters with its 20 x 1024 classifier, bana_labeler 20,505,408 with 21 x 1024."""
    assert sum(p.numel() for p in meta.parameters()) == 20_504_384 - 20 * 1024 == 20_505_408 - 21 * 1024
    shapes = {n: tuple(p.shape) for n, p in meta.net.named_parameters()}
    groups = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"]
    names = [*(f"conv{g}" for g in groups), "fc6", "fc7"]
    assert list(shapes) == [f"{n}.{kind}" for n in names for kind in ("weight", "bias")]
    assert shapes["conv1_1.weight"] == (64, 3, 3, 3)
    assert shapes["conv5_3.weight"] == (512, 512, 3, 3)
    assert shapes["fc6.weight"] == (1024, 512, 3, 3)
    assert shapes["fc7.weight"] == (1024, 1024, 1, 1)


@pytest.mark.parametrize(("size", "side"), [(321, 41), (448, 56), (512, 64)])
@pytest.mark.parametrize("options", [{}, {"pool5": True}, {"dilation": 12}, {"dilation": 4, "pool5": True}])
def test_output_sizes(size, side, options):
    with torch.device("meta"):
        model = build_backbone(Backbone("vgg16d", None, 8, create=options))
        maps = model(torch.empty(1, 3, size, size))
    for name, channels in (("conv4", 512), ("conv5", 512), ("conv5fc", 1024)):
        assert tuple(maps[Vgg16.taps[name]].shape) == (1, channels, side, side)
    assert [m.shape[1] for m in maps] == list(model.channels)


@pytest.mark.parametrize("pool5", [False, True])
def test_written_out(pool5):
    torch.manual_seed(0)
    net = Vgg16(dilation=4, pool5=pool5).eval()
    x = images = torch.randn(1, 3, 45, 37)
    with torch.inference_mode():
        maps = net(images)
        for stride, *names in (
            (2, net.conv1_1, net.conv1_2),
            (2, net.conv2_1, net.conv2_2),
            (2, net.conv3_1, net.conv3_2, net.conv3_3),
            (1, net.conv4_1, net.conv4_2, net.conv4_3),
        ):
            for conv in names:
                x = relu(conv(x))
            x = max_pool2d(x, 3, stride, 1)
        torch.testing.assert_close(maps[2], x)
        for conv in (net.conv5_1, net.conv5_2, net.conv5_3):
            x = relu(nn.functional.conv2d(x, conv.weight, conv.bias, padding=2, dilation=2))
        torch.testing.assert_close(maps[3], x)
        if pool5:
            x = avg_pool2d(max_pool2d(x, 3, 1, 1), 3, 1, 1)
        x = relu(nn.functional.conv2d(x, net.fc6.weight, net.fc6.bias, padding=4, dilation=4))
        torch.testing.assert_close(maps[4], relu(net.fc7(x)))


def test_channels_are_dropped_in_training_alone():
    torch.manual_seed(0)
    net = Vgg16(drop_last=True)
    with torch.no_grad():
        net.fc7.bias.fill_(1.0)  # so that only dropout makes a channel zero
        net.fc7.weight.zero_()
        last = net(torch.zeros(1, 3, 16, 16))[-1][0]
        zero = (last == 0).all(dim=2).all(dim=1)
        assert 0.4 < float(zero.float().mean()) < 0.6
        torch.testing.assert_close(last[~zero], torch.full_like(last[~zero], 2.0))
        assert float(net.eval()(torch.zeros(1, 3, 16, 16))[-1].min()) == 1.0


def test_psa_drops_after_fc6_alone():
    """Its classifier drops after fc7 by itself, which would otherwise happen twice, and its AffinityNet not at all."""
    torch.manual_seed(0)
    net = Vgg16()
    with torch.no_grad():
        net.fc6.bias.fill_(1.0)
        net.fc6.weight.zero_()
        net.fc7.weight.copy_(torch.eye(1024)[:, :, None, None])
        net.fc7.bias.fill_(1.0)
        last = net(torch.zeros(1, 3, 16, 16))[-1][0]
    kept = (last == 3).all(dim=2).all(dim=1)  # 1 over the half that is kept, and fc7's bias
    torch.testing.assert_close(last[~kept], torch.ones_like(last[~kept]))
    assert 0.4 < float(kept.float().mean()) < 0.6


def test_configure():
    model = nn.Sequential(Vgg16())
    assert configure(model, dilation=12, pool5=True, drop_last=True)
    assert (model[0].fc6.dilation, model[0].fc6.padding, model[0].pool5) == ((12, 12), (12, 12), True)
    assert model[0].drop_last
    assert configure(model)
    assert model[0].pool5
    assert not configure(nn.Linear(2, 2), dilation=1)
    with pytest.raises(WeaksegError, match="1 or more"):
        configure(model, dilation=0)


def test_psa_freezes_conv1_and_conv2():
    with torch.device("meta"):
        model = build_backbone(BACKBONE)
        model.freeze_until(0)
    fixed = {n.split(".")[1] for n, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}


def test_input_is_bgr_minus_the_mean():
    described = backbone_from_name("vgg16d", 8)
    with torch.device("meta"):
        model = build_backbone(Backbone("vgg16d", None, 8, described.mean, described.std))
    pixel = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(3, 1, 1)
    expected = torch.tensor([30 - 104.008, 20 - 116.669, 10 - 122.675])
    torch.testing.assert_close(model.normalise(pixel).flatten(), expected, rtol=0, atol=1e-4)


def test_trunk_without_fc():
    with torch.device("meta"):
        model = build_backbone(Backbone("vgg16d", None, 8, create={"fc": False}))
        maps = model(torch.empty(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == list(model.channels) == [128, 256, 512, 512]
    assert not any("fc" in n for n, _ in model.named_parameters())
