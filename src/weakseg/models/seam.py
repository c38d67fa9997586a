"""SEAM's network: a classifier with a background map, and a pixel correlation module that revises its maps.

Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation", CVPR 2020,
https://arxiv.org/abs/2004.04581; methods.md 5. On ``resnet38d`` it is the published network, parameter by parameter; on
any other CNN the module reads its last feature maps but one and but two.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from weakseg.models.backbones import FeatureNet
from weakseg.models.pooling import GlobalAverage, Pooling, build_pooling
from weakseg.models.weights import load_state
from weakseg.ops.pixel_correlation import confident_maps, pixel_correlation
from weakseg.types import WeaksegError

EMBEDDING = 192
"""Channels in which pixels are compared."""


class SeamOutput(NamedTuple):
    """What the network returns.

    Attributes:
        cam: float (B, C + 1, H, W), signed, background first, at the size of the image.
        revised: float (B, C + 1, H, W), >= 0: cam_rv.
        logits: float (B, C), pooled from the foreground maps of `cam`.
    """

    cam: Tensor
    revised: Tensor
    logits: Tensor


class SeamNet(nn.Module):
    """Normalised images in, class maps, revised maps and logits out.

    Args:
        backbone: the feature extractor; its last map is classified, the two before it tell which pixels are alike.
        num_classes: C, foreground classes.
        dropout: probability of dropping a channel before the classifier.
        pooling: from foreground maps to logits, see `models.pooling`.
        widths: channels that the two feature maps give to the pixel correlation.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self,
        backbone: FeatureNet,
        num_classes: int,
        *,
        dropout: float = 0.5,
        pooling: Pooling = "gap",
        widths: Sequence[int] = (64, 128),
    ) -> None:
        super().__init__()
        if len(backbone.channels) < 3 or len(widths) != 2:
            raise WeaksegError(
                f"SEAM reads three feature maps, two of them to compare pixels; this backbone has "
                f"{len(backbone.channels)}, widths are for {len(widths)}"
            )
        self.backbone, self.normalise = backbone, backbone.normalise
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes + 1, kernel_size=1, bias=False)
        taps = zip(backbone.channels[-3:-1], widths, strict=True)
        branches = [nn.Conv2d(inputs, outputs, kernel_size=1, bias=False) for inputs, outputs in taps]
        self.branches = nn.ModuleList(branches)
        self.embed = nn.Conv2d(sum(widths) + 3, EMBEDDING, kernel_size=1, bias=False)
        self.pooling = build_pooling(pooling, num_classes)
        for branch in branches:
            nn.init.kaiming_normal_(branch.weight)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.xavier_uniform_(self.embed.weight, gain=4)

    def forward(self, images: Tensor) -> SeamOutput:
        """Class maps, revised maps and logits of normalised images (B, 3, H, W)."""
        features = self.backbone(images)
        maps = self.classifier(self.dropout(features[-1]))
        revised = pixel_correlation(confident_maps(maps), self.embedding(images, features))
        size = images.shape[2:]
        cam = resized(maps, size)
        return SeamOutput(cam, resized(revised, size), self._logits(maps, cam))

    def revise(self, images: Tensor, classes: Tensor) -> Tensor:
        """cam_rv of some foreground classes: float (B, K, H, W), >= 0; for inference.

        Args:
            images: float (B, 3, H, W), normalised.
            classes: int (K,), 0-based; the others still compete with them for each pixel.
        """
        features = self.backbone(images)
        maps = confident_maps(self.classifier(features[-1]))[:, 1 + classes.to(self.device)]
        return resized(pixel_correlation(maps, self.embedding(images, features)), images.shape[2:])

    def embedding(self, images: Tensor, features: Sequence[Tensor]) -> Tensor:
        """In what pixels are compared, float (B, 192, h, w); no gradient of it reaches the backbone.

        The image itself and two feature maps, each on the grid of the last one.
        """
        grid = features[-1].shape[2:]
        taps = zip(self.branches, features[-3:-1], strict=True)
        parts = [resized(images, grid), *(resized(branch(tap.detach()).relu(), grid) for branch, tap in taps)]
        embedded: Tensor = self.embed(torch.cat(parts, dim=1))
        return embedded

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: they learn at a higher rate."""
        modules = (self.classifier, self.branches, self.embed, self.pooling)
        return [parameter for module in modules for parameter in module.parameters()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device

    def _logits(self, maps: Tensor, cam: Tensor) -> Tensor:
        """The published average is over the enlarged maps, whose corners weigh less; a pyramid has the grid's bins."""
        pooled = cam if isinstance(self.pooling, GlobalAverage) else maps
        logits: Tensor = self.pooling(pooled[:, 1:]).logits
        return logits


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, K, h, w) at `size`, bilinear, corners on corners, as everywhere in SEAM."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def published_name(name: str) -> str:
    """Name in the published checkpoint of parameter or buffer `name` of a `SeamNet` with average pooling.

    >>> published_name("backbone.net.bn7.bias"), published_name("branches.1.weight"), published_name("embed.weight")
    ('bn7.bias', 'f8_4.weight', 'f9.weight')
    """
    for ours, theirs in _PUBLISHED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise WeaksegError(f"the published SEAM has nothing like {name!r}")


def load_published(model: SeamNet, state: Mapping[str, Tensor]) -> None:
    """Fill a network on ``resnet38d`` from the tensors of a published checkpoint (``resnet38_SEAM.pth``).

    Raises:
        WeaksegError: a tensor is missing, not known, or has another shape.
    """
    ours = {published_name(name): name for name in model.state_dict()}
    load_state(model, {ours.get(name, name): value for name, value in state.items()}, "the published SEAM")


_PUBLISHED = {
    "backbone.net.": "",
    "classifier.": "fc8.",
    "branches.0.": "f8_3.",
    "branches.1.": "f8_4.",
    "embed.": "f9.",
}
