"""The dense CRF against pydensecrf (its C++ lattice), against a plain lattice in numpy, and against its own torch path."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from scipy.special import softmax

from weakseg.ops import crf
from weakseg.ops.crf import RECIPES, CrfParams, dense_crf
from weakseg.types import ScoreMap, WeaksegError

PHOTOS = Path(__file__).parents[2] / ".." / "shared" / "data" / "voc-animals" / "JPEGImages"


def photo_like(height=60, width=80, seed=0):
    """uint8 (3, H, W): a gradient sky, a textured blob, soft borders and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    blob = gaussian_filter(((x - width * 0.6) ** 2 + (y - height * 0.5) ** 2 < (height * 0.3) ** 2).astype(float), 1.5)
    texture = gaussian_filter(rng.normal(size=(height, width)), 2) * 60
    sky, fur = np.array([90, 140, 210])[:, None, None], np.array([150, 100, 50])[:, None, None]
    image = (sky + y / height * 40) * (1 - blob) + (fur + texture) * blob + rng.normal(size=(3, height, width)) * 4
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def blocky_labels(height, width, n, seed=0):
    blocks = np.random.default_rng(seed).integers(0, n, (height // 15 + 1, width // 15 + 1), dtype=np.uint8)
    return torch.from_numpy(np.ascontiguousarray(blocks.repeat(15, 0).repeat(15, 1)[:height, :width]))


def smooth_unary(height, width, n, seed=0):
    """Energies of smooth random probabilities, as from a network at stride 8."""
    logits = np.random.default_rng(seed).normal(size=(n, height // 8 + 2, width // 8 + 2)) * 2
    logits = zoom(logits, (1, 8, 8), order=1)[:, :height, :width]
    return crf.unary_from_probabilities(torch.from_numpy(softmax(logits, 0)))


def oracle(image, unary, params, scale_factor=1.0):
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    n, height, width = unary.shape
    model = densecrf.DenseCRF2D(width, height, n)
    model.setUnaryEnergy(np.ascontiguousarray(unary.reshape(n, -1).numpy()))
    model.addPairwiseGaussian(sxy=params.gaussian_sxy / scale_factor, compat=params.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=params.bilateral_sxy / scale_factor,
        srgb=params.bilateral_srgb,
        rgbim=np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
        compat=params.bilateral_compat,
    )
    return torch.from_numpy(np.array(model.inference(params.iterations)).reshape(n, height, width))


def assert_agrees(ours, theirs, mean=1e-6, same=0.9999):
    assert (ours - theirs).abs().mean() <= mean
    assert (ours.argmax(0) == theirs.argmax(0)).float().mean() >= same


# --- against pydensecrf ---


@pytest.mark.parametrize("n", [2, 3, 21])
@pytest.mark.parametrize("name", RECIPES)
def test_equals_pydensecrf_for_every_recipe(name, n):
    image = photo_like()
    for unary in (crf.unary_from_labels(blocky_labels(60, 80, n), n, 0.7), smooth_unary(60, 80, n)):
        assert_agrees(dense_crf(image, unary, RECIPES[name]), oracle(image, unary, RECIPES[name]))


@pytest.mark.parametrize("n", [*range(4, 21), 25, 32, 37])
def test_equals_pydensecrf_for_every_number_of_labels(n):
    image, unary, params = photo_like(30, 41), smooth_unary(30, 41, n), RECIPES["psa"]
    assert_agrees(dense_crf(image, unary, params), oracle(image, unary, params))


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_scale_factor_divides_the_widths(factor):
    image, unary, params = photo_like(), smooth_unary(60, 80, 3), RECIPES["irn_label"]
    ours = dense_crf(image, unary, params, scale_factor=factor)
    assert_agrees(ours, oracle(image, unary, params, factor))
    assert (ours - dense_crf(image, unary, params)).abs().max() > 0.01  # the factor does something


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 1), (2, 2), (17, 300)])
def test_equals_pydensecrf_at_odd_sizes(height, width):
    image = photo_like(max(height, 4), max(width, 4))[:, :height, :width]
    unary = smooth_unary(height, width, 3)
    assert_agrees(dense_crf(image, unary, RECIPES["psa"]), oracle(image, unary, RECIPES["psa"]))


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("width", [52, 51, 50, 49])
def test_equals_pydensecrf_where_its_last_block_is_filled_up(width, backend):
    """It embeds four points at a time; those beyond the last pixel lie at the origin and let the blur pass there."""
    rng = np.random.default_rng(width)
    unary, params = torch.from_numpy(rng.random((3, 37, width), np.float32)), RECIPES["psa_post_rw"]
    noise = torch.from_numpy(rng.integers(0, 256, (3, 37, width), np.uint8))
    for image in (noise, torch.tensor([12, 5, 8], dtype=torch.uint8)[:, None, None].expand(3, 37, width)):
        difference = dense_crf(image, unary, params, backend=backend) - oracle(image, unary, params)
        assert difference.abs().max() <= 2e-6


@pytest.mark.realdata
@pytest.mark.parametrize("n", [2, 3, 21])
@pytest.mark.parametrize("name", RECIPES)
def test_equals_pydensecrf_on_photographs(name, n):
    if not PHOTOS.is_dir():
        pytest.skip("the shared photographs are not beside the checkout")
    files = sorted(PHOTOS.glob("*.jpg"))
    for k in (10 * n, 300 + 10 * n):
        photo = np.array(Image.open(files[k]).convert("RGB").reduce(2))
        image = torch.from_numpy(photo).permute(2, 0, 1).contiguous()
        unary = crf.unary_from_labels(blocky_labels(*photo.shape[:2], n), n, 0.7)
        assert_agrees(dense_crf(image, unary, RECIPES[name]), oracle(image, unary, RECIPES[name]))


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("n", [2, 3, 21])
@pytest.mark.parametrize("name", ["psa", "irn_label", "bana_stage2", "deeplab_v2_res101"])
def test_equals_pydensecrf_on_a_large_photograph(name, n):
    if not PHOTOS.is_dir():
        pytest.skip("the shared photographs are not beside the checkout")
    photo = Image.open(sorted(PHOTOS.glob("*.jpg"))[50 * n]).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
    unary = crf.unary_from_labels(blocky_labels(375, 500, n), n, 0.7)
    assert_agrees(dense_crf(image, unary, RECIPES[name]), oracle(image, unary, RECIPES[name]))


# --- against a plain lattice: dictionaries, double precision, no shortcut ---


def plain_filter(features, values):
    """Symmetrically normalised permutohedral filter of `values` (N, V) at `features` (N, d), point by point."""
    n, d = features.shape
    elevation = np.triu(np.ones((d + 1, d))) - np.diag(np.arange(1.0, d + 1), -1)[:, :d]
    scaled = features * np.sqrt(2 / 3) * (d + 1) / np.sqrt([(i + 1) * (i + 2) for i in range(d)])
    simplex, index = [], {}
    for x in scaled @ elevation.T:
        nearest = np.round(x / (d + 1)) * (d + 1)
        rank = np.argsort(np.argsort(-(x - nearest), kind="stable"), kind="stable") + round(nearest.sum() / (d + 1))
        nearest += (d + 1) * ((rank < 0).astype(int) - (rank > d))
        rank %= d + 1
        delta = np.sort(x - nearest)[::-1] / (d + 1)
        weight = [1 + delta[d] - delta[0]] + [delta[d - k] - delta[d + 1 - k] for k in range(1, d + 1)]
        keys = [tuple((nearest + r - (d + 1) * (rank > d - r)).astype(int)) for r in range(d + 1)]
        simplex.append([(index.setdefault(key, len(index)), w) for key, w in zip(keys, weight, strict=True)])

    def apply(v):
        points = np.zeros((len(index), v.shape[1]))
        for p in range(n):
            for k, w in simplex[p]:
                points[k] += w * v[p]
        for j in range(d + 1):
            step = np.full(d + 1, -1) + (d + 1) * np.eye(d + 1, dtype=int)[j]
            blurred = points.copy()
            for key, k in index.items():
                for other in (tuple(np.array(key) + step), tuple(np.array(key) - step)):
                    if other in index:
                        blurred[k] += 0.5 * points[index[other]]
            points = blurred
        return np.array([sum(w * points[k] for k, w in s) for s in simplex]) / (1 + 2.0**-d)

    norm = apply(np.ones((n, 1))) ** -0.5
    return norm * apply(norm * values)


@pytest.mark.parametrize("n", [2, 5])
def test_equals_a_plain_lattice(n):
    image, unary, params = photo_like(12, 16), smooth_unary(12, 16, n), CrfParams(3, 2, 3, 20, 30, 5)
    y, x = np.mgrid[:12, :16].reshape(2, -1).astype(float)
    colour = image.reshape(3, -1).numpy() / params.bilateral_srgb
    energy = unary.reshape(n, -1).numpy().T.astype(float)
    q = softmax(-energy, 1)
    for _ in range(params.iterations):
        near = plain_filter(np.stack([x, y], 1) / params.gaussian_sxy, q)
        alike = plain_filter(np.stack([x / params.bilateral_sxy, y / params.bilateral_sxy, *colour], 1), q)
        q = softmax(-energy + params.gaussian_compat * near + params.bilateral_compat * alike, 1)
    ours = dense_crf(image, unary, params)
    np.testing.assert_allclose(ours.reshape(n, -1).numpy().T, q, atol=3e-5)


# --- the torch path ---


@pytest.mark.parametrize("n", [2, 3, 21])
@pytest.mark.parametrize("name", RECIPES)
def test_torch_path_equals_numba_path(name, n):
    image, unary = photo_like(), smooth_unary(60, 80, n)
    torch_path = dense_crf(image, unary, RECIPES[name], backend="torch")
    assert_agrees(torch_path, dense_crf(image, unary, RECIPES[name], backend="numba"), mean=1e-5, same=0.999)
    assert torch_path.is_contiguous()


# --- properties ---


def test_without_weights_it_is_the_softmax_of_the_unary():
    unary = smooth_unary(20, 30, 5)
    for params in (CrfParams(10, 3, 0, 80, 13, 0), CrfParams(0, 3, 3, 80, 13, 10)):
        for backend in ("numba", "torch"):
            got = dense_crf(photo_like(20, 30), unary, params, backend=backend)
            torch.testing.assert_close(got, (-unary).softmax(0), atol=2e-6, rtol=1e-5)


def test_extreme_energies_stay_finite():
    unary = torch.tensor([0.0, 500.0, -500.0, 2000.0]).repeat(20 * 30 // 4 * 3).reshape(3, 20, 30)
    got = dense_crf(photo_like(20, 30), unary, RECIPES["psa"])
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got.sum(0), torch.ones(20, 30))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 9, 13, 17, 21, 25, 81])
def test_probabilities_sum_to_one(n):
    got = dense_crf(photo_like(20, 30), smooth_unary(20, 30, n), RECIPES["psa"])
    assert got.shape == (n, 20, 30)
    assert got.dtype == torch.float32
    assert got.min() >= 0
    torch.testing.assert_close(got.sum(0), torch.ones(20, 30), atol=3e-6, rtol=0)


def test_inputs_are_left_as_they_were():
    image, unary = photo_like(20, 30), smooth_unary(20, 30, 3)
    copies = image.clone(), unary.clone()
    dense_crf(image, unary, RECIPES["psa"])
    assert torch.equal(image, copies[0])
    assert torch.equal(unary, copies[1])


def test_permuting_classes_permutes_probabilities():
    image, unary, turn = photo_like(), smooth_unary(60, 80, 5), torch.tensor([3, 0, 4, 1, 2])
    straight = dense_crf(image, unary, RECIPES["psa"])
    torch.testing.assert_close(dense_crf(image, unary[turn], RECIPES["psa"]), straight[turn], atol=2e-5, rtol=0)


def test_layout_of_the_input_does_not_matter():
    image, unary = photo_like(20, 30), smooth_unary(20, 30, 3)
    turned = image.permute(1, 2, 0).contiguous().permute(2, 0, 1), unary.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(dense_crf(*turned, RECIPES["psa"]), dense_crf(image, unary, RECIPES["psa"]))


def test_equal_bytes_from_run_to_run_and_from_threads():
    image = [photo_like(40, 50, seed=s) for s in range(4)]
    unary = [smooth_unary(40, 50, 2 + 3 * s, seed=s) for s in range(4)]
    alone = [dense_crf(i, u, RECIPES["irn_label"]) for i, u in zip(image, unary, strict=True)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda k: dense_crf(image[k % 4], unary[k % 4], RECIPES["irn_label"]), range(12)))
    assert all(torch.equal(got, alone[k % 4]) for k, got in enumerate(together))


def test_it_cleans_noisy_labels_along_the_object():
    image = photo_like()
    truth = (image[0] > image[2]).to(torch.uint8)  # the brown blob on blue
    noisy = torch.where(torch.rand(60, 80, generator=torch.Generator().manual_seed(0)) < 0.2, 1 - truth, truth)
    cleaned = crf.crf_from_labels(image, noisy, torch.tensor([0, 1], dtype=torch.uint8))
    assert (noisy == truth).float().mean() < 0.85
    assert (cleaned == truth).float().mean() > 0.97


# --- unaries and the functions around the CRF ---


def test_unary_from_labels_by_hand():
    got = crf.unary_from_labels(torch.tensor([[0, 1, 2, 255]], dtype=torch.uint8), 3, 0.8)
    right, wrong, unknown = -np.log(0.8), -np.log(0.1), np.log(3)
    want = [[right, wrong, wrong, unknown], [wrong, right, wrong, unknown], [wrong, wrong, right, unknown]]
    np.testing.assert_allclose(got[:, 0], want, rtol=1e-6)


def test_unary_from_labels_equals_pydensecrf():
    utils = pytest.importorskip("pydensecrf.utils")
    labels = blocky_labels(20, 30, 4)
    want = utils.unary_from_labels(labels.numpy(), 4, gt_prob=0.7, zero_unsure=False)
    np.testing.assert_allclose(crf.unary_from_labels(labels, 4, 0.7).reshape(4, -1), want, rtol=1e-6)


@pytest.mark.parametrize(("n", "confidence"), [(1, 0.7), (0, 0.7), (2, 0.0), (2, 1.0), (2, float("nan"))])
def test_unary_from_labels_refuses(n, confidence):
    with pytest.raises(WeaksegError):
        crf.unary_from_labels(torch.zeros(2, 2, dtype=torch.uint8), n, confidence)


def test_unary_from_labels_refuses_a_label_beyond_n():
    with pytest.raises(WeaksegError, match=r"0\.\.1 or 255; got 2"):
        crf.unary_from_labels(torch.full((2, 2), 2, dtype=torch.uint8), 2, 0.7)


def test_crf_from_labels_maps_ids_there_and_back():
    image, compact = photo_like(), blocky_labels(60, 80, 3)
    ids = torch.tensor([0, 7, 19], dtype=torch.uint8)
    got = crf.crf_from_labels(image, ids[compact.long()], ids)
    want = dense_crf(image, crf.unary_from_labels(compact, 3, 0.7), RECIPES["irn_label"]).argmax(0)
    assert torch.equal(got, ids[want])


def test_crf_from_labels_leaves_background_alone():
    labels = torch.tensor([[0, 255]], dtype=torch.uint8)
    got = crf.crf_from_labels(torch.zeros(3, 1, 2, dtype=torch.uint8), labels, torch.zeros(1, dtype=torch.uint8))
    assert torch.equal(got, labels)
    assert got.data_ptr() != labels.data_ptr()


def test_crf_from_labels_names_the_stranger():
    with pytest.raises(WeaksegError, match=r"\[0, 3\] got labels \[5\]"):
        crf.crf_from_labels(
            torch.zeros(3, 1, 2, dtype=torch.uint8),
            torch.tensor([[0, 5]], dtype=torch.uint8),
            torch.tensor([0, 3], dtype=torch.uint8),
        )


def test_crf_with_alpha_by_its_formula():
    image = photo_like(20, 30)
    scores = torch.rand(2, 20, 30, generator=torch.Generator().manual_seed(0))
    maps = ScoreMap(torch.tensor([4, 9], dtype=torch.uint8), scores, (20, 30))
    got = crf.crf_with_alpha(image, maps, 4.0)
    stack = np.concatenate([(1 - scores.numpy().max(0, keepdims=True)) ** 4, scores.numpy()])
    unary = torch.from_numpy(-np.log(np.clip(stack, 1e-5, 1)))
    assert got.ids.tolist() == [0, 4, 9]
    assert_agrees(got.scores, oracle(image, unary, RECIPES["psa"]))
    more = crf.crf_with_alpha(image, maps, 1.0)
    assert more.scores[0].mean() > got.scores[0].mean()  # a smaller alpha, a larger background


def test_crf_with_alpha_without_classes_is_background():
    maps = ScoreMap(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 5, 6), (5, 6))
    got = crf.crf_with_alpha(torch.zeros(3, 5, 6, dtype=torch.uint8), maps, 4.0)
    assert got.ids.tolist() == [0]
    assert torch.equal(got.scores, torch.ones(1, 5, 6))


def test_crf_with_alpha_refuses():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    ids = torch.tensor([1], dtype=torch.uint8)
    with pytest.raises(WeaksegError, match="resize the maps first"):
        crf.crf_with_alpha(image, ScoreMap(ids, torch.ones(1, 2, 2), (4, 4)), 4.0)
    with pytest.raises(WeaksegError, match="foreground"):
        crf.crf_with_alpha(image, ScoreMap(ids * 0, torch.ones(1, 4, 4), (4, 4)), 4.0)
    with pytest.raises(WeaksegError, match="above 0"):
        crf.crf_with_alpha(image, ScoreMap(ids, torch.ones(1, 4, 4), (4, 4)), 0.0)


def test_wrapped_bgr_wraps_as_numpy_does():
    image = photo_like(20, 30)
    centred = image.numpy()[::-1].astype(np.float32) - np.float32([104.008, 116.669, 122.675]).reshape(3, 1, 1)
    want = centred.astype(np.int32).astype(np.uint8)
    assert np.array_equal(crf.wrapped_bgr(image).numpy(), want)


@pytest.mark.parametrize(
    ("image", "unary", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(2, 4, 4), "uint8"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(2, 4, 4), "uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 5), "pixels"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8), "float"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), torch.zeros(2, 0, 4), "pixels"),
    ],
)
def test_dense_crf_refuses(image, unary, message):
    with pytest.raises(WeaksegError, match=message):
        dense_crf(image, unary, RECIPES["psa"])


def test_unknown_names_are_refused():
    with pytest.raises(WeaksegError, match="irn_label"):
        crf.recipe("irn")
    with pytest.raises(WeaksegError, match="backend"):
        dense_crf(photo_like(4, 4), torch.zeros(2, 4, 4), RECIPES["psa"], backend="cuda")
    with pytest.raises(WeaksegError, match="width above 0"):
        CrfParams(10, 3, 3, 80, 0, 10)


def test_a_kernel_too_narrow_for_the_keys_is_refused():
    with pytest.raises(WeaksegError, match="too narrow"):
        dense_crf(photo_like(20, 30), torch.zeros(2, 20, 30), CrfParams(10, 3, 3, 1e-3, 1e-3, 10))
