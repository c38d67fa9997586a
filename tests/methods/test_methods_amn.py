"""AMN: every equation by hand, label conditioning inside and behind a backbone, maps against a written-out reference."""

import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, interpolate
from torchvision import tv_tensors

from weakseg import api
from weakseg.data.scenes import make_scenes
from weakseg.data.store import read_json, read_label_map, read_score_maps
from weakseg.methods.amn import (
    METHODS,
    Amn,
    activation,
    condition,
    mean_logits,
    per_pixel_classification_loss,
    pixel_loss,
    probe_label,
    seed_mixed,
    smoothed_target,
)
from weakseg.models.amn import drop
from weakseg.models.backbones import batch_norms
from weakseg.ops.cam import min_max_normalise
from weakseg.pipeline.recipe import constants, read_recipe, resolve
from weakseg.types import (
    Backbone,
    Batch,
    Flip,
    Localizer,
    Normalise,
    PaddedCrop,
    Rescale,
    Sample,
    Step,
    WeaksegError,
)

BACKBONE = Backbone("resnet10t", weights=None, create={"channels": [16, 16, 24, 32]})
AMN = METHODS["amn"]
TINY = replace(AMN, freeze_bn=False, freeze_stem=False, rates=(1, 2), scales=(1.0, 0.5))
STEP = Step(0, 0, 10)
NETWORKS = Path(__file__).parents[2] / ".." / "shared" / "networks.json"


def u8(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.uint8)


def network(method: Amn = TINY, classes: int = 3, backbone: Backbone = BACKBONE):
    torch.manual_seed(0)
    return method.build(classes, backbone)


def seeds_of(size=(50, 70)) -> torch.Tensor:
    seeds = torch.zeros(size, dtype=torch.uint8)
    seeds[10:30, 10:40], seeds[30:40, 10:40] = 2, 255
    return seeds


def sample(tags=(False, True, True), size=(50, 70), seed=0, id="a", **fields) -> Sample:
    g = torch.Generator().manual_seed(seed)
    image = interpolate(torch.rand(1, 3, 5, 7, generator=g) * 255, size, mode="bilinear")[0].to(torch.uint8)
    fields = {"seeds": {"refined": tv_tensors.Mask(seeds_of(size))}, **fields}
    return Sample(id, tv_tensors.Image(image), torch.tensor(tags), **fields)


def batch(count=4, classes=3, size=64) -> Batch:
    g = torch.Generator().manual_seed(0)
    tags = torch.eye(classes)[torch.arange(count) % classes]
    seeds = torch.zeros(count, size, size, dtype=torch.uint8)
    seeds[:, 16:48, 16:48] = (torch.arange(count) % classes + 1).to(torch.uint8)[:, None, None]
    seeds[:, 40:48] = 255
    images = torch.randn(count, 3, size, size, generator=g) * 0.3
    images += tags[:, :3, None, None] * (seeds[:, None] != 0)
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    return Batch(tuple(map(str, range(count))), images, tags, valid, seeds={"refined": seeds})


# --- the loss, worked by hand ---


def test_smoothed_target_of_voc_sums_to_one_and_the_papers_to_more():
    """8.3: 0.6 and 0.02 over 21 channels; 8.9, row 1: 0.4 / 19 on each of 20, which is 1.021 in all."""
    labels = u8([[[0, 20, 255]]])
    ours, paper = smoothed_target(labels, 21), smoothed_target(labels, 21, smoothing="paper")
    assert ours.shape == (1, 21, 1, 3)
    assert ours[0, :, 0, 0].tolist() == pytest.approx([0.6] + [0.02] * 20)
    assert ours[0, :, 0, 1].tolist() == pytest.approx([0.02] * 20 + [0.6])
    assert ours[0, :, 0, :2].sum(0).tolist() == pytest.approx([1.0, 1.0])
    assert paper[0, :, 0, 0].tolist() == pytest.approx([0.6] + [0.4 / 19] * 20)
    assert float(paper[0, :, 0, 0].sum()) == pytest.approx(1.021, abs=1e-3)
    assert not ours[..., 2].any()
    assert not paper[..., 2].any()


def test_no_smoothing_is_one_hot_and_one_class_is_told():
    hard = smoothed_target(u8([[[1, 0]]]), 3, epsilon=0.0)
    assert hard[0, :, 0].T.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert smoothed_target(u8([[[1]]]), 2)[0, :, 0, 0].tolist() == pytest.approx([0.4, 0.6])
    with pytest.raises(WeaksegError, match="smoothing = 'classes'"):
        smoothed_target(u8([[[1]]]), 2, smoothing="paper")


def test_pixel_loss_equals_torchs_label_smoothing():
    """torch spreads epsilon over all channels: 0.4 over the 3 others is its 0.4 * 4/3."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6) * 3, torch.randint(0, 4, (2, 5, 6))
    ours = pixel_loss(logits, smoothed_target(labels.to(torch.uint8), 4))
    torchs = cross_entropy(logits, labels, label_smoothing=0.4 * 4 / 3, reduction="none")
    torch.testing.assert_close(ours, torchs)


def test_balanced_loss_by_hand():
    """Three classes with background, M = (1/2, 1/4, 1/4) everywhere; one pixel of foreground, two of background."""
    logits = torch.tensor([0.5, 0.25, 0.25]).log()[None, :, None, None].expand(1, 3, 1, 4)
    labels = u8([[[0, 0, 1, 255]]])
    on = {0: 0.6 * math.log(2) + 0.4 * math.log(4), 1: 0.6 * math.log(4) + 0.2 * math.log(2) + 0.2 * math.log(4)}
    loss = per_pixel_classification_loss(logits, labels)
    assert float(loss) == pytest.approx((on[1] + on[0]) / 2)
    assert float(per_pixel_classification_loss(logits, labels, half=False)) == pytest.approx(on[1] + on[0])
    hard = per_pixel_classification_loss(logits, labels, epsilon=0.0, half=False)  # Eq. (4) to the letter
    assert float(hard) == pytest.approx(math.log(4) + math.log(2))
    paper = per_pixel_classification_loss(logits, labels, smoothing="paper")  # 0.4 / (2 - 1) on each of two others
    assert float(paper) == pytest.approx(
        (0.6 * math.log(2) + 0.8 * math.log(4) + 0.6 * math.log(4) + 0.4 * math.log(2) + 0.4 * math.log(4)) / 2
    )


def test_means_are_over_the_batch_not_over_images():
    logits = torch.zeros(2, 3, 1, 4)
    logits[1, 1] = 3.0  # the second image is sure of class 1
    labels = u8([[[1, 0, 0, 0]], [[1, 1, 1, 0]]])
    loss = pixel_loss(logits, smoothed_target(labels, 3))
    foreground = (loss[0, 0, 0] + 3 * loss[1, 0, 0]) / 4
    background = (3 * loss[0, 0, 1] + loss[1, 0, 3]) / 4
    torch.testing.assert_close(per_pixel_classification_loss(logits, labels), (foreground + background) / 2)


@pytest.mark.parametrize(("labels", "share"), [([[0, 0, 255]], 0.5), ([[2, 255, 2]], 0.5), ([[255, 255, 255]], 0.0)])
def test_a_batch_without_foreground_or_background_is_finite(labels, share):
    logits = torch.zeros(1, 3, 1, 3, requires_grad=True)
    loss = per_pixel_classification_loss(logits, u8([labels]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(share * math.log(3))
    assert bool(logits.grad.isfinite().all())
    unguarded = per_pixel_classification_loss(logits, u8([labels]), guard=False)
    assert unguarded.isnan()  # 0 / 0, as published (8.9, row 15)
    assert replace(AMN, guard=False).guard is False


def test_the_gradient_is_the_finite_difference():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    labels = u8(np.random.default_rng(0).choice([0, 1, 3, 255], (2, 3, 3)))
    assert torch.autograd.gradcheck(lambda x: per_pixel_classification_loss(x, labels), (logits,))


# --- conditioning, maps, probes ---


def test_condition_multiplies_channels():
    features = torch.arange(8.0).reshape(2, 2, 1, 2)
    vector = torch.tensor([[1.0, 10.0], [0.0, -1.0]])
    assert condition(features, vector).tolist() == [[[[0, 1]], [[20, 30]]], [[[0, 0]], [[-6, -7]]]]
    assert torch.equal(condition(features, torch.ones(2, 2)), features)


def test_activation_is_a_softmax_over_all_channels():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()[:, None, None].expand(4, 2, 3)
    maps = activation(logits, u8([0, 3]))
    assert maps.shape == (2, 2, 3)
    assert maps[:, 0, 0].tolist() == pytest.approx([0.1, 0.4])  # not 0.2 and 0.8


def test_min_max_normalise_by_hand():
    maps = torch.tensor([[[0.2, 0.4, 0.6]], [[0.5, 0.5, 0.5]]])
    out = min_max_normalise(maps)
    assert out[0, 0].tolist() == pytest.approx([0.0, 0.2 / (0.4 + 1e-5), 0.4 / (0.4 + 1e-5)], rel=1e-5)
    assert out[1, 0].tolist() == [0.0, 0.0, 0.0]
    assert float(maps[0, 0, 0]) == pytest.approx(0.2)


def test_seed_mixed_keeps_the_probability_on_background_seeds_alone():
    maps = torch.tensor([[[0.2, 0.4, 0.6, 0.3]], [[0.8, 0.6, 0.4, 0.7]]])
    seeds = u8([[0, 7, 255, 0]])
    out, stretched = seed_mixed(maps, seeds), min_max_normalise(maps)
    assert out[:, 0, [0, 3]].tolist() == maps[:, 0, [0, 3]].tolist()
    assert out[:, 0, [1, 2]].tolist() == stretched[:, 0, [1, 2]].tolist()
    assert torch.equal(seed_mixed(maps, u8([[0] * 4])), maps)
    assert torch.equal(seed_mixed(maps, u8([[9, 1, 255, 255]])), stretched)


def test_seed_mixed_takes_the_nearest_seed():
    maps, seeds = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(0)), u8(np.zeros((4, 6)))
    seeds[1:3, 4] = 1  # under no centre of the four cells but those of the right column
    nearest = torch.from_numpy(np.array(Image.fromarray(seeds.numpy()).resize((2, 2), Image.Resampling.NEAREST)))
    assert nearest.tolist() == [[0, 1], [0, 0]]
    out = seed_mixed(maps, seeds)
    assert torch.equal(out, torch.where(nearest == 0, maps, min_max_normalise(maps)))


def test_mean_logits_turns_mirror_images_back():
    view = torch.tensor([[[[0.0, 4.0]]], [[[8.0, 0.0]]]])  # the mirror image's logits lie mirrored
    assert mean_logits([view], (1, 2)).tolist() == [[[0.0, 6.0]]]
    assert mean_logits([view, torch.full((1, 1, 1, 1), 2.0)], (1, 2)).tolist() == [[[1.0, 4.0]]]


def test_probes():
    tags = torch.tensor([[0.0, 1.0, 1.0]])
    assert probe_label(tags).tolist() == [[0, 1, 1]]
    assert probe_label(tags, "ones").tolist() == [[1, 1, 1]]
    assert probe_label(tags, "zeros").tolist() == [[0, 0, 0]]
    many = tags.expand(4000, 3)
    noisy = probe_label(many, "noise", noise=0.5, generator=torch.Generator().manual_seed(1)) - many
    assert float(noisy.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.03)
    again = probe_label(many, "noise", noise=0.5, generator=torch.Generator().manual_seed(1)) - many
    assert torch.equal(noisy, again)


def test_drop_is_dropout():
    x = torch.ones(4, 50, 10, 10)
    out = drop(x, 0.1, torch.Generator().manual_seed(0))
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.9)]
    assert float((out == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(out, drop(x, 0.1, torch.Generator().manual_seed(0)))


# --- the network ---


def test_the_published_constants():
    """methods.md 8.2 to 8.5."""
    assert AMN.augmentation.steps == (Rescale(0.5, 1.5), Normalise(), Flip(0.5), PaddedCrop(512))
    o = AMN.optimisation
    assert (o.optimiser, o.schedule, o.lr, o.weight_decay, o.batch_size, o.epochs) == (
        "adam",
        "constant",
        5e-6,
        1e-4,
        16,
        5,
    )
    assert o.lr * o.new_factor == pytest.approx(1e-4)
    assert o.bias_factor is None  # biases decay as weights do
    assert (AMN.epsilon, AMN.half, AMN.smoothing, AMN.map_norm) == (0.4, True, "classes", "seed_mixed")
    assert (AMN.scales, AMN.flip, AMN.dropout, AMN.rates, AMN.layers) == (
        (1.0, 0.5, 1.5, 2.0),
        True,
        0.1,
        (6, 12, 18, 24),
        (4,),
    )
    assert not AMN.test_time_dropout
    assert (10_582 // 16 * 5, 82_783 // 16 * 5) == (3305, 25_865)  # the steps that 8.4 prints


def test_roles_and_round_trip():
    assert isinstance(AMN, Localizer)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(json.dumps(asdict(AMN))).items()}
    assert Amn(**fields) == AMN


def test_the_papers_network():
    """irn_resnet50: only conv1 and bn1 are frozen, BatchNorm's statistics are, its scale and shift learn; 8.2's head."""
    backbone = Backbone("irn_resnet50", None)
    model = replace(AMN, freeze_bn=False).build(20, backbone)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone.net.conv1.weight", "backbone.net.bn1.weight", "backbone.net.bn1.bias"}
    assert sum(p.numel() for p in model.parameters()) == 25_099_412  # of the published checkpoint
    encoder = model.encoders["layer4"]
    assert (encoder.in_features, encoder.out_features, encoder.bias is not None) == (20, 2048, True)
    assert type(model.dropout) is torch.nn.Dropout  # of entries, not of channels
    assert model.dropout.p == 0.1
    assert [c.dilation[0] for c in model.head.branches] == [6, 12, 18, 24]
    assert float(model.head.branches[0].weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not any(c.bias.any() for c in model.head.branches)
    new = set(map(id, model.new_parameters()))
    assert new | set(map(id, model.backbone.parameters())) == set(map(id, model.parameters()))
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 321, 321), torch.zeros(1, 20)).shape == (1, 21, 21, 21)


def test_statistics_of_batch_norm_stay():
    with pytest.raises(WeaksegError, match="frozen BatchNorm"):
        AMN.build(3, BACKBONE)
    model = network()
    model.backbone.freeze_bn = True
    assert not any(m.training for m in batch_norms(model.train()))
    assert all(m.weight.requires_grad for m in batch_norms(model))
    assert model.dropout.training


@pytest.mark.realdata
@pytest.mark.skipif(not NETWORKS.is_file(), reason="no shared folder beside the checkout")
def test_tensors_are_those_of_the_published_checkpoint():
    published = json.loads(NETWORKS.read_text())["amn_resnet50"]["params"]
    renamed = {
        name.replace("resnet50.", "backbone.net.")
        .replace("label_enc.", "encoders.layer4.")
        .replace("classifier.1.c", "head.branches."): tuple(shape)
        for name, shape in published
    }
    model = replace(AMN, freeze_bn=False).build(20, Backbone("irn_resnet50", None))
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == renamed


@pytest.mark.parametrize("layers", [(4,), (3,), (3, 4), (1,), (2, 3, 4)])
def test_label_conditioning_at_any_layers_equals_running_the_stages_by_hand(layers):
    model = network(replace(TINY, layers=layers), backbone=Backbone("irn_resnet50", None)).eval()
    images, tags = torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    net = model.backbone.net
    with torch.inference_mode():
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        for layer, stage in enumerate((net.layer1, net.layer2, net.layer3, net.layer4), start=1):
            x = stage(x)
            if layer in layers:
                x = x * model.encoders[f"layer{layer}"](tags)[:, :, None, None]
        expected = sum(branch(x) for branch in model.head.branches)
        torch.testing.assert_close(model(images, tags), expected, rtol=1e-3, atol=1e-4)
    assert set(model.encoders) == {f"layer{k}" for k in layers}


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_100", "convnext_atto"])
@pytest.mark.parametrize("layers", [(4,), (3,), (2, 3, 4)])
def test_label_conditioning_inside_any_timm_network(name, layers):
    """With h = 1 nothing changes; with another h at one layer the output does, and it is as before afterwards."""
    model = network(replace(TINY, layers=layers), backbone=Backbone(name, None)).eval()
    plain = network(replace(TINY, lc=False), backbone=Backbone(name, None)).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("encoders")})
    images, tags = torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    with torch.inference_mode():
        for encode in model.encoders.values():
            encode.weight.zero_()
            encode.bias.fill_(1.0)
        without = plain(images, tags)
        torch.testing.assert_close(model(images, tags), without, rtol=1e-4, atol=1e-5)
        for layer in layers:
            bias = model.encoders[f"layer{layer}"].bias
            bias[: len(bias) // 2] = -1.0
            assert not torch.allclose(model(images, tags), without, rtol=1e-2)
            bias.fill_(1.0)


def test_without_label_conditioning_the_tags_say_nothing():
    model = network(replace(TINY, lc=False, layers=(3, 4))).eval()
    images = torch.randn(1, 3, 64, 64)
    assert not model.encoders
    assert model.new_parameters() == list(model.head.parameters())
    with torch.inference_mode():
        assert torch.equal(model(images, torch.zeros(1, 3)), model(images, torch.ones(1, 3)))


def test_a_layer_that_is_not_there_is_told():
    for layer in (0, 5):
        with pytest.raises(WeaksegError, match=f"no layer {layer}.*1 to 4"):
            network(replace(TINY, layers=(layer,)))


@pytest.mark.parametrize("method", [replace(TINY, layers=(2, 3, 4)), replace(TINY, test_time_dropout=True)])
def test_threads_do_not_meet(method):
    """Photographs are scored in threads that share the network; a label must not reach another thread's features."""
    model = network(method).eval()
    photos = [sample(tags=(k % 2 == 0, k % 3 == 0, True), seed=k, id=f"p{k}") for k in range(12)]

    def score(s):
        with torch.inference_mode():
            return method.score(model, s)["strided"].scores

    alone = [score(s) for s in photos]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(score, photos), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layers", [(4,), (1, 2, 3)])
def test_scoring_writes_nothing_into_the_network(layers, monkeypatch):
    """What several threads share must stay as it is: no attribute, no hook, no mode, no number changes."""
    method = replace(TINY, layers=layers, test_time_dropout=True)
    model = network(method).eval()
    before = {n: (dict(vars(m)), list(m._forward_hooks)) for n, m in model.named_modules()}
    numbers = copy.deepcopy(model.state_dict())

    def refuse(*arguments):
        raise AssertionError(f"scoring writes into the network: {arguments[1:]}")

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Module, "__setattr__", refuse)
        patched.setattr(torch.nn.Module, "register_forward_hook", refuse)
        with torch.inference_mode():
            method.score(model, sample())
    for name, module in model.named_modules():
        attributes, hooks = before[name]
        assert all(vars(module)[k] is v for k, v in attributes.items())
        assert list(module._forward_hooks) == hooks
    assert all(torch.equal(v, numbers[k]) for k, v in model.state_dict().items())


def test_a_copy_conditions_its_own_stages():
    model = network(replace(TINY, layers=(3,))).eval()
    twin = copy.deepcopy(model)
    images, tags = torch.randn(1, 3, 64, 64), torch.ones(1, 3)
    with torch.inference_mode():
        expected = model(images, tags)
        torch.testing.assert_close(twin(images, tags), expected)
        twin.encoders["layer3"].bias.add_(1)
        torch.testing.assert_close(model(images, tags), expected)
        assert not torch.allclose(twin(images, tags), expected, rtol=1e-3)


def test_every_trainable_parameter_learns_and_the_loss_falls():
    for layers in ((4,), (1, 2, 3, 4)):
        model, data, losses = network(replace(TINY, layers=layers)), batch(), []
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(12):
            loss = TINY.objective(model, data, STEP)["pcl"]
            optimiser.zero_grad()
            loss.backward()
            assert all(p.grad is not None for p in model.parameters())
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] * 0.9
        assert losses[0] == pytest.approx(math.log(4), rel=0.2)


def test_the_objective_reads_the_seed_under_each_feature():
    """Seeds go to the features by nearest neighbour; padding and undefined pixels are in neither mean."""
    data = batch(count=1)
    logits = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    seeds = data.seeds["refined"][0].numpy()
    small = np.array(Image.fromarray(seeds).resize((4, 4), Image.Resampling.NEAREST))
    value = TINY.objective(lambda images, labels: logits, data, STEP)["pcl"]
    torch.testing.assert_close(value, per_pixel_classification_loss(logits, u8(small)[None]))
    with pytest.raises(WeaksegError, match="refined"):
        TINY.objective(network(), replace(data, seeds={}), STEP)


def test_training_feeds_what_condition_says():
    fed = []

    def spy(images, labels):
        fed.append(labels)
        return torch.zeros(len(images), 4, 4, 4)

    for kind in ("label", "ones", "zeros"):
        replace(TINY, condition=kind).objective(spy, batch(), STEP)
    assert torch.equal(fed[0], batch().tags)
    assert bool((fed[1] == 1).all())
    assert not fed[2].any()


# --- the maps ---


@pytest.mark.parametrize("norm", ["seed_mixed", "plain_minmax"])
def test_maps_equal_the_specification_written_out(norm):
    """methods.md 8.5, view by view, with PIL and one forward pass a view."""
    method, s = replace(TINY, map_norm=norm, scales=(1.0, 0.5, 1.5)), sample()
    model = network().eval()
    height, width = s.size
    photo, seeds = Image.fromarray(s.image.permute(1, 2, 0).numpy()), Image.fromarray(s.seeds["refined"].numpy())
    sums = {(height, width): 0.0, (13, 18): 0.0}
    with torch.inference_mode():
        for scale in method.scales:
            resized = photo.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
            for flip in (False, True):
                pixels = np.asarray(resized)[:, ::-1].copy() if flip else np.asarray(resized).copy()
                view = model.normalise(torch.from_numpy(pixels).permute(2, 0, 1))[None]
                logits = model(view, torch.tensor([[0.0, 1.0, 1.0]]))
                logits = logits.flip(-1) if flip else logits
                for size in sums:
                    sums[size] += interpolate(logits, size, mode="bilinear")[0] / 6
        scores = method.score(model, s)
    for key, (size, logits) in zip(("full", "strided"), sums.items(), strict=True):
        maps = logits.softmax(0)[[0, 2, 3]]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        stretched = (maps - low) / (high - low + 1e-5)
        seed = np.array(seeds.resize(size[::-1], Image.Resampling.NEAREST))
        keep = torch.from_numpy((seed == 0) & (norm == "seed_mixed"))
        assert scores[key].ids.tolist() == [0, 2, 3]
        assert scores[key].size == s.size
        torch.testing.assert_close(scores[key].scores, torch.where(keep, maps, stretched), rtol=1e-3, atol=1e-4)


def test_plain_minmax_needs_no_seeds_and_seed_mixed_says_so():
    s, model = sample(seeds={}), network().eval()
    with torch.inference_mode():
        assert replace(TINY, map_norm="plain_minmax").score(model, s)["full"].scores.shape == (3, 50, 70)
        with pytest.raises(WeaksegError, match="plain_minmax"):
            TINY.score(model, s)


def test_no_tags_are_background_without_a_forward_pass():
    model = network().eval()
    model.backbone.net = None  # a forward pass would fail
    scores = TINY.score(model, sample(tags=(False, False, False), seeds={}))
    for key, size in (("full", (50, 70)), ("strided", (13, 18))):
        assert scores[key].ids.tolist() == [0]
        assert torch.equal(scores[key].scores, torch.ones(1, *size))


def test_test_time_dropout_depends_on_the_photograph_alone():
    dropping, model, s = replace(TINY, test_time_dropout=True), network().eval(), sample()
    with torch.inference_mode():
        plain = TINY.score(model, s)["full"].scores
        one = dropping.score(model, s)["full"].scores
        torch.manual_seed(99)
        torch.testing.assert_close(dropping.score(model, s)["full"].scores, one)
        assert not torch.allclose(one, plain, atol=1e-3)
        assert not torch.allclose(dropping.score(model, replace(s, id="b"))["full"].scores, one, atol=1e-3)
        torch.testing.assert_close(TINY.score(model, replace(s, id="b"))["full"].scores, plain)


def test_probes_change_the_maps_of_a_trained_network():
    model, s = network().eval(), sample()
    with torch.inference_mode():
        label = TINY.score(model, s)["full"].scores
        by = {p: replace(TINY, probe=p).score(model, s)["full"].scores for p in ("label", "ones", "noise", "zeros")}
        again = replace(TINY, probe="noise").score(model, s)["full"].scores
        as_trained = replace(TINY, condition="ones").score(model, s)["full"].scores
    assert torch.equal(by["label"], label)
    assert torch.equal(by["noise"], again)
    assert torch.equal(by["ones"], as_trained)
    assert all(not torch.allclose(label, by[p], atol=1e-4) for p in ("ones", "noise", "zeros"))
    every = sample(tags=(True, True, True))
    with torch.inference_mode():
        assert torch.equal(
            TINY.score(model, every)["full"].scores, replace(TINY, probe="ones").score(model, every)["full"].scores
        )


def test_mirrored_photograph_mirrored_maps():
    s = sample()
    mirrored = replace(
        s, image=tv_tensors.Image(s.image.flip(-1)), seeds={"refined": tv_tensors.Mask(s.seeds["refined"].flip(-1))}
    )
    model = network().eval()
    with torch.inference_mode():
        one, other = TINY.score(model, s)["full"].scores, TINY.score(model, mirrored)["full"].scores
    torch.testing.assert_close(other, one.flip(-1), rtol=1e-3, atol=1e-4)


def test_golden_maps():
    """Numbers that change only if the equations, or the order of the draws, do."""
    logits = torch.linspace(-2, 2, 4 * 3 * 4).reshape(1, 4, 3, 4).sin() * 3
    maps = activation(mean_logits([torch.cat([logits, logits.roll(1, dims=1)])], (6, 8)), u8([0, 2]))
    seeds = u8(np.arange(48).reshape(6, 8) % 3)
    out = seed_mixed(maps, seeds)
    assert [round(v, 4) for v in out[:, 2, :4].flatten().tolist()] == GOLDEN


GOLDEN = [0.433, 0.4442, 0.0956, 0.4929, 0.1694, 0.1831, 0.0758, 0.243]


# --- recipes and the whole chain ---


def test_the_papers_recipes():
    """methods.md 8.1, 8.6 and 8.7."""
    for name, background, crop, size in (("amn-irn-voc", 0.25, 321, 10), ("amn-irn-coco", 0.22, 481, 20)):
        steps = {s.name: s for s in resolve(read_recipe(name))}
        assert steps["amn"].method == AMN
        assert (steps["seeds"].method.conf_fg, steps["seeds"].method.conf_bg) == (0.30, 0.05)
        assert (steps["amn-seeds"].method.conf_fg, steps["amn-seeds"].method.conf_bg) == (0.45, 0.15)
        assert (steps["irn"].method.power, steps["irn"].method.background) == (1.3, background)
        assert steps["irn"].method.mean_shift == (name == "amn-irn-voc")
        assert steps["irn"].scores["scores"].key == "strided"
        assert (steps["cam-maps"].method.fixed, steps["maps"].method.fixed) == (0.15, 0.25)
        segment = steps["segment"].method
        assert (segment.loss, segment.crop, segment.iterations, segment.lr) == ("balanced", crop, 30_000, 2.5e-4)
        assert segment.train_scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
        assert (segment.batch_size, segment.batch_size // segment.accumulate) == (size, 5)
        assert (segment.momentum, segment.weight_decay, segment.optimisation.power) == (0.9, 5e-4, 0.9)


def test_the_mobile_recipe_shares_its_cam_and_its_segmentation_network():
    ours, cam = ({s.name: s for s in resolve(read_recipe(n))} for n in ("amn-irn-mobile", "cam-crf-mobile"))
    for step in ("cam", "segment"):
        assert constants(ours[step].method) == constants(cam[step].method)
        assert (ours[step].lists, ours[step].backbone) == (cam[step].lists, cam[step].backbone)


def test_the_analyses_share_their_networks_with_the_recipe():
    """So that --reuse takes them over."""
    for ours, theirs, shared in (
        ("amn-analyses-mobile", "amn-irn-mobile", ("cam", "seeds", "amn")),
        ("eps-analyses-mobile", "eps-mobile", ("eps", "threshold")),
        ("cam-analyses-mobile", "cam-crf-mobile", ("cam", "threshold")),
    ):
        one, other = ({s.name: s for s in resolve(read_recipe(n))} for n in (ours, theirs))
        for step in shared:
            assert constants(one[step].method) == constants(other[step].method)
            assert (one[step].lists, one[step].backbone) == (other[step].lists, other[step].backbone)


CHAIN = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 32, 64, 128]}}
labels: masks
steps:
- name: cam
  method: cam.resnet38
  list: all
  set: {crop: 64, long_side: [64, 72], jitter: false, epochs: 2, batch_size: 4, lr: 0.02, new_factor: 1, momentum: 0.9,
        freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: seeds, method: labels.ir_label, scores: cam/full, list: all}
- name: amn
  method: amn
  seeds: {refined: seeds}
  list: all
  set: {crop: 64, train_scales: [0.8, 1.2], epochs: 40, batch_size: 4, lr: 0.002, new_factor: 1, rates: [1, 2],
        freeze_bn: false, freeze_stem: false, scales: [1.0, 1.5]}
- {name: amn-seeds, method: labels.ir_label, scores: amn/full, list: all, set: {conf_fg: 0.45, conf_bg: 0.15}}
- {name: masks, method: labels.threshold, scores: amn/full, list: all, set: {background: 0.25}}
- {name: own, method: labels.threshold, scores: amn/full, list: all, set: {background: null}}
- {name: maps, method: evaluate.scores, scores: amn/full, list: all, set: {fixed: 0.25}}
- {name: pseudo, method: evaluate.masks, seeds: masks, list: all}
- {name: probes, method: evaluate.probes, model: amn, seeds: {refined: seeds}, list: all}
"""


@pytest.mark.slow
def test_the_chain_on_twelve_scenes(tmp_path):
    """Every artefact is written, the network learns its seeds, and its masks beat those that are background alone."""
    make_scenes(tmp_path / "scenes", count=12, seed=3, size=64)
    (tmp_path / "chain.yaml").write_text(CHAIN)
    quiet = {"device": "cpu", "progress": False, "workers": 0, "say": lambda line: None}
    api.run(tmp_path / "chain.yaml", tmp_path / "scenes", tmp_path / "run", **quiet)
    steps = {f.name.split("-", 1)[1]: f for f in (tmp_path / "run" / "seed-0" / "steps").iterdir()}
    photographs = sorted((steps["amn"] / "scores").iterdir())
    assert len(photographs) == 12
    for file in photographs:
        maps = read_score_maps(file)
        tagged = set(read_label_map(steps["masks"] / "labels" / f"{file.stem}.png").unique().tolist())
        assert set(maps) == {"full", "strided"}
        assert maps["full"].ids.tolist()[0] == 0
        assert tagged <= set(maps["full"].ids.tolist())
        assert (steps["amn-seeds"] / "labels" / f"{file.stem}.png").is_file()
        assert (steps["own"] / "labels" / f"{file.stem}.png").is_file()
    fit = read_json(steps["amn"] / "fit" / "fit.json")
    assert fit["losses_last"]["pcl"] < 0.9 * fit["losses_first"]["pcl"]
    sweep = read_json(steps["maps"] / "result.json")["result"]
    pseudo = read_json(steps["pseudo"] / "result.json")["result"]
    assert pseudo["miou"] == pytest.approx(sweep["fixed"]["miou"], abs=0.02)
    assert pseudo["miou"] > 1.2 * pseudo["all_background_miou"]
    assert sum(sweep["foreground_activation"]["counts"]) > 0
    probes = read_json(steps["probes"] / "result.json")["result"]["probes"]
    assert set(probes) == {"label", "ones", "noise", "zeros"}
    assert probes["label"]["fixed"]["miou"] == pytest.approx(sweep["fixed"]["miou"], abs=1e-3)  # maps kept to 5e-4
    assert probes["label"]["plateau_width"] == pytest.approx(sweep["plateau_width"], abs=0.02)
    assert probes["zeros"]["area"] != probes["label"]["area"]
