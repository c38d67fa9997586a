"""Segmentation networks: DeepLab's heads, most of them on any backbone (methods.md 10 and 9.6).

V1: Chen et al., ICLR 2015, https://arxiv.org/abs/1412.7062; V2: Chen et al., PAMI 2018, https://arxiv.org/abs/1606.00915;
V3+: Chen et al., ECCV 2018, https://arxiv.org/abs/1802.02611. V3+ here is a lean one of our own: separable convolutions
and GroupNorm, because batches are small.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from weakseg.models.backbones import FeatureNet
from weakseg.models.vgg16 import Vgg16, configure
from weakseg.types import WeaksegError

HeadName = Literal["conv1x1", "largefov", "aspp", "v3plus", "vgg_largefov", "vgg_aspp", "seam", "mctformer"]


class DeepLab(nn.Module):
    """Normalised images in, logits of background and C classes out, at the resolution of the head.

    Args:
        backbone: the feature extractor.
        num_classes: C, foreground classes.
        head: ``conv1x1`` and ``largefov`` (V1), ``aspp`` (V2), ``v3plus``; on VGG16 alone ``vgg_largefov`` (V1) and
            ``vgg_aspp`` (V2), whose dilations are those of fc6; ``seam`` and ``mctformer``, V1 as those two papers
            have it on ResNet38.
        rates: dilations of the head's 3x3 convolutions, in feature pixels; None = the paper's.
        channels: inner width of ``v3plus``, ``seam`` and ``mctformer``.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self,
        backbone: FeatureNet,
        num_classes: int,
        head: HeadName = "aspp",
        rates: Sequence[int] | None = None,
        channels: int = 256,
    ) -> None:
        super().__init__()
        if head not in RATES:
            raise WeaksegError(f"there is no DeepLab head {head!r}; there are {', '.join(RATES)}")
        self.backbone = backbone
        self.normalise = backbone.normalise
        rates = tuple(RATES[head] if rates is None else rates)
        self.head = _HEADS[head](backbone, num_classes + 1, rates, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Logits float (B, C + 1, h, w): the backbone's output stride, or 4 for V3+."""
        return self.head(self.backbone(images))

    def new_parameters(self) -> list[nn.Parameter]:
        """The head's; of ``vgg_aspp`` its classifiers', because fc6 and fc7 are pre-trained."""
        new = self.head.classifiers if isinstance(self.head, VggAspp) else self.head
        return list(new.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.head.parameters()).device


class SummedConvs(nn.Module):
    """3x3 convolutions of several dilations to the classes, summed: V2's ASPP; with one dilation V1's LargeFOV.

    Args:
        inputs: channels of the last feature map.
        outputs: C + 1.
        rates: dilations; 0 stands for a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_dilated(inputs, outputs, rate) for rate in rates)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, C + 1, h, w) from the last of the backbone's maps."""
        return torch.stack([branch(maps[-1]) for branch in self.branches]).sum(dim=0)


class VggAspp(nn.Module):
    """V2 on VGG16: fc6, fc7 and a classifier for each dilation, after conv5; the logits are summed.

    Each branch begins as a copy of the backbone's own fc6 and fc7, which are taken from it: conv5 is then its last map.

    Args:
        backbone: of VGG16, with fc6 and fc7; changed in place.
        outputs: C + 1.
        rates: dilations of fc6, one a branch.

    Raises:
        WeaksegError: another backbone.
    """

    def __init__(self, backbone: FeatureNet, outputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        net = _vgg16(backbone, "vgg_aspp")
        self.branches = nn.ModuleList(_fc(net, rate) for rate in rates)
        self.classifiers = nn.ModuleList(_dilated(net.channels[-1], outputs, 0) for _ in rates)
        net.drop_fc()
        backbone.channels, backbone.strides = net.channels, net.strides

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, C + 1, h, w) from conv5."""
        pairs = zip(self.branches, self.classifiers, strict=True)
        return torch.stack([classify(branch(maps[-1])) for branch, classify in pairs]).sum(dim=0)


class LastMap(nn.Sequential):
    """Layers that read the last of the backbone's maps."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, C + 1, h, w)."""
        x = maps[-1]
        for layer in self:
            x = layer(x)
        return x


class V3PlusHead(nn.Module):
    """ASPP with image pooling, then a decoder that adds the stride-4 features.

    Args:
        backbone: tells the channels of its maps.
        outputs: C + 1.
        rates: dilations of the separable 3x3 convolutions beside the 1x1 one and the pooled one.
        channels: inner width.
        skip_channels: width of the stride-4 features in the decoder; 48 in the paper.
    """

    def __init__(
        self, backbone: FeatureNet, outputs: int, rates: Sequence[int], channels: int, skip_channels: int = 48
    ) -> None:
        super().__init__()
        deep, self.fine = backbone.channels[-1], backbone.stage(stride=4)
        self.branches = nn.ModuleList([_block(deep, channels), *(_separable(deep, channels, r) for r in rates)])
        self.pooled = _block(deep, channels)
        self.project = _block(channels * (len(rates) + 2), channels)
        self.skip = _block(backbone.channels[self.fine], skip_channels)
        self.decode = nn.Sequential(_separable(channels + skip_channels, channels), _separable(channels, channels))
        self.classify = nn.Conv2d(channels, outputs, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, C + 1, ~H/4, ~W/4)."""
        deep, fine = maps[-1], maps[self.fine]
        context = self.pooled(deep.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        pyramid = self.project(torch.cat([*(branch(deep) for branch in self.branches), context], dim=1))
        upsampled = interpolate(pyramid, fine.shape[2:], mode="bilinear", align_corners=False)
        return self.classify(self.decode(torch.cat([upsampled, self.skip(fine)], dim=1)))


RATES: dict[str, tuple[int, ...]] = {
    "conv1x1": (0,),
    "largefov": (12,),
    "aspp": (6, 12, 18, 24),
    "v3plus": (6, 12, 18),  # at output stride 16; double them at 8
    "vgg_largefov": (12,),
    "vgg_aspp": (6, 12, 18, 24),
    "seam": (12,),
    "mctformer": (12, 12),
}
"""The papers' dilations, by head."""


def _summed(backbone: FeatureNet, outputs: int, rates: Sequence[int], channels: int) -> nn.Module:
    return SummedConvs(backbone.channels[-1], outputs, rates)


def _vgg_largefov(backbone: FeatureNet, outputs: int, rates: Sequence[int], channels: int) -> nn.Module:
    _vgg16(backbone, "vgg_largefov")
    configure(backbone, dilation=rates[0], drop_last=True)
    return SummedConvs(backbone.channels[-1], outputs, (0,))


def _vgg_aspp(backbone: FeatureNet, outputs: int, rates: Sequence[int], channels: int) -> nn.Module:
    return VggAspp(backbone, outputs, rates)


def _seam(backbone: FeatureNet, outputs: int, rates: Sequence[int], channels: int) -> nn.Module:
    """3x3, BatchNorm, ReLU, 1x1, BatchNorm, ReLU, dropout, 1x1 (methods.md 10, row V1 ResNet38)."""
    wide = nn.Conv2d(backbone.channels[-1], channels, 3, padding=rates[0], dilation=rates[0], bias=False)
    deep = nn.Conv2d(channels, channels, 1, bias=False)
    for layer in (wide, deep):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    blocks = [wide, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), deep, nn.BatchNorm2d(channels)]
    return LastMap(*blocks, nn.ReLU(inplace=True), nn.Dropout(0.5), _dilated(channels, outputs, 0))


def _mctformer(backbone: FeatureNet, outputs: int, rates: Sequence[int], channels: int) -> nn.Module:
    """Two dilated 3x3 convolutions with a ReLU between them (methods.md 9.6); their initialisation is ours."""
    first, second = rates
    wide = nn.Conv2d(backbone.channels[-1], channels, 3, padding=first, dilation=first)
    nn.init.xavier_uniform_(wide.weight)
    nn.init.zeros_(wide.bias)  # type: ignore[arg-type]
    return LastMap(wide, nn.ReLU(inplace=True), _dilated(channels, outputs, second))


_HEADS: dict[str, Callable[[FeatureNet, int, Sequence[int], int], nn.Module]] = {
    "conv1x1": _summed,
    "largefov": _summed,
    "aspp": _summed,
    "v3plus": V3PlusHead,
    "vgg_largefov": _vgg_largefov,
    "vgg_aspp": _vgg_aspp,
    "seam": _seam,
    "mctformer": _mctformer,
}


def _vgg16(backbone: FeatureNet, head: str) -> Vgg16:
    net = backbone.net
    if not isinstance(net, Vgg16) or net.fc6 is None:
        other = head.removeprefix("vgg_")
        raise WeaksegError(
            f"the head {head!r} works on VGG16's own fc6 and fc7: use backbone vgg16d, or head {other!r}"
        )
    return net


def _fc(net: Vgg16, rate: int) -> nn.Sequential:
    """Copies of fc6, with that dilation, and of fc7, each with its ReLU and dropout."""
    fc6, fc7 = copy.deepcopy(net.fc6), copy.deepcopy(net.fc7)
    assert fc6 is not None
    assert fc7 is not None
    fc6.dilation = fc6.padding = (rate, rate)
    drops = [nn.Dropout2d(net.dropout), nn.Dropout2d(net.dropout)]
    return nn.Sequential(fc6, nn.ReLU(inplace=True), drops[0], fc7, nn.ReLU(inplace=True), drops[1])


def _dilated(inputs: int, outputs: int, rate: int) -> nn.Conv2d:
    kernel, dilation = (3, rate) if rate else (1, 1)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=rate, dilation=dilation)
    nn.init.normal_(convolution.weight, mean=0.0, std=0.01)  # V2's initialisation
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """1x1 convolution, GroupNorm, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), _norm(outputs), nn.ReLU(inplace=True))


def _separable(inputs: int, outputs: int, rate: int = 1) -> nn.Sequential:
    """Depthwise 3x3 convolution, then `_block`."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=rate, dilation=rate, groups=inputs, bias=False)
    return nn.Sequential(depthwise, *_block(inputs, outputs))


def _norm(channels: int) -> nn.GroupNorm:
    """16 groups where they fit; two channels in each at least, for after pooling a channel is a single value."""
    groups = math.gcd(16, channels)
    return nn.GroupNorm(groups if channels > groups else max(1, groups // 2), channels)
