"""The record: every method is a few equations between a `Sample`, a `ScoreMap` and a `LabelMap`.

Frozen dataclasses, validated once at construction; shapes and units stand beside each field. The data that configures
a method (`Backbone`, `Augmentation`, `Optimisation`) lives here too, so that a method imports neither the loader that
builds the one nor the loop that builds the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

BACKGROUND = 0
"""Id of the background class in every label map and score map."""
IGNORE = 255
"""Id of a pixel that no loss and no metric counts."""
LATER = "later"
"""`Backbone.weights` of a network whose weights, backbone and head together, come from a run's own file."""
MAX_CLASSES = 254
"""Foreground classes that fit in a uint8 label map beside background and ignore."""

LabelMap: TypeAlias = Tensor
"""uint8 (H, W): 0 background, 1..C foreground, 255 ignore."""


class WeaksegError(ValueError):
    """Something a person can mend: one sentence that says what came, what was wanted and what to do."""


def check_label_map(labels: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Return `labels` if it is a uint8 (H, W) tensor (of `size`), else raise ValueError saying what came.

    >>> check_label_map(torch.zeros(2, 3, dtype=torch.uint8)).shape
    torch.Size([2, 3])
    """
    if labels.dtype != torch.uint8 or labels.ndim != 2:
        raise ValueError(f"a label map is uint8 (H, W); got {labels.dtype} {tuple(labels.shape)}")
    if size is not None and tuple(labels.shape) != tuple(size):
        raise ValueError(f"the label map is {tuple(labels.shape)}, its photograph {tuple(size)} (height, width)")
    return labels


def unknown_id(labels: LabelMap, num_classes: int) -> int | None:
    """The highest id of a label map that is none of 0 (background), 1..`num_classes` and 255; None if there is none.

    >>> unknown_id(torch.tensor([[0, 2, 255]], dtype=torch.uint8), 2), unknown_id(torch.tensor([[3]]), 2)
    (None, 3)
    """
    strange = labels[(labels > num_classes) & (labels != IGNORE)]
    return int(strange.max()) if len(strange) else None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMap:
    """Scores of the classes present in one photograph, at any resolution.

    Attributes:
        ids: uint8 (K,), class ids 1..C; 0 = background where the method has such a map. Sorted by the method, not
            here; unique unless `box` is given.
        scores: float32 (K, h, w).
        size: (H, W) of the photograph, pixels.
        box: int32 (K,), index into the sample's boxes, or None. With it ids may repeat: one map a box.

    >>> m = ScoreMap(torch.tensor([2], dtype=torch.uint8), torch.ones(1, 2, 3), (4, 6))
    >>> m.dense(4)[:, 0, 0].tolist()
    [0.0, 0.0, 1.0, 0.0]
    """

    ids: Tensor
    scores: Tensor
    size: tuple[int, int]
    box: Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids.dtype != torch.uint8 or self.ids.ndim != 1:
            raise ValueError(f"ids are uint8 (K,); got {self.ids.dtype} {tuple(self.ids.shape)}")
        if self.scores.dtype != torch.float32 or self.scores.ndim != 3:
            raise ValueError(f"scores are float32 (K, h, w); got {self.scores.dtype} {tuple(self.scores.shape)}")
        if len(self.ids) != len(self.scores):
            raise ValueError(f"{len(self.ids)} ids for {len(self.scores)} maps")
        if self.box is None and len(set(self.ids.tolist())) != len(self.ids):
            raise ValueError(f"ids repeat without boxes: {self.ids.tolist()}")
        if self.box is not None and (self.box.dtype != torch.int32 or self.box.shape != self.ids.shape):
            raise ValueError(f"box is int32 (K,); got {self.box.dtype} {tuple(self.box.shape)}")

    def dense(self, channels: int) -> Tensor:
        """float32 (channels, h, w), channel k = class id k, zeros for absent classes; maps of one id take the max."""
        out = self.scores.new_zeros((channels, *self.scores.shape[1:]))
        for k, map_ in zip(self.ids.tolist(), self.scores, strict=True):
            out[k] = torch.maximum(out[k], map_) if self.box is not None else map_
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """Instance masks of one photograph; on disk COCO RLE JSON.

    Attributes:
        masks: bool (K, H, W).
        labels: int64 (K,), class ids 1..C.
        scores: float32 (K,), 0-1.
        boxes: float32 (K, 4), XYXY pixels, half-open.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor

    def __post_init__(self) -> None:
        k = len(self.masks)
        if self.masks.dtype != torch.bool or self.masks.ndim != 3:
            raise ValueError(f"masks are bool (K, H, W); got {self.masks.dtype} {tuple(self.masks.shape)}")
        if tuple(self.labels.shape) != (k,) or tuple(self.scores.shape) != (k,) or tuple(self.boxes.shape) != (k, 4):
            raise ValueError(
                f"{k} masks want labels (K,), scores (K,) and boxes (K, 4); got {tuple(self.labels.shape)}, "
                f"{tuple(self.scores.shape)}, {tuple(self.boxes.shape)}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One photograph with everything that is known of it. Truth (`mask`) is None except for steps that may see it.

    Attributes:
        id: file stem, the only key on disk.
        image: uint8 (3, H, W), RGB 0-255.
        tags: bool (C,), foreground classes present; entry k is class id k + 1 (the only 0-based place).
        boxes: float32 (K, 4) XYXY pixels, half-open, or None.
        box_labels: int64 (K,), ids 1..C, or None.
        saliency: float32 (1, H, W), 0-1, or None.
        seeds: label maps uint8 (H, W) of earlier steps, by the recipe's names; 255 = ignore.
        scores: score maps of earlier steps, by the recipe's names.
        mask: ground truth uint8 (H, W), or None.
    """

    id: str
    image: tv_tensors.Image
    tags: Tensor
    boxes: tv_tensors.BoundingBoxes | None = None
    box_labels: Tensor | None = None
    saliency: tv_tensors.Mask | None = None
    seeds: Mapping[str, Tensor] = field(default_factory=dict)
    scores: Mapping[str, ScoreMap] = field(default_factory=dict)
    mask: tv_tensors.Mask | None = None

    def __post_init__(self) -> None:
        if self.image.dtype != torch.uint8 or self.image.ndim != 3 or self.image.shape[0] != 3:
            raise ValueError(
                f"{self.id}: the image is uint8 (3, H, W); got {self.image.dtype} {tuple(self.image.shape)}"
            )
        if self.tags.dtype != torch.bool or self.tags.ndim != 1:
            raise ValueError(f"{self.id}: tags are bool (C,); got {self.tags.dtype} {tuple(self.tags.shape)}")
        if (self.boxes is None) != (self.box_labels is None):
            raise ValueError(f"{self.id}: boxes and box_labels come together")
        if self.boxes is not None and self.box_labels is not None and self.boxes.shape != (len(self.box_labels), 4):
            raise ValueError(f"{self.id}: {len(self.box_labels)} box labels for boxes {tuple(self.boxes.shape)}")
        if self.saliency is not None and (
            self.saliency.dtype != torch.float32 or tuple(self.saliency.shape) != (1, *self.size)
        ):
            raise ValueError(
                f"{self.id}: saliency is float32 (1, H, W) of the photograph's size {self.size}; "
                f"got {self.saliency.dtype} {tuple(self.saliency.shape)}"
            )
        for name, labels in (*self.seeds.items(), *((("mask", self.mask),) if self.mask is not None else ())):
            try:
                check_label_map(labels, self.size)
            except ValueError as error:
                raise ValueError(f"{self.id}, {name}: {error}") from None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the photograph, pixels."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @property
    def present(self) -> Tensor:
        """uint8 (K,), the sorted class ids 1..C of the tags.

        >>> image = tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8))
        >>> Sample("a", image, torch.tensor([False, True, True])).present.tolist()
        [2, 3]
        """
        return (self.tags.nonzero().flatten() + 1).to(torch.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Augmented samples of one size, stacked.

    Attributes:
        ids: file stems.
        images: float32 (B, 3, H, W), normalised.
        tags: float32 (B, C), 0 or 1.
        valid: bool (B, 1, H, W), false on padding.
        saliency: float32 (B, 1, H, W), 0-1, or None.
        seeds: uint8 (B, H, W) each; 255 = ignore and padding.
        scores: float32 (B, C + 1, H, W) each, channel k = class id k; zeros for absent classes and on padding.
        boxes: float32 (K_b, 4) for each image, XYXY pixels of the crop, half-open; or None.
        box_labels: int64 (K_b,) for each image, ids 1..C; or None.
    """

    ids: tuple[str, ...]
    images: Tensor
    tags: Tensor
    valid: Tensor
    saliency: Tensor | None = None
    seeds: Mapping[str, Tensor] = field(default_factory=dict)
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    boxes: tuple[Tensor, ...] | None = None
    box_labels: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device` (called by the loop only)."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return replace(
            self,
            images=move(self.images),
            tags=move(self.tags),
            valid=move(self.valid),
            saliency=None if self.saliency is None else move(self.saliency),
            seeds={k: move(v) for k, v in self.seeds.items()},
            scores={k: move(v) for k, v in self.scores.items()},
            boxes=None if self.boxes is None else tuple(map(move, self.boxes)),
            box_labels=None if self.box_labels is None else tuple(map(move, self.box_labels)),
        )


@dataclass(frozen=True, slots=True)
class Step:
    """Where training stands: optimiser step `index` (0-based), `epoch` (0-based), `total` optimiser steps."""

    index: int
    epoch: int
    total: int


@dataclass(frozen=True, slots=True)
class Backbone:
    """What `build` gets: a name and a file are not enough, a net has its own mean, std, padding and stride.

    Attributes:
        name: a timm name, or one of weakseg's own (``irn_resnet50``).
        weights: path of a safetensors or .pth file; ``"pretrained"`` = the library's own download; None = random;
            `LATER` = none yet.
        output_stride: input pixels a feature pixel.
        mean, std: RGB, of the image scaled to 0-1.
        create: further arguments of timm's ``create_model``, such as ``{"pad_type": "same"}``.
    """

    name: str
    weights: str | None = "pretrained"
    output_stride: int = 16
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    create: Mapping[str, Any] = field(default_factory=dict)


# --- augmentation: an ordered list, so that each method puts normalising, jitter and cropping where its paper does ---


@dataclass(frozen=True, slots=True)
class ResizeLong:
    """Long side to a uniform integer in [low, high] pixels; image and saliency bicubic, label maps nearest."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Rescale:
    """Both sides times U(low, high), or times one of `choices` if that is given; `mode` is the photograph's filter."""

    low: float = 1.0
    high: float = 1.0
    choices: tuple[float, ...] = ()
    mode: Literal["bicubic", "bilinear"] = "bicubic"


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirror left-right with probability `p`; everything jointly."""

    p: float = 0.5


@dataclass(frozen=True, slots=True)
class Jitter:
    """torchvision's ColorJitter on the image alone, with probability `p`."""

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.1
    p: float = 1.0


@dataclass(frozen=True, slots=True)
class HsvJitter:
    """Adds to hue, saturation and value of the image alone a uniform integer in [-amount, amount) each.

    Hue in steps of two degrees, saturation and value in levels of 255 (`ops.hsv`; SEAM's retraining, methods.md 10).
    """

    amount: int = 10


@dataclass(frozen=True, slots=True)
class Normalise:
    """uint8 image to the network's float input; what comes after it pads with zeros = mean colour."""


@dataclass(frozen=True, slots=True)
class PaddedCrop:
    """Square random crop (methods.md 1.6): a short side lands at a uniform offset in a container of zeros."""

    size: int


@dataclass(frozen=True, slots=True)
class PadCrop:
    """Pad right and bottom to `size` with mean colour and 255, then crop a random square (methods.md 10).

    Before `Normalise` the padding may have a `colour` of its own, RGB levels, which what follows then changes like the
    photograph (BANA's jitter, methods.md 7.2); None is the network's mean colour whatever follows.
    """

    size: int
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class ShiftBoxes:
    """Left and top edges of boxes moved by `offset` pixels: 1 makes VOC's 1-based corners, see `ops.boxes.shifted`."""

    offset: float


AugmentationStep: TypeAlias = (
    ResizeLong | Rescale | Flip | Jitter | HsvJitter | Normalise | PaddedCrop | PadCrop | ShiftBoxes
)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """An ordered list of steps; `data.transforms` builds it. It must hold `Normalise` once."""

    steps: tuple[AugmentationStep, ...]

    def __post_init__(self) -> None:
        if sum(isinstance(s, Normalise) for s in self.steps) != 1:
            raise ValueError("an augmentation holds Normalise exactly once")


@dataclass(frozen=True, slots=True)
class Optimisation:
    """How to train; `train` builds it.

    Attributes:
        epochs, batch_size: one phase; a batch is the global one, over all processes, and the last short one is dropped.
        lr: of the pre-trained weights.
        new_factor: learning rate of `model.new_parameters()` over `lr`.
        bias_factor: learning rate of a bias over that of a weight of its group; biases then have no weight decay
            (the PSA family's four groups, methods.md 1.2). None: biases are treated as weights.
        momentum: of SGD. The PSA family's effective value is its weight decay (1.2).
        schedule: ``poly``: (1 - t/T)^power; ``step``: times `gamma` at each of `milestones`; ``constant``.
        horizon: T in optimiser steps; None = the run's own total; ``first_phase`` = what the total would be if all
            epochs had the first one's batches (AEFT).
        interval: the rate is updated every so many steps.
        warmup: steps in which the rate rises, linearly from a thousandth, to what `schedule` says.
        iterations: total optimiser steps; None = epochs decide.
        phases: ((epochs, batch_size), ...) instead of one phase (AEFT).
        accumulate: micro-batches a step; the batch is split into so many.
        keep_epochs: keep the weights of every epoch as ``epoch-N.safetensors``, which a step's `fitted` can name.
        keep_steps: keep the weights after every so many steps as ``step-N.safetensors``, likewise; 0: none.
    """

    epochs: int = 5
    batch_size: int = 16
    lr: float = 0.01
    new_factor: float = 10.0
    bias_factor: float | None = None
    weight_decay: float = 1e-4
    momentum: float = 0.9
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["poly", "step", "constant"] = "poly"
    power: float = 0.9
    gamma: float = 0.1
    milestones: tuple[int, ...] = ()
    horizon: int | Literal["first_phase"] | None = None
    interval: int = 1
    iterations: int | None = None
    phases: tuple[tuple[int, int], ...] = ()
    accumulate: int = 1
    keep_epochs: bool = False
    keep_steps: int = 0
    warmup: int = 0

    added: ClassVar[Mapping[str, Any]] = {"warmup": 0, "keep_steps": 0}  # since runs exist, see `deciding_constants`


# --- the roles: Protocols, no base class ---

MapsOf: TypeAlias = Literal["tags", "background", "boxes"]
"""A method's `reads`, the score maps it wants: one of each tag (if it does not say), these and one of background, or
one of background (box -1) and one of each box. A dry run invents such maps."""

Outputs: TypeAlias = Mapping[str, "ScoreMap | LabelMap | Instances"]
"""What one step makes of one sample, by key (``full``, ``strided``, ``labels``, ``crf`` ...)."""

SCORES = "scores"
"""Name under which a recipe's plain ``scores: step/key`` stands in `sample.scores`."""
SEEDS = "seeds"
"""Name under which a recipe's plain ``seeds: step`` stands in `sample.seeds`."""
LABELS = "labels"
"""Key of the label map of a step that makes one."""
SALIENCY = "saliency"
"""Key of the saliency map of a step that makes one (`ops.saliency.saliency_score_map`)."""


class Method(Protocol):
    """What every method has: a frozen dataclass of the paper's constants."""

    needs: ClassVar[frozenset[str]]


@runtime_checkable
class Learner(Protocol):
    """A method that is fitted. `augmentation` and `optimisation` are usually properties over its constants."""

    @property
    def augmentation(self) -> Augmentation: ...
    @property
    def optimisation(self) -> Optimisation: ...
    def build(self, num_classes: int, backbone: Backbone) -> nn.Module: ...
    def objective(self, model: nn.Module, batch: Batch, step: Step) -> Mapping[str, Tensor]: ...


@runtime_checkable
class Localizer(Learner, Protocol):
    """Tags (boxes, saliency) in, score maps out."""

    writes: ClassVar[tuple[str, ...]]

    def score(self, model: nn.Module, sample: Sample) -> Mapping[str, ScoreMap]: ...


@runtime_checkable
class Refiner(Protocol):
    """Score maps or label maps in, better ones out; learns if it also is a Learner."""

    writes: ClassVar[tuple[str, ...]]

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs: ...


@runtime_checkable
class Segmenter(Learner, Protocol):
    """Label maps in, a network that needs no labels out.

    One that can leave for other runtimes also has ``one_view(model, images)``: uint8 (B, 3, H, W) -> float32
    (B, C + 1, H, W), the softmax of one look at each photograph, in operations that torch exports.
    """

    def predict(self, model: nn.Module, sample: Sample) -> "LabelMap | Instances": ...


def deciding_constants(method: object) -> dict[str, Any]:
    """The constants of a method that decide its numbers; none of what is no dataclass.

    A constant that a method got after people had runs stands in its `added`, a mapping to the value that means "as
    before": with that value it is left out, so that older runs stay done, resumable and reusable.
    """
    known: Any = method if is_dataclass(method) and not isinstance(method, type) else None
    if known is None:
        return {}
    added: Mapping[str, Any] = getattr(method, "added", {})
    return {k: v for k, v in asdict(known).items() if k not in added or v != added[k]}


def optimisation_of(method: object, **more: Any) -> Optimisation:
    """The `Optimisation` of a method whose constants bear the names of its fields; `more` are those it has not.

    A `momentum` of None is the weight decay, as the PSA family's published code has it (methods.md 1.2).
    """
    known: Any = method
    names = {f.name for f in fields(Optimisation)} & {f.name for f in fields(known)}
    given: dict[str, Any] = {name: getattr(method, name) for name in names} | more
    if given.get("momentum", 0) is None:
        given["momentum"] = given["weight_decay"]
    return Optimisation(**given)


Samples: TypeAlias = Sequence[Sample]
Normaliser: TypeAlias = Callable[[Tensor], Tensor]
"""uint8 or float (..., 3, H, W) RGB 0-255 -> float32, the network's input."""
