"""Class activation maps against loops, PIL-free hand-worked merges, and the symmetries they must have."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from weakseg.ops.cam import (
    cam,
    high_res_size,
    max_normalise,
    merge_flip,
    merge_irn,
    merge_psa,
    merge_strided,
    strided_size,
)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """scipy's bilinear resize with pixel centres at half integers, edges repeated."""
    grids = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(image.shape, size, strict=True)]
    return map_coordinates(image, np.meshgrid(*grids, indexing="ij"), order=1, mode="nearest")


def test_cam_equals_a_loop():
    torch.manual_seed(0)
    features, weight = torch.randn(2, 5, 3, 4), torch.randn(3, 5)
    maps = cam(features, weight)
    for b, k, y, x in np.ndindex(2, 3, 3, 4):
        expected = max(0.0, float(sum(weight[k, d] * features[b, d, y, x] for d in range(5))))
        assert float(maps[b, k, y, x]) == pytest.approx(expected, abs=1e-5)


def test_cam_is_what_pooling_averages():
    """The mean of the unrectified map is the logit: the identity CAM rests on."""
    features, weight = torch.rand(1, 6, 4, 4), torch.rand(2, 6)  # all positive: ReLU changes nothing
    torch.testing.assert_close(cam(features, weight).mean(dim=(2, 3)), features.mean(dim=(2, 3)) @ weight.T)


def test_cam_gradient():
    features = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cam, (features, weight))


def test_max_normalise_leaves_its_input():
    maps = torch.rand(2, 3, 3) * 7
    before = maps.clone()
    out = max_normalise(maps)
    torch.testing.assert_close(maps, before, rtol=0, atol=0)
    assert torch.allclose(out.amax(dim=(1, 2)), torch.ones(2), atol=1e-4)
    assert (out.amax(dim=(1, 2)) < 1).all()


def test_merges_equal_scipy():
    rng = np.random.default_rng(0)
    views = [rng.random((2, 4, 5)), rng.random((2, 7, 9))]
    tensors = [torch.from_numpy(v) for v in views]
    size = (50, 70)
    merged = {"psa": merge_psa(tensors, size), "irn": merge_irn(tensors, size), "strided": merge_strided(tensors, size)}
    for k in range(2):
        psa = sum(bilinear(v[k], (50, 70)) for v in views)
        irn = sum(bilinear(v[k], (64, 80)) for v in views)[:50, :70]
        strided = sum(bilinear(v[k], (13, 18)) for v in views)
        np.testing.assert_allclose(merged["psa"][k], psa, atol=1e-6)
        np.testing.assert_allclose(merged["irn"][k], irn, atol=1e-6)
        np.testing.assert_allclose(merged["strided"][k], strided, atol=1e-6)


def test_merge_flip_commutes_with_psa_resize():
    maps = torch.rand(2, 3, 4, 5)
    apart = merge_psa([maps[0]], (9, 11)) + merge_psa([maps[1]], (9, 11)).flip(-1)
    torch.testing.assert_close(merge_psa([merge_flip(maps)], (9, 11)), apart)


def test_mirroring_the_photograph_mirrors_the_map():
    maps = torch.rand(2, 1, 4, 5)
    mirrored = merge_flip(maps.flip(0))  # the views swap roles
    torch.testing.assert_close(mirrored, merge_flip(maps).flip(-1))


def test_no_classes_and_no_views():
    assert merge_irn([torch.zeros(0, 1, 1)] * 2, (5, 7)).shape == (0, 5, 7)
    assert max_normalise(merge_strided([torch.zeros(0, 1, 1)], (5, 7))).shape == (0, 2, 2)
    with pytest.raises(ValueError, match="no view"):
        merge_psa([], (5, 7))


@pytest.mark.parametrize(
    ("size", "stride", "cells"), [((1, 1), 4, (1, 1)), ((8, 9), 4, (2, 3)), ((333, 500), 16, (21, 32))]
)
def test_sizes(size, stride, cells):
    assert strided_size(size, stride) == cells
    assert high_res_size(size, stride) == (cells[0] * stride, cells[1] * stride)
