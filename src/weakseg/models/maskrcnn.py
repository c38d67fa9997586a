"""Mask R-CNN on any backbone: torchvision's parts behind a feature pyramid, with the mask branch in the open.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, on the feature pyramid of
Lin et al., CVPR 2017. torchvision's own class hides its mask loss; here proposals, features and mask logits come out,
so that a method may decide which pixels count.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from weakseg.models.backbones import FeatureNet
from weakseg.types import WeaksegError

FINEST = 4
"""Stride of the finest map of the pyramid, pixels."""
ASPECTS = (0.5, 1.0, 2.0)
"""Height over width of the anchors."""


class Matches(NamedTuple):
    """Proposals that show an object, of one photograph.

    Attributes:
        boxes: float (P, 4), XYXY pixels.
        objects: int64 (P,), which of the photograph's objects.
        labels: int64 (P,), its class id, 1..C.
    """

    boxes: Tensor
    objects: Tensor
    labels: Tensor


class Detections(NamedTuple):
    """What is found in one photograph, best first: boxes float (K, 4), labels int64 (K,), scores float (K,)."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class MaskRcnn(nn.Module):
    """Backbone, feature pyramid, proposals, box head and mask head; background and C classes.

    Args:
        backbone: the feature extractor; its last map of each stride from 4 on feeds the pyramid.
        num_classes: C, foreground classes.
        channels: of the pyramid and of the mask head.
        hidden: width of the box head.
        anchor: side of the anchors, cells of their map: 8 is 32 pixels at stride 4.
        samples: proposals a photograph that the box head learns from; the RPN learns from half as many anchors.
        proposals: those that go on to the heads, in training; half as many in prediction.
        score_threshold, nms, detections: which detections are kept: their least score, 0-1, the largest IoU with a
            better one of their class, and how many.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self,
        backbone: FeatureNet,
        num_classes: int,
        *,
        channels: int = 256,
        hidden: int = 1024,
        anchor: float = 8,
        samples: int = 512,
        proposals: int = 2000,
        score_threshold: float = 0.05,
        nms: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.backbone, self.normalise = backbone, backbone.normalise
        last = {stride: k for k, stride in enumerate(backbone.strides) if stride >= FINEST}
        self.levels = tuple(last.values())
        if not self.levels:
            raise WeaksegError(f"Mask R-CNN wants feature maps of stride {FINEST} or more; got {backbone.strides}")
        strides = [*last, 2 * max(last)]  # the coarsest map once more, every other cell
        names = [str(k) for k in range(len(self.levels))]
        self.pyramid = FeaturePyramidNetwork([backbone.channels[k] for k in self.levels], channels, LastLevelMaxPool())
        self.rpn = RegionProposalNetwork(
            AnchorGenerator(tuple((int(anchor * s),) for s in strides), (ASPECTS,) * len(strides)),
            RPNHead(channels, len(ASPECTS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=samples // 2,
            positive_fraction=0.5,
            pre_nms_top_n={"training": proposals, "testing": proposals // 2},
            post_nms_top_n={"training": proposals, "testing": proposals // 2},
            nms_thresh=0.7,
        )
        self.boxes = RoIHeads(
            MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
            TwoMLPHead(channels * 7**2, hidden),
            FastRCNNPredictor(hidden, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=nms,
            detections_per_img=detections,
        )
        self.mask_pool = MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2)
        self.mask_head = MaskRCNNHeads(channels, (channels,) * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(channels, channels, num_classes + 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid's maps (B, channels, h, w) by name, finest first, of normalised images (B, 3, H, W)."""
        maps = self.backbone(images)
        pyramid: dict[str, Tensor] = self.pyramid({str(n): maps[k] for n, k in enumerate(self.levels)})
        return pyramid

    def box_losses(
        self, images: Tensor, pyramid: Mapping[str, Tensor], boxes: list[Tensor], labels: list[Tensor]
    ) -> tuple[dict[str, Tensor], list[Matches]]:
        """Losses of proposals and boxes, by name, and the proposals that show an object, for the mask branch.

        Args:
            images: float (B, 3, H, W), of which the size alone is used.
            pyramid: from `forward`.
            boxes: float (K, 4) of each photograph, XYXY pixels, perhaps none.
            labels: int64 (K,) of each, ids 1..C.
        """
        targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
        found, losses = self.rpn(_listed(images), dict(pyramid), targets)
        proposals, objects, classes, offsets = self.boxes.select_training_samples(found, targets)
        logits, regression = self._judge(images, pyramid, proposals)
        cls, box = fastrcnn_loss(logits, regression, classes, offsets)
        named = {"objectness": losses["loss_objectness"], "rpn_box": losses["loss_rpn_box_reg"], "cls": cls, "box": box}
        each = zip(proposals, objects, classes, strict=True)
        return named, [Matches(b[c > 0], o[c > 0], c[c > 0]) for b, o, c in each]

    def mask_logits(
        self, images: Tensor, pyramid: Mapping[str, Tensor], boxes: list[Tensor], labels: list[Tensor]
    ) -> Tensor:
        """float (P, 28, 28): logits of the boxes' own classes, those of all photographs one after another."""
        pooled = self.mask_pool(dict(pyramid), boxes, [_size(images)] * len(boxes))
        logits, own = self.mask_predictor(self.mask_head(pooled)), torch.cat(labels)
        chosen: Tensor = logits[torch.arange(len(own), device=own.device), own]
        return chosen

    def detect(self, images: Tensor, pyramid: Mapping[str, Tensor]) -> list[Detections]:
        """The objects of each photograph, by box; in inference mode."""
        proposals, _ = self.rpn(_listed(images), dict(pyramid))
        logits, regression = self._judge(images, pyramid, proposals)
        sizes = [_size(images)] * len(proposals)
        boxes, scores, labels = self.boxes.postprocess_detections(logits, regression, proposals, sizes)
        return [Detections(*found) for found in zip(boxes, labels, scores, strict=True)]

    def _judge(self, images: Tensor, pyramid: Mapping[str, Tensor], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.boxes.box_roi_pool(dict(pyramid), proposals, [_size(images)] * len(proposals))
        judged: tuple[Tensor, Tensor] = self.boxes.box_predictor(self.boxes.box_head(pooled))
        return judged

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: they learn at a higher rate."""
        own = {id(p) for p in self.backbone.parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks of `size` from those of boxes, as torchvision pastes them.

    Args:
        probabilities: float (K, M, M), 0-1.
        boxes: float (K, 4), XYXY pixels.
        size: (H, W).
        threshold: what is above it is object.

    Returns:
        bool (K, H, W).
    """
    pasted: Tensor = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0]
    return pasted > threshold


def _listed(images: Tensor) -> ImageList:
    return ImageList(images, [_size(images)] * len(images))


def _size(images: Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])
