"""VGG16 at output stride 8: PSA's `vgg16d`, BANA's classifier and the trunk of DeepLab LargeFOV (methods.md 1.3).

Simonyan and Zisserman, ICLR 2015, https://arxiv.org/abs/1409.1556, with the convolutional fc6 and fc7 of DeepLab V1
(Chen et al., ICLR 2015, https://arxiv.org/abs/1412.7062). Parameter names are Caffe's, as in the published files.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, dropout2d, max_pool2d, relu

from weakseg.ops.image import CAFFE_MEAN, CAFFE_STD
from weakseg.types import WeaksegError

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five groups of convolutions."""
DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions in each group."""
POOL_STRIDES = (2, 2, 2, 1, 1)
"""Of the 3x3 max-pools after each group; the fifth is applied by BANA only."""
DILATIONS = (1, 1, 1, 1, 2)
"""Of the convolutions of each group."""


class Vgg16(nn.Module):
    """Images (B, 3, H, W), BGR, minus Caffe's mean, in; five feature maps out, finest first.

    The maps are pool2 (128 channels, stride 4), pool3 (256, 8) and, at stride 8, the taps ``conv4`` (pool4, 512),
    ``conv5`` (512) and ``conv5fc`` (fc7, 1024).

    PSA keeps conv1 and conv2 fixed (`FeatureNet.freeze_until` of map 0), BANA nothing.

    Args:
        dilation: of fc6: 1 in PSA's and BANA's classifiers, 4 in PSA's AffinityNet, 12 in LargeFOV.
        pool5: apply the fifth max-pool and a 3x3 average pool before fc6, as BANA does; PSA defines both and applies
            neither.
        fc: end with fc6 and fc7; without them `conv5` is the last map.
        dropout: probability of dropping a channel.
        drop_last: drop channels after fc7 too, as BANA and LargeFOV do, not after fc6 alone; PSA's classifier drops
            them itself, its AffinityNet does not.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512, 1024)
    strides: tuple[int, ...] = (4, 8, 8, 8, 8)
    taps: ClassVar = {"conv4": 2, "conv5": 3, "conv5fc": 4}
    mean: ClassVar = CAFFE_MEAN
    std: ClassVar = CAFFE_STD
    bgr: ClassVar = True
    published: ClassVar = "the Caffe file vgg16_20M.caffemodel"

    def __init__(
        self, dilation: int = 1, pool5: bool = False, fc: bool = True, dropout: float = 0.5, drop_last: bool = False
    ) -> None:
        super().__init__()
        inputs = 3
        for group, (width, depth, rate) in enumerate(zip(WIDTHS, DEPTHS, DILATIONS, strict=True), start=1):
            for index in range(1, depth + 1):
                layer = nn.Conv2d(inputs, width, 3, padding=rate, dilation=rate)
                self.add_module(f"conv{group}_{index}", layer)
                inputs = width
        self.fc6: nn.Conv2d | None = nn.Conv2d(512, 1024, 3)
        self.fc7: nn.Conv2d | None = nn.Conv2d(1024, 1024, 1)
        self.pool5, self.dropout, self.drop_last = pool5, dropout, drop_last
        configure(self, dilation=dilation)
        if not fc:
            self.drop_fc()

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, each (B, channels[i], ~H / strides[i], ~W / strides[i])."""
        maps, x = [], images
        for group in range(1, 6):
            x = self._convolve(x, group)
            if group < 5:
                x = max_pool2d(x, 3, POOL_STRIDES[group - 1], padding=1)
            if group > 1:
                maps.append(x)
        if self.fc6 is None or self.fc7 is None:
            return maps
        if self.pool5:
            x = avg_pool2d(max_pool2d(x, 3, POOL_STRIDES[4], padding=1), 3, 1, padding=1)
        x = dropout2d(relu(self.fc6(x)), self.dropout, self.training)
        x = dropout2d(relu(self.fc7(x)), self.dropout, self.training and self.drop_last)
        return [*maps, x]

    def drop_fc(self) -> None:
        """Leave fc6 and fc7 out: conv5 is then the last map."""
        self.fc6 = self.fc7 = None
        self.channels, self.strides = Vgg16.channels[:-1], Vgg16.strides[:-1]

    def _convolve(self, x: Tensor, group: int) -> Tensor:
        for index in range(1, DEPTHS[group - 1] + 1):
            x = relu(self.get_submodule(f"conv{group}_{index}")(x))
        return x


def configure(
    model: nn.Module, *, dilation: int | None = None, pool5: bool | None = None, drop_last: bool | None = None
) -> bool:
    """Make PSA's, BANA's or LargeFOV's of the VGG16 that `model` is or holds.

    Args:
        model: changed in place.
        dilation: of fc6, feature pixels, 1 or more; None = as it is.
        pool5: whether the fifth max-pool and the average pool are applied; None = as it is.
        drop_last: whether channels are dropped after fc7 as well as after fc6; None = as it is.

    Returns:
        whether there is a VGG16 in `model`; without one nothing changes.

    Raises:
        WeaksegError: another dilation.
    """
    if dilation is not None and dilation < 1:
        raise WeaksegError(f"the dilation of fc6 is 1 or more feature pixels; got {dilation}")
    nets = [m for m in model.modules() if isinstance(m, Vgg16)]
    for net in nets:
        net.pool5 = net.pool5 if pool5 is None else pool5
        net.drop_last = net.drop_last if drop_last is None else drop_last
        if net.fc6 is not None and dilation is not None:
            net.fc6.dilation = net.fc6.padding = (dilation, dilation)
    return bool(nets)
