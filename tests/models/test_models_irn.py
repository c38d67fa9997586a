"""IRN's network: the published one on ResNet50, and the same branches on any CNN."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from weakseg.models.backbones import build_backbone
from weakseg.models.irn import RelationNet, load_published, published_name
from weakseg.types import Backbone, WeaksegError

NETWORKS = Path(__file__).parents[2] / ".." / "shared" / "networks.json"


def network(name="resnet10t", **options):
    torch.manual_seed(0)
    return RelationNet(build_backbone(Backbone(name, weights=None)), **options)


@pytest.fixture(scope="module")
def published():
    return network("irn_resnet50")


@pytest.mark.realdata
@pytest.mark.skipif(not NETWORKS.is_file(), reason="needs the table of the published networks")
def test_the_published_parameters_and_buffers(published):
    table = json.loads(NETWORKS.read_text())["irn_edge_displacement"]
    ours = {published_name(n): list(p.shape) for n, p in published.named_parameters()}
    assert ours == dict(table["params"])
    assert {published_name(n): list(b.shape) for n, b in published.named_buffers()} == dict(
        map(tuple, table["buffers"])
    )
    assert sum(p.numel() for p in published.parameters()) == table["n_params"] == 24_902_561


@pytest.mark.parametrize(("side", "cells"), [(321, 81), (448, 112)])
def test_the_published_sizes(published, side, cells):
    with torch.inference_mode():
        out = published.eval()(torch.randn(1, 3, side, side))
    assert out.edge.shape == (1, cells, cells)
    assert out.displacement.shape == (1, 2, cells, cells)


def test_the_published_groups(published):
    """GroupNorm(4) at the edges; 8, 16, 16 ... in the displacement branch (methods.md 4)."""
    assert [block[1].num_groups for block in published.edges] == [4] * 5
    assert [block[1].num_groups for block in published.displacements] == [8, 16, 16, 16, 16]
    assert [block[0].out_channels for block in published.displacements] == [64, 128, 256, 256, 256]
    assert published.context[1].num_groups == published.displacement[0][1].num_groups == 16


def test_the_published_forward_pass_written_out(published):
    model, images = published.eval(), torch.randn(2, 3, 72, 100)
    with torch.inference_mode():
        s1, s2, s3, s4, s5 = model.backbone(images)
        height, width = s2.shape[2:]

        def up(x, factor):
            return interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False) if factor > 1 else x

        edges = [
            up(model.edges[i](s), f).relu()[..., :height, :width]
            for i, (s, f) in enumerate(zip((s1, s2, s3, s4, s5), (1, 1, 2, 4, 4), strict=True))
        ]
        d = [
            up(model.displacements[i](s), f).relu()
            for i, (s, f) in enumerate(zip((s1, s2, s3, s4, s5), (1, 1, 1, 2, 2), strict=True))
        ]
        rows, columns = d[2].shape[2:]
        deep = model.context(torch.cat([d[2], d[3][..., :rows, :columns], d[4][..., :rows, :columns]], dim=1))
        deep = up(deep, 2).relu()[..., :height, :width]
        moved = model.displacement[2](model.displacement[0](torch.cat([d[0], d[1], deep], dim=1)).relu())
        out = model(images)
    torch.testing.assert_close(out.edge, model.edge(torch.cat(edges, dim=1))[:, 0])
    torch.testing.assert_close(out.displacement, moved)


def test_a_published_file_loads(published):
    state = {published_name(n): torch.randn_like(v.float()).to(v.dtype) for n, v in published.state_dict().items()}
    target = network("irn_resnet50")
    load_published(target, {**state, "stage1.0.weight": torch.zeros(3)})
    assert all(torch.equal(v, state[published_name(n)]) for n, v in target.state_dict().items())
    with pytest.raises(WeaksegError, match=r"missing, such as fc_edge6\.bias"):
        load_published(target, {k: v for k, v in state.items() if k != "fc_edge6.bias"})
    with pytest.raises(WeaksegError, match="size mismatch"):
        load_published(target, {**state, "fc_edge6.bias": torch.zeros(2)})


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_100", "convnext_atto"])
@pytest.mark.parametrize("size", [(64, 96), (75, 49)])
def test_any_cnn_has_a_cell_for_every_four_pixels(name, size):
    model = network(name, width=64).eval()
    with torch.inference_mode():
        out = model(torch.randn(1, 3, *size))
    assert out.edge.shape == (1, -(-size[0] // 4), -(-size[1] // 4)) or name == "convnext_atto"  # which rounds down
    assert out.displacement.shape[2:] == out.edge.shape[1:]


def test_only_the_branches_learn():
    model = network().train()
    assert not any(m.training for m in model.backbone.modules())
    model(torch.randn(2, 3, 64, 64)).edge.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"edges", "edge", "displacements", "context", "displacement"}
    new = set(map(id, model.new_parameters()))
    assert {n.split(".")[0] for n, p in model.named_parameters() if id(p) in new} == trained - {"edges", "edge"}


def test_a_backbone_that_learns():
    model = network(learn_backbone=True).train()
    assert any(m.training for m in model.backbone.modules())
    out = model(torch.randn(2, 3, 64, 64))
    (out.edge.sum() + out.displacement.square().sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_mean_is_subtracted_in_inference_mode_alone():
    model, images = network(), torch.randn(1, 3, 64, 64)
    raw = model.train()(images).displacement
    model.mean_displacement.copy_(torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(model(images).displacement, raw)
    expected = raw - torch.tensor([1.0, -2.0])[None, :, None, None]
    torch.testing.assert_close(model.eval()(images).displacement, expected)


def test_a_backbone_without_a_fine_map_is_refused():
    backbone = build_backbone(Backbone("resnet10t", weights=None))
    backbone.strides = (8, 16, 16, 16, 16)
    with pytest.raises(WeaksegError, match="stride 4"):
        RelationNet(backbone)
