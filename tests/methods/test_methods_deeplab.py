"""DeepLab: heads, losses at both resolutions, prediction against a written-out reference."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision import tv_tensors

from weakseg.methods.deeplab import BACKBONES, METHODS, Segment, multi_scale_logits, segmentation_loss
from weakseg.models.backbones import build_backbone
from weakseg.models.deeplab import DeepLab
from weakseg.ops.crf import dense_crf, recipe, unary_from_probabilities, wrapped_bgr
from weakseg.ops.image import resize_labels
from weakseg.types import (
    Backbone,
    Batch,
    Flip,
    HsvJitter,
    Normalise,
    PadCrop,
    Rescale,
    Sample,
    Segmenter,
    Step,
    WeaksegError,
    deciding_constants,
)

BACKBONE = Backbone("resnet10t", weights=None)
VGG = Backbone("vgg16d", weights=None, output_stride=8)
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
    return method.build(3, VGG if method.head.startswith("vgg") else BACKBONE)


@pytest.mark.parametrize("channels", [8, 16, 24])
def test_a_narrow_v3plus_predicts_one_photograph(channels):
    """Its pooled features are single values, of which a group of GroupNorm wants two."""
    method = replace(TINY["v3plus"], channels=channels, scales=(1.0,), flip=False)
    model = network(method).eval()
    with torch.no_grad():
        assert method.predict(model, sample()).shape == (50, 70)


def test_the_published_constants():
    """methods.md 10, row V2 ResNet101."""
    v2 = METHODS["v2"]
    assert v2.augmentation.steps == (Rescale(choices=(0.5, 0.75, 1.0, 1.25, 1.5)), Normalise(), PadCrop(321), Flip(0.5))
    o = v2.optimisation
    assert (o.lr, o.new_factor, o.bias_factor, o.weight_decay, o.momentum) == (2.5e-4, 10.0, 2.0, 5e-4, 0.9)
    assert (o.iterations, o.batch_size, o.accumulate, o.interval, o.power) == (20_000, 10, 2, 10, 0.9)


@pytest.mark.parametrize(
    ("name", "lr", "steps", "crop", "test", "crf"),
    [
        ("v1_vgg16", 1e-3, (20_000, 10), 321, ((1.0,), False, "softmax"), "deeplab_v1_vgg"),
        ("v2_vgg16", 1e-3, (20_000, 10), 321, ((1.0,), False, "softmax"), "deeplab_v2_res101"),
        ("v1_resnet101", 2.5e-4, (20_000, 10), 321, ((1.0,), False, "softmax"), "deeplab_v2_res101"),
        ("v2_resnet101", 2.5e-4, (20_000, 10), 321, ((1.0,), False, "softmax"), "deeplab_v2_res101"),
        ("v1_resnet38", 1e-3, (20_000, 10), 448, ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True, "softmax"), "seam_codebase"),
        ("v1_resnet38_aeft", 7e-4, (None, 4), 321, ((0.5, 0.75, 1.0, 1.25, 1.5), False, "max"), "mctformer_seg"),
    ],
)
def test_the_papers_rows(name, lr, steps, crop, test, crf):
    """methods.md 6.6, 9.6 and 10."""
    m = METHODS[name]
    o = m.optimisation
    assert (o.lr, o.new_factor, (o.iterations, o.batch_size), o.power) == (lr, 10.0, steps, 0.9)
    assert ((m.scales, m.flip, m.average), m.crf, m.crop) == (test, crf, crop)
    assert PadCrop(crop) in m.augmentation.steps
    assert recipe(m.crf)
    assert BACKBONES[name].startswith(name.split("_")[1])


def test_the_rows_of_resnet38():
    seam, aeft = METHODS["v1_resnet38"], METHODS["v1_resnet38_aeft"]
    assert seam.augmentation.steps[0] == Rescale(0.5, 1.5)
    assert seam.augmentation.steps[1] == HsvJitter(10)
    assert aeft.augmentation.steps == (Rescale(0.7, 1.3), Normalise(), PadCrop(321), Flip(0.5))
    o = aeft.optimisation
    assert (o.epochs, o.weight_decay, o.bias_factor, aeft.msc) == (30, 0.0, 2.0, True)


@pytest.mark.parametrize("name", METHODS)
def test_roles_and_round_trip(name):
    assert isinstance(METHODS[name], Segmenter)
    fields = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(json.dumps(asdict(METHODS[name]))).items()
    }
    assert type(METHODS[name])(**fields) == METHODS[name]


@pytest.mark.parametrize(
    ("name", "grid"),
    [("v1", 4), ("v2", 4), ("v3plus", 16), ("v1_resnet38", 4), ("v1_resnet38_aeft", 4), ("v1_vgg16", 8)],
)
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


def test_largefov_on_vgg16_is_its_own_fc6():
    with torch.device("meta"):
        model = METHODS["v1_vgg16"].build(20, VGG)
        logits = model(torch.empty(1, 3, 321, 321))
    assert model.backbone.net.fc6.dilation == model.backbone.net.fc6.padding == (12, 12)
    assert model.backbone.net.drop_last  # dropout twice
    assert tuple(logits.shape) == (1, 21, 41, 41)
    assert sum(p.numel() for p in model.parameters()) == 20_505_408 + 21  # bana_largefov has no bias there
    assert sum(p.numel() for p in model.new_parameters()) == 21 * 1025


def test_aspp_on_vgg16_begins_with_four_copies_of_fc6_and_fc7():
    torch.manual_seed(0)
    backbone = build_backbone(VGG).eval()
    fc6, fc7 = backbone.net.fc6, backbone.net.fc7
    model = DeepLab(backbone, 3, "vgg_aspp").eval()
    assert model.backbone.channels[-1] == 512
    assert not any("fc" in n for n, _ in model.backbone.named_parameters())
    assert sum(p.numel() for p in model.new_parameters()) == 4 * 4 * 1025
    images = torch.randn(1, 3, 48, 40)
    with torch.inference_mode():
        conv5 = model.backbone(images)[-1]
        expected = 0
        for rate, classify in zip((6, 12, 18, 24), model.head.classifiers, strict=True):
            wide = torch.nn.functional.conv2d(conv5, fc6.weight, fc6.bias, padding=rate, dilation=rate).relu()
            expected = expected + classify(fc7(wide).relu())
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    for head in ("vgg_aspp", "vgg_largefov"):
        with pytest.raises(WeaksegError, match="vgg16d"):
            DeepLab(build_backbone(BACKBONE), 3, head)


def test_heads_on_resnet38_are_the_papers():
    with torch.device("meta"):
        backbone = Backbone("resnet38d", "later", output_stride=8)
        seam = METHODS["v1_resnet38"].build(20, backbone)
        aeft = METHODS["v1_resnet38_aeft"].build(20, backbone)
        assert [tuple(m(torch.empty(1, 3, 321, 321)).shape) for m in (seam, aeft)] == [(1, 21, 41, 41)] * 2
    new = {n: tuple(p.shape) for n, p in seam.head.named_parameters() if p.ndim == 4}
    assert list(new.values()) == [(512, 4096, 3, 3), (512, 512, 1, 1), (21, 512, 1, 1)]
    assert [type(m).__name__ for m in seam.head] == [
        "Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Conv2d",
    ]  # fmt: skip
    convs = [(m.dilation, tuple(m.weight.shape)) for m in aeft.head if isinstance(m, torch.nn.Conv2d)]
    assert convs == [((12, 12), (512, 4096, 3, 3)), ((12, 12), (21, 512, 3, 3))]
    assert sum(m.training for m in seam.modules() if isinstance(m, torch.nn.BatchNorm2d)) == 2  # the head's alone


@pytest.mark.parametrize(("name", "count"), [("v1_resnet101", 42_543_189), ("v2_resnet101", 44_048_532)])
def test_resnet101_has_the_published_count(name, count):
    with torch.device("meta"):
        model = METHODS[name].build(20, Backbone("resnet101_caffe", "later", output_stride=8))
        assert tuple(model(torch.empty(1, 3, 448, 448)).shape) == (1, 21, 57, 57)
    assert sum(p.numel() for p in model.parameters()) == count
    trained = {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad}
    assert "bn" not in trained


@pytest.mark.parametrize("msc", [False, True])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "vgg" in n else n for n in METHODS])
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


@pytest.mark.parametrize(("loss", "means"), [("ce", 1), ("balanced", 2)])
def test_a_constant_network_costs_the_logarithm(loss, means):
    class Uniform(torch.nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 4, 4, 4)

    for loss_at in ("features", "crop"):
        value = replace(TINY["v2"], loss=loss, loss_at=loss_at).objective(Uniform(), batch(), STEP)["seg"]
        assert float(value) == pytest.approx(means * 1.3862944)  # ln 4; balanced is the sum of two means


@pytest.mark.parametrize(("loss", "fill"), [("ce", 255), ("balanced", 0), ("balanced", 7)])
def test_a_mean_over_no_pixel_is_zero_or_as_published_not_a_number(loss, fill):
    """methods.md 13: every guard against nan can be taken off."""
    method, data = replace(TINY["v2"], loss=loss), batch()
    data = replace(data, seeds={"seeds": torch.full_like(data.seeds["seeds"], fill)})

    def value(method: Segment) -> torch.Tensor:
        return method.objective(lambda images: torch.zeros(len(images), 9, 4, 4), data, STEP)["seg"]

    assert float(value(method)) == pytest.approx(0.0 if fill == 255 else 2.1972246)  # ln 9, of the other mean
    assert value(replace(method, guard=False)).isnan()


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


@pytest.mark.parametrize("size", [(321, 321), (39, 50), (65, 33)])
def test_msc_resizes_as_published(size):
    """deeplab-pytorch hands `interpolate` the scale: 0.75 x 321 becomes 240 pixels, 4 / 3 of a pixel apart."""
    torch.manual_seed(0)
    images, seen = torch.randn(1, 3, *size), []

    def model(x):
        seen.append(x)
        return x[:, :, ::8, ::8]

    multi_scale_logits(model, images)
    for got, scale in zip(seen[1:], (0.75, 0.5), strict=True):
        assert tuple(got.shape[2:]) == tuple(int(scale * side) for side in size)
        want = interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    seen.clear()
    multi_scale_logits(model, torch.arange(101.0).expand(1, 3, 10, 101))  # a ramp, whose value is the place
    torch.testing.assert_close(seen[1][0, 0, 5, 1:70], (torch.arange(1, 70) + 0.5) / 0.75 - 0.5)


def test_segmentation_loss_written_out():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 7), torch.randint(0, 4, (2, 33, 50), dtype=torch.uint8)
    labels[:, :9] = 255
    small = torch.stack([resize_labels(one, (5, 7)) for one in labels]).long()
    want = torch.nn.functional.cross_entropy(logits, small, ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, labels), want)
    large = interpolate(logits, (33, 50), mode="bilinear", align_corners=False)
    want = torch.nn.functional.cross_entropy(large, labels.long(), ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, labels, at="crop"), want)
    pixel = torch.nn.functional.cross_entropy(logits, small, ignore_index=255, reduction="none")
    want = pixel[(small > 0) & (small < 255)].mean() + pixel[small == 0].mean()
    torch.testing.assert_close(segmentation_loss(logits, labels, loss="balanced"), want)


@pytest.mark.parametrize("average", ["softmax", "logits", "max"])
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
        elif average == "max":
            expected = torch.stack([v.softmax(0) for v in views]).amax(0)
        else:
            expected = torch.stack(views).mean(0).softmax(0)
        got = method.probabilities(model, s)
        labels = method.predict(model, s)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    if average != "max":
        torch.testing.assert_close(got.sum(0), torch.ones(50, 70))
    assert labels.dtype == torch.uint8
    assert float((labels == expected.argmax(0)).float().mean()) > 0.999


def test_photographs_are_scaled_to_a_square_if_asked_for():
    """methods.md 6.8, row 11: native by default, as deeplab-pytorch tests; EPS prints 513 x 513."""
    seen = []

    class Spy(torch.nn.Module):
        device, normalise = torch.device("cpu"), staticmethod(lambda image: image.float())

        def forward(self, images):
            seen.append(tuple(images.shape[2:]))
            return torch.zeros(len(images), 4, 3, 3)

    method = replace(TINY["v2"], scales=(1.0, 0.5))
    for asked in (method, replace(method, test_size=64)):
        assert asked.predict(Spy(), sample((50, 70))).shape == (50, 70)
    assert seen == [(50, 70), (25, 35), (64, 64), (32, 32)]
    assert "test_size" not in deciding_constants(Segment())  # older runs stay done
    assert deciding_constants(replace(Segment(), test_size=513))["test_size"] == 513


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


def test_the_crf_can_be_shown_what_deeplab_pytorch_shows_it():
    """methods.md 1.4 and 13; runs of before, which had no such switch, stay done."""
    method, s = replace(TINY["v2"], scales=(1.0,), flip=False, crf="deeplab_v2_res101"), sample()
    model = network(method).eval()
    with torch.inference_mode():
        unary = unary_from_probabilities(3 * method.probabilities(model, s))
        shown = [dense_crf(image, unary, recipe(method.crf)) for image in (s.image, wrapped_bgr(s.image))]
        assert not torch.equal(*shown)
        unary = unary_from_probabilities(method.probabilities(model, s))
        expected = dense_crf(wrapped_bgr(s.image), unary, recipe(method.crf)).argmax(0)
        got = replace(method, crf_image="wrapped_bgr").predict(model, s)
    assert torch.equal(got.long(), expected)
    assert "crf_image" not in deciding_constants(method)
    assert deciding_constants(replace(method, crf_image="wrapped_bgr"))["crf_image"] == "wrapped_bgr"


@pytest.mark.parametrize("average", ["softmax", "max"])
def test_no_scales(average):
    with pytest.raises(WeaksegError, match="at least one scale"):
        replace(TINY["v2"], scales=(), average=average).predict(network(TINY["v2"]), sample())


def test_resnet38_predicts_without_msc():
    method, s = replace(TINY["v1_resnet38_aeft"], scales=(1.0,), crf=None), sample()
    model = network(method).eval()
    assert method.msc
    with torch.inference_mode():
        logits = interpolate(model(model.normalise(s.image.as_subclass(torch.Tensor))[None]), (50, 70), mode="bilinear")
        torch.testing.assert_close(method.probabilities(model, s), logits[0].softmax(0), rtol=1e-3, atol=1e-4)
