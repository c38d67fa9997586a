"""PSA: the published constants, the loss pair by pair, and the walk written out with the dense matrix squared."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate, pad
from torchvision import tv_tensors

from weakseg.data.transforms import build
from weakseg.methods.psa import METHODS, Psa, enlarge, pair_losses, propagate
from weakseg.models.backbones import batch_norms
from weakseg.ops.affinity import pair_offsets
from weakseg.types import (
    LATER,
    Backbone,
    Batch,
    Flip,
    Jitter,
    Learner,
    Normalise,
    PaddedCrop,
    Refiner,
    Sample,
    ScoreMap,
    Step,
    WeaksegError,
    deciding_constants,
)

BACKBONE = Backbone("resnet10t", weights=None)
PUBLISHED = METHODS["psa"]
TINY = replace(
    PUBLISHED, freeze_bn=False, freeze_stem=False, freeze_affine=False, widths=(8, 16, 24), crop=64, radius=3, steps=16
)
STEP = Step(0, 0, 1)


def sample(size=(50, 70), ids=(2, 3), seed=0) -> Sample:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 5, 7), generator=g).float()
    image = interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)[0]
    cells = interpolate(torch.rand(1, max(1, len(ids)), 6, 8, generator=g), size, mode="bilinear")[0, : len(ids)]
    maps = ScoreMap(torch.tensor(ids, dtype=torch.uint8), cells.contiguous(), size)
    return Sample("a", tv_tensors.Image(image), torch.tensor([False, True, True]), scores={"scores": maps})


def batch(count=2, size=64, classes=3) -> Batch:
    """A bright square on a dark ground; scores that are sure of both, a stripe of padding."""
    g = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=g) * 0.1
    low = torch.zeros(count, classes + 1, size, size)
    images[:, :, 16:48, 16:48] += 2
    low[:, 0] = 0.9
    low[:, 2, 16:48, 16:48], low[:, 0, 16:48, 16:48] = 0.8, 0.1
    low[:, :, :, 56:] = 0
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    scores = {"low": low, "high": low.clone()}
    return Batch(tuple(map(str, range(count))), images, torch.zeros(count, classes), valid, scores=scores)


def network(method=TINY):
    torch.manual_seed(0)
    return method.build(3, BACKBONE)


def test_the_published_constants():
    """methods.md 3, 9.5 and 1.2."""
    assert PUBLISHED.augmentation.steps == (Jitter(0.3, 0.3, 0.3, 0.1), PaddedCrop(448), Normalise(), Flip(0.5))
    o = PUBLISHED.optimisation
    assert (o.lr, o.new_factor, o.bias_factor, o.weight_decay, o.momentum) == (0.1, 10, 2, 5e-4, 5e-4)
    assert (o.batch_size, o.epochs, o.schedule, o.power, o.optimiser) == (8, 8, "poly", 0.9, "sgd")
    assert replace(PUBLISHED, momentum=0.9).optimisation.momentum == 0.9
    assert len(pair_offsets(PUBLISHED.radius)) == 34
    table = {n: (m.beta, m.steps, m.alpha, m.shrink_radius, m.lr) for n, m in METHODS.items()}
    assert table == {
        "psa": (8, 2**8, 16, False, 0.1),
        "seam": (8, 2**6, 6, True, 0.01),
        "aeft": (8, 2**6, 19, True, 0.01),
        "mobile": (24, 2**8, 16, True, 0.0001),
    }


def test_weights_can_be_kept_on_the_way():
    """methods.md 9.5: AEFT chooses among the AffinityNets of every 200 steps; older runs stay done."""
    assert replace(METHODS["aeft"], keep_steps=200).optimisation.keep_steps == 200
    assert "keep_steps" not in {**deciding_constants(PUBLISHED), **deciding_constants(PUBLISHED.optimisation)}


def test_roles_and_round_trip():
    assert isinstance(PUBLISHED, Learner)
    assert isinstance(PUBLISHED, Refiner)
    fields = json.loads(json.dumps(asdict(PUBLISHED)))
    assert Psa(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}) == PUBLISHED
    assert Jitter not in map(type, replace(PUBLISHED, jitter=False).augmentation.steps)


def test_padding_is_black_and_scores_move_with_the_photograph():
    s = sample((20, 30))
    s = replace(s, scores={"low": s.scores["scores"], "high": s.scores["scores"]})
    method = replace(TINY, crop=40)
    made = build(method.augmentation, network().normalise)(s, torch.Generator().manual_seed(3))
    black = network().normalise(torch.zeros(3, 1, 1, dtype=torch.uint8))
    outside = ~made["valid"][0]
    assert outside.sum() == 40 * 40 - 20 * 30
    torch.testing.assert_close(made["image"][:, outside], black[:, 0].expand(3, int(outside.sum())))
    assert not made["scores"]["low"][:, outside].any()
    assert made["scores"]["low"].shape == (4, 40, 40)


def test_only_what_the_papers_train_is_trained():
    with torch.device("meta"):
        model = PUBLISHED.build(20, Backbone("resnet38d", LATER, 8))
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad}
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {"conv1a", "b2", "b2_1", "b2_2"} <= frozen
    assert not [n for n in names if ".bn" in n]
    assert "backbone.net.b3.conv_branch2a.weight" in names
    assert not any(m.training for m in batch_norms(model.train()))
    with torch.device("meta"):
        model = PUBLISHED.build(20, Backbone("vgg16d", LATER, 8))
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}
    assert model.backbone.net.fc6.dilation == (4, 4)


# --- the loss ---


def test_the_loss_is_that_of_the_specification():
    """Every pair by its definition, scores pooled by 8, labels from both alphas."""
    g = torch.Generator().manual_seed(1)
    features = torch.randn(2, 6, 6, 8, generator=g)
    low, high = (torch.rand(2, 4, 48, 64, generator=g).pow(6) for _ in range(2))
    low[0, :, 8:16], high[0, :, 8:16] = 0, 0
    small = [avg_pool2d(s, 8).numpy() for s in (low, high)]
    labels = np.zeros((2, 6, 8), int)
    for b, y, x in np.ndindex(2, 6, 8):
        one, other = small[0][b, :, y, x], small[1][b, :, y, x]
        labels[b, y, x] = 255 if one.argmax() == 0 else one.argmax()
        if other.argmax() == 0:
            labels[b, y, x] = 0
        if max(one.max(), other.max()) < 1e-5:
            labels[b, y, x] = 255
    terms = {"background": [], "foreground": [], "negative": []}
    for b, y, x in np.ndindex(2, 6 - 2, 8 - 4):
        for dy, dx in pair_offsets(3):
            i, j = labels[b, y, x + 2], labels[b, y + dy, x + 2 + dx]
            if 255 in (i, j):
                continue
            a = math.exp(-float((features[b, :, y, x + 2] - features[b, :, y + dy, x + 2 + dx]).abs().mean()))
            if i != j:
                terms["negative"].append(-math.log(1 + 1e-5 - a))
            else:
                terms["foreground" if i else "background"].append(-math.log(a + 1e-5))
    assert min(map(len, terms.values())) > 2
    losses = pair_losses(features, low, high, radius=3)
    for name, share in (("background", 0.25), ("foreground", 0.25), ("negative", 0.5)):
        expected = share * sum(terms[name]) / (len(terms[name]) + 1e-5)
        assert float(losses[f"affinity_{name}"]) == pytest.approx(expected, rel=1e-4), name


def test_gradient_of_the_loss_by_finite_differences():
    g = torch.Generator().manual_seed(2)
    low, high = (torch.rand(1, 3, 32, 40, generator=g) for _ in range(2))
    features = torch.randn(1, 3, 4, 5, generator=g).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: sum(pair_losses(f, low, high, radius=2).values()), features)


def scores_of(labels, classes=2):
    """Scores (1, C + 1, 8 h, 8 w) that are sure of `labels`; 255: of nothing."""
    labels = torch.tensor(labels)
    made = torch.stack([(labels == k).float() for k in range(classes + 1)])[None]
    return made.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


@pytest.mark.parametrize(
    ("labels", "there"),
    [
        ([[0, 0, 0], [0, 0, 0]], {"affinity_background"}),
        ([[1, 1, 1], [1, 1, 1]], {"affinity_foreground"}),
        ([[255, 1, 255], [2, 2, 2]], {"affinity_negative"}),
        ([[255, 255, 255], [255, 1, 255]], set()),
    ],
)
def test_terms_without_pairs_are_zero(labels, there):
    features = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = pair_losses(features, scores_of(labels), scores_of(labels), radius=2)
    assert {name for name, value in losses.items() if float(value.detach()) > 0} == there
    sum(losses.values()).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert bool(features.grad.any()) == bool(there)


def test_uniform_features_are_finite():
    """a = 1: nothing to gain for pairs that belong together, -log(1e-5) for those that do not."""
    features = torch.ones(1, 4, 2, 3, requires_grad=True)
    losses = pair_losses(features, scores_of([[0, 1, 1], [0, 1, 2]]), scores_of([[0, 1, 1], [0, 1, 2]]), radius=2)
    assert float(losses["affinity_negative"].detach()) == pytest.approx(-math.log(1e-5) / 2, rel=0.02)
    assert float(losses["affinity_foreground"].detach()) == pytest.approx(0, abs=1e-5)
    sum(losses.values()).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_every_parameter_learns_and_the_loss_falls():
    model, data, losses = network().train(), batch(), []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for index in range(8):
        loss = sum(TINY.objective(model, data, Step(index, 0, 8)).values())
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] * 0.8


# --- the walk ---


def dense_walk(scores, features, radius, beta, squarings):
    """v T^(2^n): the symmetric matrix of the pairs, self affinity 1, Hadamard power, columns normalised, squared."""
    _, h, w = features.shape
    margin, f = radius - 1, features.double()
    a = torch.eye(h * w, dtype=torch.float64)
    for dy, dx in pair_offsets(radius):
        for y, x in np.ndindex(h - margin, w - 2 * margin):
            i, j = y * w + x + margin, (y + dy) * w + x + margin + dx
            a[i, j] = a[j, i] = (-(f[:, y, x + margin] - f[:, y + dy, x + margin + dx]).abs().mean()).exp()
    t = a**beta
    t = t / t.sum(dim=0, keepdim=True)
    for _ in range(squarings):
        t = t @ t
    return (scores.double().flatten(1) @ t).reshape(scores.shape).float()


@pytest.mark.parametrize(
    ("size", "shrink", "radius"),
    [((89, 93), False, 5), ((89, 93), True, 5), ((50, 70), True, 3), ((50, 70), False, 5), ((27, 70), False, 1)],
)
def test_refinement_is_that_of_the_specification(size, shrink, radius):
    method = replace(TINY, radius=5, shrink_radius=shrink, alpha=4.0)
    model, s = network().eval(), sample(size)
    with torch.inference_mode():
        made = method.refine(model, s)
        rows, columns = -(-size[0] // 8), -(-size[1] // 8)
        image = pad(model.normalise(torch.as_tensor(s.image)), (0, -size[1] % 16, 0, -size[0] % 16))
        features = model(image[None])[0, :, :rows, :columns]
        c = s.scores["scores"].scores
        v = torch.cat([(1 - c.amax(dim=0, keepdim=True)) ** 4, c])
        v = avg_pool2d(pad(v, (0, columns * 8 - size[1], 0, rows * 8 - size[0])), 8)
        walked = dense_walk(v, features, radius, 8, 4) if radius > 1 else v
        full = interpolate(walked[None], scale_factor=8, mode="bilinear", align_corners=False)[0]
        full = full[:, : size[0], : size[1]]
    assert made["scores"].ids.tolist() == [0, 2, 3]
    torch.testing.assert_close(made["scores"].scores, full, rtol=0, atol=1e-5)
    expected = torch.tensor([0, 2, 3], dtype=torch.uint8)[full.argmax(dim=0)]
    assert float((made["labels"] == expected).float().mean()) > 0.999
    assert made["labels"].dtype == torch.uint8


def test_a_long_walk_over_equal_features_ends_at_one_score():
    scores = torch.rand(2, 12, 20, generator=torch.Generator().manual_seed(0))
    features = torch.zeros(4, 12, 20)
    made = propagate(scores, features, steps=4096)
    assert float(made.amin()) >= float(scores.min())
    assert float(made.amax()) <= float(scores.max())
    assert float(made[:, :8, 4:16].flatten(1).std(dim=1).max()) < 1e-5
    assert torch.equal(made[:, 0, :4], scores[:, 0, :4])  # of no pair, in the published code
    everywhere = propagate(scores, features, steps=4096, border=True)
    assert float(everywhere.flatten(1).std(dim=1).max()) < 1e-3


def test_scores_stay_on_their_side_of_a_wall_of_features():
    features = torch.zeros(1, 12, 24)
    features[:, :, 12:] = 100
    scores = torch.zeros(1, 12, 24)
    scores[:, :, :12] = 1
    torch.testing.assert_close(propagate(scores, features), scores)


def test_cells_cover_eight_pixels():
    full = enlarge(torch.tensor([[[0.0, 8.0]]]), (5, 13))
    assert full.shape == (1, 5, 13)
    assert full[0, 0, :12].tolist() == [0, 0, 0, 0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]


def test_a_background_map_is_replaced_and_any_resolution_is_taken():
    model, s = network().eval(), sample()
    maps = s.scores["scores"]
    more = ScoreMap(
        torch.cat([maps.ids, torch.zeros(1, dtype=torch.uint8)]),
        torch.cat([maps.scores, torch.ones(1, 50, 70)]),
        (50, 70),
    )
    coarse = ScoreMap(maps.ids, avg_pool2d(maps.scores[None], 2)[0], (50, 70))
    with torch.inference_mode():
        plain = TINY.refine(model, s)["scores"]
        with_background = TINY.refine(model, replace(s, scores={"eps": more, "low": more, "high": maps}))["scores"]
        coarser = TINY.refine(model, replace(s, scores={"scores": coarse}))["scores"]
    assert with_background.ids.tolist() == [0, 2, 3]
    assert torch.equal(with_background.scores, plain.scores)
    assert coarser.scores.shape == plain.scores.shape


def test_no_class_is_background_without_a_forward_pass():
    model, s = network().eval(), sample(ids=())
    model.backbone.net = None
    made = TINY.refine(model, s)
    assert made["scores"].ids.tolist() == [0]
    assert made["scores"].scores.eq(1).all()
    assert not made["labels"].any()
    assert made["labels"].shape == (50, 70)


def test_empty_maps_are_background():
    model, s = network().eval(), sample()
    s.scores["scores"].scores.zero_()
    with torch.inference_mode():
        made = TINY.refine(model, s)
    assert not made["labels"].any()
    assert not made["scores"].scores[1:].any()


def test_what_is_missing_is_a_sentence():
    model, s = network().eval(), sample()
    maps = s.scores["scores"]
    with pytest.raises(WeaksegError, match=r"got none: .*scores: cam/full"):
        TINY.refine(model, replace(s, scores={}))
    with pytest.raises(WeaksegError, match="one entry of scores"):
        TINY.refine(model, replace(s, scores={"a": maps, "b": maps}))
    data = batch()
    with pytest.raises(WeaksegError, match="no 'high' for 0"):
        TINY.objective(network(), replace(data, scores={"low": data.scores["low"]}), STEP)
    with pytest.raises(WeaksegError, match="images' size"):
        pair_losses(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 40, 40), torch.zeros(1, 2, 40, 40))
    with pytest.raises(WeaksegError, match="frozen BatchNorm with random weights"):
        PUBLISHED.build(3, BACKBONE)
