"""AMN: an Activation Manipulation Network, whose maps a wide range of thresholds suits.

Lee et al., "Threshold Matters in WSSS: Manipulating the Activation for the Robust and Accurate Segmentation Model
Against Thresholds", CVPR 2022, https://arxiv.org/abs/2203.16045; constants and the published code's choices:
methods.md 8. Supervision: image tags, and the refined seeds of a CAM (`labels.ir_label`) under the name ``refined``.
To reach on VOC 2012 train: 62.1 mIoU of the maps (58.2 without label conditioning), 72.2 after IRN; segmentation
network on val 69.5 (VOC), 44.7 (COCO).

The tags are an *input* of the network, so a photograph needs its tags and, for the published normalisation of the maps,
its refined seeds whenever it is scored.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from weakseg.models.amn import AmnNet
from weakseg.models.amn import condition as condition  # Eq. (2) stands beside the network that uses it
from weakseg.models.backbones import build_backbone
from weakseg.ops.cam import merge_flip, merge_psa, min_max_normalise, strided_size
from weakseg.ops.image import resize_labels
from weakseg.ops.losses import balanced_mean
from weakseg.ops.views import generator_of, scaled_views
from weakseg.types import (
    BACKGROUND,
    IGNORE,
    Augmentation,
    Backbone,
    Batch,
    Flip,
    LabelMap,
    Normalise,
    Optimisation,
    PaddedCrop,
    Rescale,
    Sample,
    ScoreMap,
    Step,
    WeaksegError,
    optimisation_of,
)

REFINED = "refined"
"""Name of the refined seeds S in `sample.seeds` and `batch.seeds`."""
Smoothing: TypeAlias = Literal["classes", "paper"]
MapNorm: TypeAlias = Literal["seed_mixed", "plain_minmax"]
Probe: TypeAlias = Literal["label", "ones", "noise", "zeros"]


# --- the equations; b = image, c = class with background first; h x w = feature pixels; Eq. (2) is `condition` ---


def smoothed_target(labels: Tensor, channels: int, epsilon: float = 0.4, smoothing: Smoothing = "classes") -> Tensor:
    """Eq. (3): S_p, 1 - epsilon on the pixel's label, the rest shared out among the other classes (8.3; 8.9, row 1).

    Args:
        labels: uint8 (B, h, w), ids 0..C, 255 = none.
        channels: C + 1.
        epsilon: 0.4; zero gives hard labels.
        smoothing: ``classes``: epsilon / C on each of the C others, as the published code, so that a pixel sums to one
            (VOC: 0.6 and 0.02). ``paper``: epsilon / (N - 1) with N = C foreground classes, which sums to 1.021.

    Returns:
        float32 (B, C + 1, h, w), zeros where the label is 255.

    Raises:
        WeaksegError: ``paper`` with a single foreground class, where N - 1 = 0.
    """
    others = channels - 1 if smoothing == "classes" else channels - 2
    if others < 1:
        raise WeaksegError(
            f"smoothing = {smoothing!r} divides by {others} with {channels - 1} class: use smoothing = 'classes'"
        )
    valid = labels != IGNORE
    ids = torch.where(valid, labels, BACKGROUND).long()[:, None]
    target = torch.full((len(labels), channels, *labels.shape[1:]), epsilon / others, device=labels.device)
    return target.scatter(1, ids, 1 - epsilon) * valid[:, None]


def pixel_loss(logits: Tensor, target: Tensor) -> Tensor:
    """l(p) = -sum_c S_p^c log M_p^c, with M the softmax of the logits (8.3).

    Args:
        logits: float (B, C + 1, h, w).
        target: float (B, C + 1, h, w), see `smoothed_target`.

    Returns:
        float (B, h, w).
    """
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)


def per_pixel_classification_loss(
    logits: Tensor,
    labels: Tensor,
    epsilon: float = 0.4,
    *,
    smoothing: Smoothing = "classes",
    half: bool = True,
    guard: bool = True,
) -> Tensor:
    """Eq. (4), L_PCL: the mean loss of the foreground pixels and that of the background pixels (8.3).

    Both means are over the pixels of the whole batch.

    Args:
        logits: float (B, C + 1, h, w), background first.
        labels: uint8 (B, h, w), ids 0..C at the size of the logits; 255 is in neither mean.
        epsilon, smoothing: see `smoothed_target`.
        half: half their sum, as the published code; False is the paper's sum.
        guard: a batch without foreground, or without background, has zero in that place; False: nan, as published.

    Returns:
        float ().
    """
    target = smoothed_target(labels, logits.shape[1], epsilon, smoothing)
    return balanced_mean(pixel_loss(logits, target), labels, half=half, guard=guard)


def mean_logits(views: Iterable[Tensor], size: tuple[int, int]) -> Tensor:
    """The logits of all scales and mirror images, averaged at one size (8.5).

    Args:
        views: float (1 or 2, C + 1, h_s, w_s) a scale: of the view and, if two, of its left-right mirror image.
        size: (h, w) of the result; the photograph's own for ``full``, a quarter of it for ``strided``.

    Returns:
        float (C + 1, h, w).
    """
    merged = [merge_flip(view) / 2 if len(view) == 2 else view[0] for view in views]
    return merge_psa(merged, size) / len(merged)


def activation(logits: Tensor, ids: Tensor) -> Tensor:
    """Eq. (5), M: a softmax over *all* C + 1 channels, of which background and the tagged classes are kept (8.5).

    Args:
        logits: float (C + 1, h, w), background first.
        ids: uint8 (K,), 0 and the tagged ids.

    Returns:
        float (K, h, w), 0-1.
    """
    return logits.softmax(dim=0)[ids.long()]


def seed_mixed(maps: Tensor, seeds: LabelMap, eps: float = 1e-5) -> Tensor:
    """`min_max_normalise` where the refined seed is foreground or undefined; where it is background M stays (8.5).

    Minimum and maximum are those of the whole map. The paper's "normalised to 0-1" has no such exception (8.9, row 7).

    Args:
        maps: float (K, h, w), 0-1, see `activation`.
        seeds: uint8 (H, W), refined seeds S, 255 = undefined; resized by nearest neighbour to h x w.
        eps: see `min_max_normalise`.

    Returns:
        float (K, h, w), 0-1.
    """
    background = resize_labels(seeds, (maps.shape[1], maps.shape[2])) == BACKGROUND
    return torch.where(background.to(maps.device), maps, min_max_normalise(maps, eps))


def probe_label(
    tags: Tensor, probe: Probe = "label", *, noise: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """What label conditioning is fed: the tags, or something else to see what the tags are worth (Table A.1).

    Args:
        tags: (B, C), 0 or 1.
        probe: ``label``; ``ones``: every class; ``noise``: the label plus Gaussian noise; ``zeros``: no class.
        noise: standard deviation of the noise (the paper gives none).
        generator: of the noise, on the CPU.

    Returns:
        float (B, C).
    """
    tags = tags.float()
    if probe == "ones":
        return torch.ones_like(tags)
    if probe == "zeros":
        return torch.zeros_like(tags)
    if probe == "noise":
        return tags + noise * torch.randn(tags.shape, generator=generator).to(tags)
    return tags


# --- the method ---


@dataclass(frozen=True, slots=True)
class Amn:
    """The network, its training on seeds and its multi-scale maps; the defaults are the published ones (methods.md 8).

    `score` makes ``full`` (H, W) and ``strided`` (ceil(H/4), ceil(W/4)) of background (id 0) and the tagged classes.
    Label maps are made of them with a constant in place of the background map: `labels.threshold` and
    `labels.ir_label` do that.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})
    writes: ClassVar[tuple[str, ...]] = ("full", "strided")
    added: ClassVar[Mapping[str, Any]] = {"guard": True}  # since runs exist, and what stands for "as before"

    # network, sec. 8.2
    lc: bool = True  # label conditioning; without it 58.2 instead of 62.1
    layers: tuple[int, ...] = (4,)  # where, Table 2: 4 is best, 3 61.2, 3 and 4 61.0, 1 48.2
    dropout: float = 0.1
    rates: tuple[int, ...] = (6, 12, 18, 24)
    freeze_stem: bool = True
    freeze_bn: bool = True  # statistics
    freeze_affine: bool = False
    # loss, sec. 8.3 and 8.9
    epsilon: float = 0.4
    smoothing: Smoothing = "classes"  # "paper": epsilon / (N - 1)
    half: bool = True  # False: the paper's sum of two means
    guard: bool = True  # False: 0 / 0 in a batch without foreground or background, as published (8.9, row 15)
    # training, sec. 8.4
    crop: int = 512
    train_scales: tuple[float, float] = (0.5, 1.5)
    epochs: int = 5
    batch_size: int = 16
    lr: float = 5e-6  # of the backbone
    new_factor: float = 20.0  # head and label conditioning 1e-4
    weight_decay: float = 1e-4
    condition: Probe = "label"  # what label conditioning is fed in training and, unless `probe` says so, in scoring
    # maps, sec. 8.5
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    flip: bool = True
    map_norm: MapNorm = "seed_mixed"  # "plain_minmax": the paper's, which needs no seeds to score
    test_time_dropout: bool = False  # the published tool leaves dropout on while it makes maps (8.9, row 6)
    probe: Probe | None = None  # in scoring alone; a step with `fitted` probes a network that is trained already
    noise: float = 1.0  # standard deviation, where `condition` or `probe` is "noise"

    @property
    def augmentation(self) -> Augmentation:
        """A scale, mirror, crop; photograph and seeds move together, and what the crop pads is undefined."""
        return Augmentation((Rescale(*self.train_scales), Normalise(), Flip(), PaddedCrop(self.crop)))

    @property
    def optimisation(self) -> Optimisation:
        """Adam at constant rates."""
        return optimisation_of(self, optimiser="adam", schedule="constant")

    def build(self, num_classes: int, backbone: Backbone) -> AmnNet:
        """The network over background and `num_classes` classes; of BatchNorm the scale and shift learn."""
        features = build_backbone(
            backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine, freeze_stem=self.freeze_stem
        )
        layers = self.layers if self.lc else ()
        return AmnNet(features, num_classes, layers=layers, dropout=self.dropout, rates=self.rates)

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """``pcl``, Eq. (4), against the seeds ``refined`` at the resolution of the features."""
        if REFINED not in batch.seeds:
            raise WeaksegError(f"amn reads the seeds {REFINED!r}: write `seeds: {{{REFINED}: STEP}}` in the recipe")
        logits = model(batch.images, probe_label(batch.tags, self.condition, noise=self.noise))
        labels = resize_labels(batch.seeds[REFINED], (logits.shape[2], logits.shape[3]))
        loss = per_pixel_classification_loss(
            logits, labels, self.epsilon, smoothing=self.smoothing, half=self.half, guard=self.guard
        )
        return {"pcl": loss}

    def score(self, model: AmnNet, sample: Sample) -> Mapping[str, ScoreMap]:
        """Score maps of background and the tagged classes, 0-1, on the model's device.

        A photograph without tags is background, certainly and everywhere (methods.md 8.6).
        """
        sizes = {"full": sample.size, "strided": strided_size(sample.size)}
        if not bool(sample.tags.any()):
            return {key: _background_alone(size, sample, model.device) for key, size in sizes.items()}
        views, present = list(self._views(model, sample)), sample.present.to(model.device)
        ids = torch.cat([present.new_tensor([BACKGROUND]), present])
        maps = {key: self.normalise(activation(mean_logits(views, size), ids), sample) for key, size in sizes.items()}
        return {key: ScoreMap(ids, m, sample.size) for key, m in maps.items()}

    def normalise(self, maps: Tensor, sample: Sample) -> Tensor:
        """Activations (K, h, w) of a photograph, normalised as `map_norm` says."""
        if self.map_norm == "plain_minmax":
            return min_max_normalise(maps)
        if REFINED not in sample.seeds:
            raise WeaksegError(
                f"{sample.id}: map_norm = 'seed_mixed' reads the refined seeds of every photograph it scores: let the "
                f"step that makes the seeds {REFINED!r} write this list too, or set map_norm = 'plain_minmax'"
            )
        return seed_mixed(maps, sample.seeds[REFINED].as_subclass(Tensor))

    def _views(self, model: AmnNet, sample: Sample) -> Iterator[Tensor]:
        """Logits (1 or 2, C + 1, h_s, w_s) of each scale and its mirror image; noise and dropout depend on the id."""
        generator = generator_of(sample.id)
        dropout = generator if self.test_time_dropout else None
        probe = self.condition if self.probe is None else self.probe
        labels = probe_label(sample.tags[None], probe, noise=self.noise, generator=generator).to(model.device)
        for images in scaled_views(sample.image, self.scales, model.normalise, flip=self.flip, device=model.device):
            yield model(images, labels.expand(len(images), -1), dropout).float()


def _background_alone(size: tuple[int, int], sample: Sample, device: torch.device) -> ScoreMap:
    ids = torch.tensor([BACKGROUND], dtype=torch.uint8, device=device)
    return ScoreMap(ids, torch.ones(1, *size, device=device), sample.size)


METHODS = {"amn": Amn()}

BACKBONES = {"amn": "irn_resnet50"}
"""The network that these learning rates were published for."""

STUDIES = {
    "label": [{"lc": False}, {"condition": "ones"}, {"condition": "noise"}, {"condition": "label"}],  # Table A.1
    "layers": [{"layers": k} for k in ([1], [2], [3], [4], [3, 4], [2, 3, 4], [2, 3])],  # Table 2
}
"""Settings of the paper's tables, each a training of its own: `weakseg sweep RECIPE --study layers`."""
