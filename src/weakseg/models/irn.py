"""The inter-pixel relation network: two branches of 1x1 convolutions on a frozen backbone (methods.md 4).

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019,
https://arxiv.org/abs/1904.05044. On ``irn_resnet50`` it is the published network, parameter by parameter; on any other
CNN the same branches join the stages it has: what is finer than stride 4 is averaged down to it, what is coarser is
upsampled, so that edges and displacements have a cell for every 4 pixels.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from weakseg.models.backbones import FeatureNet
from weakseg.types import WeaksegError

STRIDE = 4
"""Pixels a cell of the edge and displacement maps."""


class Relations(NamedTuple):
    """What the network says of each cell; ~H/4 x ~W/4 of them.

    Attributes:
        edge: float (B, h, w), logits of "a class boundary is here".
        displacement: float (B, 2, h, w), (dy, dx) in cells to the centre of the cell's object.
    """

    edge: Tensor
    displacement: Tensor


class RelationNet(nn.Module):
    """Normalised images in, edge logits and displacements out.

    Args:
        backbone: the feature extractor.
        edge_width: channels that each stage gives to the edge branch.
        width: channels of the displacement branch; its two finest stages get a quarter and a half of them.
        learn_backbone: let the backbone learn as well; the published network detaches all its maps and keeps it in
            inference mode.

    Attributes:
        mean_displacement: (2,), subtracted from the displacements in inference mode (mean shift).
        normalise: uint8 RGB image -> the network's input.
    """

    def __init__(
        self, backbone: FeatureNet, *, edge_width: int = 32, width: int = 256, learn_backbone: bool = False
    ) -> None:
        super().__init__()
        self.backbone, self.learn_backbone, self.normalise = backbone, learn_backbone, backbone.normalise
        strides, channels = backbone.strides, backbone.channels
        self.fine = [i for i, s in enumerate(strides) if s <= STRIDE]
        self.coarse = [i for i, s in enumerate(strides) if s > STRIDE]
        if not self.fine or not self.coarse:
            raise WeaksegError(f"IRN wants maps at stride {STRIDE} and coarser ones; this backbone has {strides}")
        self.edges = nn.ModuleList(_block(c, edge_width, 4) for c in channels)
        self.edge = nn.Conv2d(edge_width * len(channels), 1, kernel_size=1)
        widths = [_fine_width(width, self.fine.index(i)) if i in self.fine else width for i in range(len(channels))]
        self.displacements = nn.ModuleList(_block(c, w, 16) for c, w in zip(channels, widths, strict=True))
        self.context = _block(width * len(self.coarse), width, 16)
        self.displacement = nn.Sequential(
            _block(sum(widths[i] for i in self.fine) + width, width, 16),
            nn.ReLU(),
            nn.Conv2d(width, 2, kernel_size=1, bias=False),
        )
        self.register_buffer("mean_displacement", torch.zeros(2))
        self.mean_displacement: Tensor
        backbone.requires_grad_(learn_backbone)

    def forward(self, images: Tensor) -> Relations:
        """Edge logits and displacements of normalised images (B, 3, H, W)."""
        with torch.set_grad_enabled(self.learn_backbone and torch.is_grad_enabled()):
            maps = self.backbone(images)
        displacement = self._displacements(maps)
        if not self.training:
            displacement = displacement - self.mean_displacement[None, :, None, None]
        return Relations(self._edges(maps), displacement)

    def train(self, mode: bool = True) -> "RelationNet":
        """As `nn.Module.train`; a backbone that does not learn stays in inference mode."""
        super().train(mode)
        if not self.learn_backbone:
            self.backbone.eval()
        return self

    def new_parameters(self) -> list[nn.Parameter]:
        """The displacement branch: it learns at ten times the rate of the edge branch (methods.md 4)."""
        modules = (self.displacements, self.context, self.displacement)
        return [parameter for module in modules for parameter in module.parameters()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.edge.weight.device

    def _edges(self, maps: list[Tensor]) -> Tensor:
        size = self._size(maps, STRIDE)
        joined = [
            _joined(block(m), s, STRIDE, size)
            for block, m, s in zip(self.edges, maps, self.backbone.strides, strict=True)
        ]
        return self.edge(torch.cat(joined, dim=1))[:, 0]

    def _displacements(self, maps: list[Tensor]) -> Tensor:
        """The coarse stages meet at stride 8, then join the fine ones at stride 4."""
        strides, made = self.backbone.strides, [block(m) for block, m in zip(self.displacements, maps, strict=True)]
        middle = strides[self.coarse[0]]
        size, middle_size = self._size(maps, STRIDE), self._size(maps, middle)
        coarse = torch.cat([_joined(made[i], strides[i], middle, middle_size) for i in self.coarse], dim=1)
        context = _joined(self.context(coarse), middle, STRIDE, size)
        fine = [_joined(made[i], strides[i], STRIDE, size) for i in self.fine]
        return self.displacement(torch.cat([*fine, context], dim=1))

    def _size(self, maps: list[Tensor], stride: int) -> tuple[int, int]:
        height, width = maps[self.backbone.stage(stride)].shape[2:]
        return int(height), int(width)


def published_name(name: str) -> str:
    """Name in the published checkpoint of parameter or buffer `name` of a `RelationNet` on ``irn_resnet50``.

    >>> published_name("backbone.net.layer1.0.conv1.weight"), published_name("displacement.0.1.bias")
    ('resnet50.layer1.0.conv1.weight', 'fc_dp7.1.bias')
    """
    for ours, theirs in _PUBLISHED.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            if ours in ("edges.", "displacements."):  # counted from 1
                stage, _, rest = rest.partition(".")
                return f"{theirs}{int(stage) + 1}.{rest}"
            return theirs + rest
    raise WeaksegError(f"the published IRN has nothing like {name!r}")


def load_published(model: RelationNet, state: Mapping[str, Tensor]) -> None:
    """Fill a network on ``irn_resnet50`` from the tensors of a published checkpoint (``res50_irn.pth``).

    The file holds every tensor under several names; one of them is read.

    Raises:
        WeaksegError: a tensor is missing or has another shape.
    """
    wanted = {name: published_name(name) for name in model.state_dict()}
    counters = "num_batches_tracked"
    missing = [theirs for theirs in wanted.values() if theirs not in state and not theirs.endswith(counters)]
    if missing:
        raise WeaksegError(f"these are not IRN's weights: {len(missing)} tensors are missing, such as {missing[0]}")
    try:
        model.load_state_dict({n: state[t] for n, t in wanted.items() if t in state}, strict=False)
    except RuntimeError as error:
        raise WeaksegError(f"these are not IRN's weights on ResNet50: {str(error).splitlines()[-1].strip()}") from None


_PUBLISHED = {
    "backbone.net.": "resnet50.",
    "edges.": "fc_edge",
    "edge.": "fc_edge6.",
    "displacements.": "fc_dp",
    "context.": "fc_dp6.",
    "displacement.0.": "fc_dp7.",
    "displacement.2.": "fc_dp7.3.",
    "mean_displacement": "mean_shift.running_mean",
}


def _fine_width(width: int, place: int) -> int:
    """A quarter for the finest stage, a half for the next: 64 and 128 of 256."""
    return width // 4 if place == 0 else width // 2


def _block(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """1x1 convolution and GroupNorm: `groups` groups, fewer where they would hold less than 8 channels."""
    groups = math.gcd(outputs, min(groups, max(1, outputs // 8)))
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs))


def _joined(maps: Tensor, stride: int, target: int, size: tuple[int, int]) -> Tensor:
    """ReLU of the maps brought from `stride` to `target`: upsampled by the whole factor and cropped, or averaged.

    Networks whose strides round sizes down (patches of ConvNeXt) lack cells at the end: the last ones are repeated.
    """
    if stride > target:
        maps = interpolate(maps, scale_factor=stride // target, mode="bilinear", align_corners=False)
        lacking = [max(0, n - m) for n, m in zip(size, maps.shape[2:], strict=True)]
        maps = pad(maps, (0, lacking[1], 0, lacking[0]), mode="replicate") if any(lacking) else maps
    elif stride < target:
        maps = interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps[:, :, : size[0], : size[1]].relu()
