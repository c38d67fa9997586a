"""EPS: Explicit Pseudo-pixel Supervision, a classifier that also explains a saliency map.

Lee et al., "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2021, https://arxiv.org/abs/2105.08965; constants and the published code's choices: methods.md 6.
Supervision: image tags and a saliency map of every training photograph. To reach on VOC 2012 train: 69.4 mIoU of the
score maps at background 0.2 (baseline 66.1, naive 66.5, predefined classes 67.9), 71.4 after CRF; COCO 2014: 37.2.

The classifier has C + 1 channels with background *last*; the score maps it writes bear ids 1..C as everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.models.backbones import build_backbone
from weakseg.models.eps import EpsNet
from weakseg.models.pooling import Pooling
from weakseg.ops.cam import max_normalise, merge_flip, merge_psa, merge_strided
from weakseg.ops.labels import class_ids
from weakseg.ops.losses import multilabel_soft_margin
from weakseg.ops.saliency import given_saliency, nearest_saliency, saliency_score_map
from weakseg.ops.views import scaled_views
from weakseg.types import (
    SALIENCY,
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

Norm: TypeAlias = Literal["softmax", "max"]
Strategy: TypeAlias = Literal["adaptive", "predefined", "naive", "baseline"]


# --- the equations; b = image, c = class, background last; h x w = feature pixels ---


def localization_maps(logits: Tensor, norm: Norm = "softmax") -> Tensor:
    """M_1 ... M_{C+1}: what share of each feature pixel every class claims (6.3, 1).

    Args:
        logits: float (B, C + 1, h, w), background last.
        norm: ``softmax`` over the channels, as published: only then do the threshold 0.5 and 1 - M_bg mean something.
            ``max`` is the other reading of the paper's "localization map": ReLU, over its own maximum (6.8, row 1).

    Returns:
        float (B, C + 1, h, w), 0-1.
    """
    if norm == "softmax":
        return logits.softmax(dim=1)
    positive = logits.relu()
    return positive / (positive.amax(dim=(2, 3), keepdim=True) + 1e-5)


@torch.no_grad()
def overlap(maps: Tensor, saliency: Tensor, per_pixel: float = 1e-4) -> Tensor:
    """O(M_i, M_s) = |B_i and B_s| / |B_i|, B = 1 where a map exceeds 0.5; without gradient (sec. 3.2; 6.3, 3).

    Args:
        maps: float (B, C + 1, h, w), 0-1, background last.
        saliency: float (B, 1, h, w), 0-1.
        per_pixel: what the published code adds to the denominator for every pixel, 0.31 on 56 x 56; 0 as in the paper.

    Returns:
        float (B, C), 0-1; 0 for a class without a pixel above 0.5, whatever `per_pixel` is.
    """
    binary, salient = maps[:, :-1] > 0.5, saliency > 0.5  # rounding halves to even also sends 0.5 to 0
    both = (binary & salient).sum(dim=(2, 3)).to(maps.dtype)
    size = binary.sum(dim=(2, 3)).to(maps.dtype) + per_pixel * maps.shape[2] * maps.shape[3]
    return both / size.where(size > 0, 1.0)


@torch.no_grad()
def select(
    maps: Tensor,
    saliency: Tensor,
    tags: Tensor,
    *,
    strategy: Strategy = "adaptive",
    tau: float = 0.4,
    predefined: Sequence[int | str] = (),
    per_pixel: float = 1e-4,
) -> Tensor:
    """Which of the present classes the saliency map shows; no gradient flows through the choice (Table 3; 6.3, 3).

    Args:
        maps, saliency: float (B, C + 1, h, w) and (B, 1, h, w), 0-1, as in `overlap`.
        tags: (B, C), 0 or 1.
        strategy: ``adaptive``: those whose `overlap` exceeds `tau`; ``predefined``: all but `predefined`; ``naive``
            and ``baseline``: all.
        tau: in ``adaptive``.
        predefined: class ids 1..C that a saliency model is known to miss, in ``predefined``.
        per_pixel: see `overlap`.

    Returns:
        bool (B, C), true = foreground. Of the present classes the others are background; absent ones are neither.

    Raises:
        WeaksegError: `predefined` holds names where ids are wanted.
    """
    present = tags.bool()
    if strategy == "adaptive":
        return present & (overlap(maps, saliency, per_pixel) > tau)
    if strategy == "predefined":
        missed = torch.zeros_like(present)
        missed[:, [id - 1 for id in _ids(predefined)]] = True
        return present & ~missed
    return present


def foreground_and_background(maps: Tensor, tags: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. (2): M_fg, the sum of the selected maps, and M_bg, that of the other present classes and of background.

    Args:
        maps: float (B, C + 1, h, w), background last.
        tags: (B, C), 0 or 1. The maps of absent classes enter neither sum, so M_fg + M_bg <= 1.
        selected: bool (B, C), see `select`.

    Returns:
        M_fg and M_bg, float (B, 1, h, w) each.
    """
    present = tags.bool()
    shown, hidden = ((m[..., None, None].to(maps.dtype)) for m in (present & selected, present & ~selected))
    objects, background = maps[:, :-1], maps[:, -1:]
    return (objects * shown).sum(1, keepdim=True), background + (objects * hidden).sum(1, keepdim=True)


def estimated_saliency(foreground: Tensor, background: Tensor, lam: float = 0.5) -> Tensor:
    """Eq. (1): lambda M_fg + (1 - lambda) (1 - M_bg), the saliency map that the localization maps explain."""
    return lam * foreground + (1 - lam) * (1 - background)


def saliency_loss(saliency: Tensor, estimated: Tensor) -> Tensor:
    """Eq. (3): mean squared difference over images and feature pixels, padding (saliency 0) included."""
    return (saliency - estimated).square().mean()


def classification_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Eq. (4): soft margin of the C pooled foreground logits; no gradient of it reaches the background channel.

    Args:
        logits: float (B, C + 1, h, w), background last, without ReLU.
        tags: (B, C), 0 or 1.
    """
    return multilabel_soft_margin(logits[:, :-1].mean(dim=(2, 3)), tags)


# --- the method ---


@dataclass(frozen=True, slots=True)
class Eps:
    """The classifier under tags and saliency, and its multi-scale maps; the defaults are those of VOC (methods.md 6).

    `score` makes ``full`` (H, W) and ``strided`` (ceil(H/4), ceil(W/4)) of the tagged classes, each divided by its own
    maximum; the learned background map is discarded (6.5). With `estimated` it also makes ``saliency``, Eq. (1) at test
    time, which reads the photograph's saliency map; `ops.saliency.saliency_score_map` says how it is kept.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tags", "saliency"})
    added: ClassVar[Mapping[str, Any]] = {"pooling": "gap"}  # since runs exist, and what stands for "as before"

    # saliency, sec. 3.2, 6.3 and 6.8
    tau: float = 0.4  # the paper's and the scripts'; the published parser's default is 0.5
    lam: float = 0.5  # lambda; 0.75 scores best in Table A.1 (69.9), COCO 0.9
    strategy: Strategy = "adaptive"  # Table 3; "baseline" is read as lambda = 1 with all present classes in front
    predefined: tuple[int | str, ...] = ("chair", "diningtable", "sofa")  # names or ids, for that strategy
    norm: Norm = "softmax"
    sal_size: Literal["feature", "image"] = "feature"  # "image": maps enlarged to the saliency map, the paper's H x W
    per_pixel: float = 1e-4  # in the denominator of the overlap; 0 is the paper's
    # training, sec. 6.4 and 1.2
    crop: int = 448
    long_side: tuple[int, int] = (256, 512)
    jitter: bool = True  # the published code's; the paper names scale, flip and crop only
    iterations: int | None = 20_000  # None: `epochs` decide
    epochs: int = 15
    batch_size: int = 8
    lr: float = 0.01
    new_factor: float = 10.0
    bias_factor: float | None = 2.0  # biases of the new layer would learn at 20 lr; it has none
    weight_decay: float = 5e-4
    momentum: float | None = None  # None: the weight decay, as the published code has it (sec. 1.2)
    # network, sec. 6.2 and 1.3
    pooling: Pooling = "gap"  # "gpp" and its ablations: gated pyramid pooling of AEFT, sec. 9.2
    freeze_stem: bool = True
    freeze_bn: bool = True  # statistics
    freeze_affine: bool = True
    # maps, sec. 6.5
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    flip: bool = True
    estimated: bool = False  # also write the estimated saliency map

    @property
    def writes(self) -> tuple[str, ...]:
        """Keys of the maps that `score` makes."""
        return ("full", "strided", SALIENCY) if self.estimated else ("full", "strided")

    @property
    def needs_to_score(self) -> frozenset[str]:
        """What a fitted network still needs: the saliency map only where it is to be estimated anew."""
        return self.needs if self.estimated else frozenset({"tags"})

    @property
    def augmentation(self) -> Augmentation:
        """Photograph and saliency move together; what the crop pads has saliency 0 and is learned as background."""
        jitter: tuple[AugmentationStep, ...] = (Jitter(0.3, 0.3, 0.3, 0.1),) if self.jitter else ()
        return Augmentation((ResizeLong(*self.long_side), Flip(), *jitter, Normalise(), PaddedCrop(self.crop)))

    @property
    def optimisation(self) -> Optimisation:
        """SGD with poly decay at every step."""
        return optimisation_of(self, schedule="poly", power=0.9)

    def for_classes(self, classes: Sequence[str]) -> "Eps":
        """This method with the names in `predefined` as ids of `classes`; of the default names those that there are.

        Raises:
            WeaksegError: another name that is no class.
        """
        if self.strategy != "predefined":
            return self
        usual = {name for method in METHODS.values() for name in method.predefined if isinstance(name, str)}
        return replace(self, predefined=class_ids(self.predefined, classes, optional=usual, what="predefined"))

    def build(self, num_classes: int, backbone: Backbone) -> EpsNet:
        """The classifier over `num_classes` foreground classes and background, with the paper's parts frozen."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        return EpsNet(features, num_classes, pooling=self.pooling)

    def objective(self, model: EpsNet, batch: Batch, step: Step) -> dict[str, Tensor]:
        """L_total = L_cls + L_sal (sec. 3.3), by name."""
        if batch.saliency is None:
            raise WeaksegError(f"{batch.ids[0]}: eps learns from a saliency map of every photograph and got none")
        logits = model(batch.images)
        return self.losses(logits, batch.saliency, batch.tags, model.pool(logits))

    def losses(self, logits: Tensor, saliency: Tensor, tags: Tensor, pooled: Tensor | None = None) -> dict[str, Tensor]:
        """``cls``, Eq. (4), and ``saliency``, Eq. (3).

        Args:
            logits, tags: as in `classification_loss`.
            saliency: float (B, 1, H, W), 0-1, of the images.
            pooled: float (B, C), what ``cls`` is taken of; None: the means of the maps, as published.
        """
        maps = localization_maps(logits, self.norm)
        if self.sal_size == "feature":
            saliency = nearest_saliency(saliency, (maps.shape[2], maps.shape[3]))
        else:
            maps = interpolate(maps, saliency.shape[2:], mode="bilinear", align_corners=False)
        estimated = self.estimate(maps, saliency, tags)
        cls = classification_loss(logits, tags) if pooled is None else multilabel_soft_margin(pooled, tags)
        return {"cls": cls, "saliency": saliency_loss(saliency, estimated)}

    def estimate(self, maps: Tensor, saliency: Tensor, tags: Tensor) -> Tensor:
        """Eqs. (2) and (1): float (B, 1, h, w), 0-1, of localization maps and a saliency map of one size."""
        lam = 1.0 if self.strategy == "baseline" else self.lam
        return estimated_saliency(*foreground_and_background(maps, tags, self.select(maps, saliency, tags)), lam)

    def select(self, maps: Tensor, saliency: Tensor, tags: Tensor) -> Tensor:
        """`select` by this method's constants."""
        how, ids = self.strategy, self.predefined
        return select(maps, saliency, tags, strategy=how, tau=self.tau, predefined=ids, per_pixel=self.per_pixel)

    def score(self, model: EpsNet, sample: Sample) -> Mapping[str, ScoreMap]:
        """Score maps of the tagged classes, 0-1, on the model's device; with `estimated` also ``saliency``."""
        views, ids = list(self._views(model, sample)), sample.present.to(model.device)
        sums = {"full": merge_psa(views, sample.size), "strided": merge_strided(views, sample.size)}
        maps = {key: ScoreMap(ids, max_normalise(m[: len(ids)]), sample.size) for key, m in sums.items()}
        if self.estimated:
            mean = sums["full"] / (len(views) * (2 if self.flip else 1))
            maps[SALIENCY] = saliency_score_map(self._estimated(mean, sample))
        return maps

    def classify(self, model: EpsNet, sample: Sample) -> Tensor:
        """float (C,), logits of the photograph at its own size: what the tags' mean average precision is taken of."""
        image = model.normalise(sample.image.as_subclass(Tensor).to(model.device))
        return model.pool(model(image[None]))[0]

    def localize(self, model: EpsNet, sample: Sample) -> tuple[Tensor, Tensor]:
        """M (1, C + 1, h, w) and M_s (1, 1, h, w), 0-1, of a photograph as training has them: one view, at features."""
        image = model.normalise(sample.image.as_subclass(Tensor).to(model.device))
        maps = localization_maps(model(image[None]).float(), self.norm)
        return maps, nearest_saliency(given_saliency(sample)[None].to(maps.device), (maps.shape[2], maps.shape[3]))

    def _views(self, model: EpsNet, sample: Sample) -> Iterator[Tensor]:
        """float (K, h_s, w_s) of each scale, of view and mirror image summed; background last if it counts."""
        channels = sample.tags.nonzero().flatten().tolist() + ([len(sample.tags)] if self.estimated else [])
        if not channels:  # no maps, so no forward pass
            yield torch.zeros(0, 1, 1, device=model.device)
            return
        for images in scaled_views(sample.image, self.scales, model.normalise, flip=self.flip, device=model.device):
            maps = localization_maps(model(images).float(), self.norm)[:, channels]
            yield merge_flip(maps) if self.flip else maps[0]

    def _estimated(self, mean: Tensor, sample: Sample) -> Tensor:
        """float (1, H, W), 0-1: Eq. (1) of the maps (K + 1, H, W), the mean over all views."""
        saliency = given_saliency(sample).to(mean)
        maps = mean.new_zeros(1, len(sample.tags) + 1, *sample.size)
        maps[0, [*sample.tags.nonzero().flatten().tolist(), -1]] = mean
        return self.estimate(maps, saliency[None], sample.tags[None].to(mean.device))[0]


def _ids(predefined: Sequence[int | str]) -> list[int]:
    if any(isinstance(id, str) for id in predefined):
        raise WeaksegError("predefined holds names of classes: turn them into ids with for_classes(names) first")
    return [int(id) for id in predefined]


METHODS = {
    "voc": Eps(),
    "coco": Eps(
        lam=0.9,  # sec. A.1
        crop=321,
        long_side=(256, 448),
        batch_size=16,
        iterations=256_500,
        epochs=50,
        predefined=("chair", "couch", "dining table"),
    ),
    "mobile": Eps(  # no paper's: trained as cam.mobile is, for ImageNet weights and two CPU cores
        crop=208,
        long_side=(208, 320),
        jitter=False,
        iterations=None,
        epochs=6,
        batch_size=16,
        lr=7e-4,
        new_factor=10.0,
        bias_factor=None,
        momentum=0.9,
        freeze_affine=True,
        freeze_stem=True,
    ),
}

STUDIES = {
    "strategies": [{"strategy": s} for s in ("baseline", "naive", "predefined", "adaptive")],  # Tables 3 and A.3
    "lambda": [{"lam": lam} for lam in (0.0, 0.25, 0.5, 0.75, 1.0)],  # Table A.1
    "tau": [{"tau": tau} for tau in (0.2, 0.3, 0.4, 0.5)],  # Table A.2
}
"""Settings of the paper's tables, each a training of its own: `weakseg sweep RECIPE --study lambda`."""

BACKBONES = {"voc": "resnet38d", "coco": "resnet38d"}
"""The network that these learning rates were published for."""
