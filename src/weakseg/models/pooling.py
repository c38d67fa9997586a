"""Poolings by name: from the maps of a classifier to its logits. What learns in them is here, their equations in `ops`.

A localiser has a field `pooling: Pooling` and hands it to `build_pooling`; `GatedPyramid` is the paper's layer
(Yoon et al., ECCV 2022; methods.md 9.2).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from weakseg.ops.pooling import BINS, Sides, gated_merge, mean_of_levels, pyramid, signed_logits
from weakseg.types import WeaksegError

Aggregator: TypeAlias = Literal["coarse_to_fine", "fine_to_coarse", "mean"]
Pooling: TypeAlias = Literal[
    "gap",
    "gpp",
    "gpp_fine_to_coarse",
    "gpp_mean",
    "gpp_2",
    "gpp_4",
    "gpp_8",
    "gpp_16",
    "gpp_positive",
    "gpp_negative",
    "gpp_no_negative_gate",
]
"""Names of poolings. Beside the CAM's 48.4, the paper has for VOC 2012 train 54.2 (``gpp``) and, in this order: 51.3,
53.3, 49.9, 51.6, 52.9, 53.1, below 48.4, below 48.4, 53.6."""

_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "gpp": {},
    "gpp_fine_to_coarse": {"aggregator": "fine_to_coarse"},
    "gpp_mean": {"aggregator": "mean"},
    "gpp_2": {"bins": (2,)},
    "gpp_4": {"bins": (4,)},
    "gpp_8": {"bins": (8,)},
    "gpp_16": {"bins": (16,)},
    "gpp_positive": {"sides": "positive"},
    "gpp_negative": {"sides": "negative"},
    "gpp_no_negative_gate": {"negative_gate": False},
}


class Pooled(NamedTuple):
    """What a pooling returns.

    Attributes:
        logits: float (B, C).
        pyramid: float (B, C, h, w), signed: G of gated pyramid pooling; of average pooling the maps themselves.
    """

    logits: Tensor
    pyramid: Tensor


class GlobalAverage(nn.Module):
    """The mean of each map: CAM's pooling, without parameters."""

    def forward(self, maps: Tensor) -> Pooled:
        """Logits of the maps (B, C, h, w), signed."""
        return Pooled(maps.mean(dim=(2, 3)), maps)


class GatedPyramid(nn.Module):
    """Gated Pyramid Pooling (GPP): bins, gates, signed product.

    Every merge has a 3x3 convolution, 2 C to 2 channels without bias, for the positive and another for the negative
    parts; with four levels and both sides that is six. They begin as PyTorch's convolutions do.

    Args:
        num_classes: C.
        bins: along a side, of each level, coarsest first; a single one leaves nothing to merge.
        aggregator: ``coarse_to_fine``, the paper's; ``fine_to_coarse``: the same gates in inverse order; ``mean``.
        sides: which parts make the logits, see `signed_logits`.
        negative_gate: whether negative parts are gated.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        bins: Sequence[int] = BINS,
        aggregator: Aggregator = "coarse_to_fine",
        sides: Sides = "both",
        negative_gate: bool = True,
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1 or list(bins) != sorted(set(bins)):
            raise WeaksegError(f"bins of a pyramid rise from 1 or more, such as {list(BINS)}; got {list(bins)}")
        self.bins, self.sides = tuple(bins), sides
        self.aggregator = aggregator
        merges = 0 if aggregator == "mean" else len(self.bins) - 1
        self.positive = _gates(num_classes, merges)
        self.negative = _gates(num_classes, merges) if negative_gate else None

    def forward(self, maps: Tensor) -> Pooled:
        """Logits and pyramid of the maps (B, C, h, w), signed; in float32 at least, for the logits are products."""
        kind = maps.device.type if torch.amp.is_autocast_available(maps.device.type) else "cpu"
        with torch.autocast(kind, enabled=False):
            f = maps.to(torch.promote_types(maps.dtype, torch.float32))
            merged = self.aggregate(pyramid(f, self.bins))
            return Pooled(signed_logits(merged, f, self.sides), merged)

    def aggregate(self, levels: Sequence[Tensor]) -> Tensor:
        """G: the levels (B, C, h, w), coarsest first, as one."""
        if self.aggregator == "mean":
            return mean_of_levels(levels)
        ordered = levels if self.aggregator == "coarse_to_fine" else levels[::-1]
        return gated_merge(ordered, _weights(self.positive), None if self.negative is None else _weights(self.negative))


def build_pooling(name: Pooling, num_classes: int, bins: Sequence[int] = BINS) -> GlobalAverage | GatedPyramid:
    """The pooling of that name over `num_classes` maps, with fresh parameters.

    Args:
        name: see `Pooling`.
        num_classes: C, of maps that are pooled.
        bins: of the levels; ``gpp_2`` to ``gpp_16`` have one level of their own.

    Raises:
        WeaksegError: an unknown name, or impossible bins.
    """
    if name == "gap":
        return GlobalAverage()
    if name not in _VARIANTS:
        raise WeaksegError(f"there is no pooling {name!r}; there are gap, {', '.join(_VARIANTS)}")
    return GatedPyramid(num_classes, **{"bins": tuple(bins), **_VARIANTS[name]})


def _gates(num_classes: int, merges: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(2 * num_classes, 2, kernel_size=3, padding=1, bias=False) for _ in range(merges))


def _weights(convolutions: nn.ModuleList) -> list[Tensor]:
    return [convolution.get_parameter("weight") for convolution in convolutions]
