"""Augmentation of a whole sample: photograph, label maps, score maps, saliency and boxes move together.

Resizing is ours (`ops.image`, equal to Pillow); every draw comes from the generator that is handed in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from weakseg.ops.boxes import shifted
from weakseg.ops.crops import cut, draw_start, draw_window
from weakseg.ops.hsv import shift_hsv
from weakseg.ops.image import Mode, resize_image, resize_labels, resize_saliency
from weakseg.ops.jitter import adjust_hue
from weakseg.types import (
    IGNORE,
    Augmentation,
    Flip,
    HsvJitter,
    Jitter,
    Normalise,
    Normaliser,
    PadCrop,
    PaddedCrop,
    Rescale,
    ResizeLong,
    Sample,
    ScoreMap,
    ShiftBoxes,
)


@dataclass(frozen=True)
class Pixels:
    """A sample on its way: all planes have the size of `image`.

    Attributes:
        image: uint8 or, normalised, float32 (3, H, W).
        valid: bool (1, H, W), false on padding.
        saliency: float32 (1, H, W), 0-1, or None.
        seeds: uint8 (H, W) each.
        scores: float32 (K, H, W) each, the maps of the classes present alone.
        boxes, box_labels: float32 (K, 4) XYXY pixels half-open and int64 (K,), or None.
    """

    image: Tensor
    valid: Tensor
    saliency: Tensor | None
    seeds: Mapping[str, Tensor]
    scores: Mapping[str, Tensor]
    boxes: Tensor | None
    box_labels: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])


@dataclass(frozen=True)
class Transform:
    """An augmentation with the network's normalisation; call it with a sample and its generator."""

    augmentation: Augmentation
    normalise: Normaliser

    def __call__(self, sample: Sample, generator: torch.Generator) -> dict[str, Any]:
        """The fields of `Pixels`, ``id`` and ``tags`` by name, with dense `scores`; the sample stays as it is.

        Args:
            sample: its `mask` is left behind.
            generator: the source of every draw, on the CPU.

        Returns:
            What `data.collate` stacks: ``image`` float32 (3, H, W), ``tags`` bool (C,), ``scores`` float32
            (C + 1, H, W) each, and the others as in `Pixels`.
        """
        pixels = _unpack(sample)
        mean_colour = False
        for step in self.augmentation.steps:
            if isinstance(step, Normalise):
                pixels = _normalised(pixels, self.normalise, mean_colour)
            else:
                pixels = apply(step, pixels, generator)
            mean_colour = mean_colour or (isinstance(step, PadCrop) and step.colour is None)
        channels = len(sample.tags) + 1
        scores = {name: _dense(maps, sample.scores[name], channels) for name, maps in pixels.scores.items()}
        return {"id": sample.id, "tags": sample.tags, **vars(pixels), "scores": scores}


def build(augmentation: Augmentation, normalise: Normaliser) -> Transform:
    """The transform of an augmentation for the network whose `normalise` this is.

    Raises:
        ValueError: a step that works on levels 0-255 (resizing, jitter) comes after `Normalise`, or a step's sizes or
            factors make no sense.
    """
    normalised = False
    for step in augmentation.steps:
        if normalised and isinstance(step, ResizeLong | Rescale | Jitter | HsvJitter):
            raise ValueError(f"{type(step).__name__} works on levels 0-255; put it before Normalise")
        if normalised and isinstance(step, PadCrop) and step.colour is not None:
            raise ValueError("PadCrop has a colour in levels 0-255; put it before Normalise")
        if isinstance(step, ResizeLong) and not 1 <= step.low <= step.high:
            raise ValueError(f"{step}: wanted 1 <= low <= high, pixels")
        if isinstance(step, Rescale) and (min(step.choices or (step.low,)) <= 0 or step.low > step.high):
            raise ValueError(f"{step}: wanted 0 < low <= high, or positive choices")
        if isinstance(step, HsvJitter) and step.amount < 1:
            raise ValueError(f"{step}: wanted an amount of at least 1")
        if isinstance(step, PaddedCrop | PadCrop) and step.size < 1:
            raise ValueError(f"{step}: wanted a size of at least 1 pixel")
        normalised = normalised or isinstance(step, Normalise)
    return Transform(augmentation, normalise)


@singledispatch
def apply(step: object, pixels: Pixels, generator: torch.Generator) -> Pixels:
    """One step of an augmentation. Raises TypeError for an unknown one."""
    raise TypeError(f"no augmentation step {type(step).__name__}")


@apply.register
def _resize_long(step: ResizeLong, pixels: Pixels, generator: torch.Generator) -> Pixels:
    long = int(torch.randint(step.low, step.high + 1, (), generator=generator))
    height, width = pixels.size
    scale = long / max(height, width)
    return resized(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))


@apply.register
def _rescale(step: Rescale, pixels: Pixels, generator: torch.Generator) -> Pixels:
    if step.choices:
        scale = step.choices[int(torch.randint(len(step.choices), (), generator=generator))]
    else:
        scale = step.low + (step.high - step.low) * float(torch.rand((), generator=generator))
    height, width = pixels.size
    return resized(pixels, (max(1, round(height * scale)), max(1, round(width * scale))), step.mode)


@apply.register
def _flip(step: Flip, pixels: Pixels, generator: torch.Generator) -> Pixels:
    if float(torch.rand((), generator=generator)) >= step.p:
        return pixels
    boxes, width = pixels.boxes, pixels.size[1]
    if boxes is not None:
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    return replace(_each(pixels, lambda x, _: x.flip(-1)), boxes=boxes)


@apply.register
def _shift_boxes(step: ShiftBoxes, pixels: Pixels, generator: torch.Generator) -> Pixels:
    return replace(pixels, boxes=None if pixels.boxes is None else shifted(pixels.boxes, step.offset))


@apply.register
def _jitter(step: Jitter, pixels: Pixels, generator: torch.Generator) -> Pixels:
    """torchvision's ColorJitter: factors uniform around 1 (hue around 0), the four in random order."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if float(torch.rand((), generator=generator)) >= step.p:
        return pixels
    order = torch.randperm(4, generator=generator).tolist()
    factors = [draw(max(0.0, 1 - w), 1 + w) for w in (step.brightness, step.contrast, step.saturation)]
    factors.append(draw(-step.hue, step.hue))
    change: list[Callable[[Tensor, float], Tensor]] = [
        TF.adjust_brightness,
        TF.adjust_contrast,
        TF.adjust_saturation,
        adjust_hue,
    ]
    widths, image = (step.brightness, step.contrast, step.saturation, step.hue), pixels.image
    for k in order:
        if widths[k]:
            image = change[k](image, factors[k])
    return replace(pixels, image=image)


@apply.register
def _hsv_jitter(step: HsvJitter, pixels: Pixels, generator: torch.Generator) -> Pixels:
    hue, saturation, value = torch.randint(-step.amount, step.amount, (3,), generator=generator).tolist()
    return replace(pixels, image=shift_hsv(pixels.image, hue, saturation, value))


@apply.register
def _padded_crop(step: PaddedCrop, pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Axes are independent: a short one lands at a random offset, a long one starts at one (methods.md 1.6)."""
    (top, row), (left, column) = (draw_window(side, step.size, generator) for side in pixels.size)
    return window(pixels, (top, left), (row, column), step.size)


@apply.register
def _pad_crop(step: PadCrop, pixels: Pixels, generator: torch.Generator) -> Pixels:
    """A short axis is padded at its end; a long one starts at a random offset."""
    top, left = (draw_start(side, step.size, generator) for side in pixels.size)
    cropped = window(pixels, (top, left), (0, 0), step.size)
    if step.colour is None or cropped.image.dtype != torch.uint8:
        return cropped
    colour = torch.tensor(step.colour, dtype=torch.uint8)[:, None, None]
    return replace(cropped, image=torch.where(cropped.valid, cropped.image, colour))


def resized(pixels: Pixels, size: tuple[int, int], mode: Mode = "bicubic") -> Pixels:
    """Everything at another size: photograph by `mode`, saliency bicubic, label maps nearest, score maps bilinear."""
    ratio = torch.tensor([size[1] / pixels.size[1], size[0] / pixels.size[0]]).repeat(2)
    return Pixels(
        image=resize_image(pixels.image, size, mode),
        valid=resize_labels(pixels.valid, size),
        saliency=None if pixels.saliency is None else resize_saliency(pixels.saliency, size),
        seeds={name: resize_labels(labels, size) for name, labels in pixels.seeds.items()},
        scores={name: _bilinear(scores, size) for name, scores in pixels.scores.items()},
        boxes=None if pixels.boxes is None else pixels.boxes * ratio,
        box_labels=pixels.box_labels,
    )


def window(pixels: Pixels, start: tuple[int, int], offset: tuple[int, int], side: int) -> Pixels:
    """The square whose `offset` holds the pixel at `start`; beyond the photograph 0, and 255 in label maps."""
    height, width = (min(n - s, side - o) for n, s, o in zip(pixels.size, start, offset, strict=True))

    boxes, labels = pixels.boxes, pixels.box_labels
    if boxes is not None and labels is not None:
        shift = torch.tensor([offset[1] - start[1], offset[0] - start[0]], dtype=torch.float32).repeat(2)
        low = torch.tensor([offset[1], offset[0]], dtype=torch.float32).repeat(2)
        high = low + torch.tensor([width, height], dtype=torch.float32).repeat(2)
        boxes = (boxes + shift).maximum(low).minimum(high)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, labels = boxes[kept], labels[kept]
    return replace(_each(pixels, lambda x, fill: cut(x, start, offset, side, fill)), boxes=boxes, box_labels=labels)


def _each(pixels: Pixels, change: Callable[[Tensor, int], Tensor]) -> Pixels:
    """`change(plane, fill)` of every plane; `fill` is what it holds where there is no photograph."""
    return replace(
        pixels,
        image=change(pixels.image, 0),
        valid=change(pixels.valid, 0),
        saliency=None if pixels.saliency is None else change(pixels.saliency, 0),
        seeds={name: change(labels, IGNORE) for name, labels in pixels.seeds.items()},
        scores={name: change(scores, 0) for name, scores in pixels.scores.items()},
    )


def _unpack(sample: Sample) -> Pixels:
    return Pixels(
        image=sample.image.as_subclass(Tensor),
        valid=torch.ones(1, *sample.size, dtype=torch.bool),
        saliency=None if sample.saliency is None else sample.saliency.as_subclass(Tensor),
        seeds={name: labels.as_subclass(Tensor) for name, labels in sample.seeds.items()},
        scores={name: _bilinear(_one_each(maps), sample.size) for name, maps in sample.scores.items()},
        boxes=None if sample.boxes is None else sample.boxes.as_subclass(Tensor),
        box_labels=sample.box_labels,
    )


def _present(maps: ScoreMap) -> list[int]:
    return sorted(set(maps.ids.tolist()))


def _one_each(maps: ScoreMap) -> Tensor:
    """float32 (K, h, w): one map of each class present, sorted; of several boxes the maximum."""
    present = _present(maps)
    return maps.dense(max(present, default=0) + 1)[present]


def _dense(scores: Tensor, maps: ScoreMap, channels: int) -> Tensor:
    out = scores.new_zeros((channels, *scores.shape[1:]))
    out[_present(maps)] = scores
    return out


def _bilinear(scores: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(scores):
        return scores.new_zeros((0, *size))
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def _normalised(pixels: Pixels, normalise: Normaliser, mean_colour: bool) -> Pixels:
    """The network's input; with `mean_colour` the padding so far becomes zero, which is the mean colour."""
    image = normalise(pixels.image)
    return replace(pixels, image=image.where(pixels.valid, 0.0) if mean_colour else image)
