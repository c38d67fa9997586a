"""DeepLab whose classifier compares directions: a cosine classifier, or a dot product without bias.

A classifier's weights then stand for their class in the space of features, which BANA's noise-aware loss relies on
(Oh et al., CVPR 2021, https://arxiv.org/abs/2104.00905, Eq. (11) and supplement, Eqs. (2)-(3); methods.md 7.5).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from weakseg.models.backbones import FeatureNet
from weakseg.models.deeplab import RATES, LastMap, V3PlusHead
from weakseg.models.vgg16 import Vgg16, configure
from weakseg.ops.box_labels import cosines
from weakseg.types import WeaksegError

EmbeddingHead = Literal["vgg_largefov", "conv1x1", "largefov", "aspp", "v3plus"]
Classifier = Literal["cosine", "dot"]


class CosineDeepLab(nn.Module):
    """Normalised images in, logits of background and C classes out, at the resolution of the head.

    Args:
        backbone: the feature extractor.
        num_classes: C, foreground classes.
        head: what makes phi, the features before the classifier: ``vgg_largefov`` VGG16's fc7 with a dilated fc6 (V1;
            1024 channels), ``conv1x1`` any backbone's last map; ``largefov`` one and ``aspp`` four dilated 3x3
            convolutions to `channels`, summed, and a ReLU (V2; 256 channels); ``v3plus`` V3+'s decoder.
        rates: dilations of the head's 3x3 convolutions, in feature pixels; None = the paper's.
        channels: width of phi where the head decides it.
        classifier: ``cosine``: scale x cos(phi, W_c); ``dot``: phi . W_c; neither has a bias.
        scale: tau, by which cosines are multiplied.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self,
        backbone: FeatureNet,
        num_classes: int,
        head: EmbeddingHead = "vgg_largefov",
        rates: Sequence[int] | None = None,
        channels: int = 256,
        classifier: Classifier = "cosine",
        scale: float = 20.0,
    ) -> None:
        super().__init__()
        if head not in ("vgg_largefov", "conv1x1", "largefov", "aspp", "v3plus"):
            raise WeaksegError(f"a cosine classifier has no head {head!r}: take vgg_largefov, conv1x1, aspp or v3plus")
        self.backbone, self.normalise = backbone, backbone.normalise
        self.cosine, self.scale = classifier == "cosine", scale
        self.head, width = _head(backbone, head, tuple(RATES[head] if rates is None else rates), channels)
        self.weight = nn.Parameter(torch.empty(num_classes + 1, width))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, images: Tensor, with_cosines: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, C + 1, h, w) of images (B, 3, H, W); `with_cosines` also cos(phi, W_c), of the same shape."""
        phi = self.head(self.backbone(images))
        if not self.cosine:
            logits = torch.einsum("bdhw,cd->bchw", phi, self.weight)
            return (logits, cosines(phi, self.weight)) if with_cosines else logits
        found = cosines(phi, self.weight)
        return (self.scale * found, found) if with_cosines else self.scale * found

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: the head's own and the classifier's."""
        return [*self.head.parameters(), self.weight]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weight.device


class DilatedSum(nn.Module):
    """3x3 convolutions of several dilations without bias, summed, and a ReLU (methods.md 7.5, V2).

    Args:
        inputs: channels of the last feature map.
        outputs: channels of phi.
        rates: dilations, in feature pixels.
    """

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate, bias=False) for rate in rates
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Phi (B, outputs, h, w) from the last of the backbone's maps."""
        return torch.stack([branch(maps[-1]) for branch in self.branches]).sum(dim=0).relu()


def _head(backbone: FeatureNet, head: str, rates: tuple[int, ...], channels: int) -> tuple[nn.Module, int]:
    """The module that makes phi of the backbone's maps, and the channels of phi."""
    last = backbone.channels[-1]
    if head == "vgg_largefov":
        if not isinstance(backbone.net, Vgg16) or backbone.net.fc6 is None:
            raise WeaksegError("the head 'vgg_largefov' works on VGG16's own fc6 and fc7: use vgg16d, or head 'aspp'")
        configure(backbone, dilation=rates[0], drop_last=True)
    if head in ("vgg_largefov", "conv1x1"):
        return LastMap(), last
    if head == "v3plus":
        decoder = V3PlusHead(backbone, 1, rates, channels)
        decoder.classify = nn.Identity()  # type: ignore[assignment]
        return decoder, channels
    return DilatedSum(last, channels, rates), channels
