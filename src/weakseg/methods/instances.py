"""Pseudo instance masks: each box cut out of the label maps made from boxes.

Oh, Kim and Ham, "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation" (BANA),
CVPR 2021, https://arxiv.org/abs/2104.00905, sec. 4.2 and Table 2 (methods.md 7.5 and 7.6). Supervision: boxes.
To reach on COCO train: 17.2 AP of Y_crf and of Y_ret; 11.7 and 9.0 from a classifier that has not seen COCO.

The masks are a function of `ops.instance_masks`. How the paper scored them, and what it did with pixels that several
boxes of a class share, is not told.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from weakseg.ops.boxes import boxes_of
from weakseg.ops.instance_masks import instance_masks, mask_agreement, with_empty_filled
from weakseg.ops.noise import reliable_labels, two_label_maps
from weakseg.types import IGNORE, Instances, Outputs, Sample


@dataclass(frozen=True, slots=True)
class BoxInstances:
    """One instance a box, in the order of the boxes, from each of two label maps, and where these agree.

    Reads the seeds ``crf`` and ``ret``, or one label map under any name, which then stands for both.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = ("instances", "retrieved", "reliable")

    split: bool = True  # a pixel that boxes of one class share goes to the smallest; False: to all
    fill_empty: bool = True  # a box without a pixel of its class is filled; False: the mask stays empty
    confidence: Literal["one", "agreement"] = "one"  # methods.md 11; agreement: IoU of the two masks of a box

    def refine(self, model: None, sample: Sample) -> Outputs:
        """``instances`` of Y_crf, ``retrieved`` of Y_ret, and ``reliable``: Y_crf where both agree, 255 elsewhere.

        A box that is filled for want of pixels is unreliable throughout.
        """
        (boxes, ids), (crf, retrieved) = boxes_of(sample), two_label_maps(sample.seeds)
        first, second = (self.masks(labels, boxes, ids) for labels in (crf, retrieved))
        scores = mask_agreement(first, second) if self.confidence == "agreement" else torch.ones(len(boxes))
        reliable = reliable_labels(crf, retrieved)
        if self.fill_empty:
            (first, empty), (second, _) = with_empty_filled(first, boxes), with_empty_filled(second, boxes)
            reliable = torch.where(first[empty].any(dim=0), IGNORE, reliable)
        made = (Instances(masks, ids, scores, boxes.float()) for masks in (first, second))
        return {**dict(zip(self.writes, made, strict=False)), "reliable": reliable}

    def masks(self, labels: Tensor, boxes: Tensor, ids: Tensor) -> Tensor:
        """bool (K, H, W): the pixels of each box that `labels` gives its class."""
        return instance_masks(labels, boxes, ids, split=self.split)


METHODS = {"boxes": BoxInstances()}
