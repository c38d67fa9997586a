"""Augmentation: everything moves together, resizing is Pillow's, every draw comes from the generator."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision import tv_tensors
from torchvision.transforms import v2

from weakseg.data.collate import collate, sample_generator
from weakseg.data.transforms import build
from weakseg.ops.image import normalise
from weakseg.types import (
    Augmentation,
    Flip,
    HsvJitter,
    Jitter,
    Normalise,
    PadCrop,
    PaddedCrop,
    Rescale,
    ResizeLong,
    Sample,
    ScoreMap,
)

CLASSES = 4
IMAGENET = partial(normalise, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
FAMILIES = {
    "resnet38": (ResizeLong(24, 60), Flip(), Jitter(), Normalise(), PaddedCrop(40)),
    "resnet50": (ResizeLong(24, 60), Normalise(), Flip(), PaddedCrop(40)),
    "deeplab": (Rescale(0.5, 1.5), Flip(), Normalise(), PadCrop(40)),
    "choices": (Rescale(choices=(0.5, 0.75, 1.25)), PadCrop(40), Normalise(), Flip(1.0)),
    "bana": (Rescale(0.5, 1.5, mode="bilinear"), PadCrop(40), Flip(), Jitter(0, 0, 0, 0), Normalise()),
    "raw": (PaddedCrop(40), Flip(), Normalise()),
    "whole": (Normalise(),),
}


def raw(image):
    """Levels as they are, so that planes can be compared."""
    return image.to(torch.float32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blocks(size=(48, 64)):
    """One photograph whose every plane says the same: class 1 left above, 2 right above, 3 left below, 0 elsewhere."""
    height, width = size
    labels = torch.zeros(size, dtype=torch.uint8)
    labels[: height // 2, : width // 2] = 1
    labels[: height // 2, width // 2 :] = 2
    labels[height // 2 :, : width // 2] = 3
    centres = torch.nn.functional.interpolate(labels[None, None].float(), scale_factor=0.25, mode="nearest")[0, 0]
    scores = torch.stack([(centres == k).float() for k in (1, 2, 3)])
    h, w = height / 2, width / 2
    boxes = torch.tensor([[0, 0, w, h], [w, 0, width, h], [0, h, w, height]])
    return Sample(
        id="blocks",
        image=tv_tensors.Image((labels * 60).expand(3, -1, -1).clone()),
        tags=torch.tensor([True, True, True, False]),
        boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        box_labels=torch.tensor([1, 2, 3]),
        saliency=tv_tensors.Mask(labels[None].float() / 3),
        seeds={"seeds": tv_tensors.Mask(labels.clone())},
        scores={"scores": ScoreMap(torch.tensor([1, 2, 3], dtype=torch.uint8), scores, size)},
        mask=tv_tensors.Mask(labels.clone()),
    )


def run(steps, sample=None, seed=0, network=raw):
    return build(Augmentation(tuple(steps)), network)(sample or blocks(), generator(seed))


@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), h=st.integers(2, 10), w=st.integers(2, 10))
def test_every_plane_follows_the_image(name, seed, h, w):
    steps = [s for s in FAMILIES[name] if not isinstance(s, Jitter)]
    sample = blocks((8 * h, 8 * w))
    made = run(steps, sample, seed)
    labels, valid = made["seeds"]["seeds"], made["valid"][0]
    height, width = made["image"].shape[1:]
    assert made["image"].dtype == made["saliency"].dtype == made["scores"]["scores"].dtype == torch.float32
    assert labels.shape == valid.shape == made["saliency"].shape[1:] == (height, width)
    assert made["scores"]["scores"].shape == (CLASSES + 1, height, width)
    assert ("whole" in name) or (height, width) == (40, 40)

    assert torch.equal(labels == 255, ~valid)
    for plane in (made["image"], made["saliency"], made["scores"]["scores"]):
        assert (plane[:, ~valid] == 0).all()

    inner = valid & (torch.from_numpy(_far_from_edges(labels.numpy(), 4)))
    said = labels[inner].float()
    assert (made["image"][0][inner] / 60 - said).abs().le(0.5).all()
    assert (made["saliency"][0][inner] * 3 - said).abs().le(0.5).all()
    dense = made["scores"]["scores"]
    assert not dense[0].any()
    assert not dense[4].any()
    assert (torch.where(dense[:, inner].amax(0) > 0.5, dense[:, inner].argmax(0), 0) == said).all()

    for box, label in zip(made["boxes"], made["box_labels"], strict=True):
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
        x0, y0, x1, y1 = (max(0, int(v)) for v in (*(box[:2] + 1).ceil(), *(box[2:] - 1).floor()))
        assert (labels[y0:y1, x0:x1] == label).all()
    for label in set(labels[inner].tolist()) - {0}:
        assert label in made["box_labels"]


def _far_from_edges(labels, distance):
    padded = np.pad(labels, distance, constant_values=254)  # an edge may lie just outside a crop
    h, w = labels.shape
    shifts = [(y, x) for y in range(0, 2 * distance + 1, distance) for x in range(0, 2 * distance + 1, distance)]
    return np.all([padded[y : y + h, x : x + w] == labels for y, x in shifts], axis=0)


def test_resizing_is_pillows():
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8, generator=generator())
    labels = torch.randint(0, 5, (50, 70), dtype=torch.uint8, generator=generator())
    sample = Sample("a", tv_tensors.Image(image), torch.ones(4, dtype=torch.bool), seeds={"s": labels})
    made = run([ResizeLong(91, 91), Normalise()], sample)
    size = (91, 65)  # width, height
    want = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
    assert np.array_equal(made["image"].permute(1, 2, 0).numpy(), np.array(want))
    want = Image.fromarray(labels.numpy()).resize(size, Image.Resampling.NEAREST)
    assert np.array_equal(made["seeds"]["s"].numpy(), np.array(want))


def test_the_long_side_is_uniform_and_the_ends_are_drawn():
    sides = [run([ResizeLong(8, 12), Normalise()], seed=k)["image"].shape for k in range(400)]
    assert all(h == round(w * 48 / 64) for _, h, w in sides)
    counts = np.bincount([w for *_, w in sides], minlength=13)[8:]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_rescaling_draws_from_the_range_or_the_choices():
    factors = [run([Rescale(0.5, 1.5), Normalise()], seed=k)["image"].shape[2] / 64 for k in range(300)]
    assert stats.kstest(factors, stats.uniform(0.5, 1.0).cdf).pvalue > 1e-4
    widths = {run([Rescale(choices=(0.5, 1.0, 1.25)), Normalise()], seed=k)["image"].shape[2] for k in range(60)}
    assert widths == {32, 64, 80}


def test_flips_happen_as_often_as_asked():
    plain = blocks().image.float()
    for p in (0.0, 0.3, 1.0):
        flipped = sum(not torch.equal(run([Flip(p), Normalise()], seed=k)["image"], plain) for k in range(300))
        assert stats.binomtest(flipped, 300, p).pvalue > 1e-4
    assert torch.equal(run([Flip(1.0), Normalise()])["image"], plain.flip(-1))


def test_a_short_side_lands_anywhere_and_a_long_one_starts_anywhere():
    size = (4, 12)
    image = torch.arange(1, 49, dtype=torch.uint8).reshape(1, *size).repeat(3, 1, 1)
    sample = Sample("a", tv_tensors.Image(image), torch.ones(1, dtype=torch.bool))
    tops, lefts = [], []
    for k in range(1500):
        made = run([Normalise(), PaddedCrop(8)], sample, k)
        rows = made["valid"][0].any(1).nonzero().flatten()
        tops.append(int(rows[0]))
        assert made["valid"].sum() == 4 * 8
        lefts.append(int(made["image"][0, rows[0], 0]) - 1)
    joint = np.zeros((5, 5), int)
    np.add.at(joint, (tops, lefts), 1)
    assert stats.chisquare(joint.ravel()).pvalue > 1e-4  # uniform over all 25, hence independent too


def test_pad_crop_pads_right_and_bottom_with_the_mean_colour():
    for steps in ([Normalise(), PadCrop(80)], [PadCrop(80), Normalise()]):
        made = run(steps, network=IMAGENET)
        torch.testing.assert_close(made["image"][:, :48, :64], IMAGENET(blocks().image.as_subclass(torch.Tensor)))
        assert (made["image"][:, 48:] == 0).all()
        assert (made["image"][:, :, 64:] == 0).all()
        assert (made["seeds"]["seeds"][48:] == 255).all()
        assert made["valid"].sum() == 48 * 64
    starts = {int(run([Normalise(), PadCrop(47)], seed=k)["valid"].all()) for k in range(20)}
    assert starts == {1}


def test_padding_before_normalising_is_black():
    made = run([PaddedCrop(80), Normalise()], network=IMAGENET)
    black = IMAGENET(torch.zeros(3, 1, 1, dtype=torch.uint8))
    assert torch.equal(made["image"][:, ~made["valid"][0]], black[:, 0].expand(3, int((~made["valid"]).sum())))


def test_padding_of_a_colour_is_jittered_and_normalised_like_the_photograph():
    raw_values = run([PadCrop(80, (123, 117, 104)), Normalise()])
    assert raw_values["image"][:, 60, 70].tolist() == [123, 117, 104]
    assert not raw_values["valid"][0, 60, 70]
    darker = run([PadCrop(80, (123, 117, 104)), Jitter(0.5, 0, 0, 0), Normalise()], seed=3)["image"][:, 60, 70]
    assert len(set((darker / torch.tensor([123.0, 117.0, 104.0])).round(decimals=1).tolist())) == 1
    assert darker.tolist() != [123, 117, 104]
    padding = run([PadCrop(80, (123, 117, 104)), Normalise()], network=IMAGENET)["image"][:, 60, 70]
    assert 0 < float(padding.abs().max()) < 0.02  # near ImageNet's mean colour, and not put in its place
    with pytest.raises(ValueError, match="before Normalise"):
        run([Normalise(), PadCrop(80, (123, 117, 104))])


def test_rescaling_filters_the_photograph_as_it_is_told():
    noise = torch.randint(0, 256, (3, 20, 30), generator=generator(), dtype=torch.uint8)
    photo = Sample("a", tv_tensors.Image(noise), torch.zeros(CLASSES, dtype=torch.bool))
    made = run([Rescale(1.5, 1.5, mode="bilinear"), Normalise()], photo)["image"]
    pillow = Image.fromarray(noise.permute(1, 2, 0).numpy()).resize((45, 30), Image.Resampling.BILINEAR)
    assert np.abs(made.permute(1, 2, 0).numpy() - np.asarray(pillow, np.float32)).max() <= 1
    assert not torch.equal(made, run([Rescale(1.5, 1.5), Normalise()], photo)["image"])


def test_boxes_scale_mirror_and_are_clipped():
    photo = replace(blocks((40, 60)), boxes=tv_tensors.BoundingBoxes(
        torch.tensor([[10.0, 4.0, 30.0, 20.0]]), format="XYXY", canvas_size=(40, 60)), box_labels=torch.tensor([2]))  # fmt: skip
    found = run([Rescale(0.5, 0.5), Flip(1.0), PadCrop(18), Normalise()], photo)
    # half size (5, 2, 15, 10) in 30 pixels; mirrored (15, 2, 25, 10); the crop of 18 starts at 0..12
    x0, y0, x1, y1 = found["boxes"][0].tolist()
    start = 15 - x0
    assert start in range(13)
    assert x1 == min(25 - start, 18)
    assert y1 - y0 == 8
    assert found["box_labels"].tolist() == [2]
    batch = collate([{**found, "id": "a"}, {**found, "id": "b", "boxes": None, "box_labels": None}])
    assert batch.boxes is not None
    assert [len(b) for b in batch.boxes] == [1, 0]
    assert [b.tolist() for b in batch.box_labels] == [[2], []]


def test_boxes_outside_the_crop_are_dropped():
    kept = [run([Normalise(), PaddedCrop(20)], seed=k)["box_labels"].tolist() for k in range(60)]
    assert [1] in kept
    assert all(labels == sorted(labels) for labels in kept)
    assert {len(labels) for labels in kept} > {1}


def test_jitter_is_torchvisions():
    image = torch.randint(0, 256, (3, 9, 11), dtype=torch.uint8, generator=generator())
    sample = Sample("a", tv_tensors.Image(image), torch.ones(1, dtype=torch.bool))

    def ours(**widths):
        step = Jitter(**{"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, **widths})
        made = (run([step, Normalise()], sample, k)["image"] for k in range(300))
        return np.array([m.numpy() for m in made])

    for kind, width in {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            theirs = np.array([v2.ColorJitter(**{kind: width})(image).numpy() for _ in range(300)]).astype(float)
        got = ours(**{kind: width})
        assert got.std(0).mean() > 1
        for place in ((0, 0, 0), (1, 4, 5), (2, 8, 10)):
            a, b = got[(slice(None), *place)], theirs[(slice(None), *place)]
            assert stats.ks_2samp(a, b).pvalue > 1e-4, kind
    with torch.random.fork_rng():
        torch.manual_seed(1)
        jitter = v2.ColorJitter(0.3, 0.3, 0.3, 0.1)
        theirs = np.array([jitter(image).numpy().mean() for _ in range(300)])
    got = ours(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1).mean((1, 2, 3))
    assert stats.ks_2samp(got, theirs).pvalue > 1e-4


def test_hsv_jitter_adds_three_uniform_integers_to_the_image_alone():
    grey = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    sample = Sample("a", tv_tensors.Image(grey), torch.ones(1, dtype=torch.bool), seeds={"s": grey[0]})
    seen = set()
    for seed in range(200):
        made = run([HsvJitter(4), Normalise()], sample, seed)
        assert torch.equal(made["seeds"]["s"], grey[0])
        seen.add(float(made["image"].max()))  # the value: saturation takes from the other channels
    assert seen == {96.0, 97.0, 98.0, 99.0, 100.0, 101.0, 102.0, 103.0}
    with pytest.raises(ValueError, match="before Normalise"):
        run([Normalise(), HsvJitter(4)], sample)
    with pytest.raises(ValueError, match="at least 1"):
        run([HsvJitter(0), Normalise()], sample)


def test_jitter_leaves_everything_but_the_image_and_obeys_its_probability():
    plain = blocks()
    made = run([Jitter(), Normalise()])
    assert torch.equal(made["seeds"]["seeds"], plain.seeds["seeds"])
    assert torch.equal(made["saliency"], plain.saliency)
    changed = sum(
        not torch.equal(run([Jitter(p=0.25), Normalise()], seed=k)["image"], plain.image.float()) for k in range(300)
    )
    assert stats.binomtest(changed, 300, 0.25).pvalue > 1e-4


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_come_from_the_generator_alone_and_the_sample_stays(name):
    transform = build(Augmentation(FAMILIES[name]), IMAGENET)
    sample = blocks()
    state = torch.random.get_rng_state()
    first = transform(sample, sample_generator(3, 1, sample.id))
    torch.manual_seed(99)
    again = pickle.loads(pickle.dumps(transform))(blocks(), sample_generator(3, 1, sample.id))
    torch.random.set_rng_state(state)
    assert same(first, again)
    transform(sample, generator())
    assert torch.equal(torch.random.get_rng_state(), state)
    for field in ("image", "boxes", "saliency", "mask", "tags"):
        assert torch.equal(getattr(sample, field), getattr(blocks(), field))
    assert torch.equal(sample.seeds["seeds"], blocks().seeds["seeds"])
    assert torch.equal(sample.scores["scores"].scores, blocks().scores["scores"].scores)


def test_the_truth_is_left_behind():
    assert "mask" not in run([Normalise()])


def test_score_maps_of_boxes_take_the_maximum_and_none_is_zero():
    image = tv_tensors.Image(torch.zeros(3, 4, 4, dtype=torch.uint8))
    scores = torch.tensor([[[0.1, 0.9]], [[0.5, 0.2]], [[0.3, 0.3]]]).repeat(1, 2, 1)
    boxed = ScoreMap(
        torch.tensor([2, 2, 0], dtype=torch.uint8), scores, (4, 4), torch.tensor([0, 1, 2], dtype=torch.int32)
    )
    none = ScoreMap(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 2, 2), (4, 4))
    sample = Sample("a", image, torch.tensor([False, True]), scores={"b": boxed, "n": none})
    made = run([Normalise(), PaddedCrop(6)], sample)
    row = made["scores"]["b"][:, made["valid"][0]].reshape(3, 4, 4)[:, 0]
    torch.testing.assert_close(row[2], torch.tensor([0.5, 0.6, 0.8, 0.9]))
    torch.testing.assert_close(row[0], torch.full((4,), 0.3))
    assert made["scores"]["n"].shape == (3, 6, 6)
    assert not made["scores"]["n"].any()


@pytest.mark.parametrize(
    "steps",
    [
        (Normalise(), ResizeLong(8, 9)),
        (Normalise(), Rescale(0.5, 1)),
        (Normalise(), Jitter()),
        (ResizeLong(9, 8), Normalise()),
        (Rescale(0, 1), Normalise()),
        (Rescale(choices=(0.5, -1)), Normalise()),
        (Normalise(), PadCrop(0)),
    ],
)
def test_senseless_augmentations_are_refused(steps):
    with pytest.raises(ValueError, match=r"levels 0-255|wanted"):
        build(Augmentation(steps), raw)


def test_a_tiny_photograph_survives():
    image = tv_tensors.Image(torch.full((3, 1, 300), 7, dtype=torch.uint8))
    made = run([ResizeLong(20, 20), Normalise(), PaddedCrop(10)], Sample("a", image, torch.ones(1, dtype=torch.bool)))
    assert made["valid"].sum() == 10
