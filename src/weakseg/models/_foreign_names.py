"""How other tools name the tensors of the papers' networks, turned into the names used here."""

import re
from collections.abc import Iterable, Mapping
from math import prod

import torch
from torch import Tensor

from weakseg.models.caffemodel import Layer
from weakseg.models.vgg16 import DEPTHS
from weakseg.types import WeaksegError

_MXNET_KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
_MXNET_BLOCK = re.compile(r"(res|bn)(\d)(?:a|b(\d+))_(branch\w+?)_(weight|gamma|beta|moving_mean|moving_var)")
_CAFFE_BLOCK = re.compile(r"(res|bn|scale)(\d)(?:b(\d+)|([a-z]))_branch(1|2a|2b|2c)")
_CAFFE_STEM = {"conv1": "res", "bn_conv1": "bn", "scale_conv1": "scale"}
_CAFFE_PARTS = {"1": "shortcut", "2a": "reduce", "2b": "conv3x3", "2c": "increase"}
_GROUPS = [f"conv{group}_{index}" for group, depth in enumerate(DEPTHS, start=1) for index in range(1, depth + 1)]
_TORCHVISION = dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), _GROUPS, strict=True))
_TORCHVISION_SHAPES = {
    "features.0.weight": (64, 3, 3, 3),
    "classifier.0.weight": (4096, 25088),
    "classifier.0.bias": (4096,),
    "classifier.3.weight": (4096, 4096),
    "classifier.3.bias": (4096,),
}
_LONGEST = 500
"""Characters of the longest name that is looked at."""


def from_mxnet(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ResNet38's tensors under the names of `models.resnet38d`; others keep theirs.

    MXNet calls the first block of stage 3 ``res3a``, the next ``res3b1``, and their BatchNorms ``bn3a``, ``bn3b1``.
    """
    return {_mxnet_name(name): tensor for name, tensor in params.items()}


def _mxnet_name(name: str) -> str:
    if found := _MXNET_BLOCK.fullmatch(name):
        layer, stage, later, branch, kind = found.groups()
        block = f"b{stage}" + (f"_{later}" if later else "")
        return f"{block}.{'conv' if layer == 'res' else 'bn'}_{branch}.{_MXNET_KINDS.get(kind, kind)}"
    for kind, own in _MXNET_KINDS.items():
        if name == f"bn7_{kind}":
            return f"bn7.{own}"
    return "conv1a.weight" if name == "conv1a_weight" else name


def from_caffe(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Tensors of a ResNet under the names of `models.resnet101`, of any other network as ``layer.weight``, ``.bias``.

    Caffe keeps a BatchNorm's statistics in one layer, as sums with a common factor, and its scale and shift in another.

    Raises:
        WeaksegError: a layer with blobs of unknown meaning.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        kind, own = _caffe_name(name)
        if len(layer.blobs) > (3 if kind == "bn" else 2):
            raise WeaksegError(f"layer {name} ({layer.type}) has {len(layer.blobs)} blobs: not a network known here")
        blobs = [blob.flatten() for blob in layer.blobs] if kind in ("bn", "scale") else list(layer.blobs)
        if kind == "bn" and len(blobs) == 3:
            factor = float(blobs.pop()[0])
            blobs = [blob / factor if factor else torch.zeros_like(blob) for blob in blobs]
        kinds = ("running_mean", "running_var") if kind == "bn" else ("weight", "bias")
        tensors |= {f"{own}.{k}": blob for k, blob in zip(kinds, blobs, strict=False)}
    return tensors


def _caffe_name(name: str) -> tuple[str, str]:
    """What the layer is (``res``, ``bn``, ``scale``, or nothing) and its name here."""
    if name in _CAFFE_STEM:
        kind, own = _CAFFE_STEM[name], "layer1.conv1"
    elif found := _CAFFE_BLOCK.fullmatch(name):
        kind, stage, number, letter, branch = found.groups()
        block = int(number) + 1 if number else "abcdefghijklmnopqrstuvwxyz".index(letter) + 1
        own = f"layer{stage}.block{block}.{_CAFFE_PARTS[branch]}"
    else:
        return "", name
    return kind, own + (".conv" if kind == "res" else ".bn")


def from_torchvision_vgg16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's VGG16 as `models.vgg16`: channels of the first layer turned to BGR, fc6 and fc7 thinned out.

    Of fc6, 4096 filters of 7 x 7, every fourth filter and every third row and column are kept; of fc7 every fourth
    filter and input (the decimation of DeepLab V1, sec. 3.1, which draws the filters at random).

    Raises:
        WeaksegError: tensors of other shapes.
    """
    for name, shape in _TORCHVISION_SHAPES.items():
        if tuple(state[name].shape) != shape:
            raise WeaksegError(f"torchvision's VGG16 has {name} {shape}, the file {tuple(state[name].shape)}")
    own = {f"{group}.{k}": state[f"features.{i}.{k}"] for i, group in _TORCHVISION.items() for k in ("weight", "bias")}
    own["conv1_1.weight"] = own["conv1_1.weight"].flip(1)
    own["fc6.weight"] = state["classifier.0.weight"].reshape(4096, 512, 7, 7)[::4, :, ::3, ::3]
    own["fc7.weight"] = state["classifier.3.weight"][::4, ::4, None, None]
    return own | {"fc6.bias": state["classifier.0.bias"][::4], "fc7.bias": state["classifier.3.bias"][::4]}


def is_torchvision_vgg16(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of torchvision's VGG16 without BatchNorm, with its classifier."""
    layers = [f"features.{i}" for i in _TORCHVISION] + ["classifier.0", "classifier.3"]
    return all(f"{layer}.{kind}" in state for layer in layers for kind in ("weight", "bias"))


def common_prefix(names: Iterable[str], wanted: Iterable[str]) -> str:
    """What stands before the names in a file of a network that holds this one (``base.``, ``module.backbone.net.``).

    Args:
        names: of the file.
        wanted: of the network.

    Returns:
        the prefix, "" or ending with a dot, under which most of `wanted` are found; the shortest of several.
    """
    target = set(wanted)
    found: dict[str, int] = {"": 0}
    for name in (n for n in names if len(n) <= _LONGEST):
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            if name[start:] in target:
                found[name[:start]] = found.get(name[:start], 0) + 1
    return min(found, key=lambda prefix: (-found[prefix], len(prefix)))


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """`tensor` in `shape` if the two differ by sides of 1 alone (Caffe's 1 x 1 x 1 x C), else None."""
    if tuple(tensor.shape) == shape:
        return tensor
    same = [s for s in tensor.shape if s != 1] == [s for s in shape if s != 1]
    return tensor.reshape(shape) if same and tensor.numel() == prod(shape) else None
