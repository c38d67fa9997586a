"""The classifier whose activation maps localise: backbone, 1x1 convolution without bias, global average pooling.

Average pooling and the convolution commute, and pooling first is cheaper; gated pyramid pooling takes the maps.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from weakseg.models.backbones import FeatureNet
from weakseg.models.pooling import Pooling, build_pooling
from weakseg.ops.cam import cam


class CamOutput(NamedTuple):
    """What the classifier returns.

    Attributes:
        features: float (B, D, h, w), what is pooled.
        logits: float (B, C).
    """

    features: Tensor
    logits: Tensor


class CamNet(nn.Module):
    """Normalised images in, features and logits out (methods.md 2.1 and 2.2).

    Args:
        backbone: the feature extractor; its last map is pooled.
        num_classes: C, foreground classes.
        dropout: probability of dropping a whole feature channel before pooling.
        detach_after: index of the feature map at which the gradient stops; None = nowhere.
        pooling: how maps become logits.
        xavier: begin with Xavier-uniform weights, as PSA; False: with torch's own, as IRN and AMN.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self,
        backbone: FeatureNet,
        num_classes: int,
        *,
        dropout: float = 0.0,
        detach_after: int | None = None,
        pooling: Pooling = "gap",
        xavier: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes, kernel_size=1, bias=False)
        if xavier:
            nn.init.xavier_uniform_(self.classifier.weight)
        self.pooling = None if pooling == "gap" else build_pooling(pooling, num_classes)
        self.normalise = backbone.normalise
        if detach_after is not None:
            backbone.freeze_until(detach_after)

    def forward(self, images: Tensor) -> CamOutput:
        """Features (B, D, h, w) and logits (B, C) of normalised images (B, 3, H, W)."""
        features = self.dropout(self.backbone(images)[-1])
        if self.pooling is not None:
            return CamOutput(features, self.pooling(self.classifier(features)).logits)
        pooled = features.mean(dim=(2, 3), keepdim=True)
        return CamOutput(features, self.classifier(pooled).flatten(1))

    def cams(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """ReLU(w_k . f): float (B, K, h, w), >= 0, of normalised images.

        Args:
            images: float (B, 3, H, W).
            classes: int (K,), 0-based rows of the classifier; None = all C.
        """
        weight = self.classifier.weight.flatten(1)
        return cam(self.backbone(images)[-1], weight if classes is None else weight[classes.to(weight.device)])

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: they learn at a higher rate."""
        return [*self.classifier.parameters(), *(() if self.pooling is None else self.pooling.parameters())]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device
