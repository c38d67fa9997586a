"""True instances: from VOC's object maps, and as one record whatever layout they come from."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from weakseg.ops.instances import mask_boxes
from weakseg.types import BACKGROUND, IGNORE, Instances, LabelMap, WeaksegError


class TrueInstances(NamedTuple):
    """Every object of one photograph.

    Attributes:
        instances: the objects, with scores of 1.
        crowd: bool (K,), regions of several objects (COCO's ``iscrowd``); finding one is neither right nor wrong.
    """

    instances: Instances
    crowd: Tensor


def true_instances(masks: Tensor, labels: list[int], crowd: list[bool] | None = None) -> TrueInstances:
    """The record of bool masks (K, H, W) with class ids 1..C and, for each, whether it is a crowd."""
    return TrueInstances(
        Instances(
            masks=masks,
            labels=torch.tensor(labels, dtype=torch.int64),
            scores=torch.ones(len(labels)),
            boxes=mask_boxes(masks),
        ),
        torch.tensor(crowd or [False] * len(labels), dtype=torch.bool),
    )


def from_object_map(objects: LabelMap, labels: LabelMap) -> TrueInstances:
    """The instances of VOC's two maps: which object each pixel belongs to, and which class.

    Args:
        objects: uint8 (H, W), the number of the object from 1 on, in any order; 0 background, 255 seam.
        labels: uint8 (H, W), the true mask. An object's class is the most frequent one of its pixels.

    Returns:
        one instance for each number that occurs, in their order; seams belong to none.

    Raises:
        WeaksegError: the maps differ in size, or an object has no pixel with a class.
    """
    if objects.shape != labels.shape:
        raise WeaksegError(f"the map of objects is {tuple(objects.shape)}, that of classes {tuple(labels.shape)}")
    numbers = [n for n in objects.unique().tolist() if n not in (BACKGROUND, IGNORE)]
    inside = objects == torch.tensor(numbers, dtype=torch.uint8)[:, None, None]
    classes = []
    for number, mask in zip(numbers, inside, strict=True):
        counts = np.bincount(labels[mask].numpy(), minlength=256)
        counts[[BACKGROUND, IGNORE]] = 0
        if not counts.any():
            raise WeaksegError(f"object {number} covers no pixel of a class; mend one of the two maps")
        classes.append(int(counts.argmax()))
    return true_instances(inside, classes)


def object_map(true: TrueInstances, labels: LabelMap) -> LabelMap:
    """VOC's map of objects: `from_object_map` backwards, as far as one number a pixel can tell.

    Args:
        true: the objects of a photograph; crowds are left out.
        labels: uint8 (H, W), the true mask. A pixel goes to an object of its class, the smallest of several.

    Returns:
        uint8 (H, W): the object's place from 1 on, 0 background, 255 where `labels` is. An object whose pixels all
        belong to others does not occur.

    Raises:
        WeaksegError: more than 254 objects.
    """
    masks, ids = true.instances.masks, true.instances.labels
    if len(ids) >= IGNORE:
        raise WeaksegError(f"{len(ids)} objects in one photograph; VOC's map of objects has numbers up to 254")
    objects = torch.where(labels == IGNORE, IGNORE, BACKGROUND).to(torch.uint8)
    for k in masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True).tolist():
        if not true.crowd[k]:
            objects[masks[k] & (labels == ids[k])] = k + 1
    return objects


def objects_of_boxes(boxes: Tensor, labels: Tensor, true: TrueInstances, least: float = 0.5) -> list[int | None]:
    """Which true object each box was drawn around: of its class, the one whose own box it overlaps most.

    Args:
        boxes: float (K, 4), XYXY pixels, half-open.
        labels: int (K,), ids 1..C.
        true: the objects of the photograph; crowds are nobody's.
        least: smallest IoU of the two boxes.

    Returns:
        the object's index for each box, or None; each object is given once, to the best box first.
    """
    possible = (labels[:, None] == true.instances.labels[None]) & ~true.crowd[None]
    overlap = torch.where(possible, box_iou(boxes.float(), true.instances.boxes), 0.0)
    found: list[int | None] = [None] * len(boxes)
    while overlap.numel() and float(overlap.max()) >= least:
        k, n = divmod(int(overlap.argmax()), overlap.shape[1])
        found[k], overlap[k], overlap[:, n] = n, 0.0, 0.0
    return found
