"""AffinityNet: one feature vector for every 8 x 8 pixels, alike where pixels belong together (methods.md 3).

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018, https://arxiv.org/abs/1803.10464. On ``resnet38d`` and ``vgg16d`` it is the published network,
parameter by parameter; on any other CNN the same branches read its last three feature maps.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate

from weakseg.models.backbones import FeatureNet
from weakseg.models.resnet38d import ResNet38d
from weakseg.models.weights import load_state
from weakseg.types import WeaksegError

STRIDE = 8
"""Pixels a cell."""
TAPS = 3
"""How many of the backbone's last feature maps are read: conv4, conv5 and conv6 (conv5fc) of the published networks."""
GROUP = 8
"""Channels of a group of GroupNorm: 8, 16 and 32 groups of 64, 128 and 256 channels."""


class AffinityNet(nn.Module):
    """Normalised images in, features F out: three 1x1 convolutions, ELU, joined by a fourth, ELU.

    Args:
        backbone: the feature extractor; its last three maps are read.
        widths: channels that each map gives.
        group_norm: GroupNorm before the ELU of each map; None: as published, which is not on ResNet38, whose maps end
            in a BatchNorm, and on VGG16; other networks are treated like VGG16.

    Attributes:
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self, backbone: FeatureNet, *, widths: Sequence[int] = (64, 128, 256), group_norm: bool | None = None
    ) -> None:
        super().__init__()
        if len(backbone.channels) < TAPS or len(widths) != TAPS:
            raise WeaksegError(
                f"AffinityNet joins {TAPS} feature maps; this backbone has {len(backbone.channels)}, widths are for "
                f"{len(widths)}"
            )
        if group_norm is None:
            group_norm = not isinstance(backbone.net, ResNet38d)
        self.backbone, self.normalise = backbone, backbone.normalise
        taps = zip(backbone.channels[-TAPS:], widths, strict=True)
        self.branches = nn.ModuleList(_branch(inputs, outputs, group_norm) for inputs, outputs in taps)
        self.fuse = nn.Conv2d(sum(widths), sum(widths), kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.fuse.weight, gain=4)

    def forward(self, images: Tensor) -> Tensor:
        """F, float (B, sum(widths), ceil(H / 8), ceil(W / 8)), of normalised images (B, 3, H, W)."""
        grid = -(-images.shape[2] // STRIDE), -(-images.shape[3] // STRIDE)
        maps = zip(self.branches, self.backbone(images)[-TAPS:], strict=True)
        joined = torch.cat([_on_grid(elu(branch(m)), grid) for branch, m in maps], dim=1)
        return elu(self.fuse(joined))

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: they learn at a higher rate."""
        return [*self.branches.parameters(), *self.fuse.parameters()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.fuse.weight.device


def published_name(name: str) -> str:
    """Name in the published checkpoint of parameter or buffer `name` of an `AffinityNet`.

    >>> published_name("backbone.net.b5.conv_branch2a.weight"), published_name("branches.1.0.weight")
    ('b5.conv_branch2a.weight', 'f8_4.weight')
    """
    if name.startswith("backbone.net."):
        return name.removeprefix("backbone.net.")
    if name.startswith("fuse."):
        return "f9." + name.removeprefix("fuse.")
    _, tap, layer, what = name.split(".")
    return f"{('f8', 'gn8')[int(layer)]}_{int(tap) + 3}.{what}"


def load_published(model: AffinityNet, state: Mapping[str, Tensor]) -> None:
    """Fill a network on ``resnet38d`` or ``vgg16d`` from the tensors of a published checkpoint (``res38_aff.pth``).

    Raises:
        WeaksegError: a tensor is missing, not known, or has another shape.
    """
    ours = {published_name(name): name for name in model.state_dict()}
    load_state(model, {ours.get(name, name): value for name, value in state.items()}, "the published AffinityNet")


def _branch(inputs: int, outputs: int, group_norm: bool) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    if not group_norm:
        return nn.Sequential(layer)
    if outputs % GROUP:
        raise WeaksegError(f"GroupNorm wants widths that are multiples of {GROUP} channels; got {outputs}")
    return nn.Sequential(layer, nn.GroupNorm(outputs // GROUP, outputs))


def _on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps of another stride than 8 are resized; those of the published networks stay as they are."""
    if tuple(maps.shape[2:]) == grid:
        return maps
    return interpolate(maps, grid, mode="bilinear", align_corners=False)
