"""Augmented samples to a batch, and the one source of randomness of a sample."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weakseg.types import IGNORE, Batch, WeaksegError


def sample_generator(seed: int, epoch: int, id: str) -> torch.Generator:
    """The generator of every draw for photograph `id` in `epoch`: the same whatever process asks."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def collate(items: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack what `data.transforms` made of each sample.

    A label map or score map that only some samples have (an optional one) is all 255 or all 0 for the others; one that
    none of them has is not in the batch. Without boxes of its own a photograph among others with boxes has none.

    Args:
        items: one mapping a sample, see `data.transforms.Transform`.

    Raises:
        WeaksegError: only some of the samples have a saliency map.
        ValueError: the images are of different sizes.
    """
    sizes = sorted({tuple(item["image"].shape[-2:]) for item in items})
    if len(sizes) > 1:
        raise ValueError(f"a batch wants images of one size, got {sizes}; end the augmentation with a crop")
    labels = torch.full(sizes[0], IGNORE, dtype=torch.uint8)
    scores = torch.zeros(len(items[0]["tags"]) + 1, *sizes[0])
    boxes, box_labels = _boxes(items)
    return Batch(
        ids=tuple(item["id"] for item in items),
        images=_stack(items, "image"),
        tags=_stack(items, "tags").float(),
        valid=_stack(items, "valid"),
        saliency=_saliency(items),
        seeds=_named(items, "seeds", labels),
        scores=_named(items, "scores", scores),
        boxes=boxes,
        box_labels=box_labels,
    )


def _stack(items: Sequence[Mapping[str, Any]], key: str) -> Tensor:
    return torch.stack([item[key] for item in items])


def _named(items: Sequence[Mapping[str, Any]], key: str, blank: Tensor) -> dict[str, Tensor]:
    names = dict.fromkeys(name for item in items for name in item[key])
    return {name: torch.stack([item[key].get(name, blank) for item in items]) for name in names}


def _saliency(items: Sequence[Mapping[str, Any]]) -> Tensor | None:
    lacking = [item["id"] for item in items if item["saliency"] is None]
    if len(lacking) == len(items):
        return None
    if lacking:
        raise WeaksegError(
            f"{lacking[0]} has no saliency map, other photographs of the list have; add it or leave it out"
        )
    return _stack(items, "saliency")


def _boxes(items: Sequence[Mapping[str, Any]]) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
    if all(item["boxes"] is None for item in items):
        return None, None
    none, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    return (
        tuple(none if item["boxes"] is None else item["boxes"] for item in items),
        tuple(no_labels if item["boxes"] is None else item["box_labels"] for item in items),
    )
