"""CAM: the two published set-ups, their training step and their maps against a written-out reference."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision import tv_tensors

from toy_photographs import assert_threads_may_share, batch, sample
from weakseg.methods.cam import METHODS, Cam
from weakseg.models.backbones import batch_norms, build_backbone
from weakseg.types import (
    Backbone,
    Flip,
    Jitter,
    Localizer,
    Normalise,
    PaddedCrop,
    ResizeLong,
    Step,
    deciding_constants,
)

BACKBONE = Backbone("resnet10t", weights=None)
TINY = replace(METHODS["resnet50"], freeze_bn=False, freeze_stem=False, detach_stage2=False, scales=(1.0, 0.5))


def network(method=TINY, classes=3):
    torch.manual_seed(0)
    return method.build(classes, BACKBONE)


def test_the_published_constants():
    """methods.md 2.1, 2.2 and 1.2."""
    irn, psa = METHODS["resnet50"], METHODS["resnet38"]
    assert irn.augmentation.steps == (ResizeLong(320, 640), Normalise(), Flip(0.5), PaddedCrop(512))
    jitter = Jitter(0.3, 0.3, 0.3, 0.1)
    assert psa.augmentation.steps == (ResizeLong(256, 512), Flip(0.5), jitter, Normalise(), PaddedCrop(448))
    o = irn.optimisation
    assert (o.lr, o.lr * o.new_factor, o.weight_decay, o.momentum, o.batch_size, o.epochs) == (
        0.1,
        1.0,
        1e-4,
        1e-4,
        16,
        5,
    )
    p = psa.optimisation
    assert (p.lr * p.new_factor, p.bias_factor, p.weight_decay, p.momentum, p.batch_size, p.epochs) == (
        pytest.approx(0.1),
        2.0,
        5e-4,
        5e-4,
        16,
        15,
    )
    assert replace(irn, momentum=0.9).optimisation.momentum == 0.9
    assert 10_582 // 16 * 5 == 3305  # the steps that 2.2 prints


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_roles_and_round_trip(method):
    assert isinstance(method, Localizer)
    fields = json.loads(json.dumps(asdict(method)))
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    assert Cam(**fields) == method


def test_every_trainable_parameter_learns_and_the_loss_falls():
    model, data = network(), batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for index in range(8):
        loss = TINY.objective(model, data, Step(index, 0, 8))["cls"]
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] * 0.8


def test_only_layer3_layer4_and_the_classifier_learn_in_irns():
    backbone = Backbone("irn_resnet50", None)
    model = replace(METHODS["resnet50"], freeze_bn=False).build(4, backbone)
    trained = {n.removeprefix("backbone.net.").split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4", "classifier"}
    assert any(m.weight.requires_grad for m in batch_norms(model))  # sec. 1.2: the affine part is trained
    amn = replace(METHODS["resnet50"], freeze_bn=False, detach_stage2=False).build(4, backbone)
    frozen = {n for n, p in amn.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone.net.conv1.weight", "backbone.net.bn1.weight", "backbone.net.bn1.bias"}
    assert sum(p.numel() for p in replace(TINY).build(20, backbone).parameters()) == 23_548_992  # methods.md, networks


def test_the_classifier_pools_what_its_maps_show():
    model = network().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features, logits = model(images)
        raw = torch.einsum("bdhw,cd->bchw", features, model.classifier.weight[:, :, 0, 0])
        torch.testing.assert_close(raw.mean(dim=(2, 3)), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.cams(images), raw.relu(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.cams(images, torch.tensor([2])), raw.relu()[:, 2:], rtol=1e-4, atol=1e-5)
    assert model.new_parameters() == [model.classifier.weight]


@pytest.mark.parametrize("merge", ["psa", "irn"])
@pytest.mark.parametrize("sqrt", [False, True])
def test_maps_equal_the_specification_written_out(merge, sqrt):
    """methods.md 2.1 and 2.2, view by view: PIL resize, one forward a view, resize, un-flip, sum, divide by the maximum."""
    method, s = replace(TINY, merge=merge, sqrt=sqrt, scales=(1.0, 0.5, 1.5)), sample()
    model = network().eval()
    height, width = s.size
    photo = Image.fromarray(s.image.permute(1, 2, 0).numpy())
    full, strided = torch.zeros(2, height, width), torch.zeros(2, 13, 18)
    with torch.inference_mode():
        for scale in method.scales:
            resized = photo.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
            for flip in (False, True):
                pixels = np.asarray(resized)[:, ::-1].copy() if flip else np.asarray(resized).copy()
                view = model.normalise(torch.from_numpy(pixels).permute(2, 0, 1))[None]
                maps = model.cams(view)[0, [1, 2]]
                maps = maps.sqrt() if sqrt else maps
                maps = maps.flip(-1) if flip else maps
                grid = (height, width) if merge == "psa" else (64, 80)
                full += interpolate(maps[None], grid, mode="bilinear")[0, :, :height, :width]
                strided += interpolate(maps[None], (13, 18), mode="bilinear")[0]
        scores = method.score(model, s)
    assert set(scores) == set(method.writes)
    for got, expected in ((scores["full"], full), (scores["strided"], strided)):
        assert got.ids.tolist() == [2, 3]
        assert got.size == s.size
        expected = expected / (expected.amax(dim=(1, 2), keepdim=True) + 1e-5)
        torch.testing.assert_close(got.scores, expected, rtol=1e-3, atol=1e-4)
        assert 0 <= float(got.scores.min()) <= float(got.scores.max()) <= 1


def test_mirrored_photograph_mirrored_maps():
    method, s = replace(TINY, merge="psa"), sample()
    mirrored = replace(s, image=tv_tensors.Image(s.image.flip(-1)))
    model = network().eval()
    with torch.inference_mode():
        one, other = method.score(model, s)["full"], method.score(model, mirrored)["full"]
    torch.testing.assert_close(other.scores, one.scores.flip(-1), rtol=1e-3, atol=1e-4)


def test_permuted_classes_permuted_maps():
    s = sample(tags=(True, True, True))
    model = network().eval()
    with torch.inference_mode():
        before = TINY.score(model, s)["full"].scores
        model.classifier.weight.data = model.classifier.weight.data[[2, 0, 1]]
        after = TINY.score(model, s)["full"].scores
    torch.testing.assert_close(after, before[[2, 0, 1]])


def test_no_tags_no_maps_and_no_forward():
    model = network().eval()
    model.backbone.net = None  # a forward pass would fail
    scores = TINY.score(model, sample(tags=(False, False, False)))
    assert scores["full"].scores.shape == (0, 50, 70)
    assert scores["strided"].scores.shape == (0, 13, 18)
    assert scores["full"].ids.dtype == torch.uint8


def test_one_forward_pass_a_scale():
    model, calls = network().eval(), []
    model.backbone.register_forward_hook(lambda module, inputs, output: calls.append(tuple(inputs[0].shape)))
    with torch.inference_mode():
        TINY.score(model, sample())
        assert calls == [(2, 3, 50, 70), (2, 3, 25, 35)]
        replace(TINY, flip=False, scales=(1.0,)).score(model, sample())
    assert calls[2:] == [(1, 3, 50, 70)]


def test_dropout_drops_whole_channels_in_training_only():
    model = network(replace(TINY, dropout=0.5))
    images = torch.randn(2, 3, 64, 64)
    features = model.train()(images).features
    dropped = (features == 0).all(dim=(2, 3))
    assert 0.2 < float(dropped.float().mean()) < 0.9
    model.eval()
    torch.testing.assert_close(model(images).features, model.backbone(images)[-1])


def test_a_batch_is_its_images():
    model, data = network().eval(), batch(count=2)
    with torch.inference_mode():
        together = model(data.images).logits
        apart = torch.cat([model(data.images[i : i + 1]).logits for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_the_base_of_eps():
    """methods.md 2.1: as PSA's, in EPS' batches, iterations and, on COCO, crops."""
    voc, coco = METHODS["resnet38_eps"], METHODS["resnet38_eps_coco"]
    assert replace(voc, batch_size=16, iterations=None) == METHODS["resnet38"]
    assert (voc.optimisation.batch_size, voc.optimisation.iterations, voc.optimisation.lr) == (8, 20_000, 0.01)
    assert (coco.optimisation.batch_size, coco.optimisation.iterations) == (16, 256_500)
    assert [s for s in coco.augmentation.steps if not isinstance(s, Jitter)] == [
        ResizeLong(256, 448),
        Flip(0.5),
        Normalise(),
        PaddedCrop(321),
    ]


def test_a_later_constant_leaves_older_runs_as_they_are():
    old = deciding_constants(METHODS["resnet38"])
    assert "iterations" not in old
    assert set(old) == set(asdict(METHODS["resnet38"])) - {"iterations", "pooling", "xavier"}
    assert deciding_constants(METHODS["resnet38_eps"])["iterations"] == 20_000


@pytest.mark.parametrize(
    ("merge", "xavier", "bound"),
    [("psa", None, "xavier"), ("irn", None, "torch"), ("psa", False, "torch"), ("irn", True, "xavier")],
)
def test_first_weights_of_the_classifier(merge, xavier, bound):
    """Xavier-uniform: within sqrt(6 / (D + C)); torch's own: within 1 / sqrt(D)."""
    weight = network(replace(TINY, merge=merge, xavier=xavier)).classifier.weight
    classes, channels = weight.shape[:2]
    limit = {"xavier": (6 / (channels + classes)) ** 0.5, "torch": channels**-0.5}[bound]
    assert 0.9 * limit < weight.abs().max() <= limit


@pytest.mark.parametrize("pooling", ["gpp", "gpp_mean"])
def test_gated_pyramid_pooling_instead_of_the_mean(pooling):
    """methods.md 9.2: logits from maps and pyramid; the maps that localise are the classifier's, as ever."""
    method, data = replace(TINY, pooling=pooling), batch()
    model, plain = network(method), network()
    assert deciding_constants(method)["pooling"] == pooling
    assert set(model.state_dict()) - set(plain.state_dict()) == {f"pooling.{n}" for n in model.pooling.state_dict()}
    assert len(model.new_parameters()) == 1 + (6 if pooling == "gpp" else 0)
    with torch.inference_mode():
        for net in (model, plain):
            net.eval()
        maps = model.classifier(model.backbone(data.images)[-1])
        torch.testing.assert_close(model(data.images).logits, model.pooling(maps).logits)
        model.load_state_dict({**model.state_dict(), **plain.state_dict()})
        torch.testing.assert_close(
            method.score(model, sample())["full"].scores, TINY.score(plain, sample())["full"].scores
        )
        assert not torch.allclose(model(data.images).logits, plain(data.images).logits)
    optimiser = torch.optim.SGD(model.train().parameters(), lr=0.05)
    losses = []
    for index in range(8):
        loss = method.objective(model, data, Step(index, 0, 8))["cls"]
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_the_classifier_begins_as_published():
    """PSA's with Xavier-uniform weights (methods.md 2.1), IRN's with those that torch gives a convolution."""
    for merge, bound in (("psa", (6 / (512 + 200)) ** 0.5), ("irn", 512**-0.5)):
        weight = network(replace(TINY, merge=merge), classes=200).classifier.weight
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound


def test_the_mean_needs_no_pooling_of_its_own():
    """Weights, their names and the draws that make them are those from before there was another pooling."""
    model = network(replace(TINY, merge="psa"))
    torch.manual_seed(0)
    backbone = build_backbone(BACKBONE, freeze_bn=False)
    weight = torch.nn.init.xavier_uniform_(torch.nn.Conv2d(512, 3, 1, bias=False).weight)
    torch.testing.assert_close(model.classifier.weight, weight, rtol=0, atol=0)
    assert {n for n in model.state_dict() if not n.startswith("backbone.")} == {"classifier.weight"}
    images = torch.randn(2, 3, 64, 64)
    pooled = model.eval().backbone(images)[-1].mean((2, 3), keepdim=True)
    torch.testing.assert_close(model(images).logits, model.classifier(pooled).flatten(1), rtol=0, atol=0)
    assert len(list(backbone.parameters())) + 1 == len(list(model.parameters()))


def test_threads_share_a_network_that_scoring_leaves_alone(monkeypatch):
    photos = [sample(tags=(k % 2 == 0, True, k % 3 == 0), seed=k) for k in range(8)]
    assert_threads_may_share(TINY, network().eval(), photos, monkeypatch)
