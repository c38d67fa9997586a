"""Mean-field inference on the CPU: Krähenbühl and Koltun 2011, Algorithm 1, with one class fewer.

A softmax sees only differences of logits, and the filter is linear: it is enough to filter the K - 1 differences
q_k - q_0, which give the messages of the classes 1..K-1 relative to class 0. The state is channel last, in rows of
1, 2 or a multiple of 4 channels; those beyond K - 1 have logits so low that they are nothing.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from . import _lattice
from ._simd import exp, get, largest, load, maximum, splat, store, total

_NEVER = np.float32(-1e30)


def infer(unary: np.ndarray, terms: Sequence[tuple[_lattice.Lattice, float]], iterations: int) -> np.ndarray:
    """Probabilities, float32 (K, N), of the energies `unary`, float32 (K, N), tied by `terms` = (kernel, weight)."""
    k, n = unary.shape
    if k == 1:
        return np.ones((1, n), np.float32)
    channels = k - 1 if k <= 3 else -(-(k - 1) // 4) * 4
    lanes = ((0,) * 16,) * 2 if channels == 1 else ((0,) * 2,) * 2 if channels == 2 else ((0,) * 16, (0,) * 4)
    bias = _relative(np.ascontiguousarray(unary, np.float32), channels)
    logits = bias.copy()
    differences = np.zeros_like(bias)
    for _ in range(iterations if terms else 0):
        if channels == 1:
            _differences_one(logits, differences, lanes[0])
        else:
            _differences(logits, channels, differences, *lanes)
        base = bias
        for lattice, weight in terms:
            _lattice.accumulate(lattice, differences, channels, weight, base, logits)
            base = logits
    out = np.empty((k, n), np.float32)
    if channels == 1:
        _probabilities_one(logits, differences, out, lanes[0])
    else:
        _probabilities(logits, channels, differences, out, *lanes)
    return out


@njit(cache=True, nogil=True)
def _relative(unary, channels):  # type: ignore[no-untyped-def]
    """Logits of the classes 1..K-1 relative to class 0, float32 (N * channels + SPARE,)."""
    k, n = unary.shape
    bias = np.full(n * channels + _lattice.SPARE, _NEVER, np.float32)
    for p in range(n):
        for c in range(k - 1):
            bias[p * channels + c] = unary[0, p] - unary[c + 1, p]
    return bias


@njit(cache=True, nogil=True)
def _exponentials(logits, at, channels, out, wide, narrow):  # type: ignore[no-untyped-def]
    """exp of [0, one pixel's logits] minus their maximum: the first returned, the others written; and their sum."""
    lanes_of_zero = splat(np.float32(0), wide)
    highest = lanes_of_zero
    c = 0
    while c + len(wide) <= channels:
        highest = maximum(highest, load(logits, at + c, wide))
        c += len(wide)
    rest = splat(np.float32(0), narrow)
    while c < channels:
        rest = maximum(rest, load(logits, at + c, narrow))
        c += len(narrow)
    top = max(largest(highest), largest(rest))
    highest = lanes_of_zero  # from here on sums
    rest = splat(np.float32(0), narrow)
    c = 0
    while c + len(wide) <= channels:
        e = exp(load(logits, at + c, wide) - splat(top, wide), wide)
        store(out, at + c, e)
        highest = highest + e
        c += len(wide)
    while c < channels:
        f = exp(load(logits, at + c, narrow) - splat(top, narrow), narrow)
        store(out, at + c, f)
        rest = rest + f
        c += len(narrow)
    first = get(exp(splat(-top, narrow), narrow), 0)
    return first, first + total(highest) + total(rest)


@njit(cache=True, nogil=True)
def _differences(logits, channels, out, wide, narrow):  # type: ignore[no-untyped-def]
    """q_k - q_0 for the softmax q of [0, logits]."""
    for at in range(0, len(out) - _lattice.SPARE, channels):
        first, norm = _exponentials(logits, at, channels, out, wide, narrow)
        inverse = np.float32(1) / norm
        c = 0
        while c + len(wide) <= channels:
            store(out, at + c, (load(out, at + c, wide) - splat(first, wide)) * splat(inverse, wide))
            c += len(wide)
        while c < channels:
            store(out, at + c, (load(out, at + c, narrow) - splat(first, narrow)) * splat(inverse, narrow))
            c += len(narrow)


@njit(cache=True, nogil=True)
def _probabilities(logits, channels, scratch, out, wide, narrow):  # type: ignore[no-untyped-def]
    """The softmax of [0, logits], float32 (K, N)."""
    k, n = out.shape
    for p in range(n):
        first, norm = _exponentials(logits, p * channels, channels, scratch, wide, narrow)
        inverse = np.float32(1) / norm
        out[0, p] = first * inverse
        for c in range(k - 1):
            out[c + 1, p] = scratch[p * channels + c] * inverse


# --- two classes: a lane a pixel ---


@njit(cache=True, nogil=True)
def _differences_one(logits, out, lanes):  # type: ignore[no-untyped-def]
    """q_1 - q_0 = (e^z - 1) / (e^z + 1)."""
    zero, one = splat(np.float32(0), lanes), splat(np.float32(1), lanes)
    for at in range(0, len(out) - len(lanes) + 1, len(lanes)):
        z = load(logits, at, lanes)
        top = maximum(z, zero)
        e, first = exp(z - top, lanes), exp(zero - top, lanes)
        store(out, at, (e - first) / (e + first))


@njit(cache=True, nogil=True)
def _probabilities_one(logits, scratch, out, lanes):  # type: ignore[no-untyped-def]
    _differences_one(logits, scratch, lanes)
    for p in range(out.shape[1]):
        out[0, p] = np.float32(0.5) - np.float32(0.5) * scratch[p]
        out[1, p] = np.float32(0.5) + np.float32(0.5) * scratch[p]
