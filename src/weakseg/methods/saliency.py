"""Saliency without training, for methods that learn from a saliency map where nobody has one.

Zhang et al., "Minimum Barrier Salient Object Detection at 80 FPS", ICCV 2015 (`weakseg.ops.saliency`). No supervision.
Its map is worse than a trained network's, so what stands on it is labelled: manifest and report name the source.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from weakseg.ops.saliency import barrier_saliency, saliency_score_map
from weakseg.types import SALIENCY, Sample, ScoreMap


@dataclass(frozen=True, slots=True)
class Barrier:
    """The built-in saliency map: minimum barrier distance and border contrast, training-free."""

    needs: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[tuple[str, ...]] = (SALIENCY,)
    source: ClassVar[str] = "builtin, training-free"  # as manifest and report call it

    long_side: int = 300  # pixels at which it is computed, sec. 5
    sweeps: int = 3  # raster scans, sec. 3.2
    border: float = 0.1  # width of the border strips, sec. 4.1
    smoothing: float = 20.0  # sec. 4.2; 0 = none
    centre: float = 1.0  # weight of the centre prior, sec. 4.2; 0 = none
    contrast: float = 10.0  # slope of the sigmoid, sec. 4.2; 0 = none

    def refine(self, model: nn.Module | None, sample: Sample) -> dict[str, ScoreMap]:
        """``saliency`` of the photograph alone, kept as `weakseg.ops.saliency.saliency_score_map` does."""
        saliency = barrier_saliency(
            sample.image.as_subclass(Tensor),
            long_side=self.long_side,
            sweeps=self.sweeps,
            border=self.border,
            smoothing=self.smoothing,
            centre=self.centre,
            contrast=self.contrast,
        )
        return {SALIENCY: saliency_score_map(saliency)}


METHODS = {"builtin": Barrier()}
