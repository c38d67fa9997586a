"""BANA's three stages: their steps against the equations, the guards, the gradient, and the constants."""

import copy
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate
from torchvision import tv_tensors

from weakseg._optimisation import parameter_groups
from weakseg.data.transforms import build
from weakseg.methods import load
from weakseg.methods.bana import METHODS, PADDING, Bap, Labels, Nal
from weakseg.models.backbones import batch_norms
from weakseg.models.cosine import CosineDeepLab
from weakseg.models.vgg16 import Vgg16
from weakseg.ops.bap import bap_vectors
from weakseg.ops.box_maps import background_map, photograph_attention
from weakseg.ops.boxes import box_masks, definite_background, truncated_boxes
from weakseg.ops.crf import dense_crf, recipe, unary_from_probabilities
from weakseg.ops.noise import agreement, confidence
from weakseg.pipeline.recipe import configure
from weakseg.types import (
    Augmentation,
    Backbone,
    Batch,
    Flip,
    Jitter,
    Localizer,
    Normalise,
    PadCrop,
    Refiner,
    Rescale,
    Sample,
    ScoreMap,
    Segmenter,
    ShiftBoxes,
    Step,
    WeaksegError,
    deciding_constants,
)

BACKBONE = Backbone("resnet10t", weights=None, output_stride=8)
BAP = replace(METHODS["bap"], freeze_bn=False, crop=64, iterations=None, epochs=1)
NAL = replace(METHODS["nal"], freeze_bn=False, head="aspp", rates=(1, 2), channels=16, crop=64, scales=(1.0, 0.5))
STEP = Step(0, 0, 10)
CLASSES = 3


def photograph(size=(40, 56), seed=0):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 5, 7), generator=g).float()
    return tv_tensors.Image(interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)[0])


def sample(boxes=((4.0, 6.0, 24.0, 30.0), (20.0, 10.0, 44.0, 34.0)), labels=(1, 3), size=(40, 56), **fields) -> Sample:
    tags = torch.zeros(CLASSES, dtype=torch.bool)
    tags[[k - 1 for k in labels]] = True
    xyxy = torch.tensor(boxes).reshape(-1, 4)
    return Sample(
        "a",
        photograph(size),
        tags,
        boxes=tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=size),
        box_labels=torch.tensor(labels, dtype=torch.int64),
        **fields,
    )


def batch(count=3, size=64, seed=0, boxes=None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES + 1
    one = torch.tensor([[12.0, 8.0, 44.5, 40.0]])
    images = torch.randn(count, 3, size, size, generator=g) * 0.3
    for k, c in enumerate(labels.tolist()):
        images[k, c - 1, 8:40, 12:44] += 2
    crf = torch.zeros(count, size, size, dtype=torch.uint8)
    for k, c in enumerate(labels.tolist()):
        crf[k, 8:40, 12:44] = c
    ret = crf.clone()
    ret[:, 8:16] = 0
    crf[:, 60:], ret[:, 60:] = 255, 255
    return Batch(
        tuple(map(str, range(count))),
        images,
        torch.eye(CLASSES)[labels - 1],
        torch.ones(count, 1, size, size, dtype=torch.bool),
        seeds={"crf": crf, "ret": ret},
        boxes=(one,) * count if boxes is None else boxes,
        box_labels=tuple(labels[:, None])
        if boxes is None
        else tuple(torch.ones(len(b), dtype=torch.int64) for b in boxes),
    )


def network(method=BAP, seed=0):
    torch.manual_seed(seed)
    return method.build(CLASSES, BACKBONE)


@pytest.fixture(scope="module")
def classifier():
    return network().eval()


@pytest.fixture(scope="module")
def segmenter():
    return network(NAL).eval()


@pytest.fixture
def no_gradient():
    with torch.inference_mode():
        yield


def scored(model, photo, method=BAP):
    return replace(photo, scores={"scores": method.score(model, photo)["full"]})


# --- the roles and the constants ---


def test_roles():
    assert isinstance(load("bana.bap"), Localizer)
    assert isinstance(load("bana.labels"), Refiner)
    assert isinstance(load("bana.nal"), Segmenter)
    assert Labels().writes == ("crf", "ret", "reliable")


def test_the_defaults_are_the_published_constants():
    bap = asdict(METHODS["bap"])
    assert {k: bap[k] for k in ("grid", "roi_size", "min_background", "generating_grid", "threshold", "batch_size",
                                "iterations", "lr", "new_factor", "bias_factor", "weight_decay", "momentum", "crop",
                                "train_scales", "milestones")} == {
        "grid": 4, "roi_size": 2, "min_background": 0.125, "generating_grid": 1, "threshold": 0.99, "batch_size": 20,
        "iterations": 8000, "lr": 1e-3, "new_factor": 10.0, "bias_factor": 2.0, "weight_decay": 5e-4, "momentum": 0.9,
        "crop": 321, "train_scales": (0.5, 1.5), "milestones": (5000,)}  # fmt: skip
    nal, v2 = METHODS["nal"], METHODS["nal_v2"]
    assert (nal.gamma, nal.lam, nal.scale, nal.lr, nal.batch_size, nal.iterations) == (7.0, 0.1, 20.0, 1e-3, 20, 23_805)
    assert (v2.lr, v2.batch_size, v2.iterations, v2.channels, v2.head) == (2.5e-4, 10, 20_000, 256, "aspp")
    assert (nal.crf, v2.crf, METHODS["labels"].crf) == ("deeplab_v1_vgg", "deeplab_v2_res101", "bana_stage2")
    assert set(nal.scales) == {1.0, 0.5, 0.75, 1.5}


def test_v2_freezes_batchnorm_and_can_move_its_statistics_as_published():
    """methods.md 7.7, row 17, and 7.5: one rate for the backbone, ten times that for the head."""
    v2, resnet = METHODS["nal_v2"], Backbone("resnet101_caffe", weights=None, output_stride=8)
    published = replace(v2, freeze_bn=False, freeze_affine=False, bn_momentum=0.999)
    with torch.device("meta"):
        fixed, moving = (m.build(20, resnet) for m in (replace(v2, freeze_bn=False), published))
    assert v2.freeze_bn
    assert not any(p.requires_grad for norm in batch_norms(fixed.backbone) for p in norm.parameters())
    assert {norm.momentum for norm in batch_norms(fixed.backbone)} == {0.001}
    assert {norm.momentum for norm in batch_norms(moving.backbone)} == {0.999}
    groups = parameter_groups(moving, published.optimisation)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(2.5e-4, 5e-4), (pytest.approx(2.5e-3), 5e-4)]
    assert "bn_momentum" not in deciding_constants(METHODS["nal"])


@pytest.mark.parametrize("name", METHODS)
def test_the_configuration_round_trips(name):
    method = METHODS[name]
    assert configure(method, asdict(method), name) == method


def test_the_mobile_segmenter_differs_from_deeplabs_in_classifier_and_loss_alone():
    """A percentage kept of the fully supervised network compares label maps, not schedules."""
    ours, deeplab = METHODS["nal_mobile"], load("deeplab.mobile")
    assert ours.optimisation == deeplab.optimisation
    own = {"unreliable", "gamma", "lam", "detach_confidence", "guard", "classifier", "scale"}  # of loss and classifier
    same = {f.name for f in fields(ours)} & {f.name for f in fields(deeplab)}
    assert {f.name: getattr(ours, f.name) for f in fields(ours) if f.name in same} == {
        name: getattr(deeplab, name) for name in same
    }
    left = {"align_corners": False, "scale_range": (0.5, 1.5), "jitter": 0.0, "interpolation": "bicubic",
            "keep_epochs": False, "bn_momentum": None}  # fmt: skip
    assert {f.name: getattr(ours, f.name) for f in fields(ours) if f.name not in same | own} == left
    assert {f.name for f in fields(deeplab)} - same == {"accumulate", "interval", "loss_at", "msc", "test_size"}
    assert (deeplab.loss_at, deeplab.msc, deeplab.test_size) == ("crop", False, None)  # as this loss has it
    steps = {replace(s, low=1.0, high=1.0) if isinstance(s, Rescale) else s for s in ours.augmentation.steps}
    assert steps == set(deeplab.augmentation.steps)  # of a list of scales, low and high are not read
    assert all(getattr(ours, name) == getattr(METHODS["nal"], name) for name in own)


def test_the_mobile_stem_is_frozen():
    backbone = replace(BACKBONE, output_stride=16)
    model = replace(METHODS["nal_mobile"], freeze_bn=False).build(CLASSES, backbone)
    deeplab = replace(load("deeplab.mobile"), freeze_bn=False).build(CLASSES, backbone)
    learnt = [p.requires_grad for p in model.backbone.parameters()]
    assert learnt == [p.requires_grad for p in deeplab.backbone.parameters()]
    assert False in learnt
    assert True in learnt


def test_gamma_is_the_losss_and_not_the_rates():
    assert replace(METHODS["nal"], gamma=3.0).optimisation == METHODS["nal"].optimisation
    assert METHODS["nal"].optimisation.gamma == 0.1


def test_runs_from_before_the_optimiser_could_be_chosen_stay_done():
    known = deciding_constants(METHODS["nal"])
    assert not {"optimiser", "freeze_stem"} & set(known)
    assert deciding_constants(METHODS["nal_mobile"])["optimiser"] == "adamw"
    assert not {"sampling", "nearest_boxes"} & set(deciding_constants(METHODS["bap"]))
    assert "guard" not in deciding_constants(METHODS["labels"])
    paper = replace(METHODS["bap"], sampling="roi_align", nearest_boxes=True)
    assert {"sampling", "nearest_boxes"} <= set(deciding_constants(paper))


def test_the_augmentation_has_the_published_order():
    for method in (METHODS["bap"], METHODS["nal"]):
        assert method.augmentation.steps == (
            Rescale(0.5, 1.5, mode="bilinear"),
            PadCrop(321, PADDING),
            Flip(0.5),
            Jitter(0.5, 0.5, 0.5, 0.0),
            Normalise(),
        )
        build(method.augmentation, lambda x: x.float())
    optimisation = METHODS["bap"].optimisation
    assert (optimisation.schedule, optimisation.milestones, optimisation.gamma) == ("step", (5000,), 0.1)


def test_the_networks_of_the_paper():
    vgg = Backbone("vgg16d", weights=None, output_stride=8)
    with torch.device("meta"):
        first, third = METHODS["bap"].build(20, vgg), METHODS["nal"].build(20, vgg)
    net, other = first.backbone.net, third.backbone.net
    assert isinstance(net, Vgg16)
    assert isinstance(other, Vgg16)
    assert (net.fc6.dilation, net.pool5, other.fc6.dilation, other.pool5) == ((1, 1), True, (12, 12), True)
    assert net.drop_last
    assert other.drop_last
    assert tuple(first.weight.shape) == tuple(third.weight.shape) == (21, 1024)
    assert all(p.requires_grad for p in first.parameters())
    with pytest.raises(WeaksegError, match="vgg16d"):
        replace(METHODS["nal"], freeze_bn=False).build(20, BACKBONE)


# --- stage 1 ---


def test_the_objective_is_the_mean_over_all_vectors_of_the_batch(classifier):
    b = batch()
    loss = BAP.objective(classifier, b, STEP)["cls"]
    vectors, targets = [], []
    for k, f in enumerate(classifier(b.images)):
        q, r = bap_vectors(f, b.boxes[k], b.valid[k, 0])
        assert len(r) == 4
        vectors += [q, r]
        targets += [0] * len(q) + [int(b.box_labels[k])] * 4
    logits = torch.cat(vectors) @ classifier.weight.T
    torch.testing.assert_close(loss, cross_entropy(logits, torch.tensor(targets)))


@pytest.mark.parametrize(
    "boxes",
    [
        (torch.zeros(0, 4), torch.zeros(0, 4)),  # nothing but background
        (torch.tensor([[0.0, 0.0, 64.0, 64.0]]), torch.tensor([[0.0, 0.0, 64.0, 64.0]])),  # no definite background
        (torch.tensor([[9.0, 9.0, 10.0, 10.0]]), torch.tensor([[63.7, 63.7, 64.0, 64.0]])),  # of one pixel
        (torch.tensor([[4.0, 4.0, 40.0, 40.0], [4.0, 4.0, 40.0, 40.0], [8.0, 2.0, 30.0, 60.0]]),) * 2,  # overlapping
    ],
)
@pytest.mark.parametrize("pooling", ["bap", "gap"])
def test_whatever_the_boxes_the_loss_is_finite_and_everything_learns(boxes, pooling):
    model = network()
    loss = replace(BAP, pooling=pooling).objective(model, batch(2, boxes=boxes), STEP)["cls"]
    loss.backward()
    assert bool(loss.detach().isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_batch_without_a_vector_is_no_loss(classifier):
    b = batch(1, boxes=(torch.tensor([[0.0, 0.0, 64.0, 64.0]]),))
    nothing = replace(b, boxes=(torch.zeros(0, 4),), box_labels=(torch.zeros(0, dtype=torch.int64),),
                      valid=torch.zeros_like(b.valid))  # fmt: skip
    assert float(BAP.objective(classifier, nothing, STEP)["cls"].detach()) == 0
    with pytest.raises(WeaksegError, match="learns from boxes"):
        BAP.objective(classifier, replace(b, boxes=None, box_labels=None), STEP)
    with pytest.raises(WeaksegError, match="as `fitted`"):
        replace(BAP, agnostic=True, known_classes=6).objective(classifier, b, STEP)


def test_the_loss_falls():
    model, b = network(), batch(6)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = BAP.objective(model, b, STEP)["cls"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_batch_is_the_sum_of_its_photographs(classifier):
    b = batch(2)
    parts = [
        replace(b, ids=b.ids[k : k + 1], images=b.images[k : k + 1], valid=b.valid[k : k + 1],
                boxes=b.boxes[k : k + 1], box_labels=b.box_labels[k : k + 1]) for k in range(2)
    ]  # fmt: skip
    whole = BAP.objective(classifier, b, STEP)["cls"]
    halves = [BAP.objective(classifier, part, STEP)["cls"] for part in parts]
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2)  # as many vectors in either


def test_published_boxes_are_shifted_and_grown():
    """grow_edges reaches the pooling, voc_offset the annotation: before the scale, and on a mirrored box's other side."""
    f, valid = torch.randn(6, 8, 8), torch.ones(64, 64, dtype=torch.bool)
    published = replace(BAP, grow_edges=True).vectors(f, torch.tensor([[9.0, 9.0, 64.0, 32.0]]), valid)
    by_hand = BAP.vectors(f, torch.tensor([[9.0, 9.0, 65.0, 32.0]]), valid)
    for a, b in zip(published, by_hand, strict=True):
        torch.testing.assert_close(a, b)
    steps = replace(BAP, voc_offset=1).augmentation.steps
    assert steps == (ShiftBoxes(1), *BAP.augmentation.steps)
    changed = Augmentation((steps[0], Rescale(2.0, 2.0), Flip(1.0), Normalise()))
    found = build(changed, lambda x: x.float())(sample(boxes=((4.0, 6.0, 24.0, 30.0),), labels=(1,)), torch.Generator())
    assert found["boxes"].tolist() == [[112 - 48, 14, 112 - 10, 60]]


@pytest.mark.usefixtures("no_gradient")
def test_boxes_are_classified_where_they_are_learnt(classifier):
    moved = ((5.0, 7.0, 24.0, 30.0), (21.0, 11.0, 44.0, 34.0))
    found = replace(BAP, voc_offset=1).classify_boxes(classifier, sample())
    torch.testing.assert_close(found, BAP.classify_boxes(classifier, sample(boxes=moved)))


def test_the_papers_boxes_reach_the_pooling():
    f, valid, boxes = torch.randn(6, 8, 8), torch.ones(64, 64, dtype=torch.bool), torch.tensor([[9.0, 3.0, 40.0, 30.0]])
    whole = Bap(sampling="roi_align", nearest_boxes=True, pooling="gap", roi_size=1).vectors(f, boxes, valid)[1]
    torch.testing.assert_close(whole[0], f[:, 1:4, 2:5].mean(dim=(1, 2)))  # rows 8, 16, 24, columns 16, 24, 32


# --- its maps ---


@pytest.mark.usefixtures("no_gradient")
def test_one_map_a_box_and_one_of_background(classifier):
    photo = sample()
    found = BAP.score(classifier, photo)
    assert set(found) == set(BAP.writes)
    maps = found["full"]
    assert maps.ids.tolist() == [0, 1, 3]
    assert maps.box.tolist() == [-1, 0, 1]
    assert tuple(maps.scores.shape) == (3, 40, 56)
    assert float(maps.scores.min()) >= 0
    assert float(maps.scores.max()) <= 1 + 1e-6
    inside = box_masks(photo.boxes, photo.size)
    assert bool((maps.scores[0][~inside.any(0)] == 1).all())
    assert float(maps.scores[1:][~inside].abs().max()) == 0
    f, m = classifier.describe(photo), definite_background(photo.boxes, photo.size)
    torch.testing.assert_close(maps.scores[0], background_map(photograph_attention(f, m), m))
    up = interpolate(f[None], photo.size, mode="bilinear", align_corners=True)[0]
    cam = torch.einsum("dhw,d->hw", up, classifier.weight[3]).relu() * inside[1]
    torch.testing.assert_close(maps.scores[2], cam / (cam.max() + 1e-12), atol=1e-4, rtol=1e-4)


def test_overlapping_boxes_of_a_class_have_a_maximum_of_their_own_or_share_one():
    g = torch.Generator().manual_seed(0)
    f, weight = torch.rand(6, 5, 7, generator=g), torch.rand(CLASSES + 1, 6, generator=g)  # all activations above 0
    boxes, labels = sample().boxes.as_subclass(torch.Tensor), torch.tensor([3, 3])
    own = BAP.maps(f, weight, boxes, labels, (40, 56))[1:].amax(dim=(1, 2))
    shared = replace(BAP, maximum="class").maps(f, weight, boxes, labels, (40, 56))[1:].amax(dim=(1, 2))
    assert own.tolist() == pytest.approx([1, 1], abs=1e-5)
    assert sorted(shared.tolist())[1] == pytest.approx(1, abs=1e-5)
    assert sorted(shared.tolist())[0] < 0.999


@pytest.mark.usefixtures("no_gradient")
def test_switches_of_the_maps(classifier):
    photo, plain = sample(), BAP.score(classifier, sample())["full"].scores
    inside = box_masks(photo.boxes, photo.size)
    agnostic = replace(BAP, agnostic=True).score(classifier, photo)["full"].scores
    torch.testing.assert_close(agnostic[1:], (1 - plain[:1]) * inside)
    cam = replace(BAP, background="cam").score(classifier, photo)["full"].scores
    torch.testing.assert_close(cam[1:], plain[1:])
    assert bool((cam[0][~inside.any(0)] == 1).all())
    assert not torch.equal(cam[0], plain[0])
    coarse = replace(BAP, upsampled="maps").score(classifier, photo)["full"].scores
    assert float((coarse[1:] - plain[1:]).abs().max()) < 0.6
    assert not torch.equal(coarse, plain)
    moved = replace(BAP, voc_offset=1).score(classifier, photo)["full"].scores
    assert float(moved[1, 6].abs().max()) == 0  # the row above the published box
    assert tuple(replace(BAP, truncate=True).score(classifier, photo)["full"].scores.shape) == tuple(plain.shape)


def test_truncated_boxes_have_their_maximum_inside_themselves():
    """Every switch reads the same boxes: the maximum over the class too (methods.md 7.7, rows 8 and 20)."""
    size, f = (8, 333), torch.zeros(1, 8, 333)
    edge = next(k for k in range(1, 333) if float(truncated_boxes(torch.full((1, 4), float(k)), size)[0, 2]) < k)
    f[0, :, edge - 1], f[0, :, 0] = 4.0, 2.0  # the highest column lies where the truncated box has ended
    boxes, weight = torch.tensor([[0.0, 0.0, edge, 4.0]]), torch.ones(CLASSES + 1, 1)
    for maximum in ("box", "class"):
        method = replace(BAP, truncate=True, maximum=maximum)
        found = method.maps(f, weight, boxes, torch.tensor([1]), size)[1]
        assert float(found.max()) == pytest.approx(1)


@pytest.mark.usefixtures("no_gradient")
def test_a_photograph_without_boxes_is_background(classifier):
    nothing = sample(boxes=(), labels=())
    maps = BAP.score(classifier, nothing)["full"]
    assert maps.ids.tolist() == [0]
    assert float(maps.scores.min()) == 1
    labels = Labels().refine(classifier, scored(classifier, nothing))
    assert all(int(v.max()) == 0 and tuple(v.shape) == (40, 56) for v in labels.values())
    with pytest.raises(WeaksegError, match="annotation"):
        BAP.score(classifier, replace(nothing, boxes=None, box_labels=None))


@pytest.mark.usefixtures("no_gradient")
def test_boxes_are_classified_by_their_vectors(classifier):
    photo = sample()
    logits = BAP.classify_boxes(classifier, photo)
    assert tuple(logits.shape) == (2, CLASSES + 1)
    _, r = bap_vectors(classifier.describe(photo), photo.boxes, torch.ones(photo.size, dtype=torch.bool))
    torch.testing.assert_close(logits[1], (r[4:] @ classifier.weight.T).mean(0))
    assert tuple(BAP.classify_boxes(classifier, sample(boxes=(), labels=())).shape) == (0, CLASSES + 1)


def test_a_network_of_other_classes_scores_unseen_ones(classifier):
    with pytest.raises(WeaksegError, match="agnostic"):
        replace(BAP, known_classes=20).build(CLASSES, BACKBONE)
    stranger = replace(BAP, known_classes=1, agnostic=True)
    torch.manual_seed(0)
    model = stranger.build(CLASSES, BACKBONE).eval()
    assert len(model.weight) == 2
    with torch.inference_mode():
        labels = Labels().refine(model, scored(model, sample(), stranger))
    assert set(labels["crf"].unique().tolist()) <= {0, 1, 3}
    ids = torch.tensor([0, 1, 3], dtype=torch.uint8)
    own, stranger = classifier.class_weights(ids), model.class_weights(ids)
    assert torch.equal(own, classifier.weight[[0, 1, 3]])
    assert torch.equal(stranger[0], model.weight[0])
    assert float(stranger[1:].detach().abs().max()) == 0  # its class 1 is another: "no class weight" (7.4)


# --- stage 2 ---


@pytest.mark.usefixtures("no_gradient")
def test_both_label_maps_stay_in_their_boxes_and_agree_where_it_says(classifier):
    photo = scored(classifier, sample())
    found = Labels().refine(classifier, photo)
    assert set(found) == {"crf", "ret", "reliable"}
    inside = box_masks(photo.boxes, photo.size)
    for labels in (found["crf"], found["ret"]):
        assert labels.dtype == torch.uint8
        assert not bool((labels == 1)[~inside[0]].any())
        assert not bool((labels == 3)[~inside[1]].any())
        assert bool((labels[~inside.any(0)] == 0).all())
    reliable, unreliable = agreement(found["crf"], found["ret"])
    assert torch.equal(found["reliable"] == 255, unreliable)
    assert torch.equal(found["reliable"][reliable], found["crf"][reliable])


@pytest.mark.usefixtures("no_gradient")
def test_y_crf_step_by_step(classifier):
    photo = scored(classifier, sample())
    u = photo.scores["scores"].scores
    inside = box_masks(photo.boxes, photo.size)
    unary = torch.where(inside.any(0), u.softmax(0), torch.tensor([1.0, 0, 0])[:, None, None])
    q = dense_crf(photo.image, unary_from_probabilities(unary), recipe("bana_stage2"))
    q[1:][~inside] = 0
    expected = torch.tensor([0, 1, 3], dtype=torch.uint8)[q.argmax(0)]
    assert torch.equal(Labels().refine(classifier, photo)["crf"], expected)
    paper = Labels(unary_softmax=False, restrict=False, crf_image="wrapped_bgr").refine(classifier, photo)
    assert not torch.equal(paper["crf"], expected)


@pytest.mark.usefixtures("no_gradient")
def test_without_definite_background_the_box_is_filled(classifier):
    photo = scored(classifier, sample(boxes=((0.0, 0.0, 56.0, 40.0),), labels=(2,)))
    assert float(photo.scores["scores"].scores[0].max()) == 0
    found = Labels().refine(classifier, photo)
    assert bool((found["crf"] == 2).all())
    assert set(found["ret"].unique().tolist()) <= {0, 2}


@pytest.mark.usefixtures("no_gradient")
@pytest.mark.parametrize("boxes", [((5.0, 6.0, 6.0, 7.0),), ((2.0, 2.0, 30.0, 30.0), (2.0, 2.0, 30.0, 30.0))])
def test_one_pixel_and_equal_boxes_make_labels(classifier, boxes):
    found = Labels().refine(classifier, scored(classifier, sample(boxes=boxes, labels=(1, 3)[: len(boxes)])))
    assert set(found["crf"].unique().tolist()) <= {0, 1, 3}


@pytest.mark.usefixtures("no_gradient")
def test_what_labels_lack_is_said(classifier):
    with pytest.raises(WeaksegError, match="model: STEP"):
        Labels().refine(None, sample())
    with pytest.raises(WeaksegError, match="scores: STEP"):
        Labels().refine(classifier, sample())
    one = ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.zeros(1, 40, 56), (40, 56))
    with pytest.raises(WeaksegError, match="one a box"):
        Labels().refine(classifier, replace(sample(), scores={"scores": one}))


# --- stage 3 ---


@torch.no_grad()
def test_the_cosine_classifier_has_directions_alone(segmenter):
    model = copy.deepcopy(segmenter)
    images = batch().images
    logits, cosines = model(images, True)
    torch.testing.assert_close(logits, 20 * cosines)
    torch.testing.assert_close(model(images), logits)
    assert float(cosines.abs().max()) <= 1 + 1e-6
    model.weight *= torch.tensor([[3.0], [0.1], [1.0], [7.0]])
    torch.testing.assert_close(model(images), logits)
    dot = network(replace(NAL, classifier="dot")).eval()
    logits, cosines = dot(images, True)
    norms = dot.head(dot.backbone(images)).norm(dim=1, keepdim=True) * dot.weight.norm(dim=1)[None, :, None, None]
    torch.testing.assert_close(logits, cosines * norms, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["conv1x1", "largefov", "aspp", "v3plus"])
def test_heads_on_any_backbone(head):
    model = network(replace(NAL, head=head, rates=None if head == "conv1x1" else (1,)))
    assert isinstance(model, CosineDeepLab)
    out = model(batch(2).images)
    assert out.shape[:2] == (2, CLASSES + 1)
    new = {id(p) for p in model.new_parameters()}
    assert id(model.weight) in new
    assert not new & {id(p) for p in model.backbone.parameters()}
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_noise_aware_loss_pixel_by_pixel(segmenter):
    b = batch(2, size=20)
    b.seeds["crf"][:, :3], b.seeds["ret"][:, :3] = 255, 255
    with torch.no_grad():
        losses = NAL.objective(segmenter, b, STEP)
        maps = segmenter(b.images, True)
        logits, cosines = (interpolate(x, (20, 20), mode="bilinear", align_corners=True) for x in maps)
    p, d = logits.softmax(1).numpy(), 1 + cosines.numpy()
    sums, counts = np.zeros(2), np.zeros(2)
    for n, y, x in np.ndindex(2, 20, 20):
        c = int(b.seeds["crf"][n, y, x])
        if c == 255:
            continue
        sure = c == int(b.seeds["ret"][n, y, x])
        weight = 1.0 if sure else (d[n, c, y, x] / d[n, :, y, x].max()) ** 7
        sums[0 if sure else 1] += -weight * np.log(p[n, c, y, x])
        counts[0 if sure else 1] += weight
    assert float(losses["ce"]) == pytest.approx(sums[0] / counts[0], rel=1e-4)
    assert float(losses["wce"]) == pytest.approx(0.1 * sums[1] / counts[1], rel=1e-4)


@pytest.mark.parametrize("unreliable", ["nal", "ignore", "entropy", "bootstrap"])
@pytest.mark.parametrize("classifier", ["cosine", "dot"])
def test_every_loss_is_finite_and_trains_everything(unreliable, classifier):
    method = replace(NAL, unreliable=unreliable, classifier=classifier)
    model = network(method)
    losses = method.objective(model, batch(), Step(5, 0, 10))
    assert len(losses) == (1 if unreliable == "ignore" else 2)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("unreliable", ["nal", "entropy", "bootstrap"])
def test_no_unreliable_pixel_and_nothing_but_padding(unreliable):
    method, b = replace(NAL, unreliable=unreliable), batch()
    model = network(method).eval()
    alone = method.objective(model, replace(b, seeds={"crf": b.seeds["crf"]}), STEP)
    assert [float(v.detach()) for v in list(alone.values())[1:]] == [0.0]
    padding = torch.full_like(b.seeds["crf"], 255)
    losses = method.objective(model, replace(b, seeds={"crf": padding, "ret": padding}), STEP)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert float(total.detach()) == 0
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_missing_seeds_are_named():
    with pytest.raises(WeaksegError, match=r"seeds: \{crf: STEP/crf, ret: STEP/ret\}"):
        NAL.objective(network(NAL), replace(batch(), seeds={}), STEP)


@pytest.mark.usefixtures("no_gradient")
def test_prediction_is_the_softmax_of_mean_logits(segmenter):
    method = replace(NAL, crf=None)
    model, photo = segmenter, sample(size=(40, 56))
    p = method.probabilities(model, photo)
    torch.testing.assert_close(p.sum(0), torch.ones(40, 56))
    assert torch.equal(method.predict(model, photo), p.argmax(0).to(torch.uint8))
    single = replace(method, scales=(1.0,), flip=False)
    logits = interpolate(
        model(model.normalise(photo.image.as_subclass(torch.Tensor))[None]),
        (40, 56),
        mode="bilinear",
        align_corners=True,
    )[0]
    torch.testing.assert_close(single.probabilities(model, photo), logits.softmax(0))
    mirrored = Sample("b", tv_tensors.Image(photo.image.flip(-1)), photo.tags)
    torch.testing.assert_close(method.probabilities(model, mirrored).flip(-1), p, atol=1e-4, rtol=1e-4)
    refined = replace(method, crf="deeplab_v1_vgg").predict(model, photo)
    q = dense_crf(photo.image, unary_from_probabilities(p), recipe("deeplab_v1_vgg"))
    assert torch.equal(refined, q.argmax(0).to(torch.uint8))
    with pytest.raises(WeaksegError, match="at least one scale"):
        replace(method, scales=()).probabilities(model, photo)


@pytest.mark.usefixtures("no_gradient")
def test_the_confidence_map_is_one_where_the_network_agrees(segmenter):
    model, photo = segmenter, sample()
    winner = replace(NAL, scales=(1.0,), flip=False, crf=None).predict(model, photo)
    own = NAL.confidence_map(model, replace(photo, seeds={"crf": tv_tensors.Mask(winner)}))
    torch.testing.assert_close(own, torch.ones(40, 56))
    other = NAL.confidence_map(model, replace(photo, seeds={"crf": tv_tensors.Mask((winner + 1) % 4)}))
    assert float(other.max()) < 1
    _, cosines = model(model.normalise(photo.image.as_subclass(torch.Tensor))[None], True)
    up = interpolate(cosines, (40, 56), mode="bilinear", align_corners=True)
    torch.testing.assert_close(other, confidence(up, ((winner + 1) % 4)[None])[0])


def test_bap_and_nal_are_frozen():
    for method in (Bap(), Labels(), Nal()):
        with pytest.raises((AttributeError, TypeError)):
            method.crf = "psa"  # type: ignore[misc]
