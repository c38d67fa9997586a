"""Statistics of upsampled features equal those of features that are upsampled, in values and gradients."""

import pytest
import torch
from torch.nn.functional import interpolate, normalize

from weakseg.ops.upsampling import (
    resizing_matrix,
    upsample,
    upsampled_cosines,
    upsampled_means,
    upsampled_norm,
    upsampled_products,
)


@pytest.fixture
def features():
    return torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()


SIZES = [(23, 31), (5, 6), (40, 6), (3, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("corners", [True, False])
def test_products_means_norms_and_cosines(features, size, corners):
    big = interpolate(features[None], size, mode="bilinear", align_corners=corners)[0]
    vectors = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        upsampled_products(features, vectors, size, corners), torch.einsum("dhw,jd->jhw", big, vectors),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip
    torch.testing.assert_close(upsampled_norm(features, size, corners), big.norm(dim=0), atol=1e-5, rtol=1e-5)
    weights = torch.rand(2, *size, generator=torch.Generator().manual_seed(2))
    weights[0, 1:] = 0
    means = torch.einsum("jhw,dhw->jd", weights, big) / weights.sum(dim=(1, 2))[:, None]
    torch.testing.assert_close(upsampled_means(features, weights, corners), means, atol=1e-5, rtol=1e-5)
    cosines = torch.einsum("dhw,jd->jhw", normalize(big, dim=0), normalize(vectors, dim=1))
    torch.testing.assert_close(upsampled_cosines(features, vectors, size, corners), cosines, atol=1e-5, rtol=1e-5)


def test_one_cell_and_nothing(features):
    one = features[:, :1, :1]
    torch.testing.assert_close(upsampled_norm(one, (4, 5)), one.norm().expand(4, 5))
    assert upsampled_means(features, torch.zeros(1, 4, 4)).tolist() == [[0.0] * 7]
    assert upsampled_products(features, torch.zeros(0, 7), (4, 4)).shape == (0, 4, 4)
    assert upsample(torch.zeros(0, 2, 2), (3, 3)).shape == (0, 3, 3)
    assert upsampled_cosines(torch.zeros(7, 2, 2), torch.ones(1, 7), (3, 3)).abs().max() == 0
    torch.testing.assert_close(resizing_matrix(4, 9, False).sum(1), torch.ones(9))


def test_rounding_keeps_a_direction_within_its_cosine():
    """A constant field has cosine 1 with itself, wherever it is read."""
    constant = torch.randn(64, 1, 1, generator=torch.Generator().manual_seed(3)).expand(64, 9, 11) * 100
    found = upsampled_cosines(constant, constant[:, :1, 0].T, (50, 60))
    torch.testing.assert_close(found, torch.ones_like(found), atol=2e-6, rtol=0)
