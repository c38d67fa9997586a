"""The classifier of EPS: background is one more class, and its maps are trained pixel by pixel."""

import torch
from torch import Tensor, nn

from weakseg.models.backbones import FeatureNet
from weakseg.models.pooling import Pooling, build_pooling


class EpsNet(nn.Module):
    """Backbone and a 1x1 convolution to C + 1 maps, without bias and without dropout before it (methods.md 6.2).

    Args:
        backbone: the feature extractor.
        num_classes: C, foreground classes.
        pooling: how the C maps of the foreground become logits.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(self, backbone: FeatureNet, num_classes: int, *, pooling: Pooling = "gap") -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes + 1, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.pooling = build_pooling(pooling, num_classes)
        self.normalise = backbone.normalise

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C + 1, h, w), background last, of normalised images (B, 3, H, W)."""
        logits: Tensor = self.classifier(self.backbone(images)[-1])
        return logits

    def pool(self, logits: Tensor) -> Tensor:
        """Logits (B, C) of the foreground classes, of their maps in (B, C + 1, h, w); background learns nothing."""
        pooled: Tensor = self.pooling(logits[:, :-1]).logits
        return pooled

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: they learn at a higher rate."""
        return [*self.classifier.parameters(), *self.pooling.parameters()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device
