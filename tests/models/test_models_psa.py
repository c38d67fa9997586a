"""AffinityNet: the published ones on ResNet38 and VGG16, parameter by parameter, and the same branches on any CNN."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import conv2d, elu, group_norm, interpolate

from weakseg.models.backbones import build_backbone
from weakseg.models.psa import AffinityNet, load_published, published_name
from weakseg.types import Backbone, WeaksegError

NETWORKS = Path(__file__).parents[2] / ".." / "shared" / "networks.json"
PUBLISHED = {"resnet38d": ("psa_resnet38_aff", 106_484_032), "vgg16d": ("psa_vgg16_aff", 21_045_952)}


def network(name="resnet10t", output_stride=16, **options):
    torch.manual_seed(0)
    return AffinityNet(build_backbone(Backbone(name, weights=None, output_stride=output_stride)), **options)


@pytest.mark.realdata
@pytest.mark.skipif(not NETWORKS.is_file(), reason="needs the table of the published networks")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_parameters_and_buffers(name):
    key, count = PUBLISHED[name]
    table = json.loads(NETWORKS.read_text())[key]
    with torch.device("meta"):
        model = network(name, output_stride=8)
    assert {published_name(n): list(p.shape) for n, p in model.named_parameters()} == dict(table["params"])
    assert {published_name(n): list(b.shape) for n, b in model.named_buffers()} == dict(map(tuple, table["buffers"]))
    assert sum(p.numel() for p in model.parameters()) == table["n_params"] == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_groups_and_names(name):
    with torch.device("meta"):
        model = network(name, output_stride=8)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name][1]
    groups = [branch[1].num_groups for branch in model.branches if len(branch) > 1]
    assert groups == ([8, 16, 32] if name == "vgg16d" else [])
    names = {published_name(n) for n, _ in model.named_parameters() if not n.startswith("backbone")}
    norms = {f"gn8_{k}.{what}" for k in (3, 4, 5) for what in ("weight", "bias")} if name == "vgg16d" else set()
    assert names == {"f8_3.weight", "f8_4.weight", "f8_5.weight", "f9.weight"} | norms
    assert model(torch.empty(1, 3, 448, 448, device="meta")).shape == (1, 448, 56, 56)


@pytest.mark.parametrize("norm", [False, True])
def test_the_forward_pass_written_out(norm):
    model, images = network(output_stride=8, group_norm=norm).eval(), torch.randn(2, 3, 40, 56)
    with torch.inference_mode():
        parts = []
        for branch, features in zip(model.branches, model.backbone(images)[-3:], strict=True):
            made = conv2d(features, branch[0].weight)
            if norm:
                made = group_norm(made, made.shape[1] // 8, branch[1].weight, branch[1].bias)
            parts.append(elu(made))
        expected = elu(conv2d(torch.cat(parts, dim=1), model.fuse.weight))
        torch.testing.assert_close(model(images), expected)


def test_how_it_begins():
    """Kaiming for the branches; Xavier with gain 4 where they join."""
    model = network(group_norm=False)
    for branch, inputs in zip(model.branches, model.backbone.channels[-3:], strict=True):
        assert float(branch[0].weight.detach().std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
    bound = 4 * (6 / (448 + 448)) ** 0.5
    assert float(model.fuse.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(model.fuse.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_100", "convnext_atto"])
@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
def test_any_cnn_has_a_cell_for_every_eight_pixels(name, size):
    model = network(name, widths=(8, 16, 24)).eval()
    with torch.inference_mode():
        made = model(torch.randn(1, 3, *size))
    assert made.shape == (1, 48, -(-size[0] // 8), -(-size[1] // 8))


def test_coarser_maps_are_enlarged():
    model, images = network(group_norm=False).eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        maps = model.backbone(images)[-3:]
        assert [m.shape[2] for m in maps] == [8, 4, 4]
        parts = [elu(branch(m)) for branch, m in zip(model.branches, maps, strict=True)]
        parts[1:] = [interpolate(p, scale_factor=2, mode="bilinear", align_corners=False) for p in parts[1:]]
        torch.testing.assert_close(model(images), elu(model.fuse(torch.cat(parts, dim=1))))


def test_only_the_branches_are_new():
    model = network()
    new = set(map(id, model.new_parameters()))
    assert all((id(p) in new) == (not n.startswith("backbone")) for n, p in model.named_parameters())


def test_what_does_not_fit_is_refused():
    with pytest.raises(WeaksegError, match="multiples of 8"):
        network(widths=(8, 12, 16))
    with pytest.raises(WeaksegError, match="3 feature maps"):
        network(widths=(8, 16))


def test_a_published_file_loads():
    model = network()
    state = {published_name(n): torch.full_like(v, 1) for n, v in model.state_dict().items()}
    load_published(model, state)
    assert all(v.eq(1).all() for v in model.state_dict().values())
    with pytest.raises(WeaksegError, match=r"1 \(fuse.weight\) missing"):
        load_published(model, {n: v for n, v in state.items() if n != "f9.weight"})
    with pytest.raises(WeaksegError, match=r"1 \(fc8.weight\) unexpected"):
        load_published(model, {**state, "fc8.weight": torch.zeros(1)})
