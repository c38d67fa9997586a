"""PSA: pixel-level semantic affinity, learnt from confident pixels of score maps, lets these maps walk.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018, https://arxiv.org/abs/1803.10464; constants and the published code's choices: methods.md 3.
SEAM and AEFT use it with constants of their own: ``psa.seam`` and ``psa.aeft``.
Supervision: image tags, by way of score maps (``scores``) and of their `crf.scores` at a small and a large alpha
(``low`` and ``high``). To reach on VOC 2012 train: 61.0 mIoU of the pseudo-masks from ResNet38's CAM, 63.6 from SEAM's.

Labels and affinities are in `ops.psa_affinity`, pairs and losses, shared with IRN, in `ops.affinity`, the walk in
`ops.random_walk`, the network in `models.psa`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from weakseg.models.backbones import build_backbone
from weakseg.models.psa import STRIDE, AffinityNet
from weakseg.models.vgg16 import configure
from weakseg.ops.affinity import affinity_losses, label_pairs, pair_offsets
from weakseg.ops.labels import foreground, resized_scores, winners
from weakseg.ops.psa_affinity import (
    affinity_labels,
    feature_affinity,
    feature_walk_affinity,
    fitting_radius,
    pool_scores,
    with_background,
)
from weakseg.ops.random_walk import random_walk, transition
from weakseg.types import (
    LABELS,
    SCORES,
    Augmentation,
    AugmentationStep,
    Backbone,
    Batch,
    Flip,
    Jitter,
    Normalise,
    Optimisation,
    Outputs,
    PaddedCrop,
    Sample,
    ScoreMap,
    Step,
    WeaksegError,
    optimisation_of,
)

LOW = "low"
"""Name of the scores of the CRF with the small alpha: what survives its large background is confident foreground."""
HIGH = "high"
"""Name of the scores of the CRF with the large alpha: what its small background holds is confident background."""


# --- the equations; c = class with background first, d = feature channel; h x w = cells of 8 pixels ---


def pair_losses(features: Tensor, low: Tensor, high: Tensor, radius: int = 5) -> dict[str, Tensor]:
    """L = 1/4 L_bg + 1/4 L_fg + 1/2 L_neg over all pairs of the batch whose two labels are known.

    Args:
        features: float (B, D, h, w).
        low, high: float (B, C + 1, H, W), scores of the two CRFs, 0 on padding; h x w cells of them in all.
        radius: pairs of less than so many cells.

    Returns:
        the terms with their weights, by name (`ops.affinity.affinity_losses`); their sum is L. One without pairs is 0.
    """
    labels = affinity_labels(pool_scores(low, STRIDE), pool_scores(high, STRIDE))
    if labels.shape[1:] != features.shape[2:]:
        raise WeaksegError(
            f"scores of {tuple(low.shape[2:])} pixels are {tuple(labels.shape[1:])} cells, the features "
            f"{tuple(features.shape[2:])}: give scores of the images' size"
        )
    return affinity_losses(feature_affinity(features, radius), label_pairs(labels, radius))


def propagate(
    scores: Tensor, features: Tensor, *, radius: int = 5, beta: float = 8.0, steps: int = 256, border: bool = False
) -> Tensor:
    """``v T^steps`` with T = A^beta, columns normalised: scores walk between cells whose features are alike.

    Args:
        scores: float (K, h, w), background among them.
        features: float (D, h, w).
        radius, beta, steps: of the transition T, see `ops.random_walk`; below a radius of 2 nothing walks.
        border: also pairs near the border, see `ops.psa_affinity.feature_walk_affinity`.

    Returns:
        float (K, h, w), means of the scores they began as.
    """
    affinity = feature_walk_affinity(features, radius, border=border)
    if not len(affinity):
        return scores
    return random_walk(scores, transition(affinity, pair_offsets(radius), beta), steps)


def enlarge(walked: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsampled by 8, bilinear, and cropped to `size`: a cell covers exactly 8 x 8 pixels.

    Args:
        walked: float (K, ceil(H/8), ceil(W/8)).
        size: (H, W), pixels.
    """
    full = interpolate(walked[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]
    return full[:, : size[0], : size[1]]


@dataclass(frozen=True, slots=True)
class Psa:
    """Network, training and walk; the defaults are PSA's on VOC 2012 (methods.md 3).

    The two alphas of the labels belong to the steps of `crf.scores` that make them: 4 and 32 (SEAM 4 and 24, AEFT 2
    and 21). Only training reads their scores.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset({LOW, HIGH})  # photographs that are only refined have none
    writes: ClassVar[tuple[str, ...]] = (SCORES, LABELS)
    added: ClassVar[Mapping[str, Any]] = {"keep_steps": 0}  # since runs exist, and what stands for "as before"

    # training
    radius: int = 5  # of the pairs, in cells of 8 pixels: 34 offsets
    crop: int = 448
    jitter: bool = True
    epochs: int = 8
    batch_size: int = 8
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1  # PSA's README; SEAM and AEFT 0.01
    new_factor: float = 10.0
    bias_factor: float | None = 2.0  # sec. 1.2; VGG16 has biases
    weight_decay: float = 5e-4
    momentum: float | None = None  # None: the weight decay, as the published code has it (sec. 1.2)
    keep_steps: int = 0  # weights are kept after every so many steps; AEFT chooses among those of every 200, sec. 9.5
    # network
    widths: tuple[int, int, int] = (64, 128, 256)
    group_norm: bool | None = None  # None: as published, on VGG16 and not on ResNet38; on other networks
    dilation: int = 4  # of VGG16's fc6
    freeze_stem: bool = True
    freeze_bn: bool = True  # statistics
    freeze_affine: bool = True
    # random walk
    beta: float = 8.0
    steps: int = 256  # the published 8 squarings; SEAM and AEFT 64
    alpha: float = 16.0  # of the background that walks; SEAM 6, AEFT 19
    shrink_radius: bool = False  # on maps whose shorter side is below 11 cells; SEAM and AEFT do
    border_pairs: bool = False  # true: cells near the border walk as others do; published, corners are tied to nothing

    @property
    def augmentation(self) -> Augmentation:
        """No rescaling; photograph and scores are cropped together before normalising, so padding is black."""
        jitter: tuple[AugmentationStep, ...] = (Jitter(0.3, 0.3, 0.3, 0.1),) if self.jitter else ()
        return Augmentation((*jitter, PaddedCrop(self.crop), Normalise(), Flip()))

    @property
    def optimisation(self) -> Optimisation:
        """Poly decay at every step."""
        return optimisation_of(self, schedule="poly", power=0.9)

    def build(self, num_classes: int, backbone: Backbone) -> AffinityNet:
        """The network on `backbone`; nothing depends on the number of classes."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        configure(features, dilation=self.dilation)
        return AffinityNet(features, widths=self.widths, group_norm=self.group_norm)

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """`pair_losses` against the labels of the two CRFs."""
        if lacking := [name for name in (LOW, HIGH) if name not in batch.scores]:
            raise WeaksegError(
                f"psa learns from the scores {LOW!r} and {HIGH!r} and got no {lacking[0]!r} for {batch.ids[0]}: name "
                f"two steps of crf.scores that write its list, `scores: {{{SCORES}: cam/full, {LOW}: crf-low/scores, "
                f"{HIGH}: crf-high/scores}}`"
            )
        return pair_losses(model(batch.images), batch.scores[LOW], batch.scores[HIGH], self.radius)

    def refine(self, model: AffinityNet, sample: Sample) -> Outputs:
        """``scores`` (K + 1, H, W) of background and the classes, 0-1, and ``labels``, the highest of each pixel.

        Reads the score maps under ``scores``. A background map among them is left out, (1 - max)^alpha takes its place;
        without any class all is background.
        """
        given = foreground(_walkers(sample.scores))
        ids = torch.cat([given.ids.new_zeros(1), given.ids]).to(model.device)
        maps = with_background(resized_scores(given, sample.size).to(model.device), self.alpha)
        if len(maps) > 1:
            maps = enlarge(self._walk(pool_scores(maps, STRIDE), self.features(model, sample)), sample.size)
        scores = ScoreMap(ids, maps, sample.size)
        return {SCORES: scores, LABELS: winners(scores)}

    def features(self, model: AffinityNet, sample: Sample) -> Tensor:
        """F of the photograph, float (D, ceil(H/8), ceil(W/8)), padded with mean colour to whole cells."""
        image = model.normalise(sample.image.as_subclass(Tensor).to(model.device))
        height, width = sample.size
        whole = max(STRIDE, *model.backbone.strides)
        features = model(pad(image[None], (0, -width % whole, 0, -height % whole)))[0].float()
        return features[:, : -(-height // STRIDE), : -(-width // STRIDE)]

    def _walk(self, scores: Tensor, features: Tensor) -> Tensor:
        size = (int(scores.shape[1]), int(scores.shape[2]))
        radius = fitting_radius(size, self.radius, shrink=self.shrink_radius)
        return propagate(scores, features, radius=radius, beta=self.beta, steps=self.steps, border=self.border_pairs)


def _walkers(scores: Mapping[str, ScoreMap]) -> ScoreMap:
    """The score maps that are to walk: those under ``scores``, or the only ones that are not a CRF's."""
    names = [SCORES] if SCORES in scores else [name for name in scores if name not in (LOW, HIGH)]
    if len(names) != 1:
        raise WeaksegError(
            f"psa refines one entry of scores and got {sorted(scores) or 'none'}: name the maps that are to walk, such "
            f"as `scores: {{{SCORES}: cam/full, {LOW}: crf-low/scores, {HIGH}: crf-high/scores}}`"
        )
    return scores[names[0]]


METHODS = {
    "psa": Psa(),
    "seam": Psa(lr=0.01, steps=64, alpha=6.0, shrink_radius=True),
    "aeft": Psa(lr=0.01, steps=64, alpha=19.0, shrink_radius=True),  # sec. 9.5; a CRF of one iteration follows
    "mobile": Psa(  # no paper's: sized for ImageNet weights, photographs of 320 pixels and two CPU cores
        crop=256,
        jitter=False,
        epochs=6,
        batch_size=16,
        optimiser="adamw",
        lr=1e-4,
        new_factor=20.0,
        bias_factor=None,
        weight_decay=0.01,
        beta=24.0,  # affinities are less sharp after a few hundred steps
        shrink_radius=True,
    ),
}

BACKBONES = {name: "resnet38d" for name in METHODS if name != "mobile"}
"""The network that these learning rates were published for."""
