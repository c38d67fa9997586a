"""DeepLab: heads, losses at both resolutions, prediction against a written-out reference."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision import tv_tensors

from weakseg.methods.deeplab import METHODS, Segment, multi_scale_logits
from weakseg.models.backbones import build_backbone
from weakseg.models.deeplab import DeepLab
from weakseg.ops.crf import dense_crf, recipe, unary_from_probabilities
from weakseg.types import Backbone, Batch, Flip, Normalise, PadCrop, Rescale, Sample, Segmenter, Step, WeaksegError

BACKBONE = Backbone("resnet10t", weights=None)
TINY = {n: replace(m, freeze_bn=False, freeze_affine=False, channels=32) for n, m in METHODS.items()}
STEP = Step(0, 0, 10)


def batch(count=2, classes=3, size=64) -> Batch:
    g = torch.Generator().manual_seed(0)
    seeds = torch.zeros(count, size, size, dtype=torch.uint8)
    for i in range(count):
        seeds[i, : size // 2, : size // 2] = i % classes + 1
    seeds[:, -8:] = 255
    images = torch.randn(count, 3, size, size, generator=g) * 0.1 + seeds[:, None] * (seeds != 255)[:, None]
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    return Batch(tuple(map(str, range(count))), images, torch.zeros(count, classes), valid, seeds={"seeds": seeds})


def sample(size=(50, 70)) -> Sample:
    g = torch.Generator().manual_seed(0)
    image = interpolate(torch.rand(1, 3, 5, 7, generator=g) * 255, size, mode="bilinear")[0].to(torch.uint8)
    return Sample("a", tv_tensors.Image(image), torch.tensor([True, False, False]))


def network(method: Segment) -> DeepLab:
    torch.manual_seed(0)
    return method.build(3, BACKBONE)


def test_the_published_constants():
    """methods.md 10, row V2 ResNet101."""
    v2 = METHODS["v2"]
    assert v2.augmentation.steps == (Rescale(choices=(0.5, 0.75, 1.0, 1.25, 1.5)), Normalise(), PadCrop(321), Flip(0.5))
    o = v2.optimisation
    assert (o.lr, o.new_factor, o.bias_factor, o.weight_decay, o.momentum) == (2.5e-4, 10.0, 2.0, 5e-4, 0.9)
    assert (o.iterations, o.batch_size, o.accumulate, o.interval, o.power) == (20_000, 10, 2, 10, 0.9)


@pytest.mark.parametrize("name", METHODS)
def test_roles_and_round_trip(name):
    assert isinstance(METHODS[name], Segmenter)
    fields = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(json.dumps(asdict(METHODS[name]))).items()
    }
    assert Segment(**fields) == METHODS[name]


@pytest.mark.parametrize(("name", "grid"), [("v1", 4), ("v2", 4), ("v3plus", 16)])
def test_shapes_and_new_parameters(name, grid):
    model = network(TINY[name])
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 4, grid, grid)
    new, backbone = set(map(id, model.new_parameters())), set(map(id, model.backbone.parameters()))
    assert not new & backbone
    assert new | backbone == set(map(id, model.parameters()))


def test_aspp_is_the_papers():
    """Four 3x3 convolutions with bias, rates 6 to 24, summed, N(0, 0.01): 21 x (2048 x 9 + 1) x 4 parameters on VOC."""
    torch.manual_seed(0)
    model = DeepLab(build_backbone(Backbone("irn_resnet50", None)), 20, "aspp")
    convolutions = list(model.head.branches)
    assert [c.dilation[0] for c in convolutions] == [6, 12, 18, 24]
    assert sum(p.numel() for p in model.new_parameters()) == 21 * (2048 * 9 + 1) * 4
    for c in convolutions:
        assert float(c.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
        assert not c.bias.any()
    features = torch.randn(1, 2048, 9, 9)
    torch.testing.assert_close(model.head([features]), sum(c(features) for c in convolutions), rtol=1e-3, atol=1e-4)


def test_heads_by_name():
    backbone = build_backbone(BACKBONE)
    (one,) = DeepLab(backbone, 3, "conv1x1").head.branches
    (fov,) = DeepLab(backbone, 3, "largefov").head.branches
    assert (one.kernel_size, fov.kernel_size, fov.dilation) == ((1, 1), (3, 3), (12, 12))
    assert [c.dilation[0] for c in DeepLab(backbone, 3, "aspp", (3, 6)).head.branches] == [3, 6]
    with pytest.raises(WeaksegError, match="conv1x1, largefov"):
        DeepLab(backbone, 3, "v9")


@pytest.mark.parametrize("msc", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_learns_and_the_loss_falls(name, msc):
    method = replace(TINY[name], msc=msc, loss_at="crop")
    model, data, losses = network(method), batch(), []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05 / (4 if msc else 1), momentum=0.9)
    for _ in range(8):
        terms = method.objective(model, data, STEP)
        loss = sum(terms.values())
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] * 0.9
    assert len(terms) == (4 if msc else 1)


@pytest.mark.parametrize("loss", ["ce", "balanced"])
def test_a_constant_network_costs_the_logarithm(loss):
    class Uniform(torch.nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 4, 4, 4)

    for loss_at in ("features", "crop"):
        value = replace(TINY["v2"], loss=loss, loss_at=loss_at).objective(Uniform(), batch(), STEP)["seg"]
        assert float(value) == pytest.approx(1.3862944)  # ln 4


def test_loss_at_features_takes_the_nearest_label():
    logits = torch.zeros(1, 4, 2, 2)
    logits[0, 2, 0, 0] = 100.0  # certain of class 2 in the upper left cell
    data = batch(count=1)
    labels = torch.full((1, 64, 64), 255, dtype=torch.uint8)
    labels[:, 16, 16] = 2  # the pixel under the cell's centre, all others unknown
    data = replace(data, seeds={"seeds": labels})
    method = replace(TINY["v2"], loss_at="features")
    assert float(method.objective(lambda images: logits, data, STEP)["seg"]) == pytest.approx(0.0, abs=1e-6)
    labels[:, 16, 16] = 1
    assert float(method.objective(lambda images: logits, data, STEP)["seg"]) == pytest.approx(100.0, rel=1e-3)


def test_missing_seeds_are_told():
    with pytest.raises(WeaksegError, match="seeds"):
        TINY["v2"].objective(network(TINY["v2"]), replace(batch(), seeds={}), STEP)


def test_msc_is_the_maximum_of_three():
    torch.manual_seed(0)
    network_ = torch.nn.Conv2d(3, 4, 3, stride=4, padding=1)
    images = torch.randn(1, 3, 64, 64)
    outputs = multi_scale_logits(network_, images)
    assert [tuple(o.shape[2:]) for o in outputs.values()] == [(16, 16), (12, 12), (8, 8), (16, 16)]
    grids = [interpolate(outputs[k], (16, 16), mode="bilinear") for k in ("1.0", "0.75", "0.5")]
    torch.testing.assert_close(outputs["max"], torch.maximum(torch.maximum(grids[0], grids[1]), grids[2]))


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_probabilities_written_out(average):
    method, s = replace(TINY["v2"], scales=(1.0, 0.5), average=average), sample()
    model = network(method).eval()
    for branch in model.head.branches:  # confident enough for the two averages to differ
        branch.weight.data *= 30
    views = []
    with torch.inference_mode():
        from weakseg.ops.image import resize_image

        for size in ((50, 70), (25, 35)):
            image = model.normalise(resize_image(s.image.as_subclass(torch.Tensor), size))[None]
            for view, back in ((image, False), (image.flip(-1), True)):
                logits = model(view)
                logits = logits.flip(-1) if back else logits
                views.append(interpolate(logits, (50, 70), mode="bilinear")[0])
        if average == "softmax":
            expected = torch.stack([v.softmax(0) for v in views]).mean(0)
        else:
            expected = torch.stack(views).mean(0).softmax(0)
        got = method.probabilities(model, s)
        labels = method.predict(model, s)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got.sum(0), torch.ones(50, 70))
    assert labels.dtype == torch.uint8
    assert float((labels == expected.argmax(0)).float().mean()) > 0.999


def test_crf_at_test_time():
    method, s = replace(TINY["v2"], scales=(1.0,), flip=False), sample()
    model = network(method).eval()
    with torch.inference_mode():
        unary = unary_from_probabilities(method.probabilities(model, s))
        expected = dense_crf(s.image.as_subclass(torch.Tensor), unary, recipe("deeplab_v2_res101")).argmax(0)
        got = replace(method, crf="deeplab_v2_res101").predict(model, s)
    assert torch.equal(got.long(), expected)
    with torch.inference_mode(), pytest.raises(WeaksegError, match="deeplab_v2_res101"):
        replace(method, crf="nothing").predict(model, s)


def test_no_scales():
    with pytest.raises(WeaksegError, match="at least one scale"):
        replace(TINY["v2"], scales=()).predict(network(TINY["v2"]), sample())
