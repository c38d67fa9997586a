"""DeepLab heads on any backbone: V1 (1x1 or LargeFOV), V2 (ASPP, four branches summed), V3+ (ASPP and decoder)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weakseg.models.backbones import FeatureNet

HeadName: TypeAlias = Literal["conv1x1", "largefov", "aspp", "v3plus"]


class SegmentationOutput(NamedTuple):
    """What the network returns.

    Attributes:
        features: float (B, D, h, w), the backbone's last map.
        logits: float (B, C + 1, h', w'), channel 0 = background, at the head's own resolution.
    """

    features: Tensor
    logits: Tensor


class DeepLab(nn.Module):
    """Normalised images in, features and logits out (methods.md 10).

    Args:
        backbone: the feature extractor.
        head: see `build_head`.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(self, backbone: FeatureNet, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.normalise = backbone.normalise

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Features and logits of normalised images (B, 3, H, W)."""
        maps = self.backbone(images)
        return SegmentationOutput(maps[-1], self.head(maps))

    def new_parameters(self) -> list[nn.Parameter]:
        """The head: it learns at a higher rate."""
        return list(self.head.parameters())


def build_head(name: HeadName, backbone: FeatureNet, channels: int, *, rates: Sequence[int], width: int) -> nn.Module:
    """The head `name` for `channels` = C + 1 outputs.

    Args:
        name: ``conv1x1``: one 1x1 convolution; ``largefov``: one 3x3 with dilation 12; ``aspp``: four 3x3 with `rates`,
            bias, N(0, 0.01), summed; ``v3plus``: `V3PlusHead`.
        backbone: whose maps it reads.
        channels: C + 1.
        rates: dilations of the parallel branches.
        width: channels inside ``v3plus``.
    """
    depth = backbone.channels[-1]
    if name == "conv1x1":
        return SummedHead(depth, channels, kernel=1, rates=(1,))
    if name == "largefov":
        return SummedHead(depth, channels, kernel=3, rates=(12,))
    if name == "aspp":
        return SummedHead(depth, channels, kernel=3, rates=rates)
    skip = backbone.stage(stride=4)
    return V3PlusHead(depth, channels, skip, backbone.channels[skip], rates=rates, width=width)


class SummedHead(nn.Module):
    """Parallel dilated convolutions from the last map to the logits, summed (V1 with one branch, V2 with four)."""

    def __init__(self, depth: int, channels: int, *, kernel: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(depth, channels, kernel, padding=rate * (kernel // 2), dilation=rate) for rate in rates
        )
        for branch in self.branches:
            assert isinstance(branch, nn.Conv2d)
            nn.init.normal_(branch.weight, std=0.01)
            if branch.bias is not None:
                nn.init.zeros_(branch.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, C + 1, h, w) at the output stride."""
        return torch.stack([branch(maps[-1]) for branch in self.branches]).sum(dim=0)


class V3PlusHead(nn.Module):
    """DeepLab V3+: pooled ASPP with separable convolutions, then a decoder that adds the stride-4 map.

    Normalised by GroupNorm, so that small batches, parts of batches and single photographs give the same answer.
    """

    def __init__(
        self, depth: int, channels: int, skip: int, skip_depth: int, *, rates: Sequence[int], width: int
    ) -> None:
        super().__init__()
        self.skip = skip
        self.point = _block(depth, width, 1)
        self.atrous = nn.ModuleList(_separable(depth, width, rate) for rate in rates)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(depth, width, 1), nn.ReLU())
        self.project = _block(width * (2 + len(rates)), width, 1)
        self.low = _block(skip_depth, width // 4, 1)
        self.decode = nn.Sequential(_separable(width + width // 4, width, 1), nn.Dropout2d(0.1))
        self.classify = nn.Conv2d(width, channels, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, C + 1, h4, w4) at stride 4."""
        deep = maps[-1]
        pooled = self.pool(deep).expand(-1, -1, *deep.shape[-2:])
        context = self.project(torch.cat([self.point(deep), *(b(deep) for b in self.atrous), pooled], dim=1))
        low = self.low(maps[self.skip])
        up = F.interpolate(context, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.classify(self.decode(torch.cat([up, low], dim=1)))


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()
    )


def _separable(inputs: int, outputs: int, rate: int) -> nn.Sequential:
    """Depthwise 3x3 with dilation, then 1x1."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=rate, dilation=rate, groups=inputs, bias=False)
    return nn.Sequential(depthwise, *_block(inputs, outputs, 1))
