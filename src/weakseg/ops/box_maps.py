"""Score maps of boxes: background attention and class activation at the size of the photograph.

Oh et al., "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA), CVPR
2021, Eqs. (5)-(7); the published code's choices: methods.md 7.4 and 7.7.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.ops.bap import attention, background_queries, cell_masks
from weakseg.ops.upsampling import upsample, upsampled_cosines, upsampled_means, upsampled_products
from weakseg.types import ScoreMap, WeaksegError

EPS = 1e-12
"""Added to maxima."""


def photograph_attention(features: Tensor, background: Tensor, n: int = 1, *, upsample_first: bool = True) -> Tensor:
    """A of every pixel, those outside boxes included, Eqs. (1)-(3) (methods.md 7.4, step 1).

    Args:
        features: float (D, h, w).
        background: bool (H, W), M at the size of the photograph; without any of it A is 0.
        n: cells a side of the grid, N.
        upsample_first: compare the upsampled features, as the published code does; False compares the features and
            upsamples A (methods.md 7.7, row 9).

    Returns:
        float (H, W), 0-1.

    >>> f, m = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[True, False, False]])
    >>> photograph_attention(f, m), photograph_attention(f, m, upsample_first=False)
    (tensor([[1.0000, 0.7071, 0.0000]]), tensor([[1.0000, 0.5000, 0.0000]]))
    """
    size = (background.shape[0], background.shape[1])
    if not upsample_first:
        coarse = interpolate(background[None, None].float(), features.shape[1:], mode="nearest")[0, 0]
        return upsample(attention(features, background_queries(features, coarse, n))[None], size)[0]
    cells = cell_masks(background, n)
    cells = cells[(cells > 0).any(dim=2).any(dim=1)]
    if not len(cells):
        return features.new_zeros(size)
    return upsampled_cosines(features, upsampled_means(features, cells), size).relu().mean(dim=0)


def activations(features: Tensor, weight: Tensor, size: tuple[int, int], *, upsample_first: bool = True) -> Tensor:
    """Eq. (6), CAM = ReLU(f . w), at the size of the photograph.

    Args:
        features: float (D, h, w).
        weight: float (K, D), the classifier's of the wanted classes, which may repeat; or none.
        size: (H, W).
        upsample_first: see `photograph_attention`.

    Returns:
        float (K, H, W), >= 0.

    >>> f = torch.tensor([[[-1.0, 3.0]]])
    >>> [activations(f, torch.ones(1, 1), (1, 3), upsample_first=x)[0, 0].tolist() for x in (True, False)]
    [[0.0, 1.0, 3.0], [0.0, 1.5, 3.0]]
    """
    if upsample_first:
        return upsampled_products(features, weight, size).relu()
    return upsample(torch.einsum("dhw,kd->khw", features, weight).relu(), size)


def background_map(attention: Tensor, background: Tensor, threshold: float = 0.99, *, relative: bool = True) -> Tensor:
    """Eq. (7), u_0: the attention where it is high, 0 where it is lower, 1 outside all boxes.

    Args:
        attention: float (H, W), A of every pixel, 0-1, those outside boxes included.
        background: bool (H, W), M. Without any definite background A means nothing: u_0 is 0.
        threshold: values below it become 0, those above stay; 0 keeps all.
        relative: whether the threshold is a share of the photograph's largest A.

    Returns:
        float (H, W), 0-1.

    >>> a, m = torch.tensor([[0.5, 0.8, 0.79, 0.1]]), torch.tensor([[True, False, False, False]])
    >>> background_map(a, m)
    tensor([[1.0000, 0.8000, 0.0000, 0.0000]])
    """
    if not bool(background.any()):
        return torch.zeros_like(attention)
    limit = threshold * (float(attention.max()) if relative else 1.0)
    return torch.where(background, 1.0, torch.where(attention < limit, 0.0, attention))


def box_activation(activation: Tensor, inside: Tensor, maximum: Tensor | None = None) -> Tensor:
    """Eq. (5), u_c of one box: the activation over its maximum in the box, 0 outside.

    Args:
        activation: float (..., H, W), CAM_c = ReLU(f . w_c), Eq. (6).
        inside: bool (..., H, W), the box.
        maximum: bool (..., H, W), where the maximum is taken instead: the paper takes it over all boxes of the class.

    Returns:
        float (..., H, W), 0-1 (above 1 outside of `maximum`, if that is given and not all of the box).

    >>> box_activation(torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([[False, True, True]]))
    tensor([[0.0000, 1.0000, 0.5000]])
    """
    where = inside if maximum is None else maximum
    highest = torch.where(where, activation, 0.0).amax(dim=(-2, -1), keepdim=True)
    return torch.where(inside, activation / (highest + EPS), 0.0)


def background_activation(activation: Tensor, background: Tensor) -> Tensor:
    """The activation map of class 0 in place of u_0, "w/o u_0": over its maximum in the photograph, 1 outside boxes.

    Args:
        activation: float (H, W), CAM_0.
        background: bool (H, W), M.

    >>> background_activation(torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([[True, False, False]]))
    tensor([[1.0000, 0.5000, 0.2500]])
    """
    return torch.where(background, 1.0, activation / (activation.max() + EPS))


def in_box_order(maps: ScoreMap, count: int) -> Tensor:
    """[u_0, u_c of each box], float (1 + K, H, W), in whatever order the score maps stand.

    Args:
        maps: one map of background (box -1) and one of each box.
        count: K.

    Raises:
        WeaksegError: they are maps of something else.

    >>> maps = ScoreMap(torch.tensor([7, 0], dtype=torch.uint8), torch.tensor([[[0.2]], [[0.8]]]), (1, 1),
    ...                 torch.tensor([0, -1], dtype=torch.int32))
    >>> in_box_order(maps, 1).flatten()
    tensor([0.8000, 0.2000])
    """
    if maps.box is None or sorted(maps.box.tolist()) != list(range(-1, count)):
        raise WeaksegError(
            f"these score maps are not one a box and one of background, as bana.bap makes them of {count} boxes; run "
            "that step again, or name it under `scores`"
        )
    return maps.scores[maps.box.argsort()]
