"""SEAM: every loss on hand-worked cases and written out, gradients by finite differences, maps and constants."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, multilabel_soft_margin_loss
from torchvision import tv_tensors

from weakseg.methods.seam import (
    METHODS,
    Seam,
    adaptive_min_loss,
    cross_loss,
    equivariance_loss,
    inference_normalise,
    tagged,
)
from weakseg.models.backbones import batch_norms
from weakseg.models.seam import SeamOutput
from weakseg.ops.cam import range_normalise
from weakseg.types import (
    LATER,
    Backbone,
    Batch,
    Flip,
    Jitter,
    Localizer,
    Normalise,
    PaddedCrop,
    ResizeLong,
    Sample,
    Step,
    WeaksegError,
)

BACKBONE = Backbone("resnet10t", weights=None)
PUBLISHED = METHODS["seam"]
TINY = replace(PUBLISHED, freeze_bn=False, freeze_stem=False, freeze_affine=False, scales=(1.0, 0.5), widths=(8, 8))
STEP = Step(0, 0, 1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample(tags=(False, True, True), size=(50, 70), seed=0) -> Sample:
    coarse = torch.randint(0, 256, (1, 3, 5, 7), generator=torch.Generator().manual_seed(seed)).float()
    image = interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)[0]
    return Sample("a", tv_tensors.Image(image), torch.tensor(tags))


def batch(count=4, classes=3, size=64) -> Batch:
    """Each class is a channel, bright in a square."""
    tags = torch.eye(classes)[torch.arange(count) % classes]
    square = torch.zeros(count, 1, size, size)
    square[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    images = noise(count, 3, size, size) * 0.3 + 2 * tags[:, :3, None, None] * square
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    return Batch(tuple(map(str, range(count))), images, tags, valid)


def network(method=TINY, classes=3):
    torch.manual_seed(0)
    return method.build(classes, BACKBONE)


@pytest.fixture
def scorer():
    model = network().eval()
    with torch.inference_mode():
        yield model


def row(*channels):
    """float (1, C, 1, n) from rows of numbers."""
    return torch.tensor(channels)[None, :, None]


# --- the equations, worked by hand ---


def test_range_normalise():
    maps = row([-2.0, 0.0, 3.0], [2.0, 4.0, 6.0], [5.0, 5.0, 5.0], [-1.0, -2.0, -3.0])
    made = range_normalise(maps)[0, :, 0]
    expected = [[0, 0, 1], [0, 0.5, 1], [0, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)
    plain = range_normalise(maps, rectify=False)[0, :, 0]
    torch.testing.assert_close(plain[0], torch.tensor([0, 0.4, 1]), atol=1e-5, rtol=0)
    assert plain[3].tolist() == pytest.approx([1, 0.5, 0], abs=2e-5)
    assert float(range_normalise(row([0.0, 1.0]))[..., 1]) == pytest.approx((1 - 1e-5) / (1 + 1e-5), abs=1e-7)


def test_tagged_keeps_background_and_what_is_present():
    made = tagged(torch.ones(2, 3, 1, 1), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert made.flatten(1).tolist() == [[1, 0, 1], [1, 0, 0]]
    assert tagged(torch.ones(1, 3, 1, 1), torch.tensor([[False, True]])).flatten().tolist() == [1, 0, 1]


def test_adaptive_min_loss_is_of_the_lowest_quarter_of_the_highest_class():
    maps = row([0.1, 0.9, 0.2, 0.5, -0.4, 0.8, 0.7, 0.6], [0.3, 0.0, 0.1, 0.0, -0.2, 0.0, 0.0, 0.0])
    assert float(adaptive_min_loss(maps)) == pytest.approx((0 + 0.2) / 2)  # -0.2 and 0.2 of eight
    assert float(adaptive_min_loss(maps, share=1)) == pytest.approx((0.3 + 0.9 + 0.2 + 0.5 + 0 + 0.8 + 0.7 + 0.6) / 8)
    assert float(adaptive_min_loss(row([0.4, 0.6]))) == pytest.approx(0.4)  # never of no pixel
    two = torch.cat([row([0.1] * 4), row([0.3] * 4)])
    assert float(adaptive_min_loss(two)) == pytest.approx(0.2)


def test_equivariance_loss_counts_absent_classes():
    first, second = row([1.0, 0.5], [0.0, 0.0]), row([0.0, 0.5], [0.0, 0.0])
    assert float(equivariance_loss(first, second)) == 0.25


def test_cross_loss_by_hand():
    """Targets: background 1 - max, the other classes suppressed; ten differences, of which two count."""
    target = row([9.0, 9.0, 9.0, 9.0, 9.0], [0.6, 0.0, 0.2, 1.0, 0.0])
    revised = row([0.4, 0.5, 0.8, 0.0, 1.0], [0.6, 0.0, 0.5, 0.3, 0.0])
    # background 0.4 1 0.8 0 1 -> 0 0.5 0 0 0; class 0 0 0.3 0.7 0
    assert float(cross_loss(target, revised)) == pytest.approx((0.7 + 0.5) / 2)
    assert float(cross_loss(target, revised, share=1)) == pytest.approx(1.5 / 10)
    two = row([0.0], [0.6], [0.4])
    assert float(cross_loss(two, row([0.4], [0.6], [0.4]), share=1)) == pytest.approx(0.4 / 3)  # class 2 is suppressed


def test_cross_loss_teaches_the_revised_maps_alone():
    target, revised = noise(2, 3, 4, 4).sigmoid().requires_grad_(), noise(2, 3, 4, 4, seed=1).sigmoid().requires_grad_()
    cross_loss(target, revised).backward()
    assert target.grad is None
    assert revised.grad is not None
    assert int(revised.grad.ne(0).sum()) == 2 * int(3 * 4 * 4 * 0.2)


def test_inference_normalise():
    made = inference_normalise(torch.tensor([[[-1.0, 1.0, 3.0]], [[1.0, 2.0, 5.0]], [[0.0, 0.0, 0.0]]]))[:, 0]
    assert made[0].tolist() == pytest.approx([0, 1 / 3, 1], abs=1e-5)
    assert made[1].tolist() == pytest.approx([-0.25, 0.25, 1], abs=1e-5)  # the lowest: 0, less the minimum
    assert made[2].tolist() == pytest.approx([-1, -1, -1], abs=1e-5)


# --- gradients by finite differences ---


@pytest.mark.parametrize("rectify", [True, False])
def test_gradient_of_the_normalisation(rectify):
    maps = noise(1, 2, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: range_normalise(m, rectify=rectify), maps)


def test_gradients_of_the_losses():
    a, b = (noise(2, 3, 4, 4, seed=s).sigmoid().double().requires_grad_() for s in (1, 2))
    assert torch.autograd.gradcheck(adaptive_min_loss, a)
    assert torch.autograd.gradcheck(equivariance_loss, (a, b))
    assert torch.autograd.gradcheck(lambda r: cross_loss(b.detach(), r), a)


# --- the objective ---


def outputs(seed, size, count=2, classes=3):
    cam, revised = noise(count, classes + 1, *size, seed=seed), noise(count, classes + 1, *size, seed=seed + 1).relu()
    return SeamOutput(cam, revised, cam[:, 1:].mean(dim=(2, 3)))


def test_the_losses_are_those_of_the_specification():
    """Section 5 in numpy, with the two views' maps given."""
    tags = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    first, second = outputs(0, (20, 30)), outputs(5, (6, 9))
    labels = torch.cat([torch.ones(2, 1), tags], dim=1)[:, :, None, None]

    def normalised(maps):
        p = maps.numpy().clip(min=0)
        low, high = p.min(axis=(2, 3), keepdims=True), p.max(axis=(2, 3), keepdims=True)
        return torch.from_numpy((p - low - 1e-5).clip(min=0) / (high - low + 1e-5))

    def small(maps):
        return interpolate(maps, (6, 9), mode="bilinear", align_corners=True)

    cam = [(small(normalised(v.cam)) * labels).numpy() for v in (first, second)]
    revised = [(small(normalised(v.revised)) * labels).numpy() for v in (first, second)]
    er = np.abs(cam[0][:, 1:] - cam[1][:, 1:]).mean()

    def ecr(target, other):
        target = target.copy()
        highest = target[:, 1:].max(axis=1, keepdims=True)
        target[:, :1] = 1 - highest
        target[:, 1:][target[:, 1:] != highest.repeat(3, axis=1)] = 0
        gap = np.sort(np.abs(target - other).reshape(2, -1), axis=1)[:, ::-1]
        return gap[:, : int(4 * 6 * 9 * 0.2)].mean()

    def lowest(maps):
        highest = (maps * labels).numpy()[:, 1:].max(axis=1).reshape(2, -1)
        return np.sort(highest, axis=1)[:, : highest.shape[1] // 4].clip(min=0).mean()

    losses = TINY.losses(first, second, tags)
    cls = (multilabel_soft_margin_loss(first.logits, tags) + multilabel_soft_margin_loss(second.logits, tags)) / 2
    assert float(losses["cls"]) == pytest.approx(float(cls), rel=1e-5)
    assert float(losses["rvmin"]) == pytest.approx((lowest(first.revised) + lowest(second.revised)) / 2, rel=1e-5)
    assert float(losses["er"]) == pytest.approx(er, rel=1e-4)
    assert float(losses["ecr"]) == pytest.approx(ecr(cam[1], revised[0]) + ecr(cam[0], revised[1]), rel=1e-4)
    assert set(losses) == {"cls", "rvmin", "er", "ecr"}
    weighted = replace(TINY, rvmin_weight=0.0, er_weight=2.0, ecr_weight=3.0).losses(first, second, tags)
    assert float(weighted["rvmin"]) == 0
    assert float(weighted["er"]) == pytest.approx(2 * er, rel=1e-4)
    assert float(weighted["ecr"]) == pytest.approx(3 * float(losses["ecr"]), rel=1e-5)


def test_the_second_view_is_three_tenths_of_the_first():
    assert TINY.smaller(torch.zeros(1, 3, 448, 448)) == (134, 134)
    seen = []

    def model(images):
        seen.append(images)
        size = images.shape[2:]
        return SeamOutput(torch.zeros(2, 4, *size), torch.zeros(2, 4, *size), torch.zeros(2, 3))

    data = batch(2)
    TINY.objective(model, data, STEP)
    expected = interpolate(data.images, scale_factor=0.3, mode="bilinear", align_corners=True)
    assert seen[0] is data.images
    torch.testing.assert_close(seen[1], expected)


@pytest.mark.parametrize("tags", [[[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]])
def test_uniform_maps_and_absent_classes_are_finite(tags):
    maps = torch.full((1, 4, 8, 8), 0.7, requires_grad=True)
    out = SeamOutput(maps, maps.relu(), maps[:, 1:].mean(dim=(2, 3)))
    losses = TINY.losses(out, out, torch.tensor(tags))
    assert float(losses["er"].detach()) == 0
    sum(losses.values()).backward()
    assert all(math.isfinite(float(v.detach())) for v in losses.values())
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("pooling", ["gap", "gpp"])
def test_every_parameter_learns_and_the_loss_falls(pooling):
    method = replace(TINY, pooling=pooling, dropout=0.0, view_scale=0.5)
    model, data, losses = network(method).train(), batch(), []
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for index in range(8):
        terms = method.objective(model, data, Step(index, 0, 8))
        optimiser.zero_grad()
        sum(terms.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(float(sum(terms.values()).detach()))
    assert losses[-1] < losses[0] * 0.9


# --- constants, roles, maps ---


def test_the_published_constants():
    """methods.md 5 and 1.2."""
    jitter = Jitter(0.3, 0.3, 0.3, 0.1)
    assert PUBLISHED.augmentation.steps == (ResizeLong(448, 768), Flip(0.5), jitter, Normalise(), PaddedCrop(448))
    o = PUBLISHED.optimisation
    assert (o.lr, o.new_factor, o.bias_factor, o.weight_decay, o.momentum) == (0.01, 10, 2, 5e-4, 5e-4)
    assert (o.batch_size, o.epochs, o.schedule, o.power, o.optimiser) == (8, 8, "poly", 0.9, "sgd")
    assert (PUBLISHED.view_scale, PUBLISHED.low_share, PUBLISHED.hard_share) == (0.3, 0.25, 0.2)
    assert (PUBLISHED.rvmin_weight, PUBLISHED.er_weight, PUBLISHED.ecr_weight) == (1, 1, 1)
    assert (PUBLISHED.dropout, PUBLISHED.pooling, PUBLISHED.scales) == (0.5, "gap", (0.5, 1.0, 1.5, 2.0))
    assert replace(PUBLISHED, momentum=0.9).optimisation.momentum == 0.9
    assert jitter not in METHODS["mobile"].augmentation.steps


def test_roles_and_round_trip():
    assert isinstance(PUBLISHED, Localizer)
    fields = json.loads(json.dumps(asdict(PUBLISHED)))
    assert Seam(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}) == PUBLISHED


def test_only_what_the_paper_trains_is_trained():
    with torch.device("meta"):
        model = PUBLISHED.build(20, Backbone("resnet38d", LATER, 8))
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n in names if ".bn" in n or ".b2" in n or "conv1a" in n]
    assert "backbone.net.b3.conv_branch2a.weight" in names
    assert not any(m.training for m in batch_norms(model.train()))


def test_impossible_constants_are_refused():
    with pytest.raises(WeaksegError, match="view_scale"):
        replace(PUBLISHED, view_scale=0.0)
    with pytest.raises(WeaksegError, match="shares"):
        replace(PUBLISHED, hard_share=1.5)
    with pytest.raises(WeaksegError, match="frozen BatchNorm with random weights"):
        PUBLISHED.build(3, BACKBONE)


@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_are_those_of_the_specification(scorer, align_corners):
    s, total = sample(), np.zeros((2, 50, 70))
    photograph = Image.fromarray(s.image.permute(1, 2, 0).numpy())
    for scale in TINY.scales:
        scaled = photograph.resize((round(70 * scale), round(50 * scale)), Image.Resampling.BICUBIC)
        for flip in (False, True):
            view = np.asarray(scaled)[:, ::-1] if flip else np.asarray(scaled)
            image = scorer.normalise(torch.from_numpy(view.copy()).permute(2, 0, 1))
            revised = scorer(image[None]).revised[:, 1:]
            maps = interpolate(revised, (50, 70), mode="bilinear", align_corners=align_corners)[0].numpy()[1:]
            total += maps[:, :, ::-1] if flip else maps
    total[total < 0] = 0
    low, high = total.min(axis=(1, 2), keepdims=True), total.max(axis=(1, 2), keepdims=True)
    total[total < low + 1e-5] = 0
    expected = ((total - low - 1e-5) / (high - low + 1e-5)).clip(min=0)
    made = replace(TINY, align_corners=align_corners).score(scorer, s)
    assert made["full"].ids.tolist() == [2, 3]
    np.testing.assert_allclose(made["full"].scores.numpy(), expected, atol=2e-4)
    assert made["strided"].scores.shape == (2, 13, 18)
    assert set(made) == set(TINY.writes)


def test_scores_lie_between_0_and_1_and_turn_with_the_photograph(scorer):
    method, s = replace(TINY, scales=(1.0,)), sample(size=(64, 64))
    one = method.score(scorer, s)["full"].scores
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    turned = replace(s, image=tv_tensors.Image(s.image.flip(-1)))
    torch.testing.assert_close(method.score(scorer, turned)["full"].scores.flip(-1), one, atol=1e-3, rtol=0)
    assert replace(method, flip=False).score(scorer, s)["full"].scores.shape == (2, 64, 64)


def test_no_tag_no_forward_pass(scorer):
    scorer.backbone.net = None
    made = TINY.score(scorer, sample(tags=(False, False, False)))
    assert made["full"].scores.shape == (0, 50, 70)
    assert made["strided"].scores.shape == (0, 13, 18)


def test_logits_of_a_photograph(scorer):
    s = sample()
    image = scorer.normalise(torch.as_tensor(s.image))[None]
    assert torch.equal(TINY.classify(scorer, s), scorer(image).logits[0])


def test_a_batch_is_its_photographs(scorer):
    images = batch().images
    together = scorer(images)
    apart = [scorer(images[i : i + 1]) for i in range(len(images))]
    torch.testing.assert_close(together.revised, torch.cat([a.revised for a in apart]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together.logits, torch.cat([a.logits for a in apart]), rtol=1e-3, atol=1e-4)
