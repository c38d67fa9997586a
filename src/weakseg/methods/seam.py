"""SEAM: self-supervised equivariant attention, a classifier whose maps agree between an image and a smaller view of it.

Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation", CVPR 2020,
https://arxiv.org/abs/2004.04581; constants and the published code's choices: methods.md 5. With ``pooling = "gpp"`` it
is the "GPP on SEAM" of AEFT's supplement (57.5; methods.md 9.2).
Supervision: image tags. To reach on VOC 2012 train: 55.4 mIoU of the score maps, 56.8 after CRF, 63.6 after PSA
(``psa.seam``); segmentation network on val 64.5.

Maps have C + 1 channels, background first. The network, with the pixel correlation module (PCM) that revises the maps,
is in `models.seam`; what it computes in `ops.pixel_correlation`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from weakseg.models.backbones import build_backbone
from weakseg.models.pooling import Pooling
from weakseg.models.seam import SeamNet, SeamOutput, resized
from weakseg.ops.cam import merge_flip, merge_psa, merge_strided, range_normalise
from weakseg.ops.losses import multilabel_soft_margin
from weakseg.ops.pixel_correlation import replace_background, suppress_others
from weakseg.ops.views import scaled_views
from weakseg.types import (
    Augmentation,
    AugmentationStep,
    Backbone,
    Batch,
    Flip,
    Jitter,
    Normalise,
    Optimisation,
    PaddedCrop,
    ResizeLong,
    Sample,
    ScoreMap,
    Step,
    WeaksegError,
    optimisation_of,
)

EPS = 1e-5


# --- the equations; b = image, c = class, background first; H x W = pixels of an image, h x w = of its smaller view ---


def tagged(maps: Tensor, tags: Tensor) -> Tensor:
    """The maps of the classes present; those of absent ones are zero, background always stays.

    Args:
        maps: float (B, C + 1, H, W).
        tags: (B, C), 0 or 1.
    """
    present = torch.cat([tags.new_ones(len(tags), 1), tags], dim=1).to(maps.dtype)
    return maps * present[:, :, None, None]


def adaptive_min_loss(maps: Tensor, share: float = 0.25) -> Tensor:
    """L_rvmin: somewhere no class is: the mean of the highest class over the quarter of the pixels where it is lowest.

    Args:
        maps: float (B, C, H, W), foreground maps of the classes present, zeros for the others.
        share: of the pixels, at least one.

    Returns:
        float (), >= 0.
    """
    highest = maps.amax(dim=1).flatten(1)
    count = max(1, int(highest.shape[1] * share))
    return highest.topk(count, dim=1, largest=False).values.relu().mean()


def equivariance_loss(first: Tensor, second: Tensor) -> Tensor:
    """L_ER = mean |A(image) made small - A(small image)| over foreground maps (Eq. 6).

    Args:
        first, second: float (B, C, h, w), 0-1, zeros for absent classes, which count in the mean.
    """
    return (first - second).abs().mean()


def cross_loss(target: Tensor, revised: Tensor, share: float = 0.2) -> Tensor:
    """One direction of L_ECR: the revised maps of one view against the plain maps of the other (Eq. 7).

    The target has 1 - max in the place of background, only the highest class of each pixel, and no gradient. Of the
    (C + 1) h w differences of an image the largest `share` count.

    Args:
        target: float (B, C + 1, h, w), 0-1, zeros for absent classes; its own background is not used.
        revised: float (B, C + 1, h, w), 0-1, zeros for absent classes.
        share: 1 takes them all.
    """
    target = suppress_others(replace_background(target.detach()))
    difference = (target - revised).abs().flatten(1)
    count = max(1, int(difference.shape[1] * share))
    return difference.topk(count, dim=1).values.mean()


def inference_normalise(maps: Tensor, eps: float = EPS) -> Tensor:
    """What summed maps become: negative and lowest pixels 0, then ``(x - min - eps) / (max - min + eps)``.

    Args:
        maps: float (K, H, W), sums over views.
        eps: guards the division.

    Returns:
        float (K, H, W), at most 1. The lowest pixels, set to 0 before the minimum is subtracted, come out below 0, all
        of them in a constant map; `Seam.score` makes them 0.
    """
    positive = maps.relu()
    low, high = positive.amin(dim=(-2, -1), keepdim=True), positive.amax(dim=(-2, -1), keepdim=True)
    kept = positive.where(positive >= low + eps, 0)
    return (kept - low - eps) / (high - low + eps)


# --- the method ---


@dataclass(frozen=True, slots=True)
class Seam:
    """Network, training on two views and multi-scale maps; the defaults are the paper's on VOC 2012 (methods.md 5).

    `score` makes ``full`` (H, W) and ``strided`` (ceil(H/4), ceil(W/4)) of the tagged classes from the revised maps;
    the published threshold of the background is 0.26.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})
    writes: ClassVar[tuple[str, ...]] = ("full", "strided")
    # since runs exist, and what stands for "as before"
    added: ClassVar[Mapping[str, Any]] = {"align_corners": False, "optimiser": "sgd"}

    # losses, sec. 5
    view_scale: float = 0.3  # 448 -> 134 pixels
    rectify: bool = True  # ReLU before maps are normalised
    low_share: float = 0.25
    hard_share: float = 0.2
    rvmin_weight: float = 1.0
    er_weight: float = 1.0
    ecr_weight: float = 1.0
    # training, sec. 5 and 1.2
    crop: int = 448
    long_side: tuple[int, int] = (448, 768)
    jitter: bool = True
    epochs: int = 8
    batch_size: int = 8
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    new_factor: float = 10.0
    bias_factor: float | None = 2.0
    weight_decay: float = 5e-4
    momentum: float | None = None  # None: the weight decay, as the published code has it (sec. 1.2)
    # network, sec. 5 and 1.3
    pooling: Pooling = "gap"  # "gpp": sec. 9.2
    dropout: float = 0.5
    widths: tuple[int, int] = (64, 128)
    freeze_stem: bool = True
    freeze_bn: bool = True  # statistics
    freeze_affine: bool = True
    # maps
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    flip: bool = True
    align_corners: bool = False  # of the resize from a view to the photograph; true: there too, as sec. 5 reads

    def __post_init__(self) -> None:
        if not 0 < self.view_scale <= 1:
            raise WeaksegError(f"view_scale makes a smaller view, above 0 and at most 1; got {self.view_scale}")
        if not (0 < self.low_share <= 1 and 0 < self.hard_share <= 1):
            raise WeaksegError(f"shares are above 0 and at most 1; got {self.low_share} and {self.hard_share}")

    @property
    def augmentation(self) -> Augmentation:
        """Long side, mirror, jitter, normalising, padded crop."""
        jitter: tuple[AugmentationStep, ...] = (Jitter(0.3, 0.3, 0.3, 0.1),) if self.jitter else ()
        return Augmentation((ResizeLong(*self.long_side), Flip(), *jitter, Normalise(), PaddedCrop(self.crop)))

    @property
    def optimisation(self) -> Optimisation:
        """SGD with poly decay at every step."""
        return optimisation_of(self, schedule="poly", power=0.9)

    def build(self, num_classes: int, backbone: Backbone) -> SeamNet:
        """The classifier over background and `num_classes` classes with its PCM, the paper's parts frozen."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        return SeamNet(features, num_classes, dropout=self.dropout, pooling=self.pooling, widths=self.widths)

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The losses of the images and their smaller views, by name."""
        views = batch.images, resized(batch.images, self.smaller(batch.images))
        return self.losses(model(views[0]), model(views[1]), batch.tags)

    def losses(self, first: SeamOutput, second: SeamOutput, tags: Tensor) -> dict[str, Tensor]:
        """``cls``, ``rvmin``, ``er`` and ``ecr`` with their weights; L is their sum.

        Args:
            first: of the images.
            second: of the smaller views, which give the maps their size in ``er`` and ``ecr``.
            tags: (B, C), 0 or 1.
        """
        cls = [multilabel_soft_margin(view.logits, tags) for view in (first, second)]
        rvmin = [adaptive_min_loss(tagged(view.revised, tags)[:, 1:], self.low_share) for view in (first, second)]
        size = second.cam.shape[2:]
        cams = [tagged(resized(self._normalised(view.cam), size), tags) for view in (first, second)]
        revised = [tagged(resized(self._normalised(view.revised), size), tags) for view in (first, second)]
        ecr = cross_loss(cams[1], revised[0], self.hard_share) + cross_loss(cams[0], revised[1], self.hard_share)
        return {
            "cls": (cls[0] + cls[1]) / 2,
            "rvmin": self.rvmin_weight * (rvmin[0] + rvmin[1]) / 2,
            "er": self.er_weight * equivariance_loss(cams[0][:, 1:], cams[1][:, 1:]),
            "ecr": self.ecr_weight * ecr,
        }

    def smaller(self, images: Tensor) -> tuple[int, int]:
        """(h, w) of the smaller view of images (B, 3, H, W), rounded down."""
        height, width = (max(1, int(side * self.view_scale)) for side in images.shape[2:])
        return height, width

    def score(self, model: SeamNet, sample: Sample) -> Mapping[str, ScoreMap]:
        """Score maps ``full`` and ``strided`` of the tagged classes, 0-1, on the model's device."""
        views = list(self._views(model, sample))
        full = merge_psa(views, sample.size, align_corners=self.align_corners)
        maps = {"full": full, "strided": merge_strided(views, sample.size)}
        ids = sample.present.to(model.device)
        return {key: ScoreMap(ids, inference_normalise(m).clamp(min=0), sample.size) for key, m in maps.items()}

    def classify(self, model: SeamNet, sample: Sample) -> Tensor:
        """float (C,), logits of the photograph at its own size: what the tags' mean average precision is taken of."""
        image = model.normalise(sample.image.as_subclass(Tensor).to(model.device))
        return model(image[None]).logits[0]

    def _normalised(self, maps: Tensor) -> Tensor:
        return range_normalise(maps, rectify=self.rectify)

    def _views(self, model: SeamNet, sample: Sample) -> Iterator[Tensor]:
        """float (K, sH, sW) of each scale, summed over the view and its mirror image."""
        classes = sample.tags.nonzero().flatten()
        if not len(classes):  # no maps, so no forward pass
            yield torch.zeros(0, 1, 1, device=model.device)
            return
        for images in scaled_views(sample.image, self.scales, model.normalise, flip=self.flip, device=model.device):
            maps = model.revise(images, classes).float()
            yield merge_flip(maps) if self.flip else maps[0]


METHODS = {
    "seam": Seam(),
    "mobile": Seam(  # no paper's: sized as cam.mobile, for ImageNet weights and two CPU cores
        view_scale=0.5,  # three tenths of 208 pixels would be 4 x 4 cells
        crop=208,
        long_side=(208, 320),
        jitter=False,
        epochs=6,
        batch_size=16,
        lr=7e-4,
        bias_factor=None,
        momentum=0.9,
    ),
}

BACKBONES = {"seam": "resnet38d"}
"""The network that these learning rates were published for."""

STUDIES = {"pooling": [{"pooling": "gap"}, {"pooling": "gpp"}]}  # AEFT's supplement, methods.md 9.2: 55.4 and 57.5
"""Settings of a paper's table, each a training of its own: `weakseg sweep RECIPE --study pooling`."""
