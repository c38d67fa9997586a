"""Backbones: any timm CNN that accepts `output_stride`, and those of the papers (methods.md 1.3).

Each returns the feature maps of all its stages and owns the normalisation that its weights were trained with.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import ResNet50_Weights, resnet50

from weakseg._words import near
from weakseg.models.folding import fold_norms
from weakseg.models.resnet38d import ResNet38d
from weakseg.models.resnet101 import CaffeResNet101
from weakseg.models.vgg16 import Vgg16
from weakseg.models.weights import check_description, load_state, load_weights
from weakseg.ops.image import normalise, normalise_bgr
from weakseg.types import LATER, Backbone, Normaliser, WeaksegError

ACCEPTING = ("resnet50", "mobilenetv2_100", "convnext_tiny")
"""Three networks to offer to whoever asked for one without `output_stride`."""


class FeatureNet(nn.Module):
    """Any backbone: normalised images in, the feature maps of its stages out.

    Args:
        net: images (B, 3, H, W) -> list of feature maps, finest first.
        channels: of each map.
        strides: input pixels a feature pixel, of each map.
        normalise: the network's own, uint8 RGB -> float32.

    Attributes:
        freeze_bn: BatchNorm stays in inference mode (stored statistics) in training.
    """

    def __init__(self, net: nn.Module, channels: Sequence[int], strides: Sequence[int], normalise: Normaliser) -> None:
        super().__init__()
        self.net = net
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.normalise = normalise
        self.freeze_bn = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, channels[i], ~H/strides[i], ~W/strides[i]), the last at the output stride."""
        if images.device.type == "cpu":  # a fifth faster there, for depthwise and plain convolutions alike
            images = images.contiguous(memory_format=torch.channels_last)
        return list(self.net(images))

    def train(self, mode: bool = True) -> "FeatureNet":
        """As `nn.Module.train`, save for a frozen BatchNorm."""
        super().train(mode)
        if self.freeze_bn:
            for module in batch_norms(self):
                module.eval()
        return self

    def stage(self, stride: int) -> int:
        """Index of the first map at `stride` (or coarser)."""
        return next((i for i, s in enumerate(self.strides) if s >= stride), len(self.strides) - 1)

    def freeze_until(self, index: int) -> None:
        """Fix every parameter that feature map `index` depends on.

        The gradient then stops there, as if that map were detached, and autograd records nothing of what lies below.
        """
        for parameter in _ancestors(self, index):
            parameter.requires_grad_(False)


def build_backbone(
    backbone: Backbone, *, freeze_bn: bool = False, freeze_affine: bool = False, freeze_stem: bool = False
) -> FeatureNet:
    """Build the network that `backbone` describes and load its weights.

    Args:
        backbone: name, weights, output stride, normalisation.
        freeze_bn: BatchNorm always works with its stored statistics.
        freeze_affine: BatchNorm's scale and shift are not trained.
        freeze_stem: nothing is trained that the first feature map depends on.

    Returns:
        the network, in training mode.

    Raises:
        WeaksegError: an unknown name; a network without `output_stride`; weights that are not downloadable, missing,
            damaged or of another network; frozen BatchNorm with random weights.
    """
    build = OWN.get(backbone.name, _timm)
    model = build(backbone)
    if freeze_bn and backbone.weights is None and batch_norms(model):
        raise WeaksegError(
            f"frozen BatchNorm with random weights would normalise {backbone.name} by statistics that nobody measured: "
            "give weights, or train BatchNorm (freeze_bn = false)"
        )
    if freeze_affine:
        for module in batch_norms(model):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    model.freeze_bn = freeze_bn
    fold_norms(model)
    if freeze_stem:
        model.freeze_until(0)
    return model.train()


def backbone_from_name(name: str, output_stride: int = 16) -> Backbone:
    """The downloadable network `name` with the mean and std that its weights were trained with.

    Raises:
        WeaksegError: an unknown name.
    """
    if name in PAPERS:
        return Backbone(name, output_stride=output_stride, mean=PAPERS[name].mean, std=PAPERS[name].std)
    if name in OWN:
        return Backbone(name, output_stride=output_stride)
    mean, std = _timm_statistics(name)
    return Backbone(name, output_stride=output_stride, mean=mean, std=std)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All BatchNorm layers of a model, in order."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


# --- timm ---


def _timm(backbone: Backbone) -> FeatureNet:
    _check_known(backbone.name)
    if backbone.weights == "pretrained":
        _check_statistics(backbone)
    elif backbone.weights not in (None, LATER):
        check_description(backbone)
    net = _create(backbone, pretrained=backbone.weights == "pretrained")
    if backbone.weights not in ("pretrained", None, LATER):
        load_weights(net, backbone.weights, unused=_whole_network_names(backbone))
    info = net.feature_info
    return FeatureNet(net, info.channels(), info.reduction(), _normaliser(backbone))


def _create(backbone: Backbone, pretrained: bool) -> Any:
    arguments = {**backbone.create, "features_only": True, "output_stride": backbone.output_stride}
    try:
        return timm.create_model(backbone.name, pretrained=pretrained, **arguments)
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise WeaksegError(
            f"{backbone.name} does not accept output_stride={backbone.output_stride} with {dict(backbone.create)} "
            f"({str(error)[:120] or type(error).__name__}); networks that do are {', '.join(ACCEPTING)}"
        ) from None
    except Exception as error:
        if not pretrained:
            raise
        raise _not_downloadable(backbone.name, error) from None


def _check_known(name: str) -> None:
    names = [*timm.list_models(), *OWN]
    if name.partition(".")[0] not in names:
        raise WeaksegError(f"there is no backbone {name!r} in timm {timm.__version__} or weakseg{near(name, names)}")


def _timm_statistics(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    _check_known(name)
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise WeaksegError(f"timm has no weights for {name}: give a file with --weights FILE")
    return tuple(config.mean), tuple(config.std)  # type: ignore[return-value]


def _check_statistics(backbone: Backbone) -> None:
    mean, std = _timm_statistics(backbone.name)
    if (tuple(backbone.mean), tuple(backbone.std)) != (mean, std):
        raise WeaksegError(
            f"timm's weights of {backbone.name} were trained with mean {mean} and std {std}, the backbone says "
            f"{tuple(backbone.mean)} and {tuple(backbone.std)}: build it with backbone_from_name"
        )


def _whole_network_names(backbone: Backbone) -> list[str]:
    """Parameter names of the classification network; what the feature extractor lacks of them may be left over."""
    with torch.device("meta"):
        return list(timm.create_model(backbone.name, **backbone.create).state_dict())


# --- ResNet50 of IRN and AMN ---


class _IrnStages(nn.Module):
    """torchvision's ResNet50 with strides (2, 2, 2, 1), no dilation: five maps, stem with max-pool first."""

    def __init__(self) -> None:
        super().__init__()
        whole = resnet50(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        first: Any = self.layer4[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.maxpool(self.relu(self.bn1(self.conv1(images))))]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


def _irn_resnet50(backbone: Backbone) -> FeatureNet:
    if backbone.output_stride != 16:
        raise WeaksegError(f"irn_resnet50 has output stride 16 by its strides; got {backbone.output_stride}")
    if backbone.create:
        raise WeaksegError(f"irn_resnet50 takes no creation options; got {dict(backbone.create)}")
    net = _IrnStages()
    classifier = ("fc.weight", "fc.bias")
    if backbone.weights == "pretrained":
        published = ResNet50_Weights.IMAGENET1K_V1
        try:
            state = published.get_state_dict(progress=False, check_hash=True)
        except Exception as error:
            raise _not_downloadable(backbone.name, error) from None
        load_state(net, state, str(published), unused=classifier)
    elif backbone.weights not in (None, LATER):
        check_description(backbone)
        load_weights(net, str(backbone.weights), unused=classifier)
    return FeatureNet(net, (64, 256, 512, 1024, 2048), (4, 4, 8, 16, 16), _normaliser(backbone))


# --- the papers' other networks, each in a file of its own ---

PAPERS: dict[str, Any] = {"resnet38d": ResNet38d, "vgg16d": Vgg16, "resnet101_caffe": CaffeResNet101}
"""Their modules by name. Each tells `channels` and `strides` of its maps, `mean`, `std` and channel order."""


def _papers(backbone: Backbone) -> FeatureNet:
    kind = PAPERS[backbone.name]
    if backbone.output_stride != kind.strides[-1]:
        raise WeaksegError(
            f"{backbone.name} has output stride {kind.strides[-1]} by its strides; got {backbone.output_stride}"
        )
    if backbone.weights == "pretrained":
        raise WeaksegError(
            f"{backbone.name} has no download: convert {kind.published} with `weakseg weights convert` and give the "
            "result with --weights FILE"
        )
    try:
        net = kind(**backbone.create)
    except TypeError as error:
        raise WeaksegError(f"{backbone.name} has no such creation option: {str(error).rpartition(' ')[2]}") from None
    if backbone.weights not in (None, LATER):
        check_description(backbone)
        with torch.device("meta"):
            whole = kind().state_dict()
        load_weights(net, str(backbone.weights), unused=whole)  # options may leave layers out
    shift = normalise_bgr if kind.bgr else normalise
    return FeatureNet(net, net.channels, net.strides, functools.partial(shift, mean=backbone.mean, std=backbone.std))


OWN: dict[str, Callable[[Backbone], FeatureNet]] = {"irn_resnet50": _irn_resnet50, **dict.fromkeys(PAPERS, _papers)}
"""Networks that timm does not have, by name."""


# --- both ---


def _normaliser(backbone: Backbone) -> Normaliser:
    return functools.partial(normalise, mean=tuple(backbone.mean), std=tuple(backbone.std))


def _not_downloadable(name: str, error: Exception) -> WeaksegError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return WeaksegError(
        f"the pretrained weights of {name} could not be downloaded ({type(error).__name__}: {reason[:160]}): "
        "go online, or give a file with --weights FILE"
    )


def _ancestors(model: FeatureNet, index: int) -> list[nn.Parameter]:
    """Parameters on which map `index` depends, found by asking autograd on a small image."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return []
    training = model.training
    image = parameters[0].new_zeros(1, 3, 64, 64)
    with torch.enable_grad():
        out = model.eval()(image)[index].sum()
    model.train(training)
    gradients = torch.autograd.grad(out, parameters, allow_unused=True)
    return [p for p, g in zip(parameters, gradients, strict=True) if g is not None]
