"""SEAM's pixel correlation against pixels taken one by one; gradients by finite differences; what is constant stays."""

import numpy as np
import torch

from weakseg.ops.pixel_correlation import confident_maps, pixel_correlation, replace_background, suppress_others


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_confident_maps_pixel_by_pixel():
    maps = random_maps(2, 4, 3, 5)
    positive = np.maximum(maps.numpy().astype(np.float64), 0)
    expected = positive / (positive.max(axis=(2, 3), keepdims=True) + 1e-5)
    for b, y, x in np.ndindex(2, 3, 5):
        highest = expected[b, 1:, y, x].max()
        expected[b, 0, y, x] = 1 - highest
        for c in range(1, 4):
            if expected[b, c, y, x] < highest:
                expected[b, c, y, x] = 0
    np.testing.assert_allclose(confident_maps(maps).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_maps_that_nowhere_rise_above_zero_are_background():
    made = confident_maps(torch.full((1, 3, 2, 2), -1e-5))
    assert made[:, 0].eq(1).all()
    assert made[:, 1:].eq(0).all()


def test_no_gradient_passes_what_is_spread():
    maps = random_maps(1, 3, 2, 2).requires_grad_()
    assert not confident_maps(maps).requires_grad


def test_only_the_highest_class_stays():
    maps = torch.tensor([[0.1, 0.2], [0.5, 0.3], [0.4, 0.3]])[None, :, None]
    expected = torch.tensor([[0.1, 0.2], [0.5, 0.3], [0.0, 0.3]])[None, :, None]
    assert torch.equal(suppress_others(maps), expected)
    torch.testing.assert_close(replace_background(maps)[0, 0, 0], torch.tensor([0.5, 0.7]))


def test_correlation_pixel_by_pixel():
    maps, features = random_maps(2, 3, 3, 4).relu(), random_maps(2, 5, 3, 4, seed=1)
    c, f = maps.numpy().reshape(2, 3, 12).astype(np.float64), features.numpy().reshape(2, 5, 12).astype(np.float64)
    expected = np.zeros_like(c)
    for b, j in np.ndindex(2, 12):
        unit = [f[b, :, i] / (np.linalg.norm(f[b, :, i]) + 1e-5) for i in range(12)]
        weights = [max(0.0, float(unit[i] @ unit[j])) for i in range(12)]
        expected[b, :, j] = sum(w * c[b, :, i] for i, w in enumerate(weights)) / (sum(weights) + 1e-5)
    made = pixel_correlation(maps, features)
    np.testing.assert_allclose(made.numpy().reshape(2, 3, 12), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pixel_correlation(maps, features, block=5), made)


def test_the_length_of_a_feature_vector_means_nothing():
    maps, features = random_maps(1, 2, 3, 3), random_maps(1, 4, 3, 3, seed=1)
    lengths = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(2)) * 9 + 1
    torch.testing.assert_close(
        pixel_correlation(maps, features * lengths), pixel_correlation(maps, features), rtol=1e-3, atol=1e-4
    )


def test_a_constant_map_stays_and_uniform_features_make_the_mean():
    features = random_maps(1, 4, 3, 3)
    torch.testing.assert_close(
        pixel_correlation(torch.ones(1, 1, 3, 3), features), torch.ones(1, 1, 3, 3), atol=1e-4, rtol=0
    )
    maps = random_maps(1, 2, 3, 3, seed=1)
    mean = maps.mean(dim=(2, 3), keepdim=True).expand_as(maps)
    torch.testing.assert_close(pixel_correlation(maps, torch.ones(1, 4, 3, 3)), mean, atol=1e-4, rtol=1e-4)


def test_features_of_zero_are_finite():
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    made = pixel_correlation(torch.ones(1, 2, 2, 2), features)
    made.sum().backward()
    assert not made.any()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_gradient_by_finite_differences():
    maps, features = random_maps(1, 2, 2, 3).relu().double(), random_maps(1, 3, 2, 3, seed=4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: pixel_correlation(maps, f), features)
    assert torch.autograd.gradcheck(lambda f: pixel_correlation(maps, f, block=2), features)


def test_it_is_float32_whatever_the_network_computes_in():
    maps, features = random_maps(1, 2, 3, 3).relu(), random_maps(1, 4, 3, 3, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = pixel_correlation(maps, features)
    assert torch.equal(made, pixel_correlation(maps, features))
