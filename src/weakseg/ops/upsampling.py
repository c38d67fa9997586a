"""Statistics of bilinearly upsampled features without upsampling them: exact, at the cost of the coarse map.

BANA makes its labels from features of 1024 channels resized to the photograph, 0.8 GB for 375 x 500 pixels. All it
wants of them are inner products, weighted means and norms. The first two are linear, so they are taken on the coarse
map and resized, or taken there under resized-back weights; the squared norm of a mixture of four neighbours is a
quadratic form of the inner products of neighbours.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resizing_matrix(source: int, target: int, align_corners: bool = True) -> Tensor:
    """float32 (target, source): row p holds the weights with which pixel p mixes the cells; it sums to one.

    >>> resizing_matrix(2, 3)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    return interpolate(torch.eye(source)[None], target, mode="linear", align_corners=align_corners)[0].T.contiguous()


def upsample(maps: Tensor, size: tuple[int, int], align_corners: bool = True) -> Tensor:
    """float (K, H, W): maps (K, h, w), which may be none, resized bilinearly.

    >>> upsample(torch.tensor([[[0.0, 2.0]]]), (1, 3))
    tensor([[[0., 1., 2.]]])
    """
    if not len(maps):
        return maps.new_zeros((0, *size))
    return interpolate(maps[None], size, mode="bilinear", align_corners=align_corners)[0]


def upsampled_products(features: Tensor, vectors: Tensor, size: tuple[int, int], align_corners: bool = True) -> Tensor:
    """Inner product of each vector with the upsampled features.

    Args:
        features: float (D, h, w).
        vectors: float (J, D).
        size: (H, W).
        align_corners: of the bilinear resizing.

    Returns:
        float (J, H, W).

    >>> f = torch.tensor([[[1.0, 3.0]], [[0.0, 2.0]]])
    >>> upsampled_products(f, torch.tensor([[1.0, 1.0]]), (1, 3))
    tensor([[[1., 3., 5.]]])
    """
    return upsample(torch.einsum("dhw,jd->jhw", features, vectors), size, align_corners)  # j = vector, d = channel


def upsampled_means(features: Tensor, weights: Tensor, align_corners: bool = True, eps: float = 1e-12) -> Tensor:
    """Weighted mean of the upsampled features under each weight map.

    Args:
        features: float (D, h, w).
        weights: float (J, H, W), >= 0.
        align_corners: of the bilinear resizing.
        eps: added to the sum of weights; without any weight the mean is the zero vector.

    Returns:
        float (J, D).

    >>> f = torch.tensor([[[0.0, 4.0]]])
    >>> upsampled_means(f, torch.tensor([[[0.0, 1.0, 1.0]]]))  # of 0, 2, 4
    tensor([[3.]])
    """
    rows, columns = _matrices(features, (weights.shape[1], weights.shape[2]), align_corners)
    coarse = rows.T @ weights @ columns  # how much of each cell the weights touch
    return torch.einsum("jhw,dhw->jd", coarse, features) / (weights.sum(dim=(1, 2)) + eps)[:, None]


def upsampled_norm(features: Tensor, size: tuple[int, int], align_corners: bool = True) -> Tensor:
    """Euclidean length of the upsampled features at each pixel.

    Args:
        features: float (D, h, w).
        size: (H, W).
        align_corners: of the bilinear resizing.

    Returns:
        float (H, W), >= 0.

    >>> f = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]])
    >>> upsampled_norm(f, (1, 3))  # in the middle (1.5, 2)
    tensor([[3.0000, 2.5000, 4.0000]])
    """
    rows, columns = _matrices(features, size, align_corners)
    here, across = (features * features).sum(dim=0), _product(features[:, :, :-1], features[:, :, 1:])
    down = _product(features[:, :-1], features[:, 1:])
    corners = _product(features[:, :-1, :-1], features[:, 1:, 1:]) + _product(
        features[:, :-1, 1:], features[:, 1:, :-1]
    )
    (r, rr), (c, cc) = _squares(rows), _squares(columns)
    squared = r @ here @ c.T + 2 * (r @ across @ cc.T + rr @ down @ c.T + rr @ corners @ cc.T)
    return squared.clamp(min=0).sqrt()


def upsampled_cosines(
    features: Tensor, vectors: Tensor, size: tuple[int, int], align_corners: bool = True, eps: float = 1e-12
) -> Tensor:
    """Cosine between each vector and the upsampled features; 0 where either is zero.

    Args:
        features: float (D, h, w).
        vectors: float (J, D).
        size: (H, W).
        align_corners: of the bilinear resizing.
        eps: a shorter vector counts as this long.

    Returns:
        float (J, H, W), -1 to 1.
    """
    norm = upsampled_norm(features, size, align_corners).clamp(min=eps)
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=eps)
    return upsampled_products(features, unit, size, align_corners) / norm


def _matrices(features: Tensor, size: tuple[int, int], align_corners: bool) -> tuple[Tensor, Tensor]:
    pairs = zip(features.shape[1:], size, strict=True)
    rows, columns = (resizing_matrix(n, m, align_corners).to(features) for n, m in pairs)
    return rows, columns


def _product(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=0)


def _squares(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Squared weights of single cells, and products of the weights of neighbours."""
    return weights * weights, weights[:, :-1] * weights[:, 1:]
