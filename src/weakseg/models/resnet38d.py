"""ResNet38: the wide pre-activation network of PSA, SEAM, EPS and AEFT, at output stride 8 (methods.md 1.3).

Wu, Shen and van den Hengel, "Wider or Deeper", Pattern Recognition 2019, https://arxiv.org/abs/1611.10080. Parameter
names are those of the checkpoints that PSA's descendants publish. Every convolution is without bias.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import relu

from weakseg.types import WeaksegError

DROPOUTS = (0.3, 0.5)
"""Probabilities in b6 and b7; AEFT has (0.2, 0.2) (methods.md 9.1)."""


class ResNet38d(nn.Module):
    """Images (B, 3, H, W), RGB, normalised with ImageNet's statistics, in; five feature maps out, finest first.

    The maps are the output of b2 (128 channels, stride 2), that of b3 (256, 4), and at stride 8 the taps: ``conv4``
    (512), what b5 makes of its input by its first BatchNorm and ReLU; ``conv5`` (1024), the same of b6; ``conv6``
    (4096), after the last BatchNorm and ReLU.

    CAM, PSA, SEAM, EPS and AEFT keep conv1a, b2 and all BatchNorm fixed: `FeatureNet.freeze_until` of map 0 with
    `build_backbone`'s `freeze_bn` and `freeze_affine`.

    Args:
        dropouts: probabilities in b6 and b7, of a whole channel, before each of the last two convolutions.
    """

    channels: ClassVar = (128, 256, 512, 1024, 4096)
    strides: ClassVar = (2, 4, 8, 8, 8)
    taps: ClassVar = {"conv4": 2, "conv5": 3, "conv6": 4}
    mean: ClassVar = (0.485, 0.456, 0.406)
    std: ClassVar = (0.229, 0.224, 0.225)
    bgr: ClassVar = False
    published: ClassVar = "the MXNet file ilsvrc-cls_rna-a1_cls1000_ep-0001.params"

    def __init__(self, dropouts: Sequence[float] = DROPOUTS) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.b2 = PlainBlock(64, 128, 128, stride=2)
        self.b2_1 = PlainBlock(128, 128, 128)
        self.b2_2 = PlainBlock(128, 128, 128)
        self.b3 = PlainBlock(128, 256, 256, stride=2)
        self.b3_1 = PlainBlock(256, 256, 256)
        self.b3_2 = PlainBlock(256, 256, 256)
        self.b4 = PlainBlock(256, 512, 512, stride=2)
        self.b4_1 = PlainBlock(512, 512, 512)
        self.b4_2 = PlainBlock(512, 512, 512)
        self.b4_3 = PlainBlock(512, 512, 512)
        self.b4_4 = PlainBlock(512, 512, 512)
        self.b4_5 = PlainBlock(512, 512, 512)
        self.b5 = PlainBlock(512, 512, 1024, dilations=(1, 2))
        self.b5_1 = PlainBlock(1024, 512, 1024, dilations=(2, 2))
        self.b5_2 = PlainBlock(1024, 512, 1024, dilations=(2, 2))
        self.b6 = Bottleneck(1024, 2048, dilation=4)
        self.b7 = Bottleneck(2048, 4096, dilation=4)
        self.bn7 = nn.BatchNorm2d(4096)
        set_dropouts(self, dropouts)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The five maps, each (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))."""
        b2 = self.b2_2(self.b2_1(self.b2(self.conv1a(images))))
        b3 = self.b3_2(self.b3_1(self.b3(b2)))
        b4 = self.b4_2(self.b4_1(self.b4(b3)))
        b4 = self.b4_5(self.b4_4(self.b4_3(b4)))
        conv4 = self.b5.activate(b4)
        b5 = self.b5_2(self.b5_1(self.b5.branches(b4, conv4)))
        conv5 = self.b6.activate(b5)
        b7 = self.b7(self.b6.branches(b5, conv5))
        return [b2, b3, conv4, conv5, relu(self.bn7(b7))]


def set_dropouts(model: nn.Module, dropouts: Sequence[float]) -> bool:
    """Set the dropout probabilities of b6 and b7 of the ResNet38 that `model` is or holds.

    Args:
        model: changed in place.
        dropouts: of b6 and b7, at least 0 and below 1.

    Returns:
        whether there is a ResNet38 in `model`; without one nothing changes.

    Raises:
        WeaksegError: not two such probabilities.
    """
    if len(dropouts) != 2 or not all(0 <= p < 1 for p in dropouts):
        raise WeaksegError(f"dropouts are two probabilities below 1, of b6 and b7, such as (0.3, 0.5); got {dropouts}")
    nets = [m for m in model.modules() if isinstance(m, ResNet38d)]
    for net in nets:
        net.b6.dropout.p, net.b7.dropout.p = map(float, dropouts)
    return bool(nets)


class _Block(nn.Module):
    """Pre-activation: BatchNorm and ReLU come before the convolutions, and a 1x1 shortcut takes their output too."""

    bn_branch2a: nn.BatchNorm2d
    conv_branch1: nn.Conv2d | None

    def forward(self, x: Tensor) -> Tensor:
        return self.branches(x, self.activate(x))

    def activate(self, x: Tensor) -> Tensor:
        return relu(self.bn_branch2a(x))

    def branches(self, x: Tensor, activated: Tensor) -> Tensor:
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(activated)
        return shortcut + self.residual(activated)

    def residual(self, activated: Tensor) -> Tensor:
        raise NotImplementedError


class PlainBlock(_Block):
    """Two 3x3 convolutions, `inputs` -> `middle` -> `outputs` channels, the first with `stride`."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        first, second = dilations
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, middle, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, outputs, 3, padding=second, dilation=second, bias=False)
        same = inputs == outputs and stride == 1
        self.conv_branch1 = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def residual(self, activated: Tensor) -> Tensor:
        """3x3, BatchNorm, ReLU, 3x3."""
        return self.conv_branch2b1(relu(self.bn_branch2b1(self.conv_branch2a(activated))))


class Bottleneck(_Block):
    """1x1 to a quarter of `outputs` channels, dilated 3x3 to the half, 1x1; dropout before each of the last two."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        quarter, half = outputs // 4, outputs // 2
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout = nn.Dropout2d()
        self.conv_branch2b1 = nn.Conv2d(quarter, half, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.conv_branch2b2 = nn.Conv2d(half, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def residual(self, activated: Tensor) -> Tensor:
        """1x1, BatchNorm, ReLU, dropout, 3x3, BatchNorm, ReLU, dropout, 1x1."""
        middle = self.dropout(relu(self.bn_branch2b1(self.conv_branch2a(activated))))
        return self.conv_branch2b2(self.dropout(relu(self.bn_branch2b2(self.conv_branch2b1(middle)))))


def tap(maps: Sequence[Tensor], name: str) -> Tensor:
    """The map ``conv4``, ``conv5`` or ``conv6`` among those that `ResNet38d` returns."""
    return maps[ResNet38d.taps[name]]
