"""The permutohedral lattice: a Gaussian filter over scattered points, in time linear in their number.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010; as the
message passing of Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs", NIPS 2011. Points of R^d are
lifted to the plane of R^(d+1) whose coordinates sum to zero. A lattice tiles that plane with simplices; every value is
*splatted* onto the d + 1 vertices of its simplex, *blurred* by [1/2 1 1/2] along each of the d + 1 lattice directions,
and *sliced* back with the same barycentric weights.

What makes this one quick. (1) Pixels are grouped by simplex, so that keys are looked up once a group. (2) A vertex is
one 64-bit integer whose neighbours are a single addition away, and most of which are known from the simplices. (3) The
symmetric normalisation lives in the barycentric weights and costs nothing afterwards. (4) Blurring walks chains of
neighbours in place: each value is read and written once, and a point without neighbours not at all. (5) Channels, or
the corners of a simplex if there is but one channel, fill the lanes of vector instructions (`_lattice_filter`).
Everything runs in one thread, in a fixed order: equal input gives equal bytes.
"""

import numpy as np
from numba import njit

from ..types import WeaksegError
from ._lattice_filter import Lattice, accumulate, array
from ._simd import SPARE

SIMD = 4
"""Points that pydensecrf embeds at a time: it fills up the last such block with points at the origin (position (0, 0),
black), which weigh nothing but bring the vertices of their simplex into the lattice, and blurring passes through them.
"""
RANK_BITS = 3
"""Bits of one rank or remainder in a packed key; enough for d <= 7."""
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing
_BLOCK = 256  # pixels embedded at a time: their coordinates stay in the first-level cache


def build(features: np.ndarray) -> Lattice:
    """Lattice of the points `features`, float32 (d, N), in units of the kernel's standard deviation.

    Raises:
        WeaksegError: if a kernel is so narrow that the lattice coordinates do not fit in 64 bits.
    """
    d, n = features.shape
    shift, low = packing(np.minimum(features.min(1), 0), features.max(1))
    keys, barycentric = _embed(features, elevation_scale(d), shift, low)
    order, start, simplices = _group(keys)
    if n % SIMD:
        origin, _ = _embed(np.zeros((d, 1), np.float32), elevation_scale(d), shift, low)
        if origin[0] not in simplices:
            start, simplices = np.append(start, start[-1]), np.append(simplices, origin)
    vertices, point_keys = _vertices(simplices, shift)
    chains, bounds = _chains(_neighbours(simplices, vertices, point_keys, shift))
    weights = _gather_weights(barycentric, order)
    lattice = Lattice(order, start, vertices, weights, chains, bounds, len(point_keys) - 1)
    density = array(len(order), 0)
    accumulate(lattice, array(len(order), 1), 1, 1.0, density, density)
    _normalise_weights(weights, order, density)
    return lattice


# --- features ---


def position_features(height: int, width: int, sxy: float) -> np.ndarray:
    """float32 (2, H * W): column and row of each pixel over `sxy` pixels."""
    x = np.arange(width, dtype=np.float32) / np.float32(sxy)
    y = np.arange(height, dtype=np.float32) / np.float32(sxy)
    return np.stack([np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))]).reshape(2, -1)


def appearance_features(image: np.ndarray, sxy: float, srgb: float) -> np.ndarray:
    """float32 (5, H * W): position over `sxy` pixels and colour of `image`, uint8 (3, H, W), over `srgb` levels."""
    levels = np.arange(256, dtype=np.float32) / np.float32(srgb)
    position = position_features(image.shape[1], image.shape[2], sxy)
    return np.concatenate([position, levels[image.reshape(3, -1)]])


# --- embedding: points -> simplex and barycentric weights ---


def elevation_scale(d: int) -> np.ndarray:
    """float32 (d,): feature units -> lattice units such that splat, blur and slice amount to a unit Gaussian."""
    i = np.arange(d)
    return (np.float32(np.sqrt(2 / 3) * (d + 1)) / np.sqrt((i + 1.0) * (i + 2.0))).astype(np.float32)


def packing(least: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of the d coordinates of a key sits, int64 (d + 1,) bits (the last unused), and its smallest value.

    `least` and `most` bound the features, float (d,).
    """
    d = len(least)
    scaled = np.stack([least, most], 1).astype(np.float64) * elevation_scale(d)[:, None]
    shift = np.zeros(d + 1, np.int64)
    low = np.zeros(d + 1, np.int64)
    bits = RANK_BITS * d
    for i in range(d):
        bounds = scaled[i:].sum(0)  # rows of the elevation: ones right of the diagonal, -i on it
        if i > 0:
            bounds = bounds - i * scaled[i - 1, ::-1]
        low[i] = int(np.floor(bounds[0] / (d + 1))) - 4  # room for rounding, the remainder's carry and a neighbour
        shift[i] = bits
        bits += int(np.ceil(bounds[1] / (d + 1)) + 4 - low[i]).bit_length()
    if bits > 62:
        raise WeaksegError(
            f"a CRF kernel is too narrow for its image: lattice coordinates need {bits} bits of 62; raise sxy or srgb"
        )
    return shift, low


@njit(cache=True, nogil=True)
def _embed(features, scale, shift, low):  # type: ignore[no-untyped-def]
    """Packed simplex of every point, int64 (N,), and its barycentric weights, float32 (d + 1, N)."""
    d, n = features.shape
    keys = np.empty(n, np.int64)
    barycentric = np.empty((d + 1, n), np.float32)
    x = np.empty((d + 1, _BLOCK), np.float32)  # elevated, then minus the nearest lattice point of remainder 0
    base = np.empty((d + 1, _BLOCK), np.int32)  # that point over d + 1
    rank = np.empty((d + 1, _BLOCK), np.int32)
    excess = np.empty(_BLOCK, np.int32)
    inverse = np.float32(1) / np.float32(d + 1)
    for first in range(0, n, _BLOCK):
        m = min(_BLOCK, n - first)
        _elevate(features, scale, first, m, x)
        excess[:] = 0
        for i in range(d + 1):
            for b in range(m):
                nearest = np.floor(x[i, b] * inverse + np.float32(0.5))
                base[i, b] = np.int32(nearest)
                excess[b] += np.int32(nearest)
                x[i, b] -= nearest * np.float32(d + 1)
        _rank(x, excess, base, rank, m)
        for b in range(m):
            keys[first + b] = 0
        for i in range(d):
            for b in range(m):
                keys[first + b] |= ((np.int64(base[i, b]) - low[i]) << shift[i]) | (
                    np.int64(rank[i, b]) << (RANK_BITS * i)
                )
        _sort_descending(x, m)
        for b in range(m):
            barycentric[0, first + b] = np.float32(1) + (x[d, b] - x[0, b]) * inverse
        for k in range(1, d + 1):
            for b in range(m):
                barycentric[k, first + b] = (x[d - k, b] - x[d - k + 1, b]) * inverse
    return keys, barycentric


@njit(cache=True, nogil=True)
def _elevate(features, scale, first, m, x):  # type: ignore[no-untyped-def]
    """Lift `m` points into the plane of sum 0: x_j = sum of the scaled features from j on, minus j times number j-1."""
    d = len(features)
    for b in range(m):
        x[0, b] = 0
    for j in range(d, 0, -1):
        s = scale[j - 1]
        for b in range(m):
            f = features[j - 1, first + b] * s
            x[j, b] = x[0, b] - np.float32(j) * f  # x[0] is the running sum
            x[0, b] += f


@njit(cache=True, nogil=True)
def _rank(x, excess, base, rank, m):  # type: ignore[no-untyped-def]
    """Rank of each coordinate, 0 = largest; shifted so that the nearest point of remainder 0 sums to zero."""
    d = len(x) - 1
    for i in range(d + 1):
        for b in range(m):
            rank[i, b] = excess[b]
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            for b in range(m):
                less = np.int32(x[i, b] < x[j, b])
                rank[i, b] += less
                rank[j, b] += np.int32(1) - less
    for i in range(d + 1):
        for b in range(m):
            wrap = np.int32(rank[i, b] < 0) - np.int32(rank[i, b] > d)
            rank[i, b] += wrap * np.int32(d + 1)
            base[i, b] += wrap
            x[i, b] -= np.float32(wrap * (d + 1))


@njit(cache=True, nogil=True)
def _sort_descending(x, m):  # type: ignore[no-untyped-def]
    """Sort the d + 1 coordinates of each point by odd-even transposition: no branches, many points at once."""
    rows = len(x)
    for turn in range(rows):
        for i in range(turn % 2, rows - 1, 2):
            for b in range(m):
                high = max(x[i, b], x[i + 1, b])
                x[i + 1, b] = min(x[i, b], x[i + 1, b])
                x[i, b] = high


# --- structure: simplices, vertices, neighbours ---


@njit(cache=True, nogil=True, inline="always")
def _find(table, keys, key):  # type: ignore[no-untyped-def]
    """Slot of `key` in an open-addressing table of indices into `keys`; the slot holds 0 if the key is new."""
    mask = len(table) - 1
    slot = np.int64((np.uint64(key) * _HASH) >> np.uint64(32)) & mask
    while table[slot] != 0 and keys[table[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _table_size(entries):  # type: ignore[no-untyped-def]
    size = 64
    while size < 2 * entries:
        size *= 2
    return size


@njit(cache=True, nogil=True)
def _group(keys):  # type: ignore[no-untyped-def]
    """Points grouped by equal key, in order of first appearance: order (N,), start (S + 1,), the S keys."""
    n = len(keys)
    table = np.zeros(_table_size(n), np.int32)
    found = np.empty(n + 1, np.int64)
    member = np.empty(n, np.int32)
    count = np.zeros(n + 2, np.int32)
    s = 0
    current = 0
    for p in range(n):
        if p == 0 or keys[p] != keys[p - 1]:  # neighbouring pixels often share a simplex
            slot = _find(table, found, keys[p])
            if table[slot] == 0:
                s += 1
                found[s] = keys[p]
                table[slot] = s
            current = table[slot]
        member[p] = current
        count[current + 1] += 1
    for k in range(1, s + 2):
        count[k] += count[k - 1]
    start = count[1 : s + 2].copy()
    cursor = start.copy()
    order = np.empty(n, np.int32)
    for p in range(n):
        k = member[p] - 1
        order[cursor[k]] = p
        cursor[k] += 1
    return order, start, found[1 : s + 1].copy()


@njit(cache=True, nogil=True)
def _vertices(simplices, shift):  # type: ignore[no-untyped-def]
    """Lattice points of every simplex, int32 (S, d + 1), and the packed keys of the points, int64 (M + 1,).

    The vertex of remainder r adds r to the base point's coordinates, minus d + 1 where the rank exceeds d - r. All its
    coordinates leave the remainder r, so a key packs their quotients by d + 1, and r once.
    """
    d = len(shift) - 1
    rank_mask = (np.int64(1) << np.int64(RANK_BITS * d)) - 1
    vertices = np.empty((len(simplices), d + 1), np.int32)
    keys = np.empty(2 * len(simplices) + 64, np.int64)
    table = np.zeros(_table_size(2 * len(simplices)), np.int32)
    step = np.empty(d + 1, np.int64)
    m = 0
    for s in range(len(simplices)):
        if m + d + 2 > len(keys) or 2 * m > len(table):
            keys, table = _grow(keys, m)
        step[:] = 0
        for i in range(d):
            rank = (simplices[s] >> np.int64(RANK_BITS * i)) & 7
            step[rank] = np.int64(1) << shift[i]  # coordinate i falls back when r first exceeds d - rank
        key = simplices[s] & ~rank_mask
        for r in range(d + 1):
            if r > 0:
                key += 1 - step[d - r + 1]
            slot = _find(table, keys, key)
            if table[slot] == 0:
                m += 1
                keys[m] = key
                table[slot] = m
            vertices[s, r] = table[slot]
    return vertices, keys[: m + 1].copy()


@njit(cache=True, nogil=True)
def _grow(keys, m):  # type: ignore[no-untyped-def]
    """Twice the room for `m` keys, and their table anew."""
    larger = np.empty(2 * len(keys), np.int64)
    larger[: m + 1] = keys[: m + 1]
    table = np.zeros(_table_size(2 * m), np.int32)
    for k in range(1, m + 1):
        table[_find(table, larger, larger[k])] = k
    return larger, table


@njit(cache=True, nogil=True)
def _neighbours(simplices, vertices, keys, shift):  # type: ignore[no-untyped-def]
    """Next lattice point along each direction, int32 (d + 1, M + 1); 0 where there is none.

    Direction j adds -1 to every coordinate, and d to number j. In quotients by d + 1: the remainder falls by one; from
    0 it becomes d and every quotient falls by one; the quotient of number j rises by one. Consecutive vertices of a
    simplex are neighbours, which leaves few to look up, and a small table of bits tells that most of those are absent.
    """
    d = len(shift) - 1
    m = len(keys) - 1
    after = np.zeros((d + 1, m + 1), np.int32)
    _neighbours_within(simplices, vertices, after)
    table = np.zeros(_table_size(m), np.int32)
    bits = np.zeros(max(8, len(table) // 4), np.uint8)  # 4 to 8 bits a point
    mask = np.uint64(8 * len(bits) - 1)
    back = np.empty(m + 1, np.int64)
    carry = np.int64(d)
    for i in range(d):
        carry -= np.int64(1) << shift[i]
    for k in range(1, m + 1):
        back[k] = keys[k] + (carry if keys[k] & 7 == 0 else np.int64(-1))
        table[_find(table, keys, keys[k])] = k
        h = ((np.uint64(keys[k]) * _HASH) >> np.uint64(32)) & mask
        bits[h >> np.uint64(3)] |= np.uint8(1) << np.uint8(h & np.uint64(7))
    left = np.empty(m + 1, np.int32)
    for j in range(d + 1):
        step = np.int64(0) if j == d else np.int64(1) << shift[j]
        count = 0
        for k in range(1, m + 1):  # two sieves without branches: what is unknown, and of that what may exist
            left[count] = k
            count += int(after[j, k] == 0)
        candidates = 0
        for c in range(count):
            k = left[c]
            h = ((np.uint64(back[k] + step) * _HASH) >> np.uint64(32)) & mask
            left[candidates] = k
            candidates += int((bits[h >> np.uint64(3)] >> np.uint8(h & np.uint64(7))) & 1)
        for c in range(candidates):
            after[j, left[c]] = table[_find(table, keys, back[left[c]] + step)]
    return after


@njit(cache=True, nogil=True)
def _neighbours_within(simplices, vertices, after):  # type: ignore[no-untyped-def]
    """Enter what each simplex knows: from vertex r + 1 to r along the coordinate of rank d - r, from 0 to d along 0."""
    d = vertices.shape[1] - 1
    coordinate = np.empty(d + 1, np.int64)
    for s in range(len(vertices)):
        coordinate[:] = d
        for i in range(d):
            coordinate[(simplices[s] >> np.int64(RANK_BITS * i)) & 7] = i
        after[coordinate[0], vertices[s, 0]] = vertices[s, d]
        for r in range(d):
            after[coordinate[d - r], vertices[s, r + 1]] = vertices[s, r]


@njit(cache=True, nogil=True)
def _chains(after):  # type: ignore[no-untyped-def]
    """The runs of neighbours along each direction, as `Lattice.chains` and `Lattice.bounds`."""
    directions, rows = after.shape
    chains = np.empty(directions * (rows + rows // 2 + 2), np.int32)  # a run of 2 takes 3 places
    bounds = np.zeros(directions + 1, np.int64)
    heads = np.empty(rows, np.int32)
    inner = np.empty(rows, np.uint8)
    at = 0
    for j in range(directions):
        step = after[j]
        inner[:] = 0
        for k in range(1, rows):
            inner[step[k]] = 1
        count = 0
        for k in range(1, rows):
            heads[count] = k
            count += int((inner[k] == 0) & (step[k] != 0))
        chains[at] = 0
        at += 1
        for c in range(count):
            point = heads[c]
            while point != 0:
                chains[at] = point
                at += 1
                point = step[point]
            chains[at] = 0
            at += 1
        bounds[j + 1] = at
    return chains[:at].copy(), bounds


@njit(cache=True, nogil=True)
def _gather_weights(barycentric, order):  # type: ignore[no-untyped-def]
    corners = len(barycentric)
    weights = np.zeros(len(order) * corners + SPARE, np.float32)
    for i in range(len(order)):
        for r in range(corners):
            weights[i * corners + r] = barycentric[r, order[i]]
    return weights


@njit(cache=True, nogil=True)
def _normalise_weights(weights, order, density):  # type: ignore[no-untyped-def]
    corners = (len(weights) - SPARE) // len(order)
    for i in range(len(order)):
        factor = np.float32(1 / np.sqrt(np.float64(density[order[i]]) + 1e-20))
        for r in range(corners):
            weights[i * corners + r] *= factor
