"""SEAM's network: the published one on ResNet38, its forward pass written out, where gradients go, and other CNNs."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from weakseg.models.backbones import build_backbone
from weakseg.models.seam import SeamNet, load_published, published_name
from weakseg.types import Backbone, WeaksegError

NETWORKS = Path(__file__).parents[2] / ".." / "shared" / "networks.json"


def network(name="resnet10t", classes=3, output_stride=16, **options):
    torch.manual_seed(0)
    return SeamNet(build_backbone(Backbone(name, weights=None, output_stride=output_stride)), classes, **options)


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return network("resnet38d", 20, output_stride=8)


@pytest.mark.realdata
@pytest.mark.skipif(not NETWORKS.is_file(), reason="needs the table of the published networks")
def test_the_published_parameters_buffers_and_sizes(published):
    table = json.loads(NETWORKS.read_text())["seam_resnet38"]
    assert {published_name(n): list(p.shape) for n, p in published.named_parameters()} == dict(table["params"])
    buffers = {published_name(n): list(b.shape) for n, b in published.named_buffers()}
    assert buffers == dict(map(tuple, table["buffers"]))
    for side, shapes in table["output_shapes"].items():
        out = published(torch.empty(1, 3, int(side), int(side), device="meta"))
        assert [list(out.cam.shape), list(out.revised.shape)] == [shapes["cam"], shapes["cam_rv"]]


def test_counts(published):
    assert sum(p.numel() for p in published.parameters()) == 105_358_208
    assert published.embed.weight.shape == (192, 3 + 64 + 128, 1, 1)
    assert published.classifier.weight.shape == (21, 4096, 1, 1)


def test_the_forward_pass_written_out():
    model, images = network().eval(), torch.randn(2, 3, 72, 100)
    with torch.inference_mode():
        *_, c4, c5, c6 = model.backbone(images)
        assert [tuple(m.shape[2:]) for m in (c4, c5, c6)] == [(9, 13), (5, 7), (5, 7)]

        def on(x, size):
            return interpolate(x, size, mode="bilinear", align_corners=True)

        cam = conv2d(c6, model.classifier.weight)
        spread = cam.relu()
        spread = spread / (spread.flatten(2).max(dim=2).values[..., None, None] + 1e-5)
        highest = spread[:, 1:].max(dim=1, keepdim=True).values
        spread = torch.cat([1 - highest, spread[:, 1:] * (spread[:, 1:] >= highest)], dim=1)
        parts = [on(images, (5, 7)), on(conv2d(c4, model.branches[0].weight).relu(), (5, 7))]
        parts.append(conv2d(c5, model.branches[1].weight).relu())
        f = conv2d(torch.cat(parts, dim=1), model.embed.weight).flatten(2)
        f = f / (f.norm(dim=1, keepdim=True) + 1e-5)
        similar = torch.einsum("bdi,bdj->bij", f, f).relu()
        similar = similar / (similar.sum(dim=1, keepdim=True) + 1e-5)
        revised = torch.einsum("bci,bij->bcj", spread.flatten(2), similar).reshape(2, 4, 5, 7)
        out = model(images)
        torch.testing.assert_close(out.cam, on(cam, (72, 100)))
        torch.testing.assert_close(out.revised, on(revised, (72, 100)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.logits, on(cam, (72, 100))[:, 1:].mean(dim=(2, 3)))
        some = model.revise(images, torch.tensor([2, 0]))
    torch.testing.assert_close(some, out.revised[:, [3, 1]], rtol=1e-4, atol=1e-5)


def test_the_correlation_teaches_nothing_to_the_backbone_or_the_classifier():
    model = network().train()
    model(torch.randn(2, 3, 64, 64)).revised[:, 1:].square().sum().backward()
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"branches", "embed"}


def test_class_maps_teach_the_backbone():
    model = network().train()
    model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"backbone", "classifier"}
    assert model.classifier.weight.grad is not None
    assert not model.classifier.weight.grad[0].any()  # background has no logit


def test_gated_pyramid_pooling_reads_the_foreground_maps_of_the_grid():
    model, images = network(pooling="gpp").eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        maps = model.classifier(model.backbone(images)[-1])
        torch.testing.assert_close(model(images).logits, model.pooling(maps[:, 1:]).logits)
    new = set(map(id, model.new_parameters()))
    assert all((id(p) in new) == (not n.startswith("backbone")) for n, p in model.named_parameters())
    assert any(n.startswith("pooling.") for n, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["mobilenetv2_100", "convnext_atto"])
def test_any_cnn(name):
    model = network(name).eval()
    with torch.inference_mode():
        out = model(torch.randn(1, 3, 75, 50))
    assert out.cam.shape == out.revised.shape == (1, 4, 75, 50)


def test_what_does_not_fit_is_refused():
    with pytest.raises(WeaksegError, match="three feature maps"):
        network(widths=(8, 8, 8))
    with pytest.raises(WeaksegError, match="pooling"):
        network(pooling="max")
    with pytest.raises(WeaksegError, match="nothing like"):
        published_name("pooling.positive.0.weight")


def test_a_published_file_loads():
    model = network()
    state = {published_name(n): torch.full_like(v, 1) for n, v in model.state_dict().items()}
    load_published(model, state)
    assert all(v.eq(1).all() for v in model.state_dict().values())
    with pytest.raises(WeaksegError, match=r"1 \(embed.weight\) missing"):
        load_published(model, {n: v for n, v in state.items() if n != "f9.weight"})
