"""Mean-field inference on the CPU: Krähenbühl and Koltun 2011, Algorithm 1, with one class fewer.

A softmax sees only differences of logits, and the filter is linear: it is enough to filter the K - 1 differences
q_k - q_0, which give the messages of the classes 1..K-1 relative to class 0. The state lies in planes of channels
(`_lattice_filter`); channels beyond K - 1 have logits so low that they are nothing.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from ._lattice_filter import Lattice, accumulate, array, planes, scratch_size
from ._simd import exceeds, exp, get, group_maximum, group_sum, load, maximum, splat, store

_NEVER = np.float32(-1e30)
_SAFE = np.float32(80)  # 254 times e^80 is a float32
_TILE = 64  # pixels transposed at a time
_FULL = (0,) * 16


def infer(unary: np.ndarray, terms: Sequence[tuple[Lattice, float]], iterations: int) -> np.ndarray:
    """Probabilities, float32 (K, N), of the energies `unary`, float32 (K, N), tied by `terms` = (kernel, weight)."""
    k, n = unary.shape
    if k == 1:
        return np.ones((1, n), np.float32)
    channels = _padded(k - 1)
    unary = np.ascontiguousarray(unary, np.float32)
    bias = array(n * channels)
    for first, width in planes(channels):
        _relative(unary, first, width, bias)
    logits, q = array(n * channels), array(n * channels)
    scratch = array(max((scratch_size(lattice, channels) for lattice, _ in terms), default=0))
    current = bias
    for _ in range(iterations if terms else 0):
        _differences(current, n, channels, q)
        base = bias
        for lattice, weight in terms:
            accumulate(lattice, q, channels, weight, base, logits, scratch)
            base = logits
        current = logits
    return _probabilities(current, k, n, channels, q)


def _padded(channels: int) -> int:
    """Channels rounded up to what `planes` can lay out: 1, 2, 4, 8 or 16 a + 0, 4 or 8."""
    whole, rest = divmod(channels, 16)
    lowest = 4 if whole else 1
    return 16 * whole + (next(w for w in (1, 2, 4, 8, 16) if w >= max(rest, lowest)) if rest else 0)


def _differences(logits: np.ndarray, n: int, channels: int, out: np.ndarray) -> None:
    """q_k - q_0 for the softmax q of [0, logits]."""
    if channels <= 16:
        _differences_plane(logits, out, (0,) * channels, _FULL)
    else:
        _softmax_planes(logits, n, channels, np.float32(1), out, out[:0], _FULL, (0,) * (channels % 16 or 4))


def _probabilities(logits: np.ndarray, k: int, n: int, channels: int, q: np.ndarray) -> np.ndarray:
    """The softmax of [0, logits], float32 (K, N); `q` is overwritten."""
    out = np.empty((k, n), np.float32)
    if channels == 1:
        _probabilities_of_two(logits, out, _FULL)
        return out
    last = (0,) * (channels if channels < 16 else channels % 16 or 4)
    _softmax_planes(logits, n, channels, np.float32(0), q, out[0], _FULL, last)
    for first, width in planes(channels):
        _transpose(q, first, width, out)
    return out


@njit(cache=True, nogil=True)
def _relative(unary, first, width, bias):  # type: ignore[no-untyped-def]
    """Enter the logits of one plane's classes relative to class 0."""
    k, n = unary.shape
    for tile in range(0, n, _TILE):
        for c in range(width):
            for p in range(tile, min(tile + _TILE, n)):
                known = first + c + 1 < k
                bias[first * n + p * width + c] = unary[0, p] - unary[first + c + 1, p] if known else _NEVER


@njit(cache=True, nogil=True)
def _transpose(q, first, width, out):  # type: ignore[no-untyped-def]
    """One plane's probabilities to their classes' rows."""
    k, n = out.shape
    for tile in range(0, n, _TILE):
        for c in range(min(width, k - 1 - first)):
            for p in range(tile, min(tile + _TILE, n)):
                out[first + c + 1, p] = q[first * n + p * width + c]


@njit(cache=True, nogil=True)
def _differences_plane(logits, out, group, lanes):  # type: ignore[no-untyped-def]
    """q_k - q_0 where one plane holds all channels of a pixel: len(lanes) / len(group) pixels at a time."""
    zero = splat(np.float32(0), lanes)
    for at in range(0, len(out) - len(lanes) + 1, len(lanes)):
        z = load(logits, at, lanes)
        top = maximum(group_maximum(z, group), zero)
        e, first = exp(z - top, lanes), exp(zero - top, lanes)
        store(out, at, (e - first) / (group_sum(e, group) + first))


@njit(cache=True, nogil=True)
def _probabilities_of_two(logits, out, lanes):  # type: ignore[no-untyped-def]
    n = out.shape[1]
    one, zero = splat(np.float32(1), lanes), splat(np.float32(0), lanes)
    tail = np.empty(len(lanes), np.float32)
    for at in range(0, n, len(lanes)):
        z = load(logits, at, lanes)
        smaller = exp(zero - maximum(z, zero - z), lanes)  # e^-|z|
        likely = one / (one + smaller)
        store(tail, 0, likely)
        for p in range(at, min(at + len(lanes), n)):
            out[0, p] = tail[p - at]
        store(tail, 0, smaller * likely)
        for p in range(at, min(at + len(lanes), n)):
            out[1, p] = tail[p - at]
            if logits[p] > 0:
                out[0, p], out[1, p] = out[1, p], out[0, p]


@njit(cache=True, nogil=True)
def _softmax_planes(logits, n, channels, less, out, firsts, wide, last):  # type: ignore[no-untyped-def]
    """q_k - less * q_0 for any number of planes, len(wide) channels each but the last; q_0 to `firsts` if not empty."""
    whole = channels // len(wide) * len(wide)
    tail = splat(np.float32(0), last)
    for p in range(n):
        high = splat(np.float32(0), wide)
        for c in range(0, whole, len(wide)):
            high = maximum(high, load(logits, c * n + p * len(wide), wide))
        at = whole * n + p * len(last)
        if whole < channels:
            tail = load(logits, at, last)
        top, first = np.float32(0), np.float32(1)
        if exceeds(high, _SAFE) or exceeds(tail, _SAFE):  # else the sum of e^z is finite without ado
            top = max(get(group_maximum(high, wide), 0), get(group_maximum(tail, last), 0), np.float32(0))
            first = get(exp(splat(-top, last), last), 0)
        sums = splat(np.float32(0), wide)
        for c in range(0, whole, len(wide)):
            e = exp(load(logits, c * n + p * len(wide), wide) - splat(top, wide), wide)
            store(out, c * n + p * len(wide), e)
            sums = sums + e
        norm = first + get(group_sum(sums, wide), 0)
        if whole < channels:
            tail = exp(tail - splat(top, last), last)
            norm += get(group_sum(tail, last), 0)
        inverse = np.float32(1) / norm
        lesser = splat(less * first * inverse, wide)
        for c in range(0, whole, len(wide)):
            here = c * n + p * len(wide)
            store(out, here, load(out, here, wide) * splat(inverse, wide) - lesser)
        if whole < channels:
            store(out, at, tail * splat(inverse, last) - splat(less * first * inverse, last))
        if len(firsts) > 0:
            firsts[p] = first * inverse
