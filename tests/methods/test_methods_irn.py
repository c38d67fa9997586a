"""IRN: the published constants, the training step, the mean shift, and refinement written out from the specification."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision import tv_tensors

from weakseg.methods.irn import INSTANCES, METHODS, Irn, edge_probability, enlarge, propagate, relation_losses
from weakseg.ops.affinity import pair_offsets, path
from weakseg.pipeline.recipe import constants, read_recipe, resolve
from weakseg.types import (
    Backbone,
    Batch,
    Flip,
    Learner,
    Normalise,
    PaddedCrop,
    Refiner,
    Rescale,
    Sample,
    ScoreMap,
    Step,
    WeaksegError,
)

BACKBONE = Backbone("resnet10t", weights=None)
PUBLISHED = METHODS["irn"]
TINY = replace(PUBLISHED, learn_backbone=True, radius=4, crop=64, width=32, steps=16, pad=None)


def sample(size=(50, 70), ids=(2, 3), seed=0) -> Sample:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 5, 7), generator=g).float()
    image = interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)[0]
    cells = (-(-size[0] // 4), -(-size[1] // 4))
    maps = ScoreMap(torch.tensor(ids, dtype=torch.uint8), torch.rand(len(ids), *cells, generator=g), size)
    return Sample("a", tv_tensors.Image(image), torch.tensor([False, True, True]), scores={"scores": maps})


def batch(count=2, size=64, seed=0) -> Batch:
    """A bright square on a dark ground, seeds to match, a stripe of unknown pixels."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=g) * 0.1
    seeds = torch.zeros(count, size, size, dtype=torch.uint8)
    images[:, :, 16:48, 16:48] += 2
    seeds[:, 16:48, 16:48] = 5
    seeds[:, :, 60:] = 255
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    return Batch(tuple(map(str, range(count))), images, torch.zeros(count, 7), valid, seeds={"seeds": seeds})


def network(method=TINY):
    torch.manual_seed(0)
    return method.build(7, BACKBONE)


def test_the_published_constants():
    """methods.md 4, 1.2 and 8.6."""
    assert PUBLISHED.augmentation.steps == (Rescale(0.5, 1.5), Normalise(), Flip(0.5), PaddedCrop(512))
    o = PUBLISHED.optimisation
    assert (o.lr, o.lr * o.new_factor, o.weight_decay, o.momentum) == (0.1, 1.0, 1e-4, 1e-4)
    assert (o.batch_size, o.epochs, o.schedule, o.power, o.optimiser) == (32, 3, "poly", 0.9, "sgd")
    assert 10_582 // 32 * 3 == 990  # the steps that section 4 prints
    assert len(pair_offsets(PUBLISHED.radius)) == 152
    assert len(pair_offsets(PUBLISHED.walk_radius)) == 34
    assert (PUBLISHED.beta, PUBLISHED.steps, PUBLISHED.background) == (10, 2**8, 0.25)
    assert (PUBLISHED.mean_shift, PUBLISHED.pad, PUBLISHED.learn_backbone) == (True, 512, False)
    assert (PUBLISHED.follow_steps, PUBLISHED.centroid_threshold, PUBLISHED.min_area) == (300, 2.5, 0.01)
    assert replace(PUBLISHED, momentum=0.9).optimisation.momentum == 0.9


def test_roles_and_round_trip():
    assert isinstance(PUBLISHED, Learner)
    assert isinstance(PUBLISHED, Refiner)
    fields = json.loads(json.dumps(asdict(PUBLISHED)))
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    assert Irn(**fields) == PUBLISHED
    assert PUBLISHED.writes == ("scores", "labels")
    assert replace(PUBLISHED, instances=True).writes == ("scores", "labels", "instances")


def test_the_loss_is_that_of_the_specification():
    """Every pair by its definition: L = (P + N) / 2 + (D_f + D_b) / 2."""
    g = torch.Generator().manual_seed(1)
    edge, displacement = torch.randn(2, 8, 9, generator=g), torch.randn(2, 2, 8, 9, generator=g)
    labels = torch.randint(0, 3, (2, 32, 36), generator=g, dtype=torch.uint8)
    labels[0, 8:16] = 255
    small = [np.asarray(Image.fromarray(m.numpy()).resize((9, 8), Image.Resampling.NEAREST)) for m in labels]
    terms = {name: [] for name in ("bg", "fg", "neg", "d_fg", "d_bg")}
    probability = edge.sigmoid()
    for b, p, y, x in np.ndindex(2, len(pair_offsets(3)), 6, 5):
        dy, dx = pair_offsets(3)[p]
        one, other = int(small[b][y, x + 2]), int(small[b][y + dy, x + 2 + dx])
        if 255 in (one, other):
            continue
        a = 1 - max(float(probability[b, y + j, x + 2 + i]) for j, i in path((dy, dx)))
        gap = displacement[b, :, y, x + 2] - displacement[b, :, y + dy, x + 2 + dx]
        if one != other:
            terms["neg"].append(-math.log(1 + 1e-5 - a))
        else:
            name = "fg" if one else "bg"
            terms[name].append(-math.log(a + 1e-5))
            wanted = torch.tensor([dy, dx]) if one else torch.zeros(2)
            terms["d_" + name].append(float((gap - wanted).abs().sum()) / 2)
    mean = {name: sum(v) / len(v) for name, v in terms.items()}
    positive = mean["bg"] / 2 + mean["fg"] / 2
    expected = (positive + mean["neg"]) / 2 + (mean["d_fg"] + mean["d_bg"]) / 2
    losses = relation_losses(edge, displacement, labels, radius=3)
    assert float(sum(losses.values())) == pytest.approx(expected, rel=1e-4)
    assert float(losses["displacement_foreground"]) == pytest.approx(mean["d_fg"] / 2, rel=1e-4)


def test_labels_take_the_pixel_that_pillow_takes():
    """Cell i of stride 4 is pixel 4 i + 2: a label there and nowhere else decides."""
    labels = torch.full((1, 16, 48), 255, dtype=torch.uint8)
    labels[0, 2::4, 2::4] = 0
    losses = relation_losses(torch.zeros(1, 4, 12), torch.zeros(1, 2, 4, 12), labels, radius=2)
    assert float(losses["affinity_background"]) == pytest.approx(-math.log(0.5 + 1e-5) / 4, rel=1e-4)
    labels[0, 2::4, 2::4] = 255
    labels[0, ::4, ::4] = 0
    losses = relation_losses(torch.zeros(1, 4, 12), torch.zeros(1, 2, 4, 12), labels, radius=2)
    assert float(sum(losses.values())) == 0


def test_every_parameter_learns_and_the_loss_falls():
    model, data, losses = network().train(), batch(), []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for index in range(10):
        loss = sum(TINY.objective(model, data, Step(index, 0, 10)).values())
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] * 0.8


def test_the_published_network_learns_its_branches_alone():
    with pytest.raises(WeaksegError, match="frozen BatchNorm with random weights"):
        PUBLISHED.build(7, BACKBONE)
    model = network()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    model.learn_backbone = False
    sum(TINY.objective(model.train(), batch(), Step(0, 0, 1)).values()).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("backbone"))


def test_finite_without_any_known_pixel():
    data = batch()
    data.seeds["seeds"][:] = 255
    losses = TINY.objective(network(), data, Step(0, 0, 1))
    assert all(float(v.detach()) == 0 for v in losses.values())


def test_mean_shift_is_the_mean_over_top_left_crops():
    method, model = replace(TINY, crop=48), network().eval()
    samples = [sample((50, 70)), sample((30, 90), seed=1), sample((20, 25), seed=2)]
    means = []
    with torch.no_grad():
        for s in samples:
            image = model.normalise(torch.as_tensor(s.image))[:, :48, :48]
            crop = torch.zeros(3, 48, 48)
            crop[:, : image.shape[1], : image.shape[2]] = image
            means.append(model(crop[None]).displacement[0].mean(dim=(1, 2)))
    model.mean_displacement += 3  # what stood there does not matter
    method.finish(model, samples)
    torch.testing.assert_close(model.mean_displacement, torch.stack(means).mean(dim=0), rtol=1e-4, atol=1e-6)
    replace(method, mean_shift=False).finish(model, samples)
    assert not model.mean_displacement.any()


@pytest.mark.parametrize("padding", [None, 96])
@pytest.mark.parametrize("power", [1.0, 1.3])
def test_semantic_labels_are_those_of_the_specification(padding, power):
    """Section 4, step by step, with the dense matrix squared."""
    method, s = replace(TINY, pad=padding, power=power), sample()
    model = network().eval()
    x = s.scores["scores"].scores
    with torch.inference_mode():
        image = model.normalise(torch.as_tensor(s.image))
        views = torch.stack([image, image.flip(-1)])
        if padding:
            wide = torch.zeros(2, 3, 96, 96)
            wide[:, :, :50, :70] = views
            views = wide
        logits = model(views).edge[:, :13, :18]
        edge = torch.sigmoid(logits[0] / 2 + logits[1].flip(-1) / 2).double()
        a = torch.eye(13 * 18, dtype=torch.float64)
        for dy, dx in pair_offsets(5):
            for y, c in np.ndindex(13 - dy, 18):
                if 0 <= c + dx < 18:
                    i, j = y * 18 + c, (y + dy) * 18 + c + dx
                    a[i, j] = a[j, i] = 1 - max(float(edge[y + q, c + r]) for q, r in path((dy, dx)))
        t = a**10
        t = t / t.sum(dim=0, keepdim=True)
        for _ in range(4):
            t = t @ t
        walked = ((x**power * (1 - edge)).flatten(1) @ t).reshape(2, 13, 18).float()
        full = interpolate(walked[None], scale_factor=4, mode="bilinear", align_corners=False)[0, :, :50, :70]
        full = full / full.max()
        labels = torch.cat([torch.full((1, 50, 70), 0.25), full]).argmax(dim=0)
        made = method.refine(model, s)
    assert made["scores"].ids.tolist() == [2, 3]
    torch.testing.assert_close(made["scores"].scores, full, rtol=0, atol=1e-5)
    expected = torch.tensor([0, 2, 3], dtype=torch.uint8)[labels]
    assert float((made["labels"] == expected).float().mean()) > 0.999
    assert made["labels"].dtype == torch.uint8


def test_padding_beyond_a_larger_photograph_changes_nothing():
    model, s = network().eval(), sample()
    with torch.inference_mode():
        one = replace(TINY, pad=None).refine(model, s)["scores"].scores
        other = replace(TINY, pad=40).refine(model, s)["scores"].scores
    torch.testing.assert_close(one, other)


def test_a_background_map_is_left_out_and_any_resolution_is_taken():
    model, s = network().eval(), sample()
    maps = s.scores["scores"]
    more = ScoreMap(
        torch.cat([torch.zeros(1, dtype=torch.uint8), maps.ids]),
        torch.cat([torch.ones(1, 13, 18), maps.scores]),
        (50, 70),
    )
    fine = ScoreMap(maps.ids, interpolate(maps.scores[None], (50, 70), mode="nearest")[0], (50, 70))
    with torch.inference_mode():
        plain = TINY.refine(model, s)["scores"]
        with_background = TINY.refine(model, replace(s, scores={"amn": more}))["scores"]
        finer = TINY.refine(model, replace(s, scores={"scores": fine}))["scores"]
    assert with_background.ids.tolist() == [2, 3]
    assert torch.equal(with_background.scores, plain.scores)
    assert finer.scores.shape == plain.scores.shape


def test_no_class_is_background_without_a_forward_pass():
    s, method = sample(ids=()), replace(TINY, instances=True)
    model = network().eval()
    model.backbone.net = None
    made = method.refine(model, s)
    assert not made["labels"].any()
    assert made["labels"].shape == (50, 70)
    assert made["scores"].scores.shape == (0, 50, 70)
    assert made[INSTANCES].masks.shape == (0, 50, 70)


def test_empty_maps_stay_zero():
    model, s = network().eval(), sample()
    s.scores["scores"].scores.zero_()
    with torch.inference_mode():
        made = replace(TINY, instances=True).refine(model, s)
    assert not made["scores"].scores.any()
    assert not made["labels"].any()
    assert len(made[INSTANCES].labels) == 0


def test_instances_split_what_points_to_two_centres():
    """A network that says: no edges, centres at (6, 4) and (6, 13); score 1 on the left, a half on the right."""
    y, x = torch.meshgrid(torch.arange(13.0), torch.arange(18.0), indexing="ij")
    to_centres = torch.stack([6 - y, torch.where(x < 9, 4.0, 13.0) - x])
    scores = torch.zeros(1, 13, 18)
    scores[0, 4:9, 2:7], scores[0, 4:9, 11:16] = 1.0, 0.5
    s = replace(sample(), scores={"scores": ScoreMap(torch.tensor([3], dtype=torch.uint8), scores, (50, 70))})

    class Says(Irn):
        __slots__ = ()

        def relations(self, model, sample):
            return torch.zeros(13, 18), to_centres

    model = network().eval()
    made = Says(instances=True, steps=0).refine(model, s)
    found = made[INSTANCES]
    big = found.scores > 0
    assert found.labels[big].tolist() == [3, 3]
    assert sorted(found.scores[big].tolist()) == [0.5, 1.0]
    for box, cells in zip(sorted(found.boxes[big].tolist()), ((2, 4, 7, 9), (11, 4, 16, 9)), strict=True):
        assert all(abs(side - 4 * cell) <= 2 for side, cell in zip(box, cells, strict=True))  # soft by bilinear edges
    assert len(torch.unique(made["labels"])) == 2


def test_a_batch_is_its_photographs():
    model = network().eval()
    images = batch().images
    with torch.inference_mode():
        together = model(images)
        apart = [model(images[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together.edge, torch.cat([a.edge for a in apart]), rtol=1e-3, atol=1e-4)


def test_what_is_missing_is_a_sentence():
    with pytest.raises(WeaksegError, match=r"scores: cam/strided"):
        TINY.refine(network().eval(), replace(sample(), scores={}))
    with pytest.raises(WeaksegError, match="seeds"):
        TINY.objective(network(), replace(batch(), seeds={}), Step(0, 0, 1))


def test_small_equations():
    logits = torch.tensor([[[1.0, 3.0]], [[0.0, -2.0]]])
    expected = 1 / (1 + np.exp(-np.array([[-0.5, 1.5]])))
    np.testing.assert_allclose(edge_probability(logits).numpy(), expected, rtol=1e-6)
    walked = torch.tensor([[[2.0]], [[4.0]]])
    assert enlarge(walked, (3, 4))[:, 0, 0].tolist() == [0.5, 1.0]  # one maximum for all classes
    assert not propagate(torch.rand(1, 6, 12), torch.ones(6, 12)).any()  # edges everywhere: nothing starts


def test_the_recipes_hold_the_papers_constants():
    """methods.md 2.2, 4 and 8.6: thresholds of the seeds and of the walk; COCO's branch neither shifts nor pads."""
    coco = replace(PUBLISHED, mean_shift=False, pad=None)
    for name, expected in (("cam-irn-voc", replace(PUBLISHED, instances=True)), ("cam-irn-coco", coco)):
        steps = {s.name: s for s in resolve(read_recipe(name))}
        assert steps["cam"].backbone["name"] == "irn_resnet50"
        assert (steps["seeds"].method.conf_fg, steps["seeds"].method.conf_bg) == (0.30, 0.05)
        assert steps["seeds"].scores["scores"].key == "full"
        assert steps["irn"].scores["scores"].key == "strided"
        assert steps["irn"].method == expected
        assert ("instances" in steps) == (name == "cam-irn-voc")
        assert steps["segment"].seeds["seeds"].step == "irn"


def test_the_mobile_recipe_shares_its_cam_and_its_segmentation_network():
    """So `--reuse` finds the CAM of another mobile recipe, and refiners are compared under one network."""
    ours, crf = ({s.name: s for s in resolve(read_recipe(n))} for n in ("cam-irn-mobile", "cam-crf-mobile"))
    for step in ("cam", "segment"):
        assert constants(ours[step].method) == constants(crf[step].method)
        assert (ours[step].lists, ours[step].backbone) == (crf[step].lists, crf[step].backbone)
    amn = {s.name: s for s in resolve(read_recipe("amn-irn-mobile"))}["irn"]
    assert replace(ours["irn"].method, power=1.3, background=0.5) == amn.method
    voc, coco = ({s.name: s for s in resolve(read_recipe(f"amn-irn-{n}"))}["irn"].method for n in ("voc", "coco"))
    assert (amn.method.pad, voc.pad, coco.pad) == (None, 512, None)
