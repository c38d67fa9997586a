"""BANA: Background-Aware pooling and a Noise-Aware loss, from boxes.

Oh, Kim and Ham, "Background-Aware Pooling and Noise-Aware Loss for Weakly-Supervised Semantic Segmentation", CVPR 2021,
https://arxiv.org/abs/2104.00905; constants and the published code's choices: methods.md 7. Supervision: boxes.
To reach on VOC 2012: Y_crf 78.7 mIoU on train, 79.2 on val (GAP 75.5 and 76.1); DeepLab V1 68.1 on val (69.5 fully
supervised), V2 on ImageNet weights 70.9.

Three stages: ``bap`` trains a classifier of boxes and scores them, ``labels`` makes two label maps of each photograph,
``nal`` trains DeepLab on both. Their equations are functions of `ops.bap` (1-4), `ops.box_maps` (5-7), `ops.box_labels`
(8-9) and `ops.noise` (10-14).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from weakseg.models.backbones import batch_norms, build_backbone
from weakseg.models.bap import BapNet
from weakseg.models.cosine import Classifier, CosineDeepLab, EmbeddingHead
from weakseg.models.vgg16 import configure
from weakseg.ops.bap import Sampling, bap_vectors
from weakseg.ops.box_labels import crf_labels, prototypes, retrieved_labels
from weakseg.ops.box_maps import (
    activations,
    background_activation,
    background_map,
    box_activation,
    in_box_order,
    photograph_attention,
)
from weakseg.ops.boxes import box_masks, boxes_of, class_masks, grown_edges, shifted, truncated_boxes
from weakseg.ops.crf import CrfImage, crf_image, dense_crf, recipe, unary_from_probabilities
from weakseg.ops.noise import (
    CRF,
    RETRIEVED,
    Unreliable,
    bootstrapping_beta,
    confidence,
    noise_aware_loss,
    reliable_labels,
    two_label_maps,
)
from weakseg.ops.views import mean_of_views, scaled_views, turned_back
from weakseg.types import (
    BACKGROUND,
    SCORES,
    Augmentation,
    AugmentationStep,
    Backbone,
    Batch,
    Flip,
    Jitter,
    LabelMap,
    MapsOf,
    Normalise,
    Optimisation,
    PadCrop,
    Rescale,
    Sample,
    ScoreMap,
    ShiftBoxes,
    Step,
    WeaksegError,
    optimisation_of,
)

RELIABLE = "reliable"
"""Y_crf where both agree and 255 elsewhere: what a loss or a metric sees that ignores the unreliable regions."""
PADDING = (123, 117, 104)
"""RGB levels of the published code's padding, which its jitter changes like the photograph."""

# --- stage 1: a classifier of boxes (sec. 3.1) ---


@dataclass(frozen=True, slots=True)
class Bap:
    """The classifier with background-aware pooling, its training, and its maps of boxes (methods.md 7.2 and 7.4).

    `score` makes ``full``, maps (H, W) of background, u_0 (id 0, box -1), and of each box, u_c (its class, its index
    among the photograph's boxes).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = ("full",)
    # since runs exist, and what stands for "as before"
    added: ClassVar[Mapping[str, Any]] = {"sampling": "grid", "nearest_boxes": False}

    # pooling, sec. 7.2
    pooling: Literal["bap", "gap"] = "bap"  # gap: A = 0, the ablation of 7.3
    grid: int = 4  # N in training
    roi_size: int = 2  # windows a side of a box; 1 is Eq. (4)
    min_background: float = 0.125  # a crop with less definite background is pooled by GAP; 0: A always (7.7, row 4)
    detach_attention: bool = False
    align_corners: bool = False  # of a box's sampling; True is what was meant (7.7, row 3)
    sampling: Sampling = "grid"  # roi_align: the paper's (7.7, row 3)
    nearest_boxes: bool = False  # boxes on whole cells of the features, the paper's (7.7, row 5)
    # boxes
    voc_offset: int = 0  # 1: VOC's 1-based corners as they are, as published
    grow_edges: bool = False  # a box that ends with the crop ends one pixel beyond it, as published (7.7, row 21)
    truncate: bool = False  # boxes one pixel low in places, where maps are made, as published (7.7, row 20)
    # network: nothing is frozen but BatchNorm's statistics, where there are any
    freeze_bn: bool = True
    freeze_affine: bool = False
    known_classes: int | None = None  # C of a network trained on other classes (`fitted`); None: the data set's
    # training, sec. 7.2; the paper has 15 epochs of 1e-4, a tenth of it after 10 (7.7, row 1)
    crop: int = 321
    train_scales: tuple[float, float] = (0.5, 1.5)
    jitter: float = 0.5  # of brightness, contrast and saturation
    iterations: int | None = 8000  # None: `epochs` decide
    epochs: int = 15
    batch_size: int = 20
    lr: float = 1e-3
    new_factor: float = 10.0
    bias_factor: float | None = 2.0
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Literal["step", "poly"] = "step"
    milestones: tuple[int, ...] = (5000,)
    # maps, sec. 7.4
    generating_grid: int = 1  # N
    threshold: float = 0.99  # below it A is 0
    relative: bool = True  # a share of the photograph's largest A; False: as it is (7.7, row 6)
    background: Literal["attention", "cam"] = "attention"  # cam: "w/o u_0", the activation of class 0
    agnostic: bool = False  # 1 - u_0 in place of u_c: classes that the network has not seen
    maximum: Literal["box", "class"] = "box"  # class: the paper's, over all boxes of a class (7.7, row 8)
    upsampled: Literal["features", "maps"] = "features"  # before or after they are compared (7.7, row 9)

    @property
    def augmentation(self) -> Augmentation:
        """Scale, padding, crop, mirror, jitter, mean: the order of sec. 7.2; `voc_offset` comes before all of it."""
        steps = _augmentation(Rescale(*self.train_scales, mode="bilinear"), self.crop, self.jitter).steps
        return Augmentation((ShiftBoxes(self.voc_offset), *steps) if self.voc_offset else steps)

    @property
    def optimisation(self) -> Optimisation:
        """SGD; the rate falls to a tenth at each of `milestones`, in optimiser steps."""
        return optimisation_of(self)

    def build(self, num_classes: int, backbone: Backbone) -> BapNet:
        """The classifier; VGG16 with its fifth max-pool, an average pool, an undilated fc6 and both dropouts."""
        if self.known_classes is not None and not self.agnostic:
            raise WeaksegError("known_classes is of a network that has not seen these classes: set agnostic = true")
        features = build_backbone(backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine)
        configure(features, dilation=1, pool5=True, drop_last=True)
        classes = num_classes if self.known_classes is None else self.known_classes
        return BapNet(features, classes, foreign=self.known_classes is not None)

    def objective(self, model: BapNet, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Softmax cross-entropy of all box vectors, as their class, and all background queries, as background."""
        if self.known_classes is not None:
            raise WeaksegError("known_classes is of a network that is fitted already: name its folder as `fitted`")
        if batch.boxes is None or batch.box_labels is None:
            raise WeaksegError("bana.bap learns from boxes, and no photograph of this batch has an annotation")
        features = model(batch.images)
        vectors, targets = [], []
        for f, boxes, labels, valid in zip(features, batch.boxes, batch.box_labels, batch.valid[:, 0], strict=True):
            queries, pooled = self.vectors(f, boxes, valid)
            vectors += [queries, pooled]
            targets += [labels.new_zeros(len(queries)), labels.repeat_interleave(self.roi_size**2)]
        logits, target = model.classify(torch.cat(vectors)), torch.cat(targets)
        return {"cls": cross_entropy(logits, target, reduction="sum") / max(1, len(target))}

    def vectors(self, features: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Background queries q and pooled boxes r of one crop, see `ops.bap.bap_vectors`; its boxes are shifted."""
        if self.grow_edges:
            boxes = grown_edges(boxes, (valid.shape[0], valid.shape[1]))
        return bap_vectors(
            features,
            boxes,
            valid,
            n=self.grid,
            windows=self.roi_size,
            min_background=self.min_background if self.pooling == "bap" else 1.0,
            align_corners=self.align_corners,
            sampling=self.sampling,
            nearest=self.nearest_boxes,
            detach=self.detach_attention,
        )

    def score(self, model: BapNet, sample: Sample) -> Mapping[str, ScoreMap]:
        """Score maps ``full`` of background and of each box, 0-1, on the model's device."""
        boxes, labels = boxes_of(sample)
        maps = self.maps(model.describe(sample), model.weight, boxes.to(model.device), labels, sample.size)
        ids = torch.cat([labels.new_tensor([BACKGROUND]), labels]).to(maps.device, torch.uint8)
        box = torch.arange(-1, len(boxes), dtype=torch.int32, device=maps.device)
        return {"full": ScoreMap(ids, maps, sample.size, box)}

    def maps(self, features: Tensor, weight: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """[u_0, u_c of each box], float (1 + K, H, W), of features (D, h, w) and the weights (C + 1, D), Eqs. (5)-(7).

        `boxes` are float (K, 4), XYXY pixels, half-open, `labels` their ids 1..C, `size` is (H, W).
        """
        boxes, first = shifted(boxes, self.voc_offset), self.upsampled == "features"
        boxes = truncated_boxes(boxes, size) if self.truncate else boxes
        inside = box_masks(boxes, size)
        outside = ~inside.any(dim=0)
        if self.background == "cam":
            ground = background_activation(activations(features, weight[:1], size, upsample_first=first)[0], outside)
        else:
            a = photograph_attention(features, outside, self.generating_grid, upsample_first=first)
            ground = background_map(a, outside, self.threshold, relative=self.relative)
        if self.agnostic:
            return torch.cat([ground[None], torch.where(inside, 1 - ground, 0.0)])
        cams = activations(features, weight[labels.to(weight.device)], size, upsample_first=first)
        area = class_masks(boxes, labels, labels, size) if self.maximum == "class" else None
        return torch.cat([ground[None], box_activation(cams, inside, area)])

    def classify_boxes(self, model: BapNet, sample: Sample) -> Tensor:
        """float (K, C + 1): logits of each box of a photograph, the mean over its windows."""
        boxes = shifted(boxes_of(sample)[0], self.voc_offset)
        features, valid = model.describe(sample), torch.ones(sample.size, dtype=torch.bool, device=model.device)
        _, pooled = self.vectors(features, boxes.to(model.device), valid)
        return model.classify(pooled).reshape(len(boxes), self.roi_size**2, len(model.weight)).mean(dim=1)


# --- stage 2: two label maps (sec. 3.2) ---


@dataclass(frozen=True, slots=True)
class Labels:
    """Y_crf from score maps of boxes by a CRF, Y_ret from prototypes of the classifier's own features (methods.md 7.4).

    Wants ``model``, the step that trained the classifier, and its score maps as ``scores``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    writes: ClassVar[tuple[str, ...]] = (CRF, RETRIEVED, RELIABLE)
    reads: ClassVar[MapsOf] = "boxes"
    added: ClassVar[Mapping[str, Any]] = {"guard": True}  # since runs exist, and what stands for "as before"

    crf: str = "bana_stage2"  # sec. 1.4
    scale_factor: float = 1.0  # every sxy is divided by it, for photographs much smaller than VOC's
    crf_image: CrfImage = "rgb"
    unary_softmax: bool = True  # False: u_0 and u_c as they are (7.7, row 7)
    restrict: bool = True  # Y_ret within boxes; False: the plain cosine of Eq. (9) (7.7, row 10)
    guard: bool = True  # boxes that cover the photograph are filled; False: all background, as published (7.7, row 16)
    voc_offset: int = 0  # as in `Bap`
    truncate: bool = False

    def refine(self, model: BapNet | None, sample: Sample) -> dict[str, LabelMap]:
        """``crf``, ``ret``, and ``reliable`` where both agree; a photograph without boxes is background."""
        if model is None:
            raise WeaksegError("bana.labels wants the classifier: write `model: STEP`, a step of bana.bap")
        boxes, labels = (x.to(model.device) for x in boxes_of(sample))
        if not len(boxes):
            return dict.fromkeys(self.writes, torch.zeros(sample.size, dtype=torch.uint8))
        boxes = shifted(boxes, self.voc_offset)
        boxes = truncated_boxes(boxes, sample.size) if self.truncate else boxes
        ids = torch.cat([labels.new_zeros(1), labels.unique()]).to(torch.uint8)
        crf = self.segment(sample, boxes, labels, ids)
        retrieved = self.retrieve(model, model.describe(sample), crf, boxes, labels, ids)
        return {CRF: crf, RETRIEVED: retrieved, RELIABLE: reliable_labels(crf, retrieved)}

    def segment(self, sample: Sample, boxes: Tensor, labels: Tensor, ids: Tensor) -> LabelMap:
        """Y_crf, from the score maps of boxes under ``scores``."""
        if SCORES not in sample.scores:
            raise WeaksegError("bana.labels reads score maps of boxes: write `scores: STEP/full` in the recipe")
        maps = in_box_order(sample.scores[SCORES], len(boxes)).to(boxes.device)
        image, crf = crf_image(sample.image, self.crf_image), recipe(self.crf)
        return crf_labels(
            image,
            maps,
            boxes,
            labels,
            ids,
            crf,
            softmax=self.unary_softmax,
            scale_factor=self.scale_factor,
            guard=self.guard,
        )

    def retrieve(
        self, model: BapNet, features: Tensor, crf: LabelMap, boxes: Tensor, labels: Tensor, ids: Tensor
    ) -> LabelMap:
        """Y_ret, Eqs. (8)-(9): the class whose prototype in Y_crf a pixel's feature resembles most."""
        queries = prototypes(features, crf, ids, model.class_weights(ids))
        size = (crf.shape[0], crf.shape[1])
        return retrieved_labels(features, queries, ids, boxes, labels, size, restrict=self.restrict)


# --- stage 3: DeepLab on both (sec. 3.3) ---


@dataclass(frozen=True, slots=True)
class Nal:
    """DeepLab with a cosine classifier and the noise-aware loss; the defaults are V1's on VGG16 (methods.md 7.5).

    Reads the seeds ``crf`` and ``ret``; without ``ret`` every label counts as reliable.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    # since runs exist, and what stands for "as before"
    added: ClassVar[Mapping[str, Any]] = {
        "freeze_stem": False,
        "optimiser": "sgd",
        "loss": "ce",
        "guard": True,
        "bn_momentum": None,
    }

    # loss, sec. 7.5
    unreliable: Unreliable = "nal"  # what is done with ~S (Table 3)
    gamma: float = 7.0
    lam: float = 0.1
    detach_confidence: bool = False  # the published code lets gradient through sigma
    guard: bool = True  # False: 0 / 0 in a batch without unreliable pixels, as published (7.7, row 15)
    loss: Literal["ce", "balanced"] = "ce"  # over S; no paper's: "balanced", as the networks of AMN have it
    # network
    head: EmbeddingHead = "vgg_largefov"
    rates: tuple[int, ...] | None = None  # None: the paper's, for output stride 8; halve them at 16
    channels: int = 256  # of the features before the classifier, where the head decides it
    classifier: Classifier = "cosine"  # dot: 67.8 instead of 68.1
    scale: float = 20.0  # tau
    freeze_bn: bool = True  # sec. 7.7, row 17; False as published
    bn_momentum: float | None = None  # of unfrozen statistics, torch's way: 0.999 as published; None: their own
    freeze_affine: bool = False
    freeze_stem: bool = False
    align_corners: bool = True  # of resizing logits
    # training
    crop: int = 321
    scale_range: tuple[float, float] = (0.5, 1.5)
    train_scales: tuple[float, ...] = ()  # one of these instead
    jitter: float = 0.5
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # of the photograph
    iterations: int | None = 23_805  # None: `epochs` decide
    epochs: int = 45
    batch_size: int = 20
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-3
    new_factor: float = 10.0
    bias_factor: float | None = 2.0
    weight_decay: float = 5e-4
    momentum: float = 0.9
    keep_epochs: bool = False  # for the confidence map during training
    # prediction
    scales: tuple[float, ...] = (1.0, 0.5, 0.75, 1.5)
    flip: bool = True
    average: Literal["logits", "softmax"] = "logits"
    crf: str | None = "deeplab_v1_vgg"
    crf_image: CrfImage = "rgb"  # the published numbers come from wrapped_bgr (1.4)

    @property
    def augmentation(self) -> Augmentation:
        """As in stage 1."""
        rescale = Rescale(*self.scale_range, choices=self.train_scales, mode=self.interpolation)
        return _augmentation(rescale, self.crop, self.jitter)

    @property
    def optimisation(self) -> Optimisation:
        """Poly decay, which has no gamma: ours is the loss's."""
        return optimisation_of(self, gamma=0.1)

    def build(self, num_classes: int, backbone: Backbone) -> CosineDeepLab:
        """The network over background and `num_classes` classes."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        if self.bn_momentum is not None:
            for norm in batch_norms(features):
                norm.momentum = self.bn_momentum
        configure(features, pool5=True, drop_last=True)  # sec. 1.3, as in stage 1
        return CosineDeepLab(features, num_classes, self.head, self.rates, self.channels, self.classifier, self.scale)

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """``ce`` over the reliable pixels, Eq. (10), and lambda times what `unreliable` says over the others."""
        crf, retrieved = two_label_maps(batch.seeds)
        logits, cosines = (self._resized(x, crf.shape[1:]) for x in model(batch.images, True))
        return noise_aware_loss(
            logits,
            cosines,
            crf,
            retrieved,
            unreliable=self.unreliable,
            gamma=self.gamma,
            lam=self.lam,
            beta=bootstrapping_beta(step.index, step.total),
            detach=self.detach_confidence,
            balanced=self.loss == "balanced",
            guard=self.guard,
        )

    def predict(self, model: CosineDeepLab, sample: Sample) -> LabelMap:
        """uint8 (H, W): argmax of `probabilities`, after a CRF if `crf` names one."""
        probabilities = self.probabilities(model, sample)
        if self.crf is not None:
            unary = unary_from_probabilities(probabilities)
            probabilities = dense_crf(crf_image(sample.image, self.crf_image), unary, recipe(self.crf))
        return probabilities.argmax(dim=0).to(torch.uint8)

    def probabilities(self, model: CosineDeepLab, sample: Sample) -> Tensor:
        """float32 (C + 1, H, W): softmax of the mean logits of all scales and mirror images, resized (7.5)."""
        views = scaled_views(sample.image, self.scales, model.normalise, flip=self.flip, device=model.device)
        logits = (self._resized(turned_back(model(images).float()), sample.size) for images in views)
        if self.average == "softmax":
            return mean_of_views(x.softmax(dim=1) for x in logits)
        return mean_of_views(logits).softmax(dim=0)

    def one_view(self, model: CosineDeepLab, images: Tensor) -> Tensor:
        """float32 (B, C + 1, H, W), summing to one: softmax of photographs uint8 (B, 3, H, W) as they are.

        `probabilities` with the one scale 1 and without the mirror image, for other runtimes.
        """
        return self._resized(model(model.normalise(images)).float(), images.shape[2:]).softmax(dim=1)

    def confidence_map(self, model: CosineDeepLab, sample: Sample) -> Tensor:
        """sigma of each pixel of Y_crf, float (H, W), 0-1, at the photograph's own size: fig. 5."""
        crf, _ = two_label_maps(sample.seeds)
        image = sample.image.as_subclass(Tensor).to(model.device)
        _, cosines = model(model.normalise(image)[None], True)
        return confidence(self._resized(cosines.float(), sample.size), crf[None].to(image.device), self.gamma)[0]

    def _resized(self, maps: Tensor, size: Iterable[int]) -> Tensor:
        return interpolate(maps, tuple(size), mode="bilinear", align_corners=self.align_corners)


def _augmentation(rescale: Rescale, crop: int, jitter: float) -> Augmentation:
    change: tuple[AugmentationStep, ...] = (Jitter(jitter, jitter, jitter, 0.0),) if jitter else ()
    return Augmentation((rescale, PadCrop(crop, PADDING if jitter else None), Flip(), *change, Normalise()))


METHODS = {
    "bap": Bap(),
    "bap_mobile": Bap(  # no paper's: ImageNet weights, photographs of 320 pixels, a few hundred steps on two CPU cores
        freeze_affine=True,
        crop=208,
        train_scales=(0.65, 1.0),
        iterations=None,
        epochs=6,
        batch_size=16,
        lr=7e-4,
        bias_factor=None,
        schedule="poly",
    ),
    "labels": Labels(),
    "nal": Nal(),
    "nal_v2": Nal(
        head="aspp",
        freeze_affine=True,  # "freeze BN" of 7.7, row 17
        batch_size=10,
        iterations=20_000,
        lr=2.5e-4,
        bias_factor=None,  # only V1 is said to have one (7.5)
        crf="deeplab_v2_res101",
    ),
    "nal_mobile": Nal(  # network, training and prediction of deeplab.mobile, but for the classifier and the loss
        head="v3plus",
        rates=(3, 6, 9),
        channels=64,
        loss="balanced",
        freeze_affine=True,
        freeze_stem=True,
        align_corners=False,
        crop=176,
        train_scales=(0.5, 0.75, 1.0, 1.25, 1.5),
        jitter=0.0,
        interpolation="bicubic",
        iterations=None,
        epochs=12,
        batch_size=8,
        optimiser="adamw",
        lr=1e-4,
        new_factor=20.0,
        bias_factor=None,
        weight_decay=0.01,
        scales=(1.0,),
        average="softmax",
        crf=None,
    ),
}

BACKBONES = {"bap": "vgg16d", "nal": "vgg16d", "nal_v2": "resnet101_caffe"}
"""The networks that these learning rates were published for."""

STUDIES = {
    "grid": [{"grid": n, "generating_grid": m} for n in range(1, 6) for m in range(1, 4)],  # supplement, Table 1
    "unreliable": [{"unreliable": how} for how in get_args(Unreliable)],  # Table 3, the first is the paper's own
    "classifier": [{"classifier": kind} for kind in get_args(Classifier)],  # supplement, Table 5
}
"""Settings of the paper's tables, each a training of its own: `weakseg sweep RECIPE --study grid`."""
