"""Mask R-CNN trained on boxes and the label maps made from them, its mask loss over the reliable pixels alone.

He et al., ICCV 2017, https://arxiv.org/abs/1703.06870, as Oh, Kim and Ham use it (BANA, CVPR 2021,
https://arxiv.org/abs/2104.00905, sec. 4.2, Table 6; methods.md 7.5 and 7.6): its loss is binary for each class, which
leaves no correlation map for a noise-aware one; "we thus compute the loss for the regions S only". Supervision: boxes.
To reach on COCO test: 22.2 AP (47.1 AP50) from two label maps, 20.7 from Y_crf alone, 17.5 from Y_ret; 35.7 from true
masks. Its backbone and schedule there are not told; these are ResNet50 with a feature pyramid and the usual "1x".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from weakseg.models.backbones import build_backbone
from weakseg.models.maskrcnn import FINEST, MaskRcnn, paste_masks
from weakseg.ops.image import resize_image
from weakseg.ops.instance_masks import instance_masks, mask_targets, reliable_mask_loss, with_empty_filled
from weakseg.ops.noise import agreement, two_label_maps
from weakseg.types import (
    Augmentation,
    Backbone,
    Batch,
    Flip,
    Instances,
    Normalise,
    Optimisation,
    PadCrop,
    ResizeLong,
    Sample,
    Step,
    WeaksegError,
    optimisation_of,
)


@dataclass(frozen=True, slots=True)
class MaskRcnnOnReliable:
    """Network, training and prediction; it learns masks from the seeds ``crf`` and ``ret`` inside the boxes.

    Without ``ret`` (or with one label map of any name) every pixel counts as reliable; so the reference on true masks
    is ``seeds: truth``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = ("instances",)
    added: ClassVar[Mapping[str, Any]] = {
        "optimiser": "sgd",
        "warmup": 0,
    }  # since runs exist, and what stands for before

    # masks
    reliable_only: bool = True  # False: all pixels of Y_crf
    split: bool = True  # as in `instances.boxes`
    # network
    channels: int = 256
    hidden: int = 1024
    anchor: float = 8.0  # cells of each map
    samples: int = 512
    proposals: int = 2000
    freeze_bn: bool = True
    freeze_affine: bool = True
    freeze_stem: bool = True  # everything up to stride 4
    # training; photographs are padded to the longest side
    train_long: tuple[int, int] = (1066, 1333)  # of the long side, pixels
    iterations: int | None = 90_000  # None: `epochs` decide
    epochs: int = 12
    batch_size: int = 16
    lr: float = 0.02
    new_factor: float = 1.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["poly", "step", "constant"] = "step"
    milestones: tuple[int, ...] = (60_000, 80_000)
    warmup: int = 1000  # steps, as torchvision trains detectors
    # prediction
    long_side: int = 1333
    score_threshold: float = 0.05
    nms: float = 0.5
    detections: int = 100

    @property
    def augmentation(self) -> Augmentation:
        """Long side drawn, mirrored, normalised, padded with mean colour to one size."""
        return Augmentation((ResizeLong(*self.train_long), Flip(), Normalise(), PadCrop(self.train_long[1])))

    @property
    def optimisation(self) -> Optimisation:
        """The rate rises for `warmup` optimiser steps; with ``step`` it falls to a tenth at each of `milestones`."""
        return optimisation_of(self)

    def build(self, num_classes: int, backbone: Backbone) -> MaskRcnn:
        """The network over background and `num_classes` classes; give the backbone output stride 32."""
        features = build_backbone(backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine)
        if self.freeze_stem:
            features.freeze_until(features.stage(FINEST))
        return MaskRcnn(
            features,
            num_classes,
            channels=self.channels,
            hidden=self.hidden,
            anchor=self.anchor,
            samples=self.samples,
            proposals=self.proposals,
            score_threshold=self.score_threshold,
            nms=self.nms,
            detections=self.detections,
        )

    def objective(self, model: MaskRcnn, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The four losses of boxes, and ``mask`` over S."""
        if batch.boxes is None or batch.box_labels is None:
            raise WeaksegError("maskrcnn learns from boxes, and no photograph of this batch has an annotation")
        boxes, ids = list(batch.boxes), list(batch.box_labels)
        pyramid = model(batch.images)
        losses, found = model.box_losses(batch.images, pyramid, boxes, ids)
        crf, retrieved = two_label_maps(batch.seeds)
        logits = model.mask_logits(batch.images, pyramid, [f.boxes for f in found], [f.labels for f in found])
        side, targets, weights = logits.shape[-1], [], []
        for k, matches in enumerate(found):
            masks, reliable = self.learnt(crf[k], retrieved[k], boxes[k], ids[k])
            target, weight = mask_targets(masks, reliable, matches.boxes, matches.objects, side)
            targets.append(target)
            weights.append(weight)
        return {**losses, "mask": reliable_mask_loss(logits, torch.cat(targets), torch.cat(weights))}

    def learnt(self, crf: Tensor, retrieved: Tensor, boxes: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and reliable pixels of each box, bool (K, H, W) each.

        Nothing is reliable about a box in which Y_crf has no pixel of its class.

        Args:
            crf, retrieved: uint8 (H, W); where `crf` is 255, as on padding, nothing is reliable.
            boxes: float (K, 4), XYXY pixels, half-open.
            ids: int64 (K,), 1..C.
        """
        masks, empty = with_empty_filled(instance_masks(crf, boxes, ids, split=self.split), boxes)
        reliable, _ = agreement(crf, retrieved if self.reliable_only else crf)
        return masks, reliable & ~empty[:, None, None]

    def predict(self, model: MaskRcnn, sample: Sample) -> Instances:
        """The instances of a photograph, best first, at its own size."""
        image = sample.image.as_subclass(Tensor).to(model.device)
        ratio = self.long_side / max(sample.size)
        height, width = (max(1, round(n * ratio)) for n in sample.size)
        images = model.normalise(resize_image(image, (height, width)))[None]
        pyramid = {name: maps.float() for name, maps in model(images).items()}
        boxes, labels, scores = model.detect(images, pyramid)[0]
        probabilities = model.mask_logits(images, pyramid, [boxes], [labels]).sigmoid()
        back = boxes.new_tensor([sample.size[1] / width, sample.size[0] / height]).repeat(2)
        return Instances(paste_masks(probabilities, boxes * back, sample.size), labels, scores, boxes * back)


METHODS = {
    "resnet50": MaskRcnnOnReliable(),
    "mobile": MaskRcnnOnReliable(  # two CPU cores
        channels=128,
        hidden=256,
        samples=128,
        proposals=400,
        train_long=(256, 320),
        long_side=320,
        iterations=None,
        epochs=8,
        batch_size=8,
        lr=0.001,  # 0.01 diverges in its first steps without a warm-up
        schedule="poly",
        milestones=(),
        warmup=0,
    ),
}

BACKBONES = {"resnet50": "resnet50"}
"""The network that these learning rates are meant for; with output stride 32."""
