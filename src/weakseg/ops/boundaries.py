"""Boundaries of label maps and their one-to-one matching: how EPS measures whether masks end where objects do.

Lee et al., "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for WSSS", CVPR 2021, sec. 5.1 and A.4: the
Laplacian edges of each foreground class's binary mask, united to one class-agnostic map, are compared with true
boundaries by precision, recall and F1. The paper leaves the tolerance open; as in the boundary benchmarks of BSDS and
SBD, edges are thinned to one pixel and matched one to one within a fraction of the image's diagonal (methods.md 11).
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from scipy import ndimage
from torch import Tensor

from weakseg.ops._matching import largest_matching
from weakseg.types import BACKGROUND, IGNORE, LabelMap, WeaksegError

MAX_DIST = 0.0075
"""Tolerance as a fraction of the diagonal: the default of the BSDS benchmark, 4.7 pixels on a 500 x 375 photograph."""
WIDE_MAX_DIST = 0.02
"""The wider tolerance that is reported beside it: SBD's, 12.5 pixels."""


@dataclass(frozen=True, slots=True)
class BoundaryCounts:
    """Boundary pixels of one photograph, or sums over a list (they add with ``+``).

    Attributes:
        matched: pairs of a predicted and a true pixel, each in one pair only.
        predicted, true: pixels of either side.
    """

    matched: int = 0
    predicted: int = 0
    true: int = 0

    def __add__(self, other: "BoundaryCounts") -> "BoundaryCounts":
        return BoundaryCounts(self.matched + other.matched, self.predicted + other.predicted, self.true + other.true)

    @property
    def precision(self) -> float:
        """Matched share of the predicted pixels, 0-1; nan if none was predicted."""
        return self.matched / self.predicted if self.predicted else float("nan")

    @property
    def recall(self) -> float:
        """Matched share of the true pixels, 0-1; nan if there is none."""
        return self.matched / self.true if self.true else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, 0-1: twice the pairs over all pixels; nan without a pixel on either side."""
        pixels = self.predicted + self.true
        return 2 * self.matched / pixels if pixels else float("nan")


def boundary_map(labels: LabelMap, thin: bool = True) -> Bool[Tensor, "h w"]:
    """The class-agnostic boundaries of a label map: Laplacian edges of each foreground class, united.

    A pixel is an edge of class c where the Laplacian of c's binary mask is not zero: both sides of the boundary, two
    pixels wide. The frame of the photograph is no boundary (the mask goes on outside as it ends). 255 belongs to no
    class; see `fill_ignored`.

    Args:
        labels: uint8 (H, W).
        thin: thin the united edges to lines one pixel wide.

    Reference: EPS, sec. 5.1 and A.4.

    >>> boundary_map(torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.uint8), thin=False).int().tolist()
    [[0, 1, 1, 0, 0]]
    """
    classes = _array(labels)
    edges = np.zeros(classes.shape, bool)
    for c in np.unique(classes):
        if c not in (BACKGROUND, IGNORE):
            edges |= ndimage.laplace((classes == c).astype(np.int16), mode="nearest") != 0
    return torch.from_numpy(_thinned(edges) if thin else edges)


def fill_ignored(labels: LabelMap) -> UInt8[Tensor, "h w"]:
    """The label map with the nearest other label in place of each 255, so that a boundary runs amid an unsure border.

    VOC's true masks surround objects with 255, five pixels wide: the object's own edge would lie at its inner rim.

    >>> fill_ignored(torch.tensor([[0, 255, 255, 255, 2]], dtype=torch.uint8)).tolist()
    [[0, 0, 0, 2, 2]]
    """
    ids = _array(labels)
    unsure = ids == IGNORE
    if not unsure.any() or unsure.all():
        return torch.from_numpy(ids.copy())
    nearest = ndimage.distance_transform_edt(unsure, return_distances=False, return_indices=True)
    return torch.from_numpy(ids[tuple(nearest)])


def thin(edges: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Lines one pixel wide with the same 8-connected parts: thinning in two sub-iterations until nothing changes.

    Reference: Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989, algorithm A1 in the form
    of the conditions G1 to G3 that image toolboxes use.

    >>> thin(torch.ones(3, 5, dtype=torch.bool)).int().tolist()
    [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    """
    return torch.from_numpy(_thinned(_array(edges).astype(bool)))


def match_boundaries(
    predicted: Bool[Tensor, "h w"], true: Bool[Tensor, "h w"], max_dist: float = MAX_DIST
) -> BoundaryCounts:
    """Match boundary pixels one to one within ``max_dist`` times the diagonal, as many pairs as there can be.

    The number of pairs is exactly the largest possible (Hopcroft and Karp on the pairs within reach). Benchmarks that
    minimise the summed distance with a high price for pixels without a partner find the same number.

    Args:
        predicted, true: boundary pixels of one photograph.
        max_dist: fraction of the diagonal; the distance itself is within reach.

    Raises:
        WeaksegError: sizes differ, or a negative distance.

    >>> line = torch.eye(8, dtype=torch.bool)
    >>> match_boundaries(line, line.roll(1, 0), max_dist=0.1)  # the last row went to the far corner
    BoundaryCounts(matched=7, predicted=8, true=8)
    """
    if predicted.shape != true.shape or predicted.ndim != 2:
        raise WeaksegError(
            f"the predicted boundaries are {tuple(predicted.shape)} and the true ones {tuple(true.shape)}; "
            "both are (height, width) of the photograph"
        )
    if max_dist < 0:
        raise WeaksegError(f"max_dist is a fraction of the diagonal, 0 or more; got {max_dist}")
    points = np.argwhere(_array(predicted)), np.argwhere(_array(true))
    reach = max_dist * float(np.hypot(*predicted.shape))
    return BoundaryCounts(largest_matching(*points, reach), len(points[0]), len(points[1]))


def boundary_counts(
    pred: LabelMap, truth: LabelMap, max_dist: float = MAX_DIST, *, fill_truth: bool = True
) -> BoundaryCounts:
    """Boundaries of a label map against those of a true mask: `boundary_map` of both, `match_boundaries`.

    Args:
        pred, truth: uint8 (H, W); predicted 255 belongs to no class.
        max_dist: fraction of the diagonal.
        fill_truth: run true boundaries amid borders of 255, see `fill_ignored`.

    Raises:
        WeaksegError: sizes differ.
    """
    true = boundary_map(fill_ignored(truth) if fill_truth else truth)
    return match_boundaries(boundary_map(pred), true, max_dist)


def _array(values: Tensor) -> np.ndarray:
    if values.ndim != 2:
        raise WeaksegError(f"a label map or boundary map is (H, W); got {tuple(values.shape)}")
    return np.ascontiguousarray(values.detach().cpu().numpy())


def _thinned(edges: np.ndarray) -> np.ndarray:
    padded = np.pad(edges.astype(np.uint8), 1)
    rows, columns = np.nonzero(padded)
    _thin_in_place(padded, rows, columns)
    return padded[1:-1, 1:-1].astype(bool)


@numba.njit(nogil=True, cache=True)
def _thin_in_place(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Remove pixels of `image` (zeros around it) in alternating sub-iterations; all that go in one go together."""
    gone = np.empty(len(rows), np.int64)
    changed = True
    while changed:
        changed = False
        for half in range(2):
            count = 0
            for i in range(len(rows)):
                if image[rows[i], columns[i]] and _removable(image, rows[i], columns[i], half):
                    gone[count] = i
                    count += 1
            for i in range(count):
                image[rows[gone[i]], columns[gone[i]]] = 0
            changed = changed or count > 0


@numba.njit(nogil=True, cache=True)
def _removable(image: np.ndarray, y: int, x: int, half: int) -> bool:
    """G1: the neighbours are one run; G2: no end of a line, no inner pixel; G3: on the side this half works on."""
    e, ne, n, nw = image[y, x + 1], image[y - 1, x + 1], image[y - 1, x], image[y - 1, x - 1]
    w, sw, s, se = image[y, x - 1], image[y + 1, x - 1], image[y + 1, x], image[y + 1, x + 1]
    runs = (1 - e) * (ne | n) + (1 - n) * (nw | w) + (1 - w) * (sw | s) + (1 - s) * (se | e)
    if runs != 1:
        return False
    pairs = min((e | ne) + (n | nw) + (w | sw) + (s | se), (ne | n) + (nw | w) + (sw | s) + (se | e))
    if pairs < 2 or pairs > 3:
        return False
    side = (ne | n | (1 - se)) & e if half == 0 else (sw | s | (1 - nw)) & w
    return bool(side == 0)
