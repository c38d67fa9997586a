"""The classifier of AEFT: two 1x1 convolutions make signed maps, gated pyramid pooling makes their logits."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weakseg.models.backbones import FeatureNet
from weakseg.models.pooling import Pooling, build_pooling
from weakseg.ops.pooling import BINS


class AeftOutput(NamedTuple):
    """What the classifier returns.

    Attributes:
        maps: float (B, C, h, w), f, signed.
        logits: float (B, C).
        pyramid: float (B, C, h, w), G, signed; f itself with average pooling.
    """

    maps: Tensor
    logits: Tensor
    pyramid: Tensor


class AeftNet(nn.Module):
    """Backbone, 1x1 convolution to `width` channels, ReLU, 1x1 convolution to C maps, pooling (methods.md 9.1).

    Neither convolution has a bias; both begin Xavier-uniform.

    Args:
        backbone: the feature extractor.
        num_classes: C, foreground classes.
        width: channels between the convolutions.
        pooling: how maps become logits.
        bins: of the pyramid's levels, coarsest first.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self,
        backbone: FeatureNet,
        num_classes: int,
        *,
        width: int = 256,
        pooling: Pooling = "gpp",
        bins: Sequence[int] = BINS,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reduce = nn.Conv2d(backbone.channels[-1], width, kernel_size=1, bias=False)
        self.classifier = nn.Conv2d(width, num_classes, kernel_size=1, bias=False)
        for convolution in (self.reduce, self.classifier):
            nn.init.xavier_uniform_(convolution.weight)
        self.pooling = build_pooling(pooling, num_classes, bins)
        self.normalise = backbone.normalise

    def forward(self, images: Tensor) -> AeftOutput:
        """Maps, logits and pyramid of normalised images (B, 3, H, W)."""
        maps = self.maps(images)
        logits, pyramid = self.pooling(maps)
        return AeftOutput(maps, logits, pyramid)

    def maps(self, images: Tensor) -> Tensor:
        """f: float (B, C, h, w), signed, of normalised images (B, 3, H, W)."""
        f: Tensor = self.classifier(torch.relu(self.reduce(self.backbone(images)[-1])))
        return f

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched; as published they learn at the same rate as the others."""
        return [p for part in (self.reduce, self.classifier, self.pooling) for p in part.parameters()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device
