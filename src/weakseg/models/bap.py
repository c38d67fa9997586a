"""The classifier of boxes that BANA pools background-aware: a backbone and a linear layer without bias.

Oh et al., CVPR 2021, https://arxiv.org/abs/2104.00905, sec. 3.1; methods.md 7.2.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from weakseg.models.backbones import FeatureNet
from weakseg.types import Sample


class BapNet(nn.Module):
    """Backbone and a linear classifier of feature vectors over background and C classes.

    Args:
        backbone: the feature extractor.
        num_classes: C, foreground classes.
        foreign: whether they are other classes than the data set's.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(self, backbone: FeatureNet, num_classes: int, foreign: bool = False) -> None:
        super().__init__()
        self.backbone, self.foreign = backbone, foreign
        self.normalise = backbone.normalise
        self.weight = nn.Parameter(torch.empty(num_classes + 1, backbone.channels[-1]))  # w, background first
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """f: features (B, D, h, w) of normalised images (B, 3, H, W)."""
        features: Tensor = self.backbone(images)[-1]
        return features

    def describe(self, sample: Sample) -> Tensor:
        """f: float (D, h, w) of a photograph at its own size."""
        image = sample.image.as_subclass(Tensor).to(self.device)
        features: Tensor = self(self.normalise(image)[None])[0].float()
        return features

    def classify(self, vectors: Tensor) -> Tensor:
        """Logits (n, C + 1) of vectors (n, D)."""
        return linear(vectors, self.weight)

    def class_weights(self, ids: Tensor) -> Tensor:
        """w_c (N, D) of ids (N,) of the data set, 0 is background; zeros for a class that the network has not seen."""
        seen = self.weight[:1] if self.foreign else self.weight
        known = (ids < len(seen)).to(seen.device)
        return torch.where(known[:, None], seen[ids.long().clamp(max=len(seen) - 1).to(seen.device)], 0.0)

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: they learn at a higher rate."""
        return [self.weight]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weight.device
