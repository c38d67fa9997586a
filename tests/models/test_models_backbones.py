"""Backbones: strides, frozen parts, weights; networks with random weights and small inputs."""

import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from weakseg.models import backbones
from weakseg.models.backbones import ACCEPTING, backbone_from_name, batch_norms, build_backbone
from weakseg.types import Backbone, WeaksegError

NETWORKS = ("resnet50", "mobilenetv2_100", "efficientnet_b0", "convnext_tiny", "resnet18", "resnet10t")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_strides_and_channels(name, output_stride):
    model = build_backbone(Backbone(name, None, output_stride)).eval()
    with torch.inference_mode():
        maps = model(torch.zeros(1, 3, 64, 96))
    assert model.strides[-1] == output_stride
    assert len(maps) == len(model.channels) == len(model.strides)
    for map_, channels, stride in zip(maps, model.channels, model.strides, strict=True):
        assert tuple(map_.shape) == (1, channels, 64 // stride, 96 // stride)


def test_irn_resnet50_is_the_one_of_the_paper():
    """Parameters and shapes of methods.md 1.3: 23,548,992 with a classifier of 20 classes, stride 16, no dilation."""
    model = build_backbone(Backbone("irn_resnet50", None)).eval()
    assert sum(p.numel() for p in model.parameters()) == 23_548_992 - 20 * 2048
    with torch.inference_mode():
        shapes = [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 321, 321))]
    assert shapes == [(64, 81, 81), (256, 81, 81), (512, 41, 41), (1024, 21, 21), (2048, 21, 21)]
    assert all(m.dilation == (1, 1) for m in model.modules() if isinstance(m, nn.Conv2d))


def test_irn_resnet50_takes_torchvision_weights(tmp_path):
    torch.manual_seed(0)
    whole = torchvision.models.resnet50(weights=None).eval()
    path = write(tmp_path / "r50.pth", whole.state_dict(), "irn_resnet50")
    model = build_backbone(Backbone("irn_resnet50", str(path))).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        stem = whole.maxpool(whole.relu(whole.bn1(whole.conv1(images))))
        stage3 = whole.layer3(whole.layer2(whole.layer1(stem)))
        torch.testing.assert_close(model(images)[3], stage3, rtol=1e-4, atol=1e-4)
        # at stride 32 torchvision keeps every second position of what stride 1 computes only before its 3x3 convolution
        assert model(images)[4].shape[-1] == 2 * whole.layer4(stage3).shape[-1]


def test_the_normaliser_travels_without_the_model():
    model = build_backbone(Backbone("resnet10t", None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5)))
    normalise = pickle.loads(pickle.dumps(model.normalise))
    out = normalise(torch.full((3, 2, 2), 255, dtype=torch.uint8))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([2.0, 1.0, 1.0]))


def test_detaching_equals_freezing():
    """The gradient above a frozen stage is that of a network whose stage output is detached."""
    torch.manual_seed(0)
    model = build_backbone(Backbone("irn_resnet50", None)).eval().double()
    images, net = torch.randn(1, 3, 64, 64, dtype=torch.float64), model.net
    with torch.no_grad():
        stage2 = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images))))))
    expected = torch.autograd.grad(net.layer4(net.layer3(stage2)).sum(), list(net.layer3.parameters()))
    model.freeze_until(model.stage(stride=8))
    trainable = {n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"layer3", "layer4"}
    model(images)[-1].sum().backward()
    for gradient, parameter in zip(expected, net.layer3.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_100", "convnext_tiny"])
def test_freeze_until_fixes_what_the_stage_needs_and_no_more(name):
    model = build_backbone(Backbone(name, None))
    index = model.stage(stride=8)
    model.freeze_until(index)
    maps = model(torch.randn(2, 3, 64, 64))
    assert not maps[index].requires_grad
    assert maps[index + 1].requires_grad
    assert model.training


def test_frozen_statistics_stay_and_the_affine_part_by_choice(tmp_path):
    path = write(tmp_path / "w.pth", timm.create_model("resnet10t").state_dict(), "resnet10t")
    model = build_backbone(Backbone("resnet10t", str(path)), freeze_bn=True)
    before = {n: b.clone() for n, b in model.named_buffers()}
    model.train()(torch.randn(2, 3, 64, 64) + 3)[-1].sum().backward()
    assert model.training
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    assert all(m.weight.grad is not None for m in batch_norms(model))
    trained = build_backbone(Backbone("resnet10t", str(path)))
    before = {n: b.clone() for n, b in trained.named_buffers()}
    trained(torch.randn(2, 3, 64, 64) + 3)
    assert not all(torch.equal(b, before[n]) for n, b in trained.named_buffers())
    fixed = build_backbone(Backbone("resnet10t", str(path)), freeze_affine=True)
    assert not any(p.requires_grad for m in batch_norms(fixed) for p in m.parameters())
    assert any(p.requires_grad for p in fixed.parameters())


def test_frozen_batch_norm_wants_weights():
    with pytest.raises(WeaksegError, match="random weights"):
        build_backbone(Backbone("resnet10t", None), freeze_bn=True)
    build_backbone(Backbone("convnext_tiny", None), freeze_bn=True)  # has no BatchNorm


@pytest.mark.parametrize("name", ["vgg16", "vit_tiny_patch16_224", "densenet121"])
def test_networks_without_output_stride_name_three_with(name):
    with pytest.raises(WeaksegError, match="output_stride") as error:
        build_backbone(Backbone(name, None))
    assert all(other in str(error.value) for other in ACCEPTING)


def test_unknown_names_offer_near_ones():
    with pytest.raises(WeaksegError, match=r"did you mean.*resnet50"):
        build_backbone(Backbone("resnet_50", None))
    with pytest.raises(WeaksegError, match="16"):
        build_backbone(Backbone("irn_resnet50", None, output_stride=8))


@pytest.mark.parametrize("name", ["resnet18", "irn_resnet50"])
def test_a_failed_download_names_the_way_out(name, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", offline)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(WeaksegError, match=r"no route to host.*--weights FILE"):
        build_backbone(backbone_from_name(name))


def test_pretrained_statistics_are_checked():
    assert backbone_from_name("efficientnet_b0").mean == timm.get_pretrained_cfg("efficientnet_b0").mean
    with pytest.raises(WeaksegError, match="backbone_from_name"):
        build_backbone(Backbone("resnet18", mean=(0.5, 0.5, 0.5)))


def test_own_networks_are_listed():
    assert "irn_resnet50" in backbones.OWN


def write(path: Path, state: dict, name: str, **about) -> Path:
    torch.save(state, path)
    described = {"name": name, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], **about}
    path.with_name(path.name + ".json").write_text(json.dumps(described))
    return path
