"""Polygons along the exact edges of pixels, and back.

A pixel (row, column) is the square from (x, y) = (column, row) to (column + 1, row + 1). A region with holes becomes
ONE polygon: each hole is joined to the outer ring by a bridge of no width, walked there and back, so that both the
even-odd and the non-zero rule give the region back.
"""

import numpy as np

from weakseg.data.coco import rasterise
from weakseg.types import WeaksegError

Point = tuple[int, int]

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up: clockwise where y points down
_CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))  # where the edge in that direction begins, from the pixel's own corner


def outline(inside: np.ndarray) -> list[Point]:
    """The corners (x, y) of the one polygon around a region.

    Args:
        inside: bool (h, w), a region whose pixels are joined by their sides (4-connected), not empty.

    Returns:
        clockwise corners, none repeated at the end; holes lie at the end of bridges to the left.

    >>> outline(np.ones((1, 2), bool))
    [(0, 0), (2, 0), (2, 1), (0, 1)]
    >>> outline(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool))
    [(0, 0), (3, 0), (3, 3), (0, 3), (0, 1), (1, 1), (1, 2), (2, 2), (2, 1), (0, 1)]
    """
    ring, *holes = _loops(_edges(inside))
    for hole in holes:
        ring = _bridged(ring, hole)
    return _corners(ring)


def _edges(inside: np.ndarray) -> dict[Point, list[int]]:
    """Where edges between the region and the rest begin -> their directions; the region lies on their right."""
    padded = np.pad(inside, 1)
    outside = (
        ~padded[:-2, 1:-1],
        ~padded[1:-1, 2:],
        ~padded[2:, 1:-1],
        ~padded[1:-1, :-2],
    )  # above, right, below, left
    found: dict[Point, list[int]] = {}
    for direction, (beyond, (dx, dy)) in enumerate(zip(outside, _CORNERS, strict=True)):
        rows, columns = np.nonzero(inside & beyond)
        for start in zip((columns + dx).tolist(), (rows + dy).tolist(), strict=True):
            found.setdefault(start, []).append(direction)
    return found


def _loops(edges: dict[Point, list[int]]) -> list[list[Point]]:
    """Closed walks over all edges in steps of a pixel: the outer ring, then holes from the top."""
    loops = []
    for start in sorted(edges, key=lambda point: point[::-1]):
        while edges[start]:
            loops.append(_walk(edges, start))
    return loops


def _walk(edges: dict[Point, list[int]], start: Point) -> list[Point]:
    direction, at, ring = edges[start].pop(), start, [start]
    while True:
        at = (at[0] + _STEPS[direction][0], at[1] + _STEPS[direction][1])
        if at == start:
            return ring
        ring.append(at)
        right = (direction + 1) % 4  # where two pixels touch by a corner the walk stays with its own
        choices = edges[at]
        direction = choices.pop(choices.index(right) if right in choices else 0)


def _bridged(ring: list[Point], hole: list[Point]) -> list[Point]:
    """The ring with a hole at the end of a bridge.

    The bridge goes left from the hole's first corner, between two pixels of the region, to the first corner that the
    ring has. Holes above or to the left are part of the ring by then, so there is one.
    """
    known, (x, y) = set(ring), hole[0]
    while (x, y) not in known:
        x -= 1
    at = ring.index((x, y))
    return [*ring[: at + 1], *hole, hole[0], *ring[at:]]


def _corners(ring: list[Point]) -> list[Point]:
    """The points at which the direction changes."""
    before, after = [ring[-1], *ring[:-1]], [*ring[1:], ring[0]]
    return [p for a, p, b in zip(before, ring, after, strict=True) if _sign(a, p) != _sign(p, b)]


def _sign(a: Point, b: Point) -> Point:
    return (b[0] > a[0]) - (b[0] < a[0]), (b[1] > a[1]) - (b[1] < a[1])


def polygon_mask(corners: list[tuple[float, float]], size: tuple[int, int], where: str) -> np.ndarray:
    """bool (H, W): the pixels whose centres lie in a polygon (even-odd rule), to a fifth of a pixel.

    Args:
        corners: (x, y), pixels; fewer than three hold nothing.
        size: (H, W).
        where: the file and annotation, for errors.

    Raises:
        WeaksegError: it lies far outside of the photograph, or is so long that it must be made up.
    """
    if len(corners) < 3:
        return np.zeros(size, bool)
    try:
        return rasterise([[value for corner in corners for value in corner]], size)
    except WeaksegError as error:
        raise WeaksegError(f"{where}: {error}; correct it in the tool") from None
