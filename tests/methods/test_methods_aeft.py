"""AEFT: equations by hand, gradients by finite differences, the two phases, and maps against a written-out reference."""

import json
import math
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

import toy_photographs
from toy_photographs import sample
from weakseg._optimisation import make_plan, parameter_groups
from weakseg.methods import load
from weakseg.methods.aeft import (
    METHODS,
    activation,
    attraction_loss,
    draw_negatives,
    erasing_mask,
    merge_views,
    region_embedding,
    repulsion_loss,
    unit_range,
)
from weakseg.pipeline.recipe import configure
from weakseg.types import (
    Backbone,
    Flip,
    Jitter,
    Localizer,
    Normalise,
    PaddedCrop,
    ResizeLong,
    Step,
    WeaksegError,
    deciding_constants,
)

BACKBONE = Backbone("resnet10t", weights=None, create={"channels": [16, 16, 16, 32]})
TINY = replace(
    METHODS["voc"],
    freeze_bn=False,
    freeze_stem=False,
    freeze_affine=False,
    epochs=1,
    width=8,
    bins=(1, 2, 4),
    min_hard=1,
    scales=(1.0, 0.5),
)
FIRST, SECOND = Step(0, 0, 2), Step(1, 1, 2)


def row(*values, dtype=torch.float32):
    """One image, one class, one row of pixels."""
    return torch.tensor(values, dtype=dtype).view(1, 1, 1, -1)


batch = partial(toy_photographs.batch, count=6)


def network(method=TINY, classes=3):
    torch.manual_seed(0)
    return method.build(classes, BACKBONE)


# --- erasing ---


def test_activation_by_hand():
    """ReLU of (-1, 1, 2, 4) is (0, 1, 2, 4): minimum 0, maximum 4."""
    got = activation(row(-1.0, 1.0, 2.0, 4.0), torch.ones(1, 1))
    expected = [0, (1 - 1e-5) / 4.00001, (2 - 1e-5) / 4.00001, (4 - 1e-5) / 4.00001]
    torch.testing.assert_close(got.flatten(), torch.tensor(expected), atol=1e-7, rtol=0)
    assert activation(row(-1.0, 1.0, 2.0, 4.0), torch.zeros(1, 1)).abs().sum() == 0


@pytest.mark.parametrize("value", [-2.0, 0.0, 3.0])
def test_a_uniform_map_is_not_activated(value):
    f = torch.full((1, 1, 4, 4), value)
    assert activation(f, torch.ones(1, 1)).abs().sum() == 0
    mask = erasing_mask(f, torch.ones(1, 1), (8, 8))
    assert mask.shape == (1, 1, 8, 8)
    assert mask.abs().sum() == 0


def test_the_mask_erases_what_is_certain_and_dims_the_rest():
    f = row(0.0, 1.0, 2.0, 4.0)
    mask = erasing_mask(f, torch.ones(1, 1), (1, 4), t_high=0.6).flatten()
    torch.testing.assert_close(mask, torch.tensor([0.0, 0.25, 0.5, 0.0]), atol=1e-5, rtol=0)
    assert float(erasing_mask(f, torch.ones(1, 1), (1, 4), t_high=0.5).max()) == pytest.approx(0.49999, abs=1e-5)
    assert float(erasing_mask(f, torch.ones(1, 1), (1, 4), t_high=0.2).max()) == 0


def test_the_mask_takes_the_highest_class_present_at_full_size():
    """Enlarged first, activated afterwards: the maximum of the *enlarged* map is 1, and absent classes hide nothing."""
    f = torch.tensor([[[[0.0, 1.0]], [[4.0, 0.0]], [[9.0, 9.5]]]])
    mask = erasing_mask(f, torch.tensor([[1.0, 1.0, 0.0]]), (1, 4), t_high=2.0)
    big = interpolate(f, (1, 4), mode="bilinear")[0, :2].flatten(1)
    expected = ((big - big.amin(1, keepdim=True)) / np.ptp(big.numpy(), axis=1, keepdims=True)).amax(0)
    torch.testing.assert_close(mask.flatten(), expected, atol=1e-4, rtol=0)


def test_gradients_of_mask_and_losses_by_finite_differences():
    g = torch.Generator().manual_seed(0)
    tags = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    f = torch.randn(2, 2, 3, 4, generator=g, dtype=torch.float64).requires_grad_()
    other = torch.randn(2, 2, 3, 4, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: erasing_mask(x, tags, (5, 6)), f)
    assert torch.autograd.gradcheck(lambda x, y: attraction_loss(x, y, tags), (f, other))

    def repulsion(x, y):
        low, whole = (region_embedding(x, activation(y, tags), tags, t) for t in (0.2, 1.0))
        return repulsion_loss(low, whole.flip(0), margin=4.0, min_hard=1)

    assert repulsion(f, other) > 0
    assert torch.autograd.gradcheck(repulsion, (f, other))


# --- triplets ---


def test_attraction_by_hand():
    """e_A = GAP(ReLU) = 2, e_P = 0.5 for the class present; absent ones count as zero in a mean over B x C = 2."""
    anchor, positive = torch.cat([row(-8.0, 4.0), row(6.0, 6.0)], 1), torch.cat([row(1.0, -3.0), row(0.0, 0.0)], 1)
    assert attraction_loss(anchor, positive, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1.5 / 2)
    assert attraction_loss(anchor, positive, torch.tensor([[1.0, 1.0]])).item() == pytest.approx((1.5 + 6) / 2)


def test_unit_range_keeps_the_sign():
    torch.testing.assert_close(unit_range(row(-4.0, 2.0, 1.0)).flatten(), torch.tensor([-1.0, 0.5, 0.25]))
    assert unit_range(row(0.0, 0.0)).abs().sum() == 0


def test_region_embedding_by_hand():
    """G / 4 = (-1, .5, .25, 1) where n < 0.2: pixels 0 and 2, mean -0.375; below 1: pixels 0 to 2 (n of the last is 1)."""
    g, n = row(-4.0, 2.0, 1.0, 4.0), row(0.0, 0.2, 0.1, 1.0)
    one = torch.ones(1, 1)
    assert region_embedding(g, n, one, 0.2).item() == pytest.approx(-0.375, abs=1e-5)
    assert region_embedding(g, n, one, 1.0).item() == pytest.approx(-0.25 / 3, abs=1e-5)
    assert region_embedding(g, n, one * 0, 0.2).item() == 0
    assert region_embedding(g, n, one, 0.0).item() == 0  # no pixel
    f = row(0.0, 1.0, 2.0, 4.0)
    assert region_embedding(f, activation(f, one), one, 1.0).item() == pytest.approx(7 / 16, abs=1e-5)  # all pixels


def test_the_papers_embeddings_are_plain_means():
    """9.8, rows 1 and 2: neither rectified nor scaled, and the negative's over all pixels."""
    anchor, positive, one = row(-8.0, 4.0), row(1.0, -3.0), torch.ones(1, 1)
    assert attraction_loss(anchor, positive, one, rectify=False).item() == pytest.approx(abs(-1 - -2))
    g, n = row(-4.0, 2.0, 1.0, 4.0), row(0.0, 0.2, 0.1, 1.0)
    assert region_embedding(g, n, one, 0.2, normalise=False).item() == pytest.approx(-1.5)
    assert region_embedding(g, n, one, math.inf, normalise=False).item() == pytest.approx(0.75)
    method, model, data = replace(TINY, plain_embedding=True, margin=100.0), network().eval(), batch()
    output = model(data.images)
    present = data.tags.argmax(1)
    g = torch.stack([output.pyramid[i, k] for i, k in enumerate(present)])
    torch.testing.assert_close(method.attract(output, output, data.tags)["attract"], torch.tensor(0.0))
    n = torch.stack([activation(output.maps, data.tags)[i, k] for i, k in enumerate(present)])
    torch.manual_seed(5)
    got = method.repel(output, data.tags)
    torch.manual_seed(5)
    pairs = zip(*draw_negatives(data.tags), strict=True)
    d = torch.stack([g[i][n[i] < 0.2].mean() ** 2 + g[j].mean() ** 2 for i, j in pairs])
    torch.testing.assert_close(got, (100 - d).mean())
    assert "plain_embedding" not in deciding_constants(METHODS["voc"])  # older runs stay done


def test_repulsion_by_hand():
    """Distances 0.05, 0.25, 0.5 and 2 at eps = 0.5: two are hard, the mean of 0.45 and 0.25."""
    anchor = torch.zeros(4, 2)
    negative = torch.tensor([[0.05**0.5, 0.0], [0.3, 0.4], [0.5, 0.5], [1.0, 1.0]])
    assert repulsion_loss(anchor, negative, 0.5, min_hard=2).item() == pytest.approx(0.35)
    assert repulsion_loss(anchor, negative, 0.5, min_hard=3).item() == 0


@pytest.mark.parametrize(("hard", "loss"), [(4, 0.0), (5, 0.3)])
def test_five_hard_triplets_or_none(hard, loss):
    """Sec. 9.3: only if more than 4 remain."""
    negative = torch.full((8, 1), 3.0)
    negative[:hard] = 0.2**0.5
    anchor = torch.zeros(8, 1, requires_grad=True)
    value = repulsion_loss(anchor, negative)
    assert value.item() == pytest.approx(loss)
    value.backward()
    assert anchor.grad.isfinite().all()
    assert (anchor.grad[:hard] != 0).all() == (hard == 5)


def test_no_triplet_no_repulsion():
    empty = torch.zeros(0, 3, requires_grad=True)
    value = repulsion_loss(empty, torch.zeros(0, 3))
    assert value.item() == 0
    value.backward()


def test_negatives_share_no_class():
    tags = (torch.rand(32, 20, generator=torch.Generator().manual_seed(1)) < 0.15).float()
    anchors, negatives = draw_negatives(tags, generator=torch.Generator().manual_seed(0))
    assert (tags[anchors] * tags[negatives]).sum() == 0
    assert (anchors != negatives).all()
    has = [any((tags[i] * tags[j]).sum() == 0 for j in range(32) if j != i) for i in range(32)]
    assert anchors.tolist() == [i for i, found in enumerate(has) if found]


def test_every_candidate_is_drawn_alike():
    tags = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 1]]).float()
    g = torch.Generator().manual_seed(0)
    drawn = [draw_negatives(tags, generator=g)[1][0].item() for _ in range(900)]
    counts = [drawn.count(k) for k in range(6)]
    assert sum(counts[2:5]) == 900
    assert all(240 < c < 360 for c in counts[2:5])


def test_anchors_without_a_negative():
    """9.8, row 7: image 1 holds both classes. ``skip`` leaves it out; published, later negatives move up by one."""
    tags = torch.tensor([[1, 0], [1, 1], [0, 1]])
    assert [x.tolist() for x in draw_negatives(tags)] == [[0, 2], [2, 0]]
    assert [x.tolist() for x in draw_negatives(tags, "shift")] == [[0, 1], [2, 0]]
    alike = draw_negatives(torch.ones(4, 2))
    assert [len(x) for x in alike] == [0, 0]
    alone = draw_negatives(torch.zeros(1, 2))
    assert [len(x) for x in alone] == [0, 0]


# --- the method ---


def test_the_published_constants():
    """methods.md 9.1 to 9.5."""
    voc, coco = METHODS["voc"], METHODS["coco"]
    jitter = Jitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    assert voc.augmentation.steps == (ResizeLong(256, 512), Flip(0.5), jitter, Normalise(), PaddedCrop(320))
    o = voc.optimisation
    assert o.phases == ((18, 8), (22, 32))
    assert (o.lr, o.new_factor, o.bias_factor, o.weight_decay, o.momentum) == (0.01, 1.0, None, 5e-4, 5e-4)
    plan = make_plan(o, 10_582)
    assert (plan.total, plan.horizon(o)) == (31_056, 52_880)
    assert (voc.t_high, voc.t_low, voc.margin, voc.attract_weight, voc.repel_weight) == (0.6, 0.2, 0.5, 0.2, 0.15)
    assert (voc.cls_subset, voc.min_hard, voc.bins, voc.dropouts) == (8, 5, (2, 4, 8, 16), (0.2, 0.2))
    assert replace(coco, t_high=0.6, t_low=0.2, margin=0.5) == voc
    assert (coco.t_high, coco.t_low, coco.margin) == (0.7, 0.1, 0.1)
    assert voc.scales == (0.5, 1.0, 1.5, 2.0)
    assert replace(voc, triplet_epochs=0, epochs=40).optimisation.phases == ((40, 8),)
    assert o.optimiser == "sgd"
    assert METHODS["mobile"].optimisation.optimiser == "adamw"
    assert "optimiser" not in deciding_constants(voc)  # older runs stay done


@pytest.mark.parametrize("name", METHODS)
def test_roles_and_round_trip(name):
    method = load(f"aeft.{name}")
    assert isinstance(method, Localizer)
    fields = json.loads(json.dumps(asdict(method)))
    assert configure(method, fields, "aeft") == method
    with pytest.raises(WeaksegError, match="pooling"):
        configure(method, {"pooling": "max"}, "aeft")


@pytest.mark.slow
def test_network_on_resnet38():
    """Sec. 9.1: 4096 -> 256 -> C without bias, dropouts 0.2, one learning rate, conv1a, b2 and BatchNorm frozen."""
    method = replace(METHODS["voc"], freeze_bn=False)
    model = method.build(20, Backbone("resnet38d", None, output_stride=8))
    assert model.reduce.weight.shape == (256, 4096, 1, 1)
    assert model.classifier.weight.shape == (20, 256, 1, 1)
    assert model.reduce.bias is None
    assert model.classifier.bias is None
    net = model.backbone.net
    assert (net.b6.dropout.p, net.b7.dropout.p) == (0.2, 0.2)
    groups = parameter_groups(model, method.optimisation)
    assert {g["lr"] for g in groups} == {0.01}
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad and "bn" not in n}
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    assert len(list(model.pooling.parameters())) == 6


def test_phase_one_is_classification_alone():
    model, data = network().eval(), batch()
    losses = TINY.objective(model, data, FIRST)
    assert set(losses) == {"cls"}
    expected = binary_cross_entropy_with_logits(model(data.images).logits, data.tags)
    torch.testing.assert_close(losses["cls"], expected)


def test_phase_two_written_out():
    """9.3 and 9.4: BCE of the first images, 0.2 attraction of all, 0.15 repulsion of all; no class in common."""
    method = replace(TINY, cls_subset=2, min_hard=1, margin=100.0)
    model, data = network(method).eval(), batch(count=6)
    f, logits, g = model(data.images)
    losses = method.objective(model, data, SECOND)
    assert set(losses) == {"cls", "attract", "repel"}
    torch.testing.assert_close(losses["cls"], binary_cross_entropy_with_logits(logits[:2], data.tags[:2]))
    big = interpolate(f, (64, 64), mode="bilinear").relu()
    present = data.tags.argmax(1)
    own = torch.stack([big[i, k] for i, k in enumerate(present)])
    low, high = own.amin((1, 2), keepdim=True), own.amax((1, 2), keepdim=True)
    n = (own - low - 1e-5).relu() / (high - low + 1e-5)
    mask = torch.where(n < 0.6, n, 0.0)
    g_positive = model(data.images * mask[:, None]).pyramid
    e = [torch.stack([m[i, k].relu().mean() for i, k in enumerate(present)]) for m in (g_positive, g)]
    torch.testing.assert_close(losses["attract"], 0.2 * (e[0] - e[1]).abs().sum() / data.tags.numel())
    torch.manual_seed(5)
    got = method.repel(model(data.images), data.tags)
    torch.manual_seed(5)
    anchors, negatives = draw_negatives(data.tags)
    small = torch.stack([f[i, k].relu() for i, k in enumerate(present)])
    low, high = small.amin((1, 2), keepdim=True), small.amax((1, 2), keepdim=True)
    n = (small - low - 1e-5).relu() / (high - low + 1e-5)
    scaled = torch.stack([g[i, k] / (g[i, k].abs().max() + 1e-5) for i, k in enumerate(present)])
    e_low = [scaled[i][n[i] < 0.2].mean() for i in range(6)]
    e_whole = [scaled[i][n[i] < 1].mean() for i in range(6)]
    d = torch.stack([e_low[i] ** 2 + e_whole[j] ** 2 for i, j in zip(anchors, negatives, strict=True)])
    torch.testing.assert_close(got, (100 - d).mean())


def test_every_parameter_learns_and_the_loss_falls():
    method = replace(TINY, margin=100.0)
    model, data = network(method), batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for index in range(10):
        terms = method.objective(model, data, Step(index, 0 if index < 6 else 1, 10))
        optimiser.zero_grad()
        sum(terms.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(float(terms["cls"].detach()))
    assert losses[-1] < losses[0]


def test_switches_of_the_second_phase():
    data = batch()
    model = network().eval()
    assert set(replace(TINY, repel_weight=0.0).objective(model, data, SECOND)) == {"cls", "attract"}
    assert set(replace(TINY, attract_weight=0.0).objective(model, data, SECOND)) == {"cls", "repel"}
    rigid = replace(TINY, erasing="rigid", repel_weight=0.0).objective(model, data, SECOND)
    mask = TINY.mask(model(data.images).maps, data)
    expected = 0.2 * binary_cross_entropy_with_logits(model(data.images * mask).logits, data.tags)
    torch.testing.assert_close(rigid["rigid"], expected)
    maps = model(data.images).maps
    assert TINY.mask(maps, data).requires_grad
    assert not replace(TINY, detach_mask=True).mask(maps, data).requires_grad
    direct = replace(TINY, embedding="cam", repel_weight=0.0).objective(model, data, SECOND)["attract"]
    erased = model(data.images * mask).maps
    torch.testing.assert_close(direct, 0.2 * attraction_loss(maps, erased, data.tags))


def test_a_batch_of_one_class_has_no_negative():
    data = batch()
    alike = replace(data, tags=torch.ones_like(data.tags))
    losses = TINY.objective(network(), alike, SECOND)
    assert losses["repel"].item() == 0
    sum(losses.values()).backward()


def test_without_the_pyramid():
    method = replace(TINY, pooling="gap")
    model = network(method).eval()
    f, logits, g = model(batch().images)
    torch.testing.assert_close(logits, f.mean((2, 3)))
    assert g is f
    assert set(method.objective(model, batch(), SECOND)) == {"cls", "attract", "repel"}


def test_views_are_rectified_after_resizing():
    """Between 4 and -4 the resized map crosses zero: ReLU first would leave 3 and 1, afterwards 2 stays beside 0."""
    views = [row(4.0, -4.0), torch.cat([row(0.0, 8.0), row(8.0, -8.0)])]
    got = merge_views(views, (1, 4)).flatten()
    assert got.tolist() == [4.0 + 0 + 0, 2.0 + 2 + 0, 0.0 + 6 + 4, 0.0 + 8 + 8]
    with pytest.raises(ValueError, match="no view"):
        merge_views([], (1, 4))


def test_maps_equal_the_specification_written_out():
    """Sec. 9.5, view by view with Pillow."""
    method, s = replace(TINY, scales=(1.0, 0.5)), sample()
    model = network(method).eval()
    height, width = s.size
    photo = Image.fromarray(s.image.permute(1, 2, 0).numpy())
    full, strided = torch.zeros(2, height, width), torch.zeros(2, 13, 18)
    with torch.inference_mode():
        for scale in method.scales:
            resized = photo.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
            for flip in (False, True):
                pixels = np.asarray(resized)[:, ::-1].copy() if flip else np.asarray(resized).copy()
                f = model(model.normalise(torch.from_numpy(pixels).permute(2, 0, 1))[None]).maps[:, [1, 2]]
                f = f.flip(-1) if flip else f
                full += interpolate(f, (height, width), mode="bilinear")[0].relu()
                strided += interpolate(f, (13, 18), mode="bilinear")[0].relu()
        scores = method.score(model, s)
    for got, expected in ((scores["full"], full), (scores["strided"], strided)):
        assert got.ids.tolist() == [2, 3]
        assert got.size == s.size
        expected = expected / (expected.amax(dim=(1, 2), keepdim=True) + 1e-5)
        torch.testing.assert_close(got.scores, expected, rtol=1e-3, atol=1e-4)


def test_no_tags_no_maps_and_no_forward():
    model = network().eval()
    model.backbone.net = None  # a forward pass would fail
    scores = TINY.score(model, sample(tags=(False, False, False)))
    assert scores["full"].scores.shape == (0, 50, 70)
    assert scores["strided"].scores.shape == (0, 13, 18)


def test_classify_and_single_images():
    model, data = network().eval(), batch(count=2)
    with torch.inference_mode():
        assert TINY.classify(model, sample()).shape == (3,)
        together = model(data.images).logits
        apart = torch.cat([model(data.images[i : i + 1]).logits for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
