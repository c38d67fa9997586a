"""Label maps from score maps of boxes: unaries of a CRF, and retrieval by prototypes.

Oh et al., "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA), CVPR
2021, Eqs. (8)-(9); the published code's choices: methods.md 7.4 and 7.7.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from weakseg.ops.boxes import class_masks, definite_background, paste_by_class
from weakseg.ops.crf import CrfParams, dense_crf, unary_from_probabilities
from weakseg.ops.upsampling import upsampled_cosines, upsampled_means
from weakseg.types import BACKGROUND, LabelMap


def crf_labels(
    image: Tensor,
    maps: Tensor,
    boxes: Tensor,
    labels: Tensor,
    ids: Tensor,
    params: CrfParams,
    *,
    softmax: bool = True,
    scale_factor: float = 1.0,
    guard: bool = True,
) -> LabelMap:
    """Y_crf: a CRF over u_0 and u_c, then the most probable class among those whose boxes are there (7.4, steps 3-5).

    Args:
        image: uint8 (3, H, W), RGB.
        maps: float (1 + K, H, W), u_0 and the u_c of each box.
        boxes: float (K, 4), XYXY pixels, half-open.
        labels: int (K,), ids 1..C.
        ids: uint8 (N,), 0 first, then the classes of `labels`, each once.
        params: of the CRF; the published one is `ops.crf.recipe("bana_stage2")`.
        softmax: see `box_unary`.
        scale_factor: see `ops.crf.dense_crf`.
        guard: whether boxes that leave no definite background are filled, see `labels_in_boxes`. The published query
            is 0 / 0 there and everything that comes of it nan, of which an argmax makes background (7.7, row 16).

    Returns:
        uint8 (H, W).
    """
    size = (maps.shape[1], maps.shape[2])
    told = bool(maps[0].any())  # of background: without a query u_0 is 0 throughout
    if not (told or guard):
        return torch.full(size, BACKGROUND, dtype=torch.uint8, device=maps.device)
    of_classes = paste_by_class(maps[1:], boxes, labels, ids[1:])
    unary = box_unary(torch.cat([maps[:1], of_classes]), definite_background(boxes, size), softmax=softmax)
    probabilities = dense_crf(image, unary_from_probabilities(unary), params, scale_factor=scale_factor)
    return labels_in_boxes(probabilities, class_masks(boxes, labels, ids, size), ids, told=told)


def box_unary(maps: Tensor, background: Tensor, *, softmax: bool = True) -> Tensor:
    """What the CRF is told: a softmax over [u_0, u_c ...] inside boxes, background outside.

    Two classes can differ by no more than 0.27 against 0.73, which leaves much to the CRF (methods.md 7.7, row 7).

    Args:
        maps: float (N, H, W), u_0 first.
        background: bool (H, W), M.
        softmax: False feeds the maps as they are, as the paper has it.

    Returns:
        float (N, H, W), 0-1.

    >>> box_unary(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[True, False]]))
    tensor([[[1.0000, 0.2689]],
    <BLANKLINE>
            [[0.0000, 0.7311]]])
    """
    certain = torch.zeros_like(maps)
    certain[BACKGROUND] = 1
    return torch.where(background, certain, maps.softmax(dim=0) if softmax else maps)


def labels_in_boxes(probabilities: Tensor, possible: Tensor, ids: Tensor, *, told: bool = True) -> LabelMap:
    """Y_crf: the most probable of the classes that can be at a pixel (methods.md 7.4, step 5).

    A tie goes to the class that comes first.

    Args:
        probabilities: float (N, H, W), background first.
        possible: bool (N, H, W), see `ops.boxes.class_masks`.
        ids: uint8 (N,), 0 first.
        told: whether anything was told of background. In a photograph without any that is definite nothing was; then
            the classes decide among themselves, and a single box is filled (methods.md 7.7, row 16).

    Returns:
        uint8 (H, W).

    >>> p = torch.tensor([[[0.6, 0.6]], [[0.4, 0.4]]])
    >>> ids, everywhere = torch.tensor([0, 9], dtype=torch.uint8), torch.ones(2, 1, 2, dtype=torch.bool)
    >>> labels_in_boxes(p, everywhere, ids), labels_in_boxes(p, everywhere, ids, told=False)
    (tensor([[0, 0]], dtype=torch.uint8), tensor([[9, 9]], dtype=torch.uint8))
    """
    scores = torch.where(possible, probabilities, -1.0)
    if not told:
        scores = torch.cat([torch.full_like(scores[:1], -0.5), scores[1:]])
    return ids.to(scores.device)[scores.argmax(dim=0)]


def prototypes(
    features: Tensor, labels: LabelMap, ids: Tensor, weights: Tensor, *, align_corners: bool = True
) -> Tensor:
    """Eq. (8), q_c: mean feature of the pixels labelled c, or the classifier's weights for a class without any.

    Args:
        features: float (D, h, w), upsampled to the labels.
        labels: uint8 (H, W), Y_crf.
        ids: uint8 (N,).
        weights: float (N, D), w_c of these classes.
        align_corners: of the upsampling.

    Returns:
        float (N, D).

    >>> f = torch.tensor([[[1.0, 3.0]]])
    >>> prototypes(f, torch.tensor([[4, 0]], dtype=torch.uint8), torch.tensor([0, 4, 5]), torch.full((3, 1), 9.0))
    tensor([[3.],
            [1.],
            [9.]])
    """
    own = labels[None] == ids[:, None, None].to(labels.device)
    means = upsampled_means(features, own.to(features), align_corners)
    return torch.where(own.any(dim=2).any(dim=1)[:, None].to(means.device), means, weights)


def retrieved_labels(
    features: Tensor,
    queries: Tensor,
    ids: Tensor,
    boxes: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    *,
    restrict: bool = True,
    align_corners: bool = True,
) -> LabelMap:
    """Y_ret: the class whose prototype the upsampled feature resembles most; a tie goes to the class that comes first.

    Args:
        features, queries, ids, boxes, labels, size, restrict, align_corners: see `correlation_maps`.

    Returns:
        uint8 (H, W).
    """
    maps = correlation_maps(features, queries, ids, boxes, labels, size, restrict=restrict, align_corners=align_corners)
    return ids.to(maps.device)[maps.argmax(dim=0)]


def correlation_maps(
    features: Tensor,
    queries: Tensor,
    ids: Tensor,
    boxes: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    *,
    restrict: bool = True,
    align_corners: bool = True,
) -> Tensor:
    """Eq. (9), C_c: the cosine of the upsampled feature with the prototype of each class.

    Args:
        features: float (D, h, w).
        queries: float (N, D), see `prototypes`.
        ids: uint8 (N,), 0 first.
        boxes: float (K, 4), XYXY pixels, half-open.
        labels: int (K,), ids 1..C.
        size: (H, W).
        restrict: negative cosines count as 0, a class is 0 outside its boxes, background 1 outside all boxes, as the
            published code has it; False is the plain cosine of the paper.
        align_corners: of the upsampling.

    Returns:
        float (N, H, W), 0-1; -1 to 1 without `restrict`.

    >>> f, box = torch.tensor([[[1.0, -1.0]], [[1.0, 0.0]]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> ids = torch.tensor([0, 7], dtype=torch.uint8)
    >>> correlation_maps(f, torch.eye(2), ids, box, torch.tensor([7]), (1, 2))[:, 0]
    tensor([[0.7071, 1.0000],
            [0.7071, 0.0000]])
    >>> correlation_maps(f, torch.eye(2), ids, box, torch.tensor([7]), (1, 2), restrict=False)[:, 0]
    tensor([[ 0.7071, -1.0000],
            [ 0.7071,  0.0000]])
    """
    correlation = upsampled_cosines(features, queries, size, align_corners)
    if restrict:
        possible = class_masks(boxes, labels, ids, size).to(correlation.device)
        correlation = torch.where(possible, correlation.relu(), 0.0)
        correlation[0] = torch.where(possible[1:].any(dim=0), correlation[0], 1.0)
    return correlation


def cosines(features: Tensor, weights: Tensor) -> Tensor:
    """Cosine of each feature with each class's weights: s_c, the logits of a cosine classifier before their scale.

    Args:
        features: float (B, D, h, w).
        weights: float (C + 1, D).

    Returns:
        float (B, C + 1, h, w), -1 to 1.

    >>> cosines(torch.tensor([[[[3.0]], [[4.0]]]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])).flatten()
    tensor([0.6000, 0.8000])
    """
    return torch.einsum("bdhw,cd->bchw", normalize(features, dim=1), normalize(weights, dim=1))
