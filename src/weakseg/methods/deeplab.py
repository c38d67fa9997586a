"""DeepLab: a segmentation network trained on label maps, whoever made them.

Chen et al.: V1 LargeFOV (ICLR 2015, https://arxiv.org/abs/1412.7062), V2 ASPP (PAMI 2018, https://arxiv.org/abs/1606.00915),
V3+ (ECCV 2018, https://arxiv.org/abs/1802.02611), on any backbone. Constants: methods.md 10 and 9.6.
``v1``, ``v2``, ``v3plus`` and ``mobile`` suit any backbone; the other names say the network that their papers train.
Supervision: label maps. Reference on VOC 2012 val, V2 on ResNet101, full supervision: 76.65 mIoU (77.93 with CRF).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from weakseg.models.backbones import build_backbone
from weakseg.models.deeplab import DeepLab, HeadName
from weakseg.ops.crf import CrfImage, crf_image, dense_crf, recipe, unary_from_probabilities
from weakseg.ops.image import resize_image, resize_labels
from weakseg.ops.losses import balanced_cross_entropy, cross_entropy
from weakseg.ops.views import max_of_views, mean_of_views, turned_back
from weakseg.types import (
    SEEDS,
    Augmentation,
    AugmentationStep,
    Backbone,
    Batch,
    Flip,
    HsvJitter,
    LabelMap,
    Normalise,
    Optimisation,
    PadCrop,
    Rescale,
    Sample,
    Step,
    WeaksegError,
    optimisation_of,
)

_MSC_SCALES = (1.0, 0.75, 0.5)


@dataclass(frozen=True, slots=True)
class Segment:
    """A DeepLab, its training and its multi-scale prediction; the defaults are V2's on ResNet101 (methods.md 10)."""

    needs: ClassVar[frozenset[str]] = frozenset()
    # since runs exist, and what stands for "as before"
    added: ClassVar[Mapping[str, Any]] = {"crf_image": "rgb", "guard": True, "test_size": None}

    # network
    head: HeadName = "aspp"
    rates: tuple[int, ...] | None = None  # None: the paper's, for output stride 8; halve them at 16
    channels: int = 256  # inner width of V3+ and of the heads on ResNet38
    freeze_bn: bool = True  # sec. 1.3
    freeze_affine: bool = True  # the published code trains the convolutions only
    freeze_stem: bool = False
    # training, sec. 10
    crop: int = 321
    train_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    iterations: int | None = 20_000  # None: `epochs` decide
    epochs: int = 20
    batch_size: int = 10
    accumulate: int = 2
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 2.5e-4
    new_factor: float = 10.0
    bias_factor: float | None = 2.0  # head biases 20 lr, without weight decay
    weight_decay: float = 5e-4
    momentum: float = 0.9
    interval: int = 10  # the poly rate is updated every 10 steps
    loss: Literal["ce", "balanced"] = "ce"
    loss_at: Literal["features", "crop"] = "features"
    guard: bool = True  # False: 0 / 0 in a batch without labelled pixels, as published (sec. 13)
    msc: bool = False  # train on 1x, 0.75x, 0.5x and their maximum
    # prediction
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    flip: bool = True
    average: Literal["softmax", "logits", "max"] = "softmax"
    test_size: int | None = None  # side of the square that photographs are scaled to (513 in EPS); None: native (6.8)
    crf: str | None = None  # a recipe of sec. 1.4, such as "deeplab_v2_res101"
    crf_image: CrfImage = "rgb"  # deeplab-pytorch's published numbers come from wrapped_bgr (1.4)

    @property
    def augmentation(self) -> Augmentation:
        """A scale from the list, padding at right and bottom with mean colour and 255, crop, flip."""
        return Augmentation((Rescale(choices=self.train_scales), Normalise(), PadCrop(self.crop), Flip()))

    @property
    def optimisation(self) -> Optimisation:
        """Poly decay; head at `new_factor` times the rate."""
        return optimisation_of(self, schedule="poly", power=0.9)

    def build(self, num_classes: int, backbone: Backbone) -> DeepLab:
        """The network over background and `num_classes` classes."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        return DeepLab(features, num_classes, self.head, self.rates, self.channels)

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Cross-entropy (plain or balanced) against the seeds ``seeds``.

        ``loss_at = "features"``: at the resolution of the logits, labels resized by nearest neighbour (the published
        code); ``"crop"``: at the resolution of the crop, logits resized bilinearly, which a stride of 16 wants. With
        `msc` one term for each scale and one for their maximum, added up (a sum, not a mean).
        """
        if SEEDS not in batch.seeds:
            raise WeaksegError(f"deeplab reads the seeds {SEEDS!r}: name an earlier step under `seeds` in the recipe")
        labels = batch.seeds[SEEDS]
        if not self.msc:
            return {"seg": self._loss(model(batch.images), labels)}
        outputs = multi_scale_logits(model, batch.images)
        return {f"seg_{name}": self._loss(logits, labels) for name, logits in outputs.items()}

    def predict(self, model: DeepLab, sample: Sample) -> LabelMap:
        """uint8 (H, W): argmax of `probabilities`, after a CRF if `crf` names one."""
        probabilities = self.probabilities(model, sample)
        if self.crf is not None:
            unary = unary_from_probabilities(probabilities)
            probabilities = dense_crf(crf_image(sample.image, self.crf_image), unary, recipe(self.crf))
        return probabilities.argmax(dim=0).to(torch.uint8)

    def probabilities(self, model: DeepLab, sample: Sample) -> Tensor:
        """float32 (C + 1, H, W), summing to one over the classes (but with ``"max"``), on the model's device.

        The logits of each view are resized bilinearly to the photograph; ``average = "softmax"`` takes the mean of
        their softmax, ``"logits"`` the softmax of their mean, ``"max"`` the maximum of their softmax.
        """
        views = (self._resized(v, sample.size) for v in self._views(model, sample))
        if self.average == "softmax":
            return mean_of_views(v.softmax(dim=1) for v in views)
        if self.average == "max":
            return max_of_views(v.softmax(dim=1) for v in views)
        return mean_of_views(views).softmax(dim=0)

    def one_view(self, model: DeepLab, images: Tensor) -> Tensor:
        """float32 (B, C + 1, H, W), summing to one: softmax of photographs uint8 (B, 3, H, W) as they are.

        `probabilities` with the one scale 1 and nothing else: no mirror image, no `test_size`. What leaves weakseg for
        other runtimes is this.
        """
        return self._resized(self._logits(model, model.normalise(images)).float(), images.shape[2:]).softmax(dim=1)

    def _resized(self, logits: Tensor, size: Iterable[int]) -> Tensor:
        return interpolate(logits, tuple(size), mode="bilinear", align_corners=False)

    def _views(self, model: DeepLab, sample: Sample) -> Iterable[Tensor]:
        """float (1 or 2, C + 1, h_s, w_s) of each scale; the mirror image's logits are turned back."""
        image = sample.image.as_subclass(Tensor)
        height, width = sample.size if self.test_size is None else (self.test_size, self.test_size)
        for scale in self.scales:
            size = max(1, round(scale * height)), max(1, round(scale * width))
            scaled = image if size == sample.size else resize_image(image, size)
            images = model.normalise(scaled.to(model.device))[None]
            if self.flip:
                images = torch.cat([images, images.flip(-1)])
            yield turned_back(self._logits(model, images).float())

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        return multi_scale_logits(model, images)["max"] if self.msc else model(images)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return segmentation_loss(logits, labels, loss=self.loss, at=self.loss_at, guard=self.guard)


@dataclass(frozen=True, slots=True)
class SegmentResNet38(Segment):
    """DeepLab V1 on ResNet38 as SEAM and as AEFT train it; the defaults are SEAM's (methods.md 10)."""

    head: HeadName = "seam"
    channels: int = 512
    crop: int = 448
    scale_range: tuple[float, float] = (0.5, 1.5)  # uniform; `train_scales` are not used
    train_scales: tuple[float, ...] = ()
    hsv_jitter: int = 10  # levels of 255 of saturation and value, steps of 2 degrees of hue
    accumulate: int = 1
    lr: float = 1e-3
    bias_factor: float | None = None
    interval: int = 1
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    crf: str | None = "seam_codebase"

    @property
    def augmentation(self) -> Augmentation:
        """A uniform scale, jitter, padding at right and bottom with mean colour and 255, crop, flip."""
        jitter: tuple[AugmentationStep, ...] = (HsvJitter(self.hsv_jitter),) if self.hsv_jitter else ()
        return Augmentation((Rescale(*self.scale_range), *jitter, Normalise(), PadCrop(self.crop), Flip()))

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Without MSC, which is for training here: the scales of the prediction are its own."""
        logits: Tensor = model(images)
        return logits


def multi_scale_logits(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """MSC: logits of the images at 1x, 0.75x and 0.5x and the maximum of the three on the 1x grid.

    Args:
        model: normalised images -> logits (B, C + 1, h, w).
        images: float (B, 3, H, W), normalised.

    Returns:
        ``"1.0"``, ``"0.75"``, ``"0.5"`` at their own resolution and ``"max"`` at that of 1x. The training loss is the
        sum of `segmentation_loss` over the four, the prediction is ``"max"``.

    References:
        methods.md 10, as deeplab-pytorch resizes: sides rounded down, sampled in steps of 1 / scale exactly.
    """
    outputs = {str(s): model(_resized(images, s)) for s in _MSC_SCALES}
    grid = outputs["1.0"].shape[2:]
    on_grid = [interpolate(o, grid, mode="bilinear", align_corners=False) for o in outputs.values()]
    return {**outputs, "max": torch.stack(on_grid).amax(dim=0)}


def _resized(images: Tensor, scale: float) -> Tensor:
    return images if scale == 1 else interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    loss: Literal["ce", "balanced"] = "ce",
    at: Literal["features", "crop"] = "features",
    guard: bool = True,
) -> Tensor:
    """Cross-entropy of a network's logits against label maps of another resolution.

    Args:
        logits: float (B, C + 1, h, w), channel 0 = background.
        labels: uint8 (B, H, W), ids 0..C or 255 = ignore.
        loss: ``ce``: the mean over labelled pixels; ``balanced``: that over foreground plus that over background.
        at: ``features``: labels resized to h x w by nearest neighbour (the published code); ``crop``: logits resized
            bilinearly to H x W.
        guard: a mean over no pixel is zero; False: nan, as published.

    Returns:
        float (), >= 0.

    References:
        methods.md 10; 8.7 for the balanced one, a sum of the two means.

    >>> labels = torch.tensor([[[1, 1, 255, 0]]], dtype=torch.uint8)
    >>> segmentation_loss(torch.zeros(1, 4, 1, 2), labels)  # the labels become 1 and 0: ln 4
    tensor(1.3863)
    """
    if at == "crop":
        logits = interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    else:
        labels = resize_labels(labels, (logits.shape[2], logits.shape[3]))
    if loss == "ce":
        return cross_entropy(logits, labels, guard=guard)
    return balanced_cross_entropy(logits, labels, half=False, guard=guard)


_NATIVE: dict[str, Any] = {"scales": (1.0,), "flip": False}  # how deeplab-pytorch tests, sec. 6.8 row 11

METHODS = {
    "v1": Segment(head="conv1x1", accumulate=1, interval=1),
    "v2": Segment(),
    "v3plus": Segment(  # no paper's: sized for ImageNet weights and small batches
        head="v3plus",
        batch_size=16,
        accumulate=1,
        lr=1e-3,
        bias_factor=None,
        weight_decay=1e-4,
        interval=1,
        loss_at="crop",
        freeze_affine=False,
    ),
    "mobile": Segment(  # no paper's: a few hundred steps on two CPU cores, in which AdamW gets much further than SGD
        head="v3plus",
        rates=(3, 6, 9),
        channels=64,
        freeze_stem=True,
        crop=176,
        iterations=None,
        epochs=12,
        batch_size=8,
        accumulate=1,
        optimiser="adamw",
        lr=1e-4,
        new_factor=20.0,
        bias_factor=None,
        weight_decay=0.01,
        interval=1,
        loss="balanced",  # with the plain one, labels of 368 photographs lose whole classes to the background
        loss_at="crop",
        scales=(1.0,),
    ),
    # sec. 10 and 6.6, one row each
    "v1_vgg16": Segment(head="vgg_largefov", accumulate=1, lr=1e-3, crf="deeplab_v1_vgg", **_NATIVE),
    "v2_vgg16": Segment(head="vgg_aspp", accumulate=1, lr=1e-3, crf="deeplab_v2_res101", **_NATIVE),
    "v1_resnet101": Segment(head="conv1x1", crf="deeplab_v2_res101", **_NATIVE),
    "v2_resnet101": Segment(msc=True, crf="deeplab_v2_res101", **_NATIVE),
    "v1_resnet38": SegmentResNet38(),
    "v1_resnet38_aeft": SegmentResNet38(  # sec. 9.6: MCTformer's code with deeplab-pytorch's MSC
        head="mctformer",
        crop=321,
        scale_range=(0.7, 1.3),
        hsv_jitter=0,
        iterations=None,
        epochs=30,
        batch_size=4,
        lr=7e-4,
        bias_factor=2.0,
        weight_decay=0.0,  # that code's optimiser takes the weight decay for its momentum
        momentum=5e-4,
        msc=True,
        scales=(0.5, 0.75, 1.0, 1.25, 1.5),
        flip=False,
        average="max",
        crf="mctformer_seg",
    ),
}

BACKBONES = {
    "v1_vgg16": "vgg16d",
    "v2_vgg16": "vgg16d",
    "v1_resnet101": "resnet101_caffe",
    "v2_resnet101": "resnet101_caffe",
    "v1_resnet38": "resnet38d",
    "v1_resnet38_aeft": "resnet38d",
}
"""The networks that these learning rates were published for."""
