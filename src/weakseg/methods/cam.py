"""CAM: class activation maps of an image classifier, the seeds of every other method here.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016,
https://arxiv.org/abs/1512.04150, in the two set-ups of its descendants: ``resnet38`` of PSA (Ahn and Kwak, CVPR 2018;
methods.md 2.1) and ``resnet50`` of IRN (Ahn et al., CVPR 2019; methods.md 2.2).
Supervision: image tags. To reach on VOC 2012 train: 47.7 to 48.0 mIoU (ResNet38), 48.3 (ResNet50).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from weakseg.models.backbones import build_backbone
from weakseg.models.classifier import CamNet
from weakseg.models.pooling import Pooling
from weakseg.ops.cam import max_normalise, merge_flip, merge_irn, merge_psa, merge_strided
from weakseg.ops.losses import multilabel_soft_margin
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
    optimisation_of,
)


@dataclass(frozen=True, slots=True)
class Cam:
    """The classifier, its training and its multi-scale maps; the defaults are those of IRN (methods.md 2.2).

    `score` makes ``full`` (K, H, W) and ``strided`` (K, ceil(H/4), ceil(W/4)) of the tagged classes, each map divided
    by its own maximum, from one forward pass of each view.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})
    writes: ClassVar[tuple[str, ...]] = ("full", "strided")
    # since runs exist, and what stands for "as before"
    added: ClassVar[Mapping[str, Any]] = {"iterations": None, "pooling": "gap", "xavier": None}

    # training, sec. 2.2 and 1.2
    crop: int = 512
    long_side: tuple[int, int] = (320, 640)
    jitter: bool = False
    iterations: int | None = None  # None: `epochs` decide
    epochs: int = 5
    batch_size: int = 16
    lr: float = 0.1
    new_factor: float = 10.0
    bias_factor: float | None = None  # PSA's family: 2, and no weight decay on biases
    weight_decay: float = 1e-4
    momentum: float | None = None  # None: the weight decay, as the published code has it (sec. 1.2)
    # network, sec. 1.2, 1.3 and 2.2
    dropout: float = 0.0
    pooling: Pooling = "gap"  # "gpp" and its ablations: gated pyramid pooling of AEFT, sec. 9.2
    xavier: bool | None = None  # classifier's first weights: Xavier-uniform, or torch's own; None: as `merge` has it
    detach_stage2: bool = True  # only what follows the stride-8 features learns
    freeze_stem: bool = True
    freeze_bn: bool = True  # statistics
    freeze_affine: bool = False
    # maps
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    merge: Literal["psa", "irn"] = "irn"
    sqrt: bool = False  # VGG16 only, sec. 2.1

    @property
    def augmentation(self) -> Augmentation:
        """PSA mirrors and jitters the photograph before normalising, IRN mirrors after it; the crop pads last."""
        resize, crop = ResizeLong(*self.long_side), PaddedCrop(self.crop)
        jitter: tuple[AugmentationStep, ...] = (Jitter(0.3, 0.3, 0.3, 0.1),) if self.jitter else ()
        if self.merge == "psa":
            return Augmentation((resize, Flip(), *jitter, Normalise(), crop))
        return Augmentation((resize, *jitter, Normalise(), Flip(), crop))

    @property
    def optimisation(self) -> Optimisation:
        """SGD with poly decay at every step."""
        return optimisation_of(self, schedule="poly", power=0.9)

    def build(self, num_classes: int, backbone: Backbone) -> CamNet:
        """The classifier over `num_classes` foreground classes, with the paper's parts frozen."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        detach_after = features.stage(stride=8) if self.detach_stage2 else None
        return CamNet(
            features,
            num_classes,
            dropout=self.dropout,
            detach_after=detach_after,
            pooling=self.pooling,
            xavier=self.merge == "psa" if self.xavier is None else self.xavier,
        )

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Multi-label soft margin of the logits."""
        return {"cls": multilabel_soft_margin(model(batch.images).logits, batch.tags)}

    def score(self, model: CamNet, sample: Sample) -> Mapping[str, ScoreMap]:
        """Score maps ``full`` and ``strided`` of the tagged classes, 0-1, on the model's device."""
        views = list(self._views(model, sample))
        full = merge_psa(views, sample.size) if self.merge == "psa" else merge_irn(views, sample.size)
        maps = {"full": full, "strided": merge_strided(views, sample.size)}
        ids = sample.present.to(full.device)
        return {key: ScoreMap(ids, max_normalise(m), sample.size) for key, m in maps.items()}

    def classify(self, model: CamNet, sample: Sample) -> Tensor:
        """float (C,), logits of the photograph at its own size: what the tags' mean average precision is taken of."""
        image = model.normalise(sample.image.as_subclass(Tensor).to(model.device))
        return model(image[None]).logits[0]

    def _views(self, model: CamNet, sample: Sample) -> Iterator[Tensor]:
        """float (K, h_s, w_s) of each scale, summed over the view and its mirror image."""
        classes = sample.tags.nonzero().flatten()
        if not len(classes):  # no maps, so no forward pass
            yield torch.zeros(0, 1, 1, device=model.device)
            return
        for images in scaled_views(sample.image, self.scales, model.normalise, flip=self.flip, device=model.device):
            maps = model.cams(images, classes).float()
            maps = maps.sqrt() if self.sqrt else maps
            yield merge_flip(maps) if self.flip else maps[0]


_PSA = Cam(
    crop=448,  # sec. 2.1
    long_side=(256, 512),
    jitter=True,
    epochs=15,
    batch_size=16,
    lr=0.01,  # 0.1 stands in PSA's README; every later repository uses 0.01 with ResNet38
    bias_factor=2.0,
    weight_decay=5e-4,
    dropout=0.5,
    detach_stage2=False,
    freeze_affine=True,
    scales=(0.5, 1.0, 1.5, 2.0),
    merge="psa",
)

METHODS = {
    "resnet38": _PSA,
    "resnet38_eps": replace(_PSA, batch_size=8, iterations=20_000),  # the "Base" of EPS, 47.1 mIoU
    "resnet38_eps_coco": replace(_PSA, crop=321, long_side=(256, 448), iterations=256_500, epochs=50),  # 31.2
    "resnet50": Cam(),
    "mobile": replace(  # no paper's: sized for ImageNet weights, photographs of 320 pixels and two CPU cores
        _PSA,
        crop=208,
        long_side=(208, 320),
        jitter=False,  # half of the loading, and a point of mAP in so few steps
        epochs=6,
        lr=7e-4,
        bias_factor=None,
        momentum=0.9,
    ),
}

BACKBONES = {"resnet50": "irn_resnet50"} | {name: "resnet38d" for name in METHODS if name.startswith("resnet38")}
"""The network that these learning rates were published for."""

STUDIES = {"pooling": [{"pooling": name} for name in get_args(Pooling)]}  # AEFT's poster, methods.md 9.7
"""Settings of a paper's table, each a training of its own: `weakseg sweep RECIPE --study pooling`."""
