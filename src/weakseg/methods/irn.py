"""IRN: inter-pixel relations; class boundaries and displacements learnt from confident seeds refine score maps.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019,
https://arxiv.org/abs/1904.05044; constants and the published code's choices: methods.md 4. AMN uses it as it stands
(methods.md 8.6).
Supervision: image tags, by way of score maps (the stride-4 maps of a CAM) and of seeds (`labels.ir_label`). To reach on
VOC 2012 train: 66.5 mIoU of the pseudo-masks from ResNet50's CAM, 37.7 AP50 of the instances.

Pairs, affinities and their losses are in `ops.affinity`, the random walk in `ops.random_walk`, the steps from
displacements to instances in `ops.instances`, the network in `models.irn`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from weakseg.models.backbones import build_backbone
from weakseg.models.irn import STRIDE, RelationNet
from weakseg.ops.affinity import (
    affinity_losses,
    displacement_losses,
    edge_affinity,
    label_pairs,
    pair_offsets,
    walk_affinity,
)
from weakseg.ops.cam import strided_size
from weakseg.ops.image import resize_labels
from weakseg.ops.instances import centroid_clusters, detect_instances, follow, split_by_cluster
from weakseg.ops.labels import resized_scores, threshold
from weakseg.ops.random_walk import random_walk, transition
from weakseg.types import (
    BACKGROUND,
    LABELS,
    SCORES,
    SEEDS,
    Augmentation,
    Backbone,
    Batch,
    Flip,
    Instances,
    LabelMap,
    Normalise,
    Optimisation,
    Outputs,
    PaddedCrop,
    Rescale,
    Sample,
    ScoreMap,
    Step,
    WeaksegError,
    optimisation_of,
)

INSTANCES = "instances"
"""Key of the instances, where they are made."""
T = TypeVar("T")


# --- the equations; k = class, h x w = cells of 4 pixels ---


def relation_losses(edge: Tensor, displacement: Tensor, labels: Tensor, radius: int = 10) -> dict[str, Tensor]:
    """``L = (P + N) / 2 + (D_f + D_b) / 2`` over all pairs of the batch.

    Args:
        edge: float (B, h, w), logits.
        displacement: float (B, 2, h, w), cells.
        labels: uint8 (B, H, W), seeds of any size, brought to h x w by nearest neighbour; 255 takes part in no pair.
        radius: pairs of less than so many cells.

    Returns:
        the terms with their weights, by name (`affinity_losses`, `displacement_losses`); their sum is L.
    """
    pairs = label_pairs(resize_labels(labels, (int(edge.shape[1]), int(edge.shape[2]))), radius)
    affinity = edge_affinity(edge.float().sigmoid(), radius)
    return {**affinity_losses(affinity, pairs), **displacement_losses(displacement.float(), pairs, radius)}


def edge_probability(logits: Tensor) -> Tensor:
    """sigmoid((e + flip e') / 2), float (h, w), of the logits (2, h, w) of a view and of its mirror image.

    >>> edge_probability(torch.tensor([[[2.0, -1.0]], [[-1.0, 2.0]]]))
    tensor([[0.8808, 0.2689]])
    """
    return ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()


def propagate(scores: Tensor, edge: Tensor, *, radius: int = 5, beta: float = 10.0, steps: int = 256) -> Tensor:
    """``x (1 - edge) T^steps``: scores walk within boundaries; on the boundaries themselves they start at zero.

    Args:
        scores: float (K, h, w).
        edge: float (h, w), 0-1.
        radius, beta, steps: of the transition T, see `ops.random_walk`.

    Returns:
        float (K, h, w), not normalised.
    """
    step = transition(walk_affinity(edge, radius), pair_offsets(radius), beta)
    return random_walk(scores * (1 - edge), step, steps)


def enlarge(walked: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsampled by 4 and cropped to `size`, over the maximum of *all* maps and pixels: one scale for all classes.

    Args:
        walked: float (K, ceil(H/4), ceil(W/4)), >= 0.
        size: (H, W), pixels.

    Returns:
        float (K, H, W), 0-1; zeros stay zeros.
    """
    if not len(walked):
        return walked.new_zeros((0, *size))
    full = interpolate(walked[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]
    full = full[:, : size[0], : size[1]]
    highest = full.max()
    return full / highest.where(highest > 0, 1)


@dataclass(frozen=True, slots=True)
class Irn:
    """Network, training and refinement; the defaults are the paper's on VOC 2012 (methods.md 4)."""

    needs: ClassVar[frozenset[str]] = frozenset()

    # training, sec. 4 and 1.2
    radius: int = 10  # of the pairs, in cells of 4 pixels: 152 offsets
    crop: int = 512
    train_scales: tuple[float, float] = (0.5, 1.5)
    epochs: int = 3
    batch_size: int = 32
    lr: float = 0.1  # edge branch
    new_factor: float = 10.0  # displacement branch: 1.0
    weight_decay: float = 1e-4
    momentum: float | None = None  # None: the weight decay, as the published code has it (sec. 1.2)
    # network, sec. 4
    edge_width: int = 32
    width: int = 256  # displacement branch
    learn_backbone: bool = False  # the paper detaches all its maps; true where it has no pre-trained weights
    mean_shift: bool = True  # false: AMN on COCO (sec. 8.6)
    # random walk, sec. 4
    power: float = 1.0  # of the score maps beforehand; AMN 1.3 (sec. 8.6)
    walk_radius: int = 5  # 34 offsets
    beta: float = 10.0
    steps: int = 256  # the published 8 squarings
    background: float = 0.25  # AMN on COCO 0.22
    pad: int | None = 512  # zeros at right and bottom up to it, as in training's crops; None: AMN on COCO (sec. 8.6)
    # instances, sec. 4
    instances: bool = False  # write them too
    follow_steps: int = 300
    centroid_threshold: float = 2.5  # cells
    min_area: float = 0.01  # of the photograph

    @property
    def writes(self) -> tuple[str, ...]:
        """``scores`` after the walk, ``labels``, and ``instances`` if asked for."""
        return (SCORES, LABELS, INSTANCES) if self.instances else (SCORES, LABELS)

    @property
    def augmentation(self) -> Augmentation:
        """Photograph and seeds rescaled (bicubic, nearest), normalised, mirrored, cropped with padding."""
        return Augmentation((Rescale(*self.train_scales), Normalise(), Flip(), PaddedCrop(self.crop)))

    @property
    def optimisation(self) -> Optimisation:
        """SGD with poly decay; the displacement branch at `new_factor` times the rate of the edge branch."""
        return optimisation_of(self, schedule="poly", power=0.9)  # the field `power` is of the maps

    def build(self, num_classes: int, backbone: Backbone) -> RelationNet:
        """The two branches on `backbone`; nothing depends on the number of classes."""
        features = build_backbone(backbone, freeze_bn=not self.learn_backbone)
        return RelationNet(features, edge_width=self.edge_width, width=self.width, learn_backbone=self.learn_backbone)

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """`relation_losses` against the seeds."""
        edge, displacement = model(batch.images)
        return relation_losses(edge, displacement, _input(batch.seeds, SEEDS, "seeds"), self.radius)

    @torch.no_grad()
    def finish(self, model: RelationNet, samples: Sequence[Sample]) -> None:
        """Mean shift: the mean displacement over `samples`, each a top-left crop padded with mean colour."""
        model.mean_displacement.zero_()
        if not self.mean_shift:
            return
        total = torch.zeros_like(model.mean_displacement)
        for k in range(len(samples)):
            image = model.normalise(samples[k].image.as_subclass(Tensor).to(model.device))
            crop = _padded(image[None, :, : self.crop, : self.crop], self.crop)
            total += model(crop).displacement.mean(dim=(0, 2, 3))
        model.mean_displacement.copy_(total / max(1, len(samples)))

    def refine(self, model: RelationNet, sample: Sample) -> Outputs:
        """``scores`` (K, H, W) of the classes, 0-1, and ``labels``; and ``instances`` if asked for.

        Reads the score maps under ``scores`` (or under whichever one name the recipe gives). A background map among
        them is left out; without any class all is background.
        """
        given = _input(sample.scores, SCORES, "scores")
        kept = given.ids != BACKGROUND
        ids, size = given.ids[kept].to(model.device), strided_size(sample.size, STRIDE)
        if not len(ids):
            return self._outputs(ids, torch.zeros((0, *size), device=model.device), None, None, sample.size)
        maps = resized_scores(ScoreMap(given.ids[kept], given.scores[kept], given.size), size).to(model.device)
        edge, displacement = self.relations(model, sample)
        return self._outputs(ids, maps.pow(self.power), edge, displacement, sample.size)

    def relations(self, model: RelationNet, sample: Sample) -> tuple[Tensor, Tensor]:
        """Edge probabilities (h, w), of the photograph and its mirror image, and displacements (2, h, w) of the former.

        h, w = ceil(H/4), ceil(W/4).
        """
        size = strided_size(sample.size, STRIDE)
        image = model.normalise(sample.image.as_subclass(Tensor).to(model.device))[None]
        views = _padded(torch.cat([image, image.flip(-1)]), self.pad or 0)
        edge, displacement = model(views)
        logits = _on_grid(edge.float(), size)
        return edge_probability(logits), _on_grid(displacement[0].float(), size)

    def _outputs(
        self, ids: Tensor, maps: Tensor, edge: Tensor | None, displacement: Tensor | None, size: tuple[int, int]
    ) -> Outputs:
        walked = maps if edge is None else self._walk(maps, edge)
        scores = ScoreMap(ids, enlarge(walked, size), size)
        outputs: dict[str, ScoreMap | LabelMap | Instances] = {
            SCORES: scores,
            LABELS: threshold(scores, self.background),
        }
        if self.instances:
            outputs[INSTANCES] = self._instances(ids, maps, edge, displacement, size)
        return outputs

    def _instances(
        self, ids: Tensor, maps: Tensor, edge: Tensor | None, displacement: Tensor | None, size: tuple[int, int]
    ) -> Instances:
        """The maps split by the centre that their cells point to, walked and cut apart."""
        if edge is None or displacement is None:
            return detect_instances(maps.new_zeros((0, *size)), ids)
        clusters = centroid_clusters(follow(displacement, self.follow_steps), displacement, self.centroid_threshold)
        split = split_by_cluster(maps, clusters)
        alive = split.flatten(1).any(dim=1)  # a cluster without a class's score wins nothing anywhere
        owners = ids.repeat_interleave(len(split) // len(ids))[alive]
        full = enlarge(self._walk(split[alive], edge), size)
        return detect_instances(full, owners, self.background, self.min_area)

    def _walk(self, maps: Tensor, edge: Tensor) -> Tensor:
        return propagate(maps, edge, radius=self.walk_radius, beta=self.beta, steps=self.steps)


def _padded(images: Tensor, side: int) -> Tensor:
    """Zeros (mean colour) at right and bottom up to `side`; larger images stay as they are."""
    height, width = images.shape[2:]
    return pad(images, (0, max(0, side - width), 0, max(0, side - height)))


def _on_grid(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The first `size` cells of maps (K, h, w); resized where a network has fewer (its patches round down)."""
    if maps.shape[1] >= size[0] and maps.shape[2] >= size[1]:
        return maps[:, : size[0], : size[1]]
    return interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def _input(inputs: Mapping[str, T], name: str, kind: str) -> T:
    """The input called `name`, or the only one, whatever the recipe calls it."""
    if name in inputs:
        return inputs[name]
    if len(inputs) == 1:
        return next(iter(inputs.values()))
    raise WeaksegError(
        f"irn reads one entry of {kind} and got {sorted(inputs) or 'none'}: name an earlier step under `{kind}` in the "
        "recipe, such as `scores: cam/strided` and `seeds: seeds`"
    )


METHODS = {"irn": Irn()}

BACKBONES = {"irn": "irn_resnet50"}
"""The network that these learning rates were published for."""
