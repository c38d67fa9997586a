"""The random walks of IRN and PSA against the published tools' way: the dense transition matrix, squared eight times.

    python benchmarks/walks.py

IRN's matrix has 11,750 nodes and a squaring takes 3.2 TFLOP, so ONE squaring is timed and eight are taken to last
eight times as long; PSA's is squared eight times in full. The peer's time holds no building of its matrix; ours holds
the transition weights as well. IRN's result is checked against a sparse matrix in float64 that is applied 256 times.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
import torch
from materials import photographs
from measuring import PeakMemory, arguments, check, in_turns, row, save, timed
from torch import Tensor
from torch.nn.functional import avg_pool2d

from weakseg._devices import keep_freed_memory
from weakseg.ops.affinity import pair_offsets, walk_affinity
from weakseg.ops.psa_affinity import feature_walk_affinity
from weakseg.ops.random_walk import Transition, random_walk, transition

RADIUS, STEPS = 5, 2**8


def sparse(step: Transition) -> scipy.sparse.csc_matrix:
    """T, float64 (n, n): entry [i, j] is what cell j receives from cell i; columns sum to one."""
    height, width = step.weights.shape[1:]
    y, x = np.mgrid[:height, :width]
    rows, columns, values = [], [], []
    for (dy, dx), weight in zip(step.offsets, step.weights.double().numpy(), strict=True):
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        rows.append(((y + dy) * width + x + dx)[inside])
        columns.append((y * width + x)[inside])
        values.append(weight[inside])
    places = np.concatenate(rows), np.concatenate(columns)
    return scipy.sparse.csc_matrix((np.concatenate(values), places), (height * width,) * 2)


def dense_walk(scores: Tensor, matrix: Tensor) -> Tensor:
    """``x T^256`` as IRN and PSA compute it."""
    for _ in range(8):
        matrix = matrix @ matrix
    return (scores.flatten(1) @ matrix).reshape(scores.shape)


def irn(photo: Tensor, repeats: int) -> list[dict]:
    """94 x 125 cells, radius 5, beta 10, two classes."""
    grey = avg_pool2d(photo.float().mean(0)[None, None], 4, ceil_mode=True)[0, 0]
    edge = sum(g.abs() for g in torch.gradient(grey))
    affinity = walk_affinity((edge / edge.max()).clamp(0, 1), RADIUS)
    scores = torch.rand((2, *grey.shape), generator=torch.Generator().manual_seed(0))

    def ours() -> Tensor:
        return random_walk(scores, transition(affinity, pair_offsets(RADIUS), beta=10), STEPS)

    with PeakMemory() as small:  # PSA's walk has compiled the kernel
        result = ours()
    seconds = [s for (s,) in in_turns(ours, repeats=repeats)]
    matrix = sparse(transition(affinity, pair_offsets(RADIUS), beta=10))
    exact = scores.double().flatten(1).numpy()
    for _ in range(STEPS):
        exact = exact @ matrix
    difference = check("IRN's walk", float(np.abs(exact - result.flatten(1).numpy()).max()), 1e-4)
    with PeakMemory() as large:
        dense = torch.from_numpy(matrix.toarray().astype(np.float32))
        squaring, squared = timed(torch.mm, dense, dense)
    two = random_walk(scores, transition(affinity, pair_offsets(RADIUS), beta=10), 2).flatten(1)
    check("two steps of IRN's walk", float((scores.flatten(1) @ squared - two).abs().max()), 1e-4)
    what = {"cells": list(grey.shape), "difference": difference, "milliseconds": [round(1e3 * s, 2) for s in seconds]}
    note = f"one squaring took {squaring:.1f} s and counts eight times"
    rows = [
        row(
            "IRN's walk",
            "times as fast as dense squaring",
            400,
            [8 * squaring / s for s in seconds],
            at_least=True,
            note=note,
            **what,
        )
    ]
    if large.bytes:
        share = 100 * small.bytes / large.bytes
        rows.append(
            row(
                "IRN's walk",
                "memory, % of the dense one's",
                5,
                [share],
                at_least=False,
                bytes=[small.bytes, large.bytes],
            )
        )
    return rows


def psa(photo: Tensor, repeats: int, live: int) -> dict:
    """47 x 63 cells, radius 5, beta 8, scores of background and 20 classes of which `live` are not zero."""
    features = avg_pool2d(photo[None].float() / 32, 8, ceil_mode=True)[0]
    affinity = feature_walk_affinity(features, RADIUS)
    scores = torch.rand((21, *features.shape[1:]), generator=torch.Generator().manual_seed(0))
    scores[live:] = 0
    matrix = torch.from_numpy(sparse(transition(affinity, pair_offsets(RADIUS), beta=8)).toarray().astype(np.float32))
    works: tuple[Callable[[], Tensor], ...] = (
        lambda: random_walk(scores, transition(affinity, pair_offsets(RADIUS), beta=8), STEPS),
        lambda: dense_walk(scores, matrix),
    )
    difference = check("PSA's walk", float((works[0]() - works[1]()).abs().max()), 1e-4)
    seconds = in_turns(*works, repeats=repeats)
    target, kind = (25, "21 dense scores") if live == 21 else (50, f"{live} of 21 scores not zero")
    return row(
        f"PSA's walk, {kind}", "times as fast as dense squaring", target, [b / a for a, b in seconds], at_least=True,
        difference=difference, milliseconds=[[round(1e3 * s, 2) for s in pair] for pair in seconds],
    )  # fmt: skip


def main() -> None:
    """Measure and write ``walks.json``."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    photo = photographs(options.photos, 1)[0]
    rows = [psa(photo, options.repeats, live) for live in (21, 3)]
    save("walks", [*irn(photo, options.repeats), *rows], options.out)


if __name__ == "__main__":
    main()
