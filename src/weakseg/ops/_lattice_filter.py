"""Filtering on a permutohedral lattice: splat, blur, slice.

Values of N pixels and C channels live in one flat array, in *planes* of up to 16 channels: the plane that starts at
channel f holds, from element f * N on, the pixels one after the other with their channels side by side. A row of 16 is
one cache line and one or two registers. Filtering works plane by plane.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from ._simd import SPARE, get, group_sum, load, prefetch, put, splat, store

_AHEAD = 16  # pixels, or lattice points, fetched ahead of their turn


@dataclass(frozen=True, eq=False)
class Lattice:
    """The lattice of N points, symmetrically normalised: what a filter needs of it, and nothing of the values.

    Attributes:
        order: int32 (N,), the points grouped by simplex.
        start: int32 (S + 1,), where the group of each simplex starts in `order`.
        vertices: int32 (S, d + 1), lattice points 1..M of each simplex; point 0 always holds 0.
        weights: float32 (N * (d + 1) and spare,), barycentric weights over the root of the point's own density, d + 1
            for each point, grouped as `order`.
        chains: int32 (d + 1 times ...,), the lattice points along each direction: runs of 2 or more neighbours, a 0
            before and after each run.
        bounds: int64 (d + 2,), where each direction starts in `chains`.
        points: M, the number of lattice points.
    """

    order: np.ndarray
    start: np.ndarray
    vertices: np.ndarray
    weights: np.ndarray
    chains: np.ndarray
    bounds: np.ndarray
    points: int


def planes(channels: int) -> Iterator[tuple[int, int]]:
    """(first channel, width) of each plane; `channels` is 1, 2, 4, 8 or 16 a + 0, 4 or 8."""
    first = 0
    while first < channels:
        width = next(w for w in (16, 8, 4, 2, 1) if w <= channels - first)
        yield first, width
        first += width


def array(elements: int, value: float | None = None) -> np.ndarray:
    """float32 (elements + SPARE,) on a cache line's boundary, filled with `value`; without one, only the end with 0."""
    raw = np.empty(elements + SPARE + 16, np.float32)
    skip = -raw.__array_interface__["data"][0] % 64 // 4
    aligned = raw[skip : skip + elements + SPARE]
    aligned[elements if value is None else 0 :] = value or 0
    return aligned


def accumulate(
    lattice: Lattice,
    values: np.ndarray,
    channels: int,
    weight: float,
    base: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray | None = None,
) -> None:
    """Write `base` plus `weight` times the filtered `values` to `out` (which may be `base`, not `values`).

    Values, base and out are laid out as told above, with SPARE elements behind their end. `scratch` holds the lattice
    points, `scratch_size` elements: to be had once for many calls.
    """
    corners = (0,) * lattice.vertices.shape[1]
    scale = np.float32(weight / (1 + 2.0 ** (1 - len(corners))))  # undoes the gain of blurring and slicing
    where = (lattice.order, lattice.start, lattice.vertices, lattice.weights)
    if scratch is None:
        scratch = array(scratch_size(lattice, channels))
    assert len(scratch) >= scratch_size(lattice, channels), "the kernels below check no bounds"
    n, m = len(lattice.order), lattice.points + 1
    for (first, width), (second, rest) in _passes(channels):
        points, more = scratch[: m * width], scratch[m * width : m * (width + rest)]
        scratch[: m * (width + rest)] = 0
        offset = first * n
        if width == 1:
            lanes = (0,) * (8 if len(corners) > 4 else 4)
            _splat_one(*where, values, offset, points, corners, lanes)
            _blur_one(lattice.chains, lattice.bounds, points)
            _slice_one(*where, points, scale, base, offset, out, corners, lanes)
        else:
            lanes, tail = (0,) * width, (0,) * rest
            _splat(*where, values, offset, second * n, points, more, corners, lanes, tail)
            _blur(lattice.chains, lattice.bounds, points, more, lanes, tail)
            _slice(*where, points, more, scale, base, offset, second * n, out, corners, lanes, tail)


def _passes(channels: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The planes one by one, but a last one of less than 16 channels together with the full one before it."""
    every = list(planes(channels))
    paired = len(every) > 1 and every[-1][1] < 16
    for plane in every[: -2 if paired else None]:
        yield plane, (0, 0)
    if paired:
        yield every[-2], every[-1]


def scratch_size(lattice: Lattice, channels: int) -> int:
    """Elements that `accumulate` needs beside its arguments."""
    return (lattice.points + 1) * min(channels, 32)


# --- several channels: a lane a channel; `tail` is the second plane's lanes, empty if there is none ---


@njit(cache=True, nogil=True)
def _splat(order, start, vertices, weights, values, offset, second, points, more, corners, lanes, tail):  # type: ignore[no-untyped-def]
    for s in range(len(vertices)):
        for i in range(start[s], start[s + 1]):
            if len(lanes) >= 8 and i + _AHEAD < len(order):
                prefetch(values, offset + order[i + _AHEAD] * len(lanes))
            x = load(values, offset + order[i] * len(lanes), lanes)
            y = load(values, second + order[i] * len(tail), tail)
            for r in range(len(corners)):
                weight, vertex = weights[i * len(corners) + r], vertices[s, r]
                at = vertex * len(lanes)
                store(points, at, load(points, at, lanes) + splat(weight, lanes) * x)
                if len(tail) > 0:
                    at = vertex * len(tail)
                    store(more, at, load(more, at, tail) + splat(weight, tail) * y)


@njit(cache=True, nogil=True)
def _blur(chains, bounds, points, more, lanes, tail):  # type: ignore[no-untyped-def]
    """Each point plus half of its neighbours, direction after direction, in place; the zeros make the ends of a run."""
    half, half_tail = splat(np.float32(0.5), lanes), splat(np.float32(0.5), tail)
    zero, zero_tail = splat(np.float32(0), lanes), splat(np.float32(0), tail)
    for j in range(len(bounds) - 1):
        before = here = zero
        before_tail = here_tail = zero_tail
        for t in range(bounds[j], bounds[j + 1] - 1):
            if len(lanes) >= 8 and t + _AHEAD < len(chains):
                prefetch(points, chains[t + _AHEAD] * len(lanes))
            after = load(points, chains[t + 1] * len(lanes), lanes)
            store(points, chains[t] * len(lanes), here + half * (before + after))
            store(points, 0, zero)  # cheaper than to ask whether it was point 0 that was written
            before = here
            here = after
            if len(tail) > 0:
                after_tail = load(more, chains[t + 1] * len(tail), tail)
                store(more, chains[t] * len(tail), here_tail + half_tail * (before_tail + after_tail))
                store(more, 0, zero_tail)
                before_tail = here_tail
                here_tail = after_tail


@njit(cache=True, nogil=True)
def _slice(order, start, vertices, weights, points, more, scale, base, offset, second, out, corners, lanes, tail):  # type: ignore[no-untyped-def]
    for s in range(len(vertices)):
        for i in range(start[s], start[s + 1]):
            if len(lanes) >= 8 and i + _AHEAD < len(order):
                prefetch(base, offset + order[i + _AHEAD] * len(lanes))
                prefetch(out, offset + order[i + _AHEAD] * len(lanes))
            x, y = splat(np.float32(0), lanes), splat(np.float32(0), tail)
            for r in range(len(corners)):
                weight, vertex = weights[i * len(corners) + r], vertices[s, r]
                x = x + splat(weight, lanes) * load(points, vertex * len(lanes), lanes)
                if len(tail) > 0:
                    y = y + splat(weight, tail) * load(more, vertex * len(tail), tail)
            at = offset + order[i] * len(lanes)
            store(out, at, load(base, at, lanes) + splat(scale, lanes) * x)
            if len(tail) > 0:
                at = second + order[i] * len(tail)
                store(out, at, load(base, at, tail) + splat(scale, tail) * y)


# --- one channel: a lane a corner; lanes beyond the last corner hold strangers' weights, times zero or unread ---


@njit(cache=True, nogil=True)
def _splat_one(order, start, vertices, weights, values, offset, points, corners, lanes):  # type: ignore[no-untyped-def]
    for s in range(len(vertices)):
        x = splat(np.float32(0), lanes)
        for i in range(start[s], start[s + 1]):
            x = x + load(weights, i * len(corners), lanes) * splat(values[offset + order[i]], lanes)
        for r in range(len(corners)):
            points[vertices[s, r]] += get(x, r)


@njit(cache=True, nogil=True)
def _blur_one(chains, bounds, points):  # type: ignore[no-untyped-def]
    half = np.float32(0.5)
    for j in range(len(bounds) - 1):
        before = here = np.float32(0)
        for t in range(bounds[j], bounds[j + 1] - 1):
            after = points[chains[t + 1]]
            points[chains[t]] = here + half * (before + after)
            points[0] = 0
            before = here
            here = after


@njit(cache=True, nogil=True)
def _slice_one(order, start, vertices, weights, points, scale, base, offset, out, corners, lanes):  # type: ignore[no-untyped-def]
    for s in range(len(vertices)):
        x = splat(np.float32(0), lanes)
        for r in range(len(corners)):
            x = put(x, r, points[vertices[s, r]] * scale)
        for i in range(start[s], start[s + 1]):
            at = offset + order[i]
            out[at] = base[at] + get(group_sum(load(weights, i * len(corners), lanes) * x, lanes), 0)
