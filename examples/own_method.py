"""A method of one's own is one file. This one fills the holes of a mask; it needs no training.

    python examples/own_method.py        # boxes of generated scenes -> DenseCRF -> this refiner -> numbers and a report

In a recipe its name is ``path/to/own_method.py:holes``. What it needs and writes, and its constant, weakseg finds by
itself: ``--set holes.largest=0.2`` works, and a changed constant makes this step run again and no other.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from weakseg import api
from weakseg.types import BACKGROUND, IGNORE, LABELS, SEEDS, Outputs, Sample


def fill_holes(labels: Tensor, largest: float) -> Tensor:
    """uint8 (H, W): background enclosed by one class gets its label, unless it is above `largest` of the class' pixels.

    >>> fill_holes(torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.uint8), 0.2).tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    filled, background = labels.clone(), labels.numpy() == BACKGROUND
    for k in set(labels.unique().tolist()) - {BACKGROUND, IGNORE}:
        own = labels.numpy() == k
        holes, _ = ndimage.label(ndimage.binary_fill_holes(own) & background)
        sizes = np.bincount(holes.ravel())
        sizes[0] = own.sum() + 1  # of what is no hole
        filled[torch.from_numpy((sizes <= largest * own.sum())[holes])] = k
    return filled


@dataclass(frozen=True)
class Holes:
    """The refiner: its fields are its constants, its verb is its equation."""

    needs: ClassVar[frozenset[str]] = frozenset()  # neither tags nor boxes nor saliency
    writes: ClassVar[tuple[str, ...]] = (LABELS,)

    largest: float = 0.1  # of the class' pixels

    def refine(self, model: nn.Module | None, sample: Sample) -> Outputs:
        """The label map that the recipe gives under ``seeds``, filled."""
        return {LABELS: fill_holes(sample.seeds[SEEDS].as_subclass(Tensor), self.largest)}


METHODS = {"holes": Holes()}

RECIPE = f"""
labels: holes
steps:
- {{name: crf, method: labels.box_crf, list: train}}
- {{name: holes, method: "{Path(__file__).resolve()}:holes", seeds: crf, list: train}}
- {{name: before, method: evaluate.masks, seeds: crf, title: Boxes after CRF}}
- {{name: after, method: evaluate.masks, seeds: holes, title: Holes filled}}
"""


def main(out: Path | None = None) -> None:
    """Run the recipe over generated scenes."""
    place = out or Path(tempfile.mkdtemp())
    api.data_scenes(place / "scenes", count=24, size=96, progress=False)
    (place / "recipe.yaml").write_text(RECIPE)
    result = api.run(place / "recipe.yaml", place / "scenes", place / "run", progress=False)
    for row in result["summary"]:
        print(f"{row['name']:16} {100 * row['mean']:.1f} {row['unit']}")
    print(result["report"])


if __name__ == "__main__":
    main()
