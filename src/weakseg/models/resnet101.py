"""ResNet101 in Caffe's layout at output stride 8, the trunk of DeepLab V1 and V2 (methods.md 1.3).

He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, dilated as in Chen et al., PAMI 2018,
https://arxiv.org/abs/1606.00915. Parameter names are those of the published PyTorch checkpoints. torchvision's
ResNet101 is another network: its blocks stride in the 3x3 convolution, its max-pool rounds down and it reads RGB.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from weakseg.ops.image import CAFFE_MEAN, CAFFE_STD

BLOCKS = (3, 4, 23, 3)
"""Bottlenecks of layer2 to layer5."""
STRIDES = (1, 2, 1, 1)
"""Of the first 1x1 convolution of each layer."""
DILATIONS = (1, 1, 2, 4)
"""Of the 3x3 convolutions of each layer."""
MOMENTUM = 0.001
"""Of BatchNorm's running statistics, Caffe's default, where it is not frozen."""


class CaffeResNet101(nn.Module):
    """Images (B, 3, H, W), BGR, minus Caffe's mean, in; five feature maps out, finest first.

    The maps are the stem after its max-pool (64 channels, stride 4) and the outputs of layer2 (256, 4), layer3
    (512, 8), layer4 (1024, 8) and layer5 (2048, 8).
    """

    channels: ClassVar = (64, 256, 512, 1024, 2048)
    strides: ClassVar = (4, 4, 8, 8, 8)
    mean: ClassVar = CAFFE_MEAN
    std: ClassVar = CAFFE_STD
    bgr: ClassVar = True
    published: ClassVar = "deeplab-pytorch's .pth or DeepLab's .caffemodel"

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", ConvNorm(3, 64, 7, stride=2, padding=3))
        inputs = 64
        for number, (count, stride, dilation) in enumerate(zip(BLOCKS, STRIDES, DILATIONS, strict=True), start=2):
            outputs = 64 * 2**number
            layer = nn.Sequential()
            for index in range(1, count + 1):
                first = index == 1
                block = Bottleneck(inputs if first else outputs, outputs, stride if first else 1, dilation, first)
                layer.add_module(f"block{index}", block)
            self.add_module(f"layer{number}", layer)
            inputs = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        """The five maps; sides of the pooled stem are rounded up."""
        stem = relu(self.layer1(images))
        maps = [max_pool2d(stem, kernel_size=3, stride=2, padding=1, ceil_mode=True)]
        for number in range(2, 6):
            maps.append(self.get_submodule(f"layer{number}")(maps[-1]))
        return maps


class ConvNorm(nn.Module):
    """A convolution without bias and its BatchNorm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-5, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """BatchNorm of the convolution; no ReLU."""
        return self.bn(self.conv(x))


class Bottleneck(nn.Module):
    """1x1 with the stride, to a quarter of `outputs` channels, dilated 3x3, 1x1; a layer's first has a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        middle = outputs // 4
        self.reduce = ConvNorm(inputs, middle, 1, stride)
        self.conv3x3 = ConvNorm(middle, middle, 3, padding=dilation, dilation=dilation)
        self.increase = ConvNorm(middle, outputs, 1)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum of the residual and the shortcut."""
        residual = self.increase(relu(self.conv3x3(relu(self.reduce(x)))))
        return relu(residual + (x if self.shortcut is None else self.shortcut(x)))
