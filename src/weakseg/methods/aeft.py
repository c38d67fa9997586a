"""AEFT: adversarial erasing through triplets of embeddings, on a classifier with gated pyramid pooling (GPP).

Yoon et al., "Adversarial Erasing Framework via Triplet with Gated Pyramid Pooling Layer for Weakly Supervised Semantic
Segmentation", ECCV 2022; constants and the published code's choices: methods.md 9.
Supervision: image tags. To reach on VOC 2012 train: 56.0 mIoU of the score maps (released weights 56.2), 54.2 with the
pooling alone, 48.4 without either; segmentation network on val 70.9. COCO 2014: maps 38.5, masks after IRN 46.7,
segmentation network on val 44.8.

The main paper was not at hand: this follows its supplement, its poster and the published code. Not known here are the
paper's own lambda_1, lambda_2 and epsilon for VOC (the code's are used), its wording on crop, learning rate and epochs,
its Table 4 (mIoU of maps, CRF and pseudo-masks), the rows "Direct" of its Table 2 in full, the weight of rigid erasing
there, and what the embeddings of "AEFT without GPP" (52.5) are taken of. Compare with the paper before claiming "as in
the paper".

The published run keeps the epoch whose maps score best on the *truth* of the training list, from epoch 17 on, at the
best threshold in 0.10..0.29. Here the last epoch counts; `keep_epochs` keeps the weights of each, a step of
`evaluate.checkpoints` compares them, and ``aeft.fitted = FOLDER/epoch-30.safetensors`` goes on with one.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from weakseg.models.aeft import AeftNet, AeftOutput
from weakseg.models.backbones import build_backbone
from weakseg.models.pooling import Pooling
from weakseg.models.resnet38d import set_dropouts
from weakseg.ops.cam import max_normalise, range_normalise, strided_size
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

Missing: TypeAlias = Literal["skip", "shift"]


# --- the equations; b = image, c = class; H x W = pixels, h x w = feature pixels ---


def activation(maps: Tensor, tags: Tensor) -> Tensor:
    """n(f): ReLU of each map, stretched to 0-1, of the classes present; zero for the others (9.3).

    Args:
        maps: float (B, C, h, w), f, signed.
        tags: (B, C), 0 or 1.

    Returns:
        float (B, C, h, w), 0-1; a map that is constant is zero.
    """
    return range_normalise(maps) * tags.to(maps.dtype)[:, :, None, None]


def erasing_mask(maps: Tensor, tags: Tensor, size: tuple[int, int], t_high: float = 0.6) -> Tensor:
    """A_fg where A_fg < t_H, else 0, with A_fg the highest activation of the classes present (9.3).

    What is certain is erased; the rest is dimmed by its own activation, so background goes as well. The mask has a
    gradient, as in the published code.

    Args:
        maps: float (B, C, h, w), f, signed.
        tags: (B, C), 0 or 1.
        size: (H, W) of the image, to which f is enlarged bilinearly first.
        t_high: t_H.

    Returns:
        float (B, 1, H, W), in 0..t_high.
    """
    enlarged = interpolate(maps, size, mode="bilinear", align_corners=False)
    highest = activation(enlarged, tags).amax(dim=1, keepdim=True)
    return highest.where(highest < t_high, 0)


def attraction_loss(anchor: Tensor, positive: Tensor, tags: Tensor, *, rectify: bool = True) -> Tensor:
    """L_att = mean |e_P - e_A| over B x C, e = GAP(ReLU G) y: the erased image keeps the anchor's embedding (9.3).

    Gradient flows into both. Absent classes count in the mean, with zero.

    Args:
        anchor, positive: float (B, C, h, w), G of an image and of its erased copy, signed.
        tags: (B, C), 0 or 1.
        rectify: false: e = GAP(G) y, the paper's (9.8, row 1).
    """
    if rectify:
        anchor, positive = anchor.relu(), positive.relu()
    difference = positive.mean(dim=(2, 3)) - anchor.mean(dim=(2, 3))
    return (difference * tags.to(difference.dtype)).abs().mean()


def unit_range(pyramid: Tensor, eps: float = 1e-5) -> Tensor:
    """G over the largest |G| (+ eps) of each class: signed, within -1..1; float (B, C, h, w)."""
    return pyramid / (pyramid.abs().amax(dim=(2, 3), keepdim=True) + eps)


def region_embedding(
    pyramid: Tensor, activations: Tensor, tags: Tensor, below: float, *, normalise: bool = True
) -> Tensor:
    """e_k = mean of `unit_range` G_k over the pixels with n_k < `below`, times y_k (9.3).

    With t_L it is e_AL, what an anchor's classes look like where they are not; with 1, of another image, it is e_N,
    practically over all pixels.

    Args:
        pyramid: float (B, C, h, w), G, signed.
        activations: float (B, C, h, w), n(f), see `activation`.
        tags: (B, C), 0 or 1.
        below: the bound; a class without a pixel below it has the embedding zero. Above 1, all pixels count.
        normalise: false: of G as it is, the paper's (9.8, row 1).

    Returns:
        float (B, C), within -1..1 if normalised.
    """
    pyramid = unit_range(pyramid) if normalise else pyramid
    region = (activations < below).to(pyramid.dtype)
    count = region.sum(dim=(2, 3)).clamp(min=1)
    return (pyramid * region).sum(dim=(2, 3)) / count * tags.to(pyramid.dtype)


def draw_negatives(
    tags: Tensor, missing: Missing = "skip", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """For each anchor a random other image of the batch without a class in common (9.3; 9.8, row 7).

    Args:
        tags: (B, C), 0 or 1.
        missing: what becomes of an anchor without such an image. ``skip``: it has no triplet. ``shift``: as the
            published code, the list of negatives is short by one, and what was drawn for later anchors moves up.
        generator: of the draws, on the tags' device.

    Returns:
        anchors and negatives, int64 (M,) each, M <= B: rows of the batch that belong together.
    """
    tags = tags.float()
    disjoint = (tags @ tags.T == 0).fill_diagonal_(False)  # images without tags share nothing, even with themselves
    draws = torch.rand(disjoint.shape, generator=generator, device=tags.device)
    negatives, found = draws.where(disjoint, -1).argmax(dim=1), disjoint.any(dim=1).nonzero().flatten()
    anchors = found if missing == "skip" else torch.arange(len(found), device=tags.device)
    return anchors, negatives[found]


def repulsion_loss(anchor: Tensor, negative: Tensor, margin: float = 0.5, min_hard: int = 5) -> Tensor:
    """L_rep = mean (eps - d) over the hard triplets, d = sum_k (e_AL - e_N)^2 < eps (9.3).

    Args:
        anchor, negative: float (M, C), e_AL and e_N of each triplet.
        margin: eps.
        min_hard: with fewer hard triplets the loss is zero.

    Returns:
        float (), in 0..margin.
    """
    distance = (anchor - negative).square().sum(dim=1)
    hard = distance < margin
    mean = ((margin - distance).relu() * hard).sum() / hard.sum().clamp(min=1)
    return mean * (hard.sum() >= min_hard)


def merge_views(views: Iterable[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum over scales and mirror images of ReLU(f resized to `size`): ReLU comes *after* resizing (9.5).

    Args:
        views: float (1 or 2, K, h_s, w_s) a scale, signed; the second is of the left-right mirror image.
        size: (height, width) of the sum, pixels.

    Returns:
        float (K, height, width), not yet normalised.

    Raises:
        ValueError: there is no view.
    """
    total: Tensor | None = None
    for view in views:
        resized = interpolate(view, size, mode="bilinear", align_corners=False).relu()
        merged = resized[0] + resized[1].flip(-1) if len(resized) == 2 else resized[0]
        total = merged if total is None else total + merged
    if total is None:
        raise ValueError("no view to merge")
    return total


# --- the method ---


@dataclass(frozen=True, slots=True)
class Aeft:
    """Network, training in two phases and multi-scale maps; the defaults are those of VOC 2012 (methods.md 9).

    `score` makes ``full`` (K, H, W) and ``strided`` (K, ceil(H/4), ceil(W/4)) of the tagged classes, each map divided
    by its own maximum. GPP alone is ``epochs = 40, triplet_epochs = 0``; GAP alone has ``pooling = "gap"`` as well.

    In a run over several processes, or with `accumulate`, each part of a batch draws its negatives, counts its hard
    triplets and takes its first `cls_subset` images by itself.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})
    writes: ClassVar[tuple[str, ...]] = ("full", "strided")
    # since runs exist, and what stands for "as before"
    added: ClassVar[Mapping[str, Any]] = {"plain_embedding": False, "optimiser": "sgd"}

    # pooling, sec. 9.2
    pooling: Pooling = "gpp"  # "gap" and the ablations: see `models.pooling.Pooling`
    bins: tuple[int, ...] = (2, 4, 8, 16)
    # triplets, sec. 9.3 and 9.4
    t_high: float = 0.6  # t_H, COCO 0.7
    t_low: float = 0.2  # t_L, COCO 0.1
    margin: float = 0.5  # epsilon, known from the code alone; COCO 0.1
    attract_weight: float = 0.2  # lambda_1
    repel_weight: float = 0.15  # lambda_2; 0 is "+ attract" of the ablation
    min_hard: int = 5  # hard triplets without which there is no repulsion
    missing_negatives: Missing = "skip"  # "shift": the published code's, sec. 9.8, row 7
    detach_mask: bool = False  # true: no gradient through the mask, sec. 9.8, row 5
    erasing: Literal["soft", "rigid"] = "soft"  # "rigid": classify the erased image instead of attracting, 53.4
    embedding: Literal["pyramid", "cam"] = "pyramid"  # "cam": of f instead of G, which "degrades" (supplement 1.3)
    plain_embedding: bool = False  # true: the paper's e = GAP(G), neither rectified nor scaled, sec. 9.8, rows 1 and 2
    # training, sec. 9.4 and 1.2
    crop: int = 320
    long_side: tuple[int, int] = (256, 512)
    jitter: bool = True
    epochs: int = 18  # phase 1: classification alone
    batch_size: int = 8
    triplet_epochs: int = 22  # phase 2
    triplet_batch_size: int = 32
    cls_subset: int = 8  # images of a batch of phase 2 that are classified: the first ones
    accumulate: int = 1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    new_factor: float = 1.0  # all layers alike, sec. 9.1
    weight_decay: float = 5e-4
    momentum: float | None = None  # None: the weight decay, as the published code has it (sec. 1.2)
    horizon: int | Literal["first_phase"] | None = "first_phase"  # 52,880 steps on train_aug, as if batches stayed at 8
    keep_epochs: bool = False
    # network, sec. 9.1 and 1.3
    width: int = 256
    dropouts: tuple[float, float] = (0.2, 0.2)  # in b6 and b7 of ResNet38
    freeze_stem: bool = True
    freeze_bn: bool = True  # statistics
    freeze_affine: bool = True
    # maps, sec. 9.5
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    flip: bool = True

    @property
    def augmentation(self) -> Augmentation:
        """A long side, mirror, jitter of four photographs in five, padded crop."""
        jitter: tuple[AugmentationStep, ...] = (Jitter(0.4, 0.4, 0.4, 0.1, p=0.8),) if self.jitter else ()
        return Augmentation((ResizeLong(*self.long_side), Flip(), *jitter, Normalise(), PaddedCrop(self.crop)))

    @property
    def optimisation(self) -> Optimisation:
        """Poly decay in two phases, each with its batch size."""
        phases = ((self.epochs, self.batch_size), (self.triplet_epochs, self.triplet_batch_size))
        return optimisation_of(self, phases=tuple(p for p in phases if p[0] > 0), schedule="poly", power=0.9)

    def build(self, num_classes: int, backbone: Backbone) -> AeftNet:
        """The classifier over `num_classes` foreground classes, with the paper's parts frozen."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        set_dropouts(features, self.dropouts)
        return AeftNet(features, num_classes, width=self.width, pooling=self.pooling, bins=self.bins)

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """L_cls alone in the first phase; L_cls of some images, lambda_1 L_att and lambda_2 L_rep in the second."""
        anchor = model(batch.images)
        if step.epoch < self.epochs:
            return {"cls": multilabel_soft_margin(anchor.logits, batch.tags)}
        first = slice(self.cls_subset)
        losses = {"cls": multilabel_soft_margin(anchor.logits[first], batch.tags[first])}
        if self.attract_weight:
            erased = model(batch.images * self.mask(anchor.maps, batch))
            losses |= self.attract(anchor, erased, batch.tags)
        if self.repel_weight:
            losses["repel"] = self.repel_weight * self.repel(anchor, batch.tags)
        return losses

    def mask(self, maps: Tensor, batch: Batch) -> Tensor:
        """`erasing_mask` of a batch by this method's constants; on normalised images 0 is the mean colour."""
        maps = maps.detach() if self.detach_mask else maps
        return erasing_mask(maps, batch.tags, (batch.images.shape[2], batch.images.shape[3]), self.t_high)

    def attract(self, anchor: AeftOutput, erased: AeftOutput, tags: Tensor) -> dict[str, Tensor]:
        """``attract``, soft erasing; or ``rigid``: the erased image must be classified like its anchor."""
        if self.erasing == "rigid":
            return {"rigid": self.attract_weight * multilabel_soft_margin(erased.logits, tags)}
        embedded = self._embedded(anchor), self._embedded(erased)
        loss = attraction_loss(*embedded, tags, rectify=not self.plain_embedding)
        return {"attract": self.attract_weight * loss}

    def repel(self, anchor: AeftOutput, tags: Tensor) -> Tensor:
        """L_rep between what an anchor's classes look like where they are not, and the classes of another image."""
        activations, embedded = activation(anchor.maps, tags), self._embedded(anchor)
        anchors, negatives = draw_negatives(tags, self.missing_negatives)
        plain = self.plain_embedding
        low = region_embedding(embedded, activations, tags, self.t_low, normalise=not plain)
        whole = region_embedding(embedded, activations, tags, math.inf if plain else 1.0, normalise=not plain)
        return repulsion_loss(low[anchors], whole[negatives], self.margin, self.min_hard)

    def score(self, model: AeftNet, sample: Sample) -> Mapping[str, ScoreMap]:
        """Score maps ``full`` and ``strided`` of the tagged classes, 0-1, on the model's device."""
        views, ids = list(self._views(model, sample)), sample.present.to(model.device)
        sizes = {"full": sample.size, "strided": strided_size(sample.size)}
        if not len(ids):
            return {
                key: ScoreMap(ids, torch.zeros(0, *size, device=ids.device), sample.size) for key, size in sizes.items()
            }
        return {key: ScoreMap(ids, max_normalise(merge_views(views, size)), sample.size) for key, size in sizes.items()}

    def classify(self, model: AeftNet, sample: Sample) -> Tensor:
        """float (C,), logits of the photograph at its own size: what the tags' mean average precision is taken of."""
        image = model.normalise(sample.image.as_subclass(Tensor).to(model.device))
        logits: Tensor = model(image[None]).logits[0]
        return logits

    def _embedded(self, output: AeftOutput) -> Tensor:
        return output.pyramid if self.embedding == "pyramid" else output.maps

    def _views(self, model: AeftNet, sample: Sample) -> Iterator[Tensor]:
        """f of the tagged classes, float (1 or 2, K, h_s, w_s), of each scale and its mirror image."""
        classes = sample.tags.nonzero().flatten().to(model.device)
        if not len(classes):  # no maps, so no forward pass
            return
        for images in scaled_views(sample.image, self.scales, model.normalise, flip=self.flip, device=model.device):
            yield model.maps(images)[:, classes].float()


METHODS = {
    "voc": Aeft(),
    "coco": Aeft(t_high=0.7, t_low=0.1, margin=0.1),
    "mobile": Aeft(  # no paper's: sized as cam.mobile, for ImageNet weights and two CPU cores
        crop=208,
        long_side=(208, 320),
        jitter=False,
        attract_weight=0.05,  # a quarter of the paper's, with which so short a second phase made the maps worse
        repel_weight=0.04,
        epochs=6,
        batch_size=16,
        triplet_epochs=3,
        cls_subset=16,  # half of a batch, where the paper has a quarter
        optimiser="adamw",
        lr=1e-4,
        new_factor=10.0,
        weight_decay=0.01,
    ),
}

BACKBONES = {"voc": "resnet38d", "coco": "resnet38d"}
"""The network that these learning rates were published for."""

_WITHOUT: dict[str, Any] = {"attract_weight": 0.0, "repel_weight": 0.0, "triplet_batch_size": 8}

STUDIES = {
    "thresholds": [  # supplement, Table A1
        {"t_low": low, "t_high": high} for low in (0.1, 0.15, 0.2, 0.25) for high in (0.5, 0.55, 0.6, 0.65, 0.7)
    ],
    "triplet": [_WITHOUT, {"erasing": "rigid", "repel_weight": 0.0}, {"repel_weight": 0.0}, {}],  # sec. 9.7, line 2
    "pooling": [{"pooling": name, **_WITHOUT} for name in get_args(Pooling)],  # sec. 9.7, line 1; supplement 1.2
}
"""Settings of the paper's tables, each a training of its own: `weakseg sweep RECIPE --study thresholds`."""
