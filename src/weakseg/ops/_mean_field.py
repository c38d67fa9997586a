"""Mean-field inference on the CPU: Krähenbühl and Koltun 2011, Algorithm 1, with one class fewer.

A softmax sees only differences of logits, and the filter is linear: it is enough to filter the K - 1 differences
q_k - q_0, which give the messages of the classes 1..K-1 relative to class 0. The state is channel last.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from . import _lattice


def infer(unary: np.ndarray, terms: Sequence[tuple[_lattice.Lattice, float]], iterations: int) -> np.ndarray:
    """Probabilities, float32 (K, N), of the energies `unary`, float32 (K, N), tied by `terms` = (kernel, weight)."""
    k, n = unary.shape
    if k == 1:
        return np.ones((1, n), np.float32)
    bias = _relative(np.ascontiguousarray(unary, np.float32))
    logits = bias.copy()
    differences = np.empty_like(bias)
    for _ in range(iterations if terms else 0):
        _differences(logits, differences)
        logits[:] = bias
        for lattice, weight in terms:
            _lattice.accumulate(lattice, differences, logits, weight)
    return _probabilities(logits)


@njit(cache=True, nogil=True)
def _relative(unary):  # type: ignore[no-untyped-def]
    """Logits of the classes 1..K-1 relative to class 0, float32 (N, K - 1)."""
    k, n = unary.shape
    bias = np.empty((n, k - 1), np.float32)
    for p in range(n):
        for c in range(k - 1):
            bias[p, c] = unary[0, p] - unary[c + 1, p]
    return bias


@njit(cache=True, nogil=True)
def _differences(logits, out):  # type: ignore[no-untyped-def]
    """q_k - q_0 for the softmax q of [0, logits], float32 (N, K - 1)."""
    n, channels = logits.shape
    for p in range(n):
        top = np.float32(0)
        for c in range(channels):
            top = max(top, logits[p, c])
        first = np.exp(-top)
        norm = first
        for c in range(channels):
            out[p, c] = np.exp(logits[p, c] - top)
            norm += out[p, c]
        for c in range(channels):
            out[p, c] = (out[p, c] - first) / norm


@njit(cache=True, nogil=True)
def _probabilities(logits):  # type: ignore[no-untyped-def]
    """The softmax of [0, logits], float32 (K, N)."""
    n, channels = logits.shape
    out = np.empty((channels + 1, n), np.float32)
    for p in range(n):
        top = np.float32(0)
        for c in range(channels):
            top = max(top, logits[p, c])
        out[0, p] = np.exp(-top)
        norm = out[0, p]
        for c in range(channels):
            out[c + 1, p] = np.exp(logits[p, c] - top)
            norm += out[c + 1, p]
        for c in range(channels + 1):
            out[c, p] /= norm
    return out
