"""True instances: from VOC's object maps, and as one record whatever layout they come from."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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
