"""Instance masks of boxes: from label maps, with the pixels that two label maps agree on, and a loss over these alone.

Oh et al., "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA), CVPR
2021, sec. 4.2, MS-COCO: "We thus compute the loss for the regions S only" (methods.md 7.5). How a label map is cut into
instances is not told there.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import roi_align

from weakseg.ops.boxes import box_masks
from weakseg.types import LabelMap


def instance_masks(labels: LabelMap, boxes: Tensor, box_labels: Tensor, *, split: bool = False) -> Tensor:
    """The pixels of each box that are labelled with its class.

    Args:
        labels: uint8 (H, W); 255 belongs to no instance.
        boxes: float (K, 4), XYXY pixels, half-open.
        box_labels: int (K,), ids 1..C.
        split: a pixel that several boxes of its class share goes to the smallest of them (the first, of equal ones);
            False gives it to all.

    Returns:
        bool (K, H, W).

    >>> labels = torch.tensor([[3, 3, 3, 0]], dtype=torch.uint8)
    >>> boxes, of_three = torch.tensor([[0.0, 0.0, 4.0, 1.0], [1.0, 0.0, 3.0, 1.0]]), torch.tensor([3, 3])
    >>> [instance_masks(labels, boxes, of_three, split=s).int()[:, 0].tolist() for s in (False, True)]
    [[[1, 1, 1, 0], [0, 1, 1, 0]], [[1, 0, 0, 0], [0, 1, 1, 0]]]
    """
    own = box_masks(boxes, (labels.shape[0], labels.shape[1])) & (labels == box_labels[:, None, None].to(labels.device))
    if not split:
        return own
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    taken, masks = torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(own)
    for k in area.argsort(stable=True).tolist():
        rivals = own[box_labels == box_labels[k]].any(dim=0) & taken
        masks[k] = own[k] & ~rivals
        taken |= masks[k]
    return masks


def with_empty_filled(masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The masks, the box in place of an empty one, and which were empty: there is an object, its shape is not known.

    Args:
        masks: bool (K, H, W).
        boxes: float (K, 4), XYXY pixels, half-open.

    Returns:
        bool (K, H, W), bool (K,).

    >>> masks, empty = with_empty_filled(torch.tensor([[[False, False]]]), torch.tensor([[1.0, 0.0, 2.0, 1.0]]))
    >>> masks.int().tolist(), empty.tolist()
    ([[[0, 1]]], [True])
    """
    empty = ~masks.flatten(1).any(dim=1)
    return masks | (box_masks(boxes, (masks.shape[1], masks.shape[2])) & empty[:, None, None]), empty


def mask_agreement(first: Tensor, second: Tensor) -> Tensor:
    """IoU of each mask with its fellow, float32 (K,), 0-1; 0 where both are empty.

    >>> mask_agreement(torch.tensor([[[True, True, False]]]), torch.tensor([[[False, True, True]]]))
    tensor([0.3333])
    """
    both, either = (first & second).sum(dim=(1, 2)), (first | second).sum(dim=(1, 2))
    return both.float() / either.clamp(min=1).float()


def mask_targets(masks: Tensor, reliable: Tensor, boxes: Tensor, matched: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """What a mask head of `side` x `side` cells is to say in each box, and how much of each cell is reliable.

    A cell's target is the share of the object among its reliable pixels alone: what is unreliable has no say.

    Args:
        masks: bool (K, H, W), instances.
        reliable: bool (K, H, W), S of each instance.
        boxes: float (P, 4), XYXY pixels: proposals.
        matched: int (P,), the instance that each proposal is to show.
        side: cells.

    Returns:
        targets float (P, side, side), 0-1; weights float (P, side, side), 0-1. With all pixels reliable the weights of
        boxes within the image are 1 and the targets those of torchvision's Mask R-CNN (RoIAlign).

    >>> masks, reliable = torch.tensor([[[True, False]]]), torch.tensor([[[True, False]]])
    >>> around = torch.tensor([[-0.5, -0.5, 1.5, 0.5]])  # RoIAlign has pixel centres at whole numbers
    >>> [x.flatten().tolist() for x in mask_targets(masks, reliable, around, torch.tensor([0]), 1)]
    [[1.0], [0.5]]
    """
    if not len(boxes):
        return boxes.new_zeros(0, side, side), boxes.new_zeros(0, side, side)
    regions = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    planes = torch.stack([masks & reliable, reliable], dim=1).to(boxes)  # k = instance, (object, any)
    inside, weights = roi_align(planes, regions, (side, side), 1.0).unbind(dim=1)
    targets = inside / torch.where(weights > 0, weights, 1.0)
    return targets.clamp(0, 1), weights


def reliable_mask_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy of the mask head, its mean over the reliable cells: the loss for the regions S only.

    Args:
        logits: float (P, M, M), of each proposal's own class.
        targets: float (P, M, M), 0-1.
        weights: float (P, M, M), the reliable share of each cell, 0-1; 0 is ignored.

    Returns:
        float (); 0, with a gradient of 0, where nothing is reliable.

    >>> logits, targets = torch.tensor([[[0.0, 5.0]]]), torch.tensor([[[1.0, 0.0]]])
    >>> reliable_mask_loss(logits, targets, torch.tensor([[[1.0, 0.0]]]))  # ln 2: the second cell has no say
    tensor(0.6931)
    """
    loss = binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    total = weights.sum()
    return (loss * weights).sum() / torch.where(total > 0, total, 1.0)
