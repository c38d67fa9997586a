"""Saliency without training: barrier distance against a shortest-path search, reconstruction, colours, photographs."""

import heapq
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from weakseg.ops.saliency import (
    _rebuild,
    barrier_distance,
    barrier_saliency,
    border_contrast,
    lab,
    nearest_saliency,
    saliency_of,
    saliency_score_map,
)
from weakseg.types import ScoreMap

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "voc-animals"


def exact_barrier(plane):
    """The distance itself: for every lower limit, the least upper limit of a path from the border (Dijkstra)."""
    height, width = plane.shape
    best = np.full(plane.shape, np.inf)
    for low in np.unique(plane):
        high = np.full(plane.shape, np.inf)
        queue = [(plane[y, x], y, x) for y in range(height) for x in range(width)
                 if plane[y, x] >= low and (y in (0, height - 1) or x in (0, width - 1))]  # fmt: skip
        heapq.heapify(queue)
        while queue:
            value, y, x = heapq.heappop(queue)
            if value >= high[y, x]:
                continue
            high[y, x] = value
            for j, i in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= j < height and 0 <= i < width and plane[j, i] >= low:
                    heapq.heappush(queue, (max(value, plane[j, i]), j, i))
        best = np.minimum(best, high - low)
    best[0] = best[-1] = best[:, 0] = best[:, -1] = 0
    return best


def photograph(seed=0, size=(48, 64)):
    """A bright blob on a noisy slope."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([60 + 0.5 * x, 80 + 0.3 * y, np.full(size, 70.0)])
    blob = (y - size[0] / 2) ** 2 / 100 + (x - size[1] / 2) ** 2 / 150 < 1
    image[:, blob] += np.array([120, 20, -40])[:, None]
    noisy = image + rng.normal(0, 3, image.shape)
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)), blob


def test_nearest_saliency_is_the_pixel_at_the_feature_s_corner():
    """448 -> 56 and 321 -> 41, as 6.3 prints; index floor(i H/h), which Pillow's nearest does not take."""
    for side, features in ((448, 56), (321, 41)):
        saliency = torch.rand(1, 1, side, side)
        index = [i * side // features for i in range(features)]
        found = nearest_saliency(saliency, (features, features))
        assert torch.equal(found[0, 0], saliency[0, 0][index][:, index])


def test_barrier_distance_on_a_ring():
    plane = np.zeros((7, 7), np.float32)
    plane[1:6, 1:6] = 10  # a wall of 10 around a court of 3: the court costs the wall
    plane[2:5, 2:5] = 3
    distance = barrier_distance(plane)
    assert distance[3, 3] == 10
    assert distance[1, 1] == 10
    plane[1, 3] = 4  # a gate
    assert barrier_distance(plane)[3, 3] == 4


@pytest.mark.parametrize("seed", range(4))
def test_barrier_distance_against_an_exact_search(seed):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(18, 23)), 1.5)
    plane = (255 * (smooth - smooth.min()) / np.ptp(smooth)).round().astype(np.float32)
    before = plane.copy()
    exact, once, thrice = exact_barrier(plane), barrier_distance(plane, 1), barrier_distance(plane)
    assert np.array_equal(plane, before)
    assert (thrice >= exact).all()  # each pixel's is the range of a real path, so never below
    assert (once >= thrice).all()
    assert np.mean(thrice - exact) < 0.2 * exact.mean() < np.mean(once - exact)  # on noise; photographs are smoother


def test_turning_the_photograph_turns_the_distance():
    plane = lab(photograph()[0].numpy())[0]
    turned = barrier_distance(np.ascontiguousarray(plane[::-1, ::-1]), sweeps=20)[::-1, ::-1]
    straight = barrier_distance(plane, sweeps=20)
    assert np.abs(turned - straight).mean() < 0.05 * straight.mean()


def test_lab_of_known_colours():
    """Red, green, blue of sRGB under D65, as every colour table prints them."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], np.uint8).T[:, None]
    wanted = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [0, 0, 0]]
    np.testing.assert_allclose(lab(colours)[:, 0].T, wanted, atol=0.03)


def test_border_contrast_leaves_out_the_strip_that_an_object_fills():
    colours = np.zeros((3, 40, 40), np.float32)
    colours[0, :, :8] = 60  # cut off at the left
    contrast = border_contrast(colours)
    # distances over their maxima, strips above, below, left, right: the object's 1, 1, 0, 1 without the largest. Above
    # and below a fifth of the strip is object, so their mean is 12: the ground is 12 away, a quarter of the object's 48
    assert contrast[20, 2] == pytest.approx(2.0)
    assert contrast[20, 30] == pytest.approx(0.25 + 0.25 + 0)


def test_reconstruction_against_an_iterated_dilation():
    rng = np.random.default_rng(2)
    mask = ndimage.gaussian_filter(rng.random((30, 40)), 2).astype(np.float32)
    marker = ndimage.grey_erosion(mask, (5, 5)).astype(np.float32)
    wanted, cross = marker, ndimage.generate_binary_structure(2, 1)
    for _ in range(2000):
        wanted = np.minimum(ndimage.grey_dilation(wanted, footprint=cross, mode="nearest"), mask)
    np.testing.assert_array_equal(_rebuild(marker, mask), wanted)


def test_the_blob_is_salient_and_the_border_is_not():
    image, blob = photograph()
    before = image.clone()
    saliency = barrier_saliency(image)
    assert (saliency.dtype, saliency.shape) == (torch.float32, (1, 48, 64))
    assert torch.equal(image, before)
    found = saliency[0].numpy()
    assert found[blob].mean() > 0.9 > 0.4 > found[~blob].mean()
    assert found.max() == pytest.approx(1.0)


def test_mirror_images_agree():
    image, _ = photograph(1)
    straight, mirrored = barrier_saliency(image), barrier_saliency(image.flip(-1)).flip(-1)
    assert float((straight - mirrored).abs().mean()) < 0.02


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 4), (40, 700)])
def test_odd_and_flat_photographs_have_a_map(size):
    flat = barrier_saliency(torch.full((3, *size), 90, dtype=torch.uint8))
    noise = barrier_saliency(torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0)).byte())
    for found in (flat, noise):
        assert found.shape == (1, *size)
        assert found.isfinite().all()
        assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_a_saliency_map_among_outputs_comes_back():
    saliency = torch.rand(1, 4, 5)
    assert torch.equal(saliency_of(saliency_score_map(saliency)), saliency)
    with pytest.raises(ValueError, match="ids"):
        saliency_of(ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.rand(1, 4, 5), (4, 5)))
    with pytest.raises(ValueError, match="size"):
        saliency_of(ScoreMap(torch.tensor([0], dtype=torch.uint8), torch.rand(1, 2, 3), (4, 5)))


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photographs are absent")
def test_it_finds_animals_better_than_a_centre_prior():
    """F-measure (beta^2 = 0.3) at 0.5 and mean absolute error against the true foreground."""
    from weakseg.data.dataset import open_dataset
    from weakseg.ops.saliency import _centre_prior

    data = open_dataset(SHARED)
    counts = {"barrier": np.zeros(4), "centre": np.zeros(4)}
    for id in data.list("train")[::40]:
        sample = data.sample(id, truth=True)
        truth = sample.mask.numpy()
        known, animal = truth != 255, (truth > 0) & (truth != 255)
        maps = {"barrier": barrier_saliency(sample.image.as_subclass(torch.Tensor))[0].numpy(),
                "centre": _centre_prior(truth.shape, 1.0)}  # fmt: skip
        for name, found in maps.items():
            cut = (found > 0.5) & known
            hit = (cut & animal).sum()
            counts[name] += hit / max(1, cut.sum()), hit / max(1, animal.sum()), np.abs(found - animal)[known].mean(), 1
    score = {}
    for name, (precision, recall, error, n) in counts.items():
        p, r = precision / n, recall / n
        score[name] = (1.3 * p * r / (0.3 * p + r), error / n)
    assert score["barrier"][0] > score["centre"][0] + 0.05
    assert score["barrier"][1] < score["centre"][1] - 0.05
