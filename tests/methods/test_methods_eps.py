"""EPS: every equation on hand-worked cases, its selection, its gradient, its maps and its constants."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, multilabel_soft_margin_loss
from torchvision import tv_tensors

import toy_photographs
from toy_photographs import assert_threads_may_share
from weakseg.data.transforms import build
from weakseg.evaluate.saliency import map_selection
from weakseg.methods import load
from weakseg.methods.eps import (
    METHODS,
    Eps,
    classification_loss,
    estimated_saliency,
    foreground_and_background,
    localization_maps,
    overlap,
    saliency_loss,
    select,
)
from weakseg.models.backbones import batch_norms
from weakseg.ops.saliency import saliency_of
from weakseg.pipeline.recipe import configure, read_recipe, resolve
from weakseg.types import (
    LATER,
    Augmentation,
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
    deciding_constants,
)

BACKBONE = Backbone("resnet10t", weights=None)
TINY = replace(METHODS["voc"], freeze_bn=False, freeze_stem=False, freeze_affine=False, scales=(1.0, 0.5))
STEP = Step(0, 0, 1)


def sample(tags=(False, True, True), size=(50, 70), seed=0) -> Sample:
    photo = toy_photographs.sample(tags, size, seed)
    saliency = tv_tensors.Mask((photo.image.float().mean(0, keepdim=True) / 255 > 0.5).float())
    return replace(photo, saliency=saliency)


def batch(count=4, classes=3, size=64, seed=0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    tags = torch.eye(classes)[torch.arange(count) % classes]
    saliency = torch.zeros(count, 1, size, size)
    saliency[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    images = torch.randn(count, 3, size, size, generator=g) * 0.3 + tags[:, :3, None, None] * saliency
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    return Batch(tuple(map(str, range(count))), images, tags, valid, saliency=saliency)


def network(method=TINY, classes=3):
    torch.manual_seed(0)
    return method.build(classes, BACKBONE)


@pytest.fixture
def scorer():
    """A network for inference; gradients are off while the test runs."""
    model = network().eval()
    with torch.inference_mode():
        yield model


def maps_of(*channels):
    """float (1, C + 1, 1, n) from rows of numbers."""
    return torch.tensor(channels)[None, :, None]


# --- the equations, worked by hand ---


def test_localization_maps_are_a_softmax_over_the_channels():
    logits = torch.tensor([0.0, np.log(3.0)]).view(1, 2, 1, 1)
    assert localization_maps(logits).flatten().tolist() == pytest.approx([0.25, 0.75])
    logits = torch.tensor([[[-1.0, 2.0, 4.0]], [[0.0, 0.0, -3.0]]])[None]
    other = localization_maps(logits, "max")[0, :, 0]
    assert other[0].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-5)
    assert other[1].tolist() == [0.0, 0.0, 0.0]


def test_overlap_is_the_salient_share_of_the_pixels_above_a_half():
    maps = maps_of([0.9, 0.8, 0.7, 0.6, 0.1], [0.0, 0.0, 0.0, 0.0, 0.6], [0.1, 0.2, 0.3, 0.4, 0.3])
    saliency = torch.tensor([1.0, 0.9, 0.51, 0.5, 0.0]).view(1, 1, 1, 5)  # 0.5 rounds to 0
    found = overlap(maps, saliency)
    # class 1: 3 of 4 pixels; 1e-4 is added for each of the 5 pixels
    assert found[0].tolist() == pytest.approx([3 / (4 + 5e-4), 0 / (1 + 5e-4)], rel=1e-6)
    assert overlap(maps, saliency, per_pixel=0.0)[0].tolist() == [0.75, 0.0]


def test_a_half_rounds_to_zero_in_both_maps():
    half = torch.full((1, 2, 2, 2), 0.5)
    assert overlap(half, torch.ones(1, 1, 2, 2)).tolist() == [[0.0]]
    assert overlap(torch.ones(1, 2, 2, 2), half[:, :1]).tolist() == [[0.0]]
    assert torch.equal(torch.round(half), torch.zeros_like(half))  # what the published code calls


def test_the_denominator_grows_by_a_third_of_a_pixel_on_56_by_56():
    maps = torch.zeros(1, 2, 56, 56)
    maps[0, 0, 0, 0] = 1
    found = float(overlap(maps, torch.ones(1, 1, 56, 56)))
    assert found == pytest.approx(1 / 1.3136, rel=1e-6)
    assert float(overlap(maps, torch.ones(1, 1, 56, 56), per_pixel=0)) == 1.0


@pytest.mark.parametrize("per_pixel", [1e-4, 0.0])
def test_a_class_without_a_pixel_above_a_half_is_background(per_pixel):
    maps = maps_of([0.5, 0.4], [0.5, 0.6])
    tags, saliency = torch.tensor([[1.0]]), torch.ones(1, 1, 1, 2)
    assert overlap(maps, saliency, per_pixel).tolist() == [[0.0]]
    assert not select(maps, saliency, tags, tau=0.0, per_pixel=per_pixel).any()
    fg, bg = foreground_and_background(maps, tags, select(maps, saliency, tags, per_pixel=per_pixel))
    assert fg.flatten().tolist() == [0.0, 0.0]
    assert bg.flatten().tolist() == [1.0, 1.0]


def test_at_initialisation_every_class_is_background():
    torch.manual_seed(0)
    maps = localization_maps(0.1 * torch.randn(2, 21, 28, 28))  # about 1/21 everywhere
    tags = torch.ones(2, 20)
    assert not select(maps, torch.ones(2, 1, 28, 28), tags).any()
    fg, bg = foreground_and_background(maps, tags, select(maps, torch.ones(2, 1, 28, 28), tags))
    assert float(fg.max()) == 0
    torch.testing.assert_close(bg, torch.ones_like(bg))


def test_the_threshold_itself_is_background():
    maps = maps_of([0.9, 0.9], [0.1, 0.1])
    saliency = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    tags = torch.ones(1, 1)
    assert not select(maps, saliency, tags, tau=0.5, per_pixel=0.0).any()  # O = tau
    assert select(maps, saliency, tags, tau=0.49, per_pixel=0.0).all()


def test_absent_classes_enter_neither_sum():
    maps = maps_of([0.5, 0.1], [0.2, 0.2], [0.2, 0.3], [0.1, 0.4])  # classes 1, 2, 3 and background
    tags = torch.tensor([[1.0, 0.0, 1.0]])
    fg, bg = foreground_and_background(maps, tags, torch.tensor([[True, True, False]]))
    assert fg.flatten().tolist() == pytest.approx([0.5, 0.1])
    assert bg.flatten().tolist() == pytest.approx([0.3, 0.7])
    assert (fg + bg <= 1).all()
    none = foreground_and_background(maps, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
    assert none[0].flatten().tolist() == [0.0, 0.0]
    assert none[1].flatten().tolist() == pytest.approx([0.1, 0.4])


def test_the_estimate_weighs_foreground_and_inverted_background():
    fg, bg = torch.tensor([0.5]), torch.tensor([0.3])
    assert float(estimated_saliency(fg, bg)) == pytest.approx(0.5 * 0.5 + 0.5 * 0.7)
    assert float(estimated_saliency(fg, bg, 0.9)) == pytest.approx(0.9 * 0.5 + 0.1 * 0.7)
    assert float(estimated_saliency(fg, bg, 1.0)) == 0.5
    assert float(saliency_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.2]))) == pytest.approx((0.16 + 0.04) / 2)


def test_the_classification_loss_is_torchs_on_pooled_foreground_channels():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 4, 6, requires_grad=True)
    tags = (torch.rand(3, 4) > 0.5).float()
    loss = classification_loss(logits, tags)
    pooled = torch.nn.functional.adaptive_avg_pool2d(logits, 1)[:, :4, 0, 0]
    torch.testing.assert_close(loss, torch.nn.MultiLabelSoftMarginLoss()(pooled, tags))
    loss.backward()
    assert float(logits.grad[:, 4].abs().max()) == 0  # background hears nothing of the tags
    assert float(logits.grad[:, :4].abs().min()) > 0


def test_strategies_differ_in_what_they_send_to_background():
    maps = maps_of([0.9, 0.0], [0.0, 0.9], [0.0, 0.0], [0.1, 0.1])
    saliency, tags = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([[1.0, 1.0, 0.0]])
    chosen = {s: select(maps, saliency, tags, strategy=s, predefined=[1]).tolist()[0] for s in
              ("adaptive", "predefined", "naive", "baseline")}  # fmt: skip
    assert chosen == {
        "adaptive": [True, False, False],
        "predefined": [False, True, False],
        "naive": [True, True, False],
        "baseline": [True, True, False],
    }
    naive, baseline = (replace(Eps(), strategy=s).estimate(maps, saliency, tags) for s in ("naive", "baseline"))
    fg, bg = foreground_and_background(maps, tags, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(naive, 0.5 * fg + 0.5 * (1 - bg))
    torch.testing.assert_close(baseline, fg)  # lambda = 1


def written_out(logits, saliency, tags, tau, lam):
    """6.3 pixel by pixel, in numpy: the losses of one batch."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    m = e / e.sum(1, keepdims=True)
    b, channels, h, w = m.shape
    total = 0.0
    for n in range(b):
        rows = [int(i * saliency.shape[2] / h) for i in range(h)]
        columns = [int(j * saliency.shape[3] / w) for j in range(w)]
        s = saliency[n, 0][np.ix_(rows, columns)]
        fg, bg = np.zeros((h, w)), m[n, -1].copy()
        for i in range(channels - 1):
            if tags[n, i]:
                binary = np.round(m[n, i])
                o = (binary * np.round(s)).sum() / (binary + 1e-4).sum()
                fg, bg = (fg + m[n, i], bg) if o > tau else (fg, bg + m[n, i])
        total += ((s - lam * fg - (1 - lam) * (1 - bg)) ** 2).mean()
    y = logits[:, :-1].mean((2, 3))
    cls = -(tags * np.log(1 / (1 + np.exp(-y))) + (1 - tags) * np.log(1 - 1 / (1 + np.exp(-y)))).mean()
    return cls, total / b


@pytest.mark.parametrize(("tau", "lam"), [(0.4, 0.5), (0.4, 0.9), (0.2, 0.25)])
def test_the_losses_equal_a_written_out_reference(tau, lam):
    g = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(3, 5, 7, 6, generator=g, dtype=torch.float64)
    saliency = torch.rand(3, 1, 50, 41, generator=g, dtype=torch.float64)
    tags = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    losses = Eps(tau=tau, lam=lam).losses(logits, saliency, tags)
    cls, sal = written_out(logits.numpy(), saliency.numpy(), tags.numpy(), tau, lam)
    assert float(losses["cls"]) == pytest.approx(cls, rel=1e-9)
    assert float(losses["saliency"]) == pytest.approx(sal, rel=1e-9)


@pytest.mark.parametrize("method", [Eps(), Eps(strategy="naive"), Eps(norm="max"), Eps(sal_size="image", lam=0.9)])
def test_gradients_against_finite_differences(method):
    """The choice of classes is constant nearby, so the numerical gradient is the one without flow through it."""
    g = torch.Generator().manual_seed(1)
    logits = (4 * torch.randn(2, 4, 3, 3, generator=g, dtype=torch.float64)).requires_grad_()
    saliency = torch.rand(2, 1, 12, 12, generator=g, dtype=torch.float64)
    tags = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.float64)
    chosen = select(localization_maps(logits), saliency[..., ::4, ::4], tags)
    assert 0 < int(chosen.sum()) < 4  # some present classes in front, some behind
    assert not overlap(localization_maps(logits), saliency[..., ::4, ::4]).requires_grad
    assert torch.autograd.gradcheck(lambda x: tuple(method.losses(x, saliency, tags).values()), logits)


def test_the_gradient_is_that_of_a_constant_choice():
    g = torch.Generator().manual_seed(1)
    logits = (4 * torch.randn(2, 4, 3, 3, generator=g)).requires_grad_()
    saliency, tags = torch.rand(2, 1, 3, 3, generator=g), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    mine = torch.autograd.grad(Eps().losses(logits, saliency, tags)["saliency"], logits)[0]
    maps = logits.softmax(1)
    front = select(maps, saliency, tags)[..., None, None]
    behind = (tags.bool() & ~front[..., 0, 0])[..., None, None]
    estimate = 0.5 * (maps[:, :3] * front).sum(1) + 0.5 * (1 - maps[:, 3] - (maps[:, :3] * behind).sum(1))
    theirs = torch.autograd.grad(((saliency[:, 0] - estimate) ** 2).mean(), logits)[0]
    torch.testing.assert_close(mine, theirs)


def test_padding_is_learned_as_background():
    """A photograph smaller than the crop: the padded pixels have saliency 0 and count in the mean."""
    method = Eps(crop=64, long_side=(32, 32), jitter=False)
    transform = build(method.augmentation, lambda image: image.float())
    made = transform(sample(size=(32, 32)), torch.Generator().manual_seed(0))
    assert made["saliency"].shape == (1, 64, 64)
    assert float(made["saliency"][~made["valid"]].max()) == 0
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, -1] = -50.0  # two classes share each pixel, none is background
    logits[:, 0] = 5.0
    losses = method.losses(logits, torch.zeros(1, 1, 64, 64), torch.tensor([[1.0, 0.0]]))
    m = float(logits.softmax(1)[0, 0, 0, 0])
    assert float(losses["saliency"]) == pytest.approx((0.5 * (1 - m)) ** 2, rel=1e-4)


def test_saliency_is_resized_as_pillow_does_with_the_photograph():
    """6.4: one random long side for both, PIL bicubic, divided by 255, then the padded crop."""
    original = sample(size=(50, 70))
    level = (original.saliency[0] * 255).to(torch.uint8)
    method = Eps(crop=96, long_side=(91, 91), jitter=False)
    steps = tuple(s for s in method.augmentation.steps if not isinstance(s, Flip))
    made = build(Augmentation(steps), lambda x: x.float())(original, torch.Generator().manual_seed(5))
    wanted = Image.fromarray(level.numpy()).resize((91, 65), Image.Resampling.BICUBIC)
    inside = made["saliency"][made["valid"]].reshape(65, 91)
    assert np.array_equal((inside * 255).round().numpy(), np.array(wanted))


# --- the method ---


def test_the_published_constants():
    """methods.md 6.4, 6.5, 1.2."""
    voc, coco = METHODS["voc"], METHODS["coco"]
    jitter = Jitter(0.3, 0.3, 0.3, 0.1)
    assert voc.augmentation.steps == (ResizeLong(256, 512), Flip(0.5), jitter, Normalise(), PaddedCrop(448))
    assert coco.augmentation.steps == (ResizeLong(256, 448), Flip(0.5), jitter, Normalise(), PaddedCrop(321))
    assert (voc.tau, voc.lam, coco.tau, coco.lam) == (0.4, 0.5, 0.4, 0.9)
    assert (voc.per_pixel, voc.strategy, coco.strategy) == (1e-4, "adaptive", "adaptive")
    assert voc.predefined == ("chair", "diningtable", "sofa")  # Table 3
    assert coco.predefined == ("chair", "couch", "dining table")  # COCO's names of them
    for method, size, iterations in ((voc, 8, 20_000), (coco, 16, 256_500)):
        o = method.optimisation
        assert (o.batch_size, o.iterations, o.lr, o.weight_decay, o.power) == (size, iterations, 0.01, 5e-4, 0.9)
        assert o.lr * o.new_factor == pytest.approx(0.1)
        assert (o.momentum, o.bias_factor, o.schedule) == (5e-4, 2.0, "poly")
        assert (method.scales, method.flip, method.norm, method.sal_size) == ((0.5, 1.0, 1.5, 2.0), True, "softmax", "feature")  # fmt: skip
    assert 256_500 == 82_081 // 16 * 50  # the iterations that 6.4 prints are 50 epochs
    assert replace(voc, momentum=0.9).optimisation.momentum == 0.9
    assert Jitter not in map(type, replace(voc, jitter=False).augmentation.steps)


@pytest.mark.parametrize("name", METHODS)
def test_roles_and_round_trip(name):
    method = load(f"eps.{name}")
    assert isinstance(method, Localizer)
    assert method.needs == {"tags", "saliency"}
    fields = json.loads(json.dumps(asdict(method)))
    assert configure(method, fields, "eps") == method
    with pytest.raises(WeaksegError, match="strategy"):
        configure(method, {"strategy": "adaptiv"}, "eps")


def test_background_is_the_last_of_c_plus_1_channels_without_bias_or_dropout():
    model = network(classes=3)
    width = model.backbone.channels[-1]
    assert model.classifier.weight.shape == (4, width, 1, 1)
    limit = (6 / (width + 4)) ** 0.5  # Xavier, uniform
    assert 0.95 * limit < float(model.classifier.weight.detach().abs().max()) <= limit
    assert model.classifier.bias is None
    assert not any(isinstance(m, torch.nn.Dropout2d) for m in model.modules())
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape[:2] == (2, 4)
    assert float(logits.min()) < 0  # no ReLU


def test_on_resnet38_it_has_the_published_size_and_frozen_parts():
    """../shared/networks.json, eps_resnet38: 105,156,928 parameters, 41 x 41 and 56 x 56 maps of 21 channels."""
    with torch.device("meta"):
        model = METHODS["voc"].build(20, Backbone("resnet38d", LATER, 8))
        shapes = [tuple(model.eval()(torch.zeros(1, 3, side, side)).shape) for side in (321, 448)]
    assert shapes == [(1, 21, 41, 41), (1, 21, 56, 56)]
    assert sum(p.numel() for p in model.parameters()) == 105_156_928
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad and ".bn" not in n}
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    assert all(not p.requires_grad for m in batch_norms(model) for p in m.parameters())


def test_selection_shows_what_training_selects(scorer):
    photo = sample(size=(64, 64))
    seen = map_selection(TINY, scorer, photo)
    assert seen.overlaps[0].isnan()  # absent
    maps = scorer(scorer.normalise(photo.image.as_subclass(torch.Tensor))[None]).softmax(1)
    small = photo.saliency.as_subclass(torch.Tensor)[None, :, ::16, ::16]
    assert tuple(small.shape[2:]) == tuple(maps.shape[2:])
    torch.testing.assert_close(seen.overlaps[1:], overlap(maps, small)[0, 1:])
    assert torch.equal(seen.saliency, small[0])
    assert (seen.foreground + seen.background <= 1 + 1e-6).all()


def test_every_trainable_parameter_learns_and_the_loss_falls():
    model, data = network(), batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        loss = torch.stack(list(TINY.objective(model, data, STEP).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_frozen_parts_stay():
    method = replace(METHODS["voc"], freeze_bn=True)
    with pytest.raises(WeaksegError, match="random weights"):
        method.build(3, BACKBONE)
    model = replace(METHODS["voc"], freeze_bn=False).build(3, BACKBONE)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {f"{n}.weight" for n, m in model.named_modules() if m in batch_norms(model)} <= frozen
    assert any("conv" in n for n in frozen)
    assert model.new_parameters()[0] is model.classifier.weight


def test_score_maps_equal_a_written_out_reference(scorer):
    """6.5: softmax at features, bilinear to the photograph, tagged channels, un-flipped, summed over 8, own maximum."""
    model, photo = scorer, sample()
    made = TINY.score(model, photo)
    total = torch.zeros(2, 50, 70)
    for scale in TINY.scales:
        image = Image.fromarray(photo.image.permute(1, 2, 0).numpy())
        image = image.resize((round(scale * 70), round(scale * 50)), Image.Resampling.BICUBIC)
        for mirrored in (False, True):
            x = model.normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1))[None]
            maps = model(x.flip(-1) if mirrored else x).softmax(1)
            maps = interpolate(maps, (50, 70), mode="bilinear", align_corners=False)[0, [1, 2]]
            total += maps.flip(-1) if mirrored else maps
    wanted = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    assert made["full"].ids.tolist() == [2, 3]
    torch.testing.assert_close(made["full"].scores, wanted, atol=1e-5, rtol=1e-5)
    assert made["strided"].scores.shape == (2, 13, 18)
    assert set(made) == set(TINY.writes) == {"full", "strided"}


def test_estimated_saliency_is_one_more_output_that_can_be_asked_for(scorer):
    model, photo = scorer, sample()
    method = replace(TINY, estimated=True)
    made = method.score(model, photo)
    assert set(made) == set(method.writes) == {"full", "strided", "saliency"}
    torch.testing.assert_close(made["full"].scores, TINY.score(model, photo)["full"].scores)
    found = saliency_of(made["saliency"])
    assert found.shape == photo.saliency.shape
    # at scale 1 without flip it is 6.3 on the softmax maps enlarged to the photograph
    single = replace(method, scales=(1.0,), flip=False)
    maps = model(model.normalise(photo.image.as_subclass(torch.Tensor))[None]).softmax(1)
    maps = interpolate(maps, (50, 70), mode="bilinear", align_corners=False)
    fg, bg = foreground_and_background(maps, photo.tags[None], select(maps, photo.saliency[None], photo.tags[None]))
    torch.testing.assert_close(saliency_of(single.score(model, photo)["saliency"])[None], 0.5 * fg + 0.5 * (1 - bg))
    assert method.needs_to_score == {"tags", "saliency"}
    assert TINY.needs_to_score == {"tags"}
    with pytest.raises(WeaksegError, match="--saliency builtin"):
        method.score(model, replace(photo, saliency=None))


def test_a_photograph_without_tags_has_no_class_maps_but_an_estimate(scorer):
    model, photo = scorer, sample(tags=(False, False, False))
    assert TINY.score(model, photo)["full"].scores.shape == (0, 50, 70)
    made = replace(TINY, estimated=True).score(model, photo)
    assert made["full"].scores.shape == (0, 50, 70)
    assert saliency_of(made["saliency"]).max() <= 0.5 * 1.001  # lambda M_fg = 0, so at most (1 - lambda)


def test_classify_and_single_batches_agree(scorer):
    model, data = scorer, batch()
    whole = model(data.images)
    torch.testing.assert_close(whole[1:2], model(data.images[1:2]), atol=1e-4, rtol=1e-4)
    assert TINY.classify(model, sample()).shape == (3,)


def test_predefined_names_become_ids_of_the_data_sets_classes():
    method = Eps(strategy="predefined")
    assert method.for_classes(("cat", "chair", "sofa")).predefined == (2, 3)
    assert method.for_classes(("cat", "dog")).predefined == ()  # the default names, none of them here
    assert METHODS["coco"].for_classes(("chair",)) == METHODS["coco"]  # other strategies have no use for them
    assert Eps(strategy="predefined", predefined=("cat", 2)).for_classes(("cat", "dog")).predefined == (1, 2)
    with pytest.raises(WeaksegError, match="'chiar'"):
        Eps(strategy="predefined", predefined=("chiar",)).for_classes(("chair",))
    with pytest.raises(WeaksegError, match="1 to 2"):
        Eps(strategy="predefined", predefined=(3,)).for_classes(("cat", "dog"))
    with pytest.raises(WeaksegError, match="for_classes"):
        method.objective(network(method=replace(TINY, strategy="predefined")), batch(), STEP)


@pytest.mark.parametrize(("name", "batch_size", "iterations"), [("eps-voc", 10, 20_000), ("eps-coco", 20, 24_000)])
def test_the_papers_recipes(name, batch_size, iterations):
    """6.5: masks at background 0.2, without CRF; 6.6: ResNet38-V1 on them, its CRF at test time."""
    steps = {s.name: s for s in resolve(read_recipe(name))}
    assert steps["eps"].method == METHODS[name.removeprefix("eps-")]
    assert steps["threshold"].method.background == 0.2
    assert (steps["threshold"].scores["scores"].step, steps["threshold"].scores["scores"].key) == ("eps", "full")
    segment = steps["segment"].method
    assert steps["segment"].seeds["seeds"].step == "threshold"
    assert (segment.crop, segment.train_scales) == (321, (0.5, 0.75, 1.0, 1.25, 1.5))
    assert (segment.lr, segment.momentum, segment.weight_decay) == (1e-3, 0.9, 5e-4)
    assert (segment.batch_size, segment.iterations, segment.optimisation.power) == (batch_size, iterations, 0.9)
    assert (segment.head, segment.channels, segment.crf) == ("seam", 512, "deeplab_v2_res101")


def test_training_without_saliency_is_refused():
    with pytest.raises(WeaksegError, match="saliency map"):
        TINY.objective(network(), replace(batch(), saliency=None), STEP)


def test_gated_pyramid_pooling_of_the_foreground():
    """methods.md 9.2 on EPS: the C foreground maps are pooled; background and the saliency loss stay as they are."""
    method, data = replace(TINY, pooling="gpp"), batch()
    model = network(method)
    assert len(model.new_parameters()) == 1 + 6
    assert model.pooling.positive[0].weight.shape == (2, 2 * 3, 3, 3)
    logits = model.eval()(data.images)
    losses = method.losses(logits, data.saliency, data.tags, model.pool(logits))
    plain = TINY.losses(logits, data.saliency, data.tags)
    expected = multilabel_soft_margin_loss(model.pooling(logits[:, :-1]).logits, data.tags)
    torch.testing.assert_close(losses["cls"], expected)
    torch.testing.assert_close(losses["saliency"], plain["saliency"], rtol=0, atol=0)
    assert method.classify(model, sample()).shape == (3,)
    sum(method.objective(model.train(), data, STEP).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert "pooling" in deciding_constants(method)
    assert "pooling" not in deciding_constants(TINY)


def test_threads_share_a_network_that_scoring_leaves_alone(monkeypatch):
    photos = [sample(tags=(k % 2 == 0, True, k % 3 == 0), seed=k) for k in range(8)]
    assert_threads_may_share(TINY, network().eval(), photos, monkeypatch)
