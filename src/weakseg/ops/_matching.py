"""Largest one-to-one matching of two point sets within a distance, compiled.

Hopcroft and Karp, "An n^(5/2) algorithm for maximum matchings in bipartite graphs", SIAM J. Comput. 1973: repeat
shortest augmenting paths, a whole layer of them at a time, until there is none; the result is exact. Boundaries are
nearly matched by taking the closest pairs first, so a few rounds remain. (scipy's matching gives the same number, but
takes seconds on a photograph's boundaries.)
"""

import numba
import numpy as np
from scipy import spatial

FREE = -1


def largest_matching(first: np.ndarray, second: np.ndarray, reach: float) -> int:
    """The largest number of pairs of a point of `first` and one of `second`, each point in one pair at most.

    Args:
        first, second: (n, 2) and (m, 2) positions.
        reach: the largest distance of a pair, itself included.
    """
    if len(first) > len(second):
        first, second = second, first
    if not len(first):
        return 0
    near = spatial.cKDTree(first).sparse_distance_matrix(
        spatial.cKDTree(second), reach * (1 + 1e-12), output_type="ndarray"
    )
    order = np.lexsort((near["v"], near["i"]))  # of each row its nearest columns first
    columns = near["j"][order].astype(np.int64)
    starts = np.searchsorted(near["i"][order], np.arange(len(first) + 1)).astype(np.int64)
    mate, mate_of_column = np.full(len(first), FREE), np.full(len(second), FREE)
    closest = np.argsort(near["v"], kind="stable")
    _closest_first(near["i"][closest], near["j"][closest], mate, mate_of_column)
    return int(_augmented(starts, columns, mate, mate_of_column))


@numba.njit(nogil=True, cache=True)
def _closest_first(rows: np.ndarray, columns: np.ndarray, mate: np.ndarray, mate_of_column: np.ndarray) -> None:
    for k in range(len(rows)):
        if mate[rows[k]] == FREE and mate_of_column[columns[k]] == FREE:
            mate[rows[k]], mate_of_column[columns[k]] = columns[k], rows[k]


@numba.njit(nogil=True, cache=True)
def _augmented(starts: np.ndarray, columns: np.ndarray, mate: np.ndarray, mate_of_column: np.ndarray) -> int:
    """Augment until no path is left; the number of matched rows."""
    matched = 0
    for row in range(len(mate)):
        matched += mate[row] != FREE
    layer = np.empty(len(mate), np.int64)
    queue, path, cursor = np.empty_like(layer), np.empty_like(layer), np.empty_like(layer)
    while _layers(starts, columns, mate, mate_of_column, layer, queue):
        cursor[:] = starts[:-1]
        for row in range(len(mate)):
            if mate[row] == FREE and _augment(row, starts, columns, mate, mate_of_column, layer, cursor, path):
                matched += 1
    return matched


@numba.njit(nogil=True, cache=True)
def _layers(
    starts: np.ndarray,
    columns: np.ndarray,
    mate: np.ndarray,
    mate_of_column: np.ndarray,
    layer: np.ndarray,
    queue: np.ndarray,
) -> bool:
    """Number the rows by the length of the shortest alternating path from a free row; is a free column in reach?"""
    filled = 0
    for row in range(len(mate)):
        layer[row] = FREE
        if mate[row] == FREE:
            layer[row] = 0
            queue[filled] = row
            filled += 1
    found, taken = False, 0
    while taken < filled:
        row = queue[taken]
        taken += 1
        for k in range(starts[row], starts[row + 1]):
            following = mate_of_column[columns[k]]
            if following == FREE:
                found = True
            elif layer[following] == FREE and not found:
                layer[following] = layer[row] + 1
                queue[filled] = following
                filled += 1
    return found


@numba.njit(nogil=True, cache=True)
def _augment(
    root: int,
    starts: np.ndarray,
    columns: np.ndarray,
    mate: np.ndarray,
    mate_of_column: np.ndarray,
    layer: np.ndarray,
    cursor: np.ndarray,
    path: np.ndarray,
) -> bool:
    """Walk down the layers from the free row `root`; each edge is tried once a round, its row's `cursor` moves on."""
    depth = 0
    path[0] = root
    while depth >= 0:
        row = path[depth]
        if cursor[row] == starts[row + 1]:
            depth -= 1
            if depth >= 0:
                cursor[path[depth]] += 1
            continue
        following = mate_of_column[columns[cursor[row]]]
        if following == FREE:
            for step in range(depth + 1):
                column = columns[cursor[path[step]]]
                mate[path[step]], mate_of_column[column] = column, path[step]
            return True
        if layer[following] == layer[row] + 1:
            depth += 1
            path[depth] = following
        else:
            cursor[row] += 1
    return False
