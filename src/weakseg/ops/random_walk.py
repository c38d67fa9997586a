"""The random walk that spreads scores along affinities, shared by IRN and PSA (methods.md 3 and 4).

T = A^beta (power of each entry) with columns that sum to one; the result is ``x T^(2^n)``. The published tools square
the dense n x n matrix n times: for a map of 94 x 125 cells that is 11,750 nodes, 0.55 GB a copy and 3.2 TFLOP a
squaring. Here T stays what it is, a sum over offsets, and is applied to the maps 2^n times: a step reads 2 P + 1
weights a cell, so memory grows with the cells (69 floats each for radius 5: 3.5 MB for that map).

A column sums to one, so a step is also ``x_j + sum_i T_ij (x_i - x_j)``. In this form a constant stays what it is, and
what a sum loses to float32 is carried to the next step (Kahan): after 256 steps the result agrees with the squared
matrix, in float64, to 1e-6. (A plain float32 sum is off by 1e-4: hundreds of nearly equal steps round the same way.)

On the CPU a compiled kernel takes all offsets in one pass over the cells; elsewhere plain torch does the same sum.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor

from weakseg.ops._simd import load, splat, store
from weakseg.types import WeaksegError

_LANES = (0,) * 16
_WIDE = len(_LANES)


@dataclass(frozen=True, slots=True, eq=False)
class Transition:
    """One step of the walk: cell j receives ``sum_i weights[i, j] * x[j + offsets[i]]``.

    Attributes:
        weights: float32 (2 P + 1, h, w): of the cell itself, of the P forward and of the P backward offsets; the sum
            over the first axis is 1, and 0 belongs to every neighbour outside of the map.
        offsets: (dy, dx) of each.
    """

    weights: Tensor
    offsets: tuple[tuple[int, int], ...]


def transition(affinity: Tensor, offsets: Sequence[tuple[int, int]], beta: float) -> Transition:
    """Column-normalised transition weights of symmetric affinities; a cell has affinity 1 with itself.

    Args:
        affinity: float (P, h, w), >= 0: entry [p, y, x] ties the cell (y, x) to (y, x) + offsets[p]. What lies outside
            of the map is left out.
        offsets: forward offsets (dy, dx), dy >= 0, each pair of cells once.
        beta: exponent of each affinity.

    >>> t = transition(torch.full((1, 1, 2), 0.5), [(0, 1)], beta=1)
    >>> t.weights[:, 0].T  # of two cells: itself, its right and its left neighbour
    tensor([[0.6667, 0.3333, 0.0000],
            [0.6667, 0.0000, 0.3333]])
    """
    if len(affinity) != len(offsets):
        raise WeaksegError(f"{len(affinity)} maps of affinity for {len(offsets)} offsets: give one map an offset")
    height, width = affinity.shape[1:]
    tied = affinity.pow(beta).double()
    forward, backward = torch.zeros_like(tied), torch.zeros_like(tied)
    for p, (dy, dx) in enumerate(offsets):
        source = _inside(height, dy), _inside(width, dx)
        target = _inside(height, -dy), _inside(width, -dx)
        forward[p][source] = tied[p][source]
        backward[p][target] = tied[p][source]
    weights = torch.cat([torch.ones_like(tied[:1]), forward, backward])
    back = [(-dy, -dx) for dy, dx in offsets]
    return Transition((weights / weights.sum(dim=0)).float(), ((0, 0), *offsets, *back))


def random_walk(
    scores: Tensor, step: Transition, steps: int, *, kernel: Literal["auto", "compiled", "torch"] = "auto"
) -> Tensor:
    """``x T^steps``: score maps after a walk along the affinities.

    Args:
        scores: float32 (K, h, w). Maps of zeros alone cost nothing.
        step: of maps of that size, on the same device.
        steps: how many; the papers' 2^8 = 256 is eight squarings of T.
        kernel: ``compiled`` works on the CPU alone, ``torch`` everywhere; ``auto`` takes the first that fits.

    Returns:
        float32 (K, h, w), not normalised. Means of the walk's start: they never leave its range.

    >>> t = transition(torch.full((1, 1, 2), 0.5), [(0, 1)], beta=1)
    >>> random_walk(torch.tensor([[[1.0, 0.0]]]), t, steps=1)
    tensor([[[0.6667, 0.3333]]])
    """
    if tuple(scores.shape[1:]) != tuple(step.weights.shape[1:]):
        raise WeaksegError(
            f"scores of {tuple(scores.shape[1:])} cells cannot walk on a map of {tuple(step.weights.shape[1:])}: "
            "resize one of them"
        )
    out = torch.zeros_like(scores)
    live = scores.flatten(1).any(dim=1).nonzero().flatten() if scores.numel() else scores.new_zeros(0).long()
    if not len(live):
        return out
    if kernel == "compiled" or (kernel == "auto" and scores.device.type == "cpu"):
        out[live] = _walk_compiled(scores[live], step, steps)
    else:
        out[live] = _walk_torch(scores[live], step, steps)
    return out


def _walk_torch(scores: Tensor, step: Transition, steps: int) -> Tensor:
    """Gather every cell's neighbours, weigh and add: three operations a step on any device."""
    count, height, width = scores.shape
    margin = _margin(step)
    stride = width + 2 * margin
    cells = torch.arange(height * width, device=scores.device)
    inner = (cells // width + margin) * stride + cells % width + margin
    shifts = torch.tensor([dy * stride + dx for dy, dx in step.offsets], device=scores.device)
    neighbours = inner + shifts[:, None]  # (2 P + 1, n)
    weights = step.weights.flatten(1)
    maps = scores.new_zeros((count, (height + 2 * margin) * stride))
    now, rest = scores.flatten(1), torch.zeros_like(scores.flatten(1))
    for _ in range(steps):
        maps[:, inner] = now
        change = ((maps[:, neighbours] - now[:, None]) * weights).sum(dim=1) + rest
        after = now + change
        now, rest = after, change - (after - now)
    return now.reshape(scores.shape)


def _walk_compiled(scores: Tensor, step: Transition, steps: int) -> Tensor:
    """Maps in a frame of zeros, weights in the order in which they are read; channels are shared out over threads."""
    count, height, width = scores.shape
    margin, blocks = _margin(step), -(-width // _WIDE)
    stride = blocks * _WIDE + 2 * margin
    maps = np.zeros((3, count, (height + 2 * margin) * stride + _WIDE), np.float32)  # two buffers, and the remainders
    inner = maps[0, :, : (height + 2 * margin) * stride].reshape(count, height + 2 * margin, stride)
    inner[:, margin : margin + height, margin : margin + width] = scores.numpy()
    weights = _streamed(step.weights.numpy(), blocks)
    shifts = np.array([dy * stride + dx for dy, dx in step.offsets])

    def walk(some: slice) -> None:
        start = margin * stride + margin
        _steps(maps[0, some], maps[1, some], maps[2, some], weights, shifts, start, stride, blocks, steps, _LANES)

    _share(walk, count, torch.get_num_threads())
    last = maps[steps % 2, :, : (height + 2 * margin) * stride].reshape(inner.shape)
    return torch.from_numpy(last[:, margin : margin + height, margin : margin + width].copy())


def _streamed(weights: np.ndarray, blocks: int) -> np.ndarray:
    """float32 (h, blocks, 2 P + 1, 16), zero beyond the width: a step reads it from one end to the other."""
    count, height, width = weights.shape
    wide = np.zeros((count, height, blocks * _WIDE), np.float32)
    wide[:, :, :width] = weights
    return np.ascontiguousarray(wide.reshape(count, height, blocks, _WIDE).transpose(1, 2, 0, 3))


def _share(work, count: int, threads: int) -> None:  # type: ignore[no-untyped-def]
    """`work` on slices of `count` channels, one a thread; the kernel lets other threads run."""
    threads = max(1, min(threads, count))
    parts = [slice(count * t // threads, count * (t + 1) // threads) for t in range(threads)]
    if threads == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


@njit(cache=True, nogil=True)
def _steps(here, there, rest, weights, shifts, start, stride, blocks, steps, lanes):  # type: ignore[no-untyped-def]
    """`steps` steps of the maps (K, frame), from one buffer to the other and back; the frame stays zero.

    Maps go in pairs, along a row: the row's weights and its neighbourhood in two maps stay in the fastest cache.
    """
    height, count = weights.shape[0], len(here)
    flat = weights.reshape(-1)
    entries = len(shifts) * len(lanes)
    for _ in range(steps):
        for y in range(height):
            for k in range(0, count - 1, 2):
                for b in range(blocks):
                    at, first = start + y * stride + b * len(lanes), (y * blocks + b) * entries
                    one, two = _change_of_two(here[k], here[k + 1], at, flat, first, shifts, lanes)
                    _add(here[k], there[k], rest[k], at, one, lanes)
                    _add(here[k + 1], there[k + 1], rest[k + 1], at, two, lanes)
            if count % 2:
                k = count - 1
                for b in range(blocks):
                    at, first = start + y * stride + b * len(lanes), (y * blocks + b) * entries
                    change = _change(here[k], at, flat, first, shifts, lanes)
                    _add(here[k], there[k], rest[k], at, change, lanes)
        here, there = there, here


@njit(cache=True, nogil=True)
def _add(here, there, rest, at, change, lanes):  # type: ignore[no-untyped-def]
    """`change` and what earlier sums lost go on top; what this sum loses is kept."""
    now = load(here, at, lanes)
    change = change + load(rest, at, lanes)
    after = now + change
    store(there, at, after)
    store(rest, at, change - (after - now))


@njit(cache=True, nogil=True)
def _change(maps, at, weights, first, shifts, lanes):  # type: ignore[no-untyped-def]
    """What 16 cells receive from their neighbours, in four sums that do not wait for one another."""
    now, wide = load(maps, at, lanes), len(lanes)
    a, b = splat(np.float32(0), lanes), splat(np.float32(0), lanes)
    c, d = splat(np.float32(0), lanes), splat(np.float32(0), lanes)
    for i in range(1, len(shifts) - 3, 4):  # 0 is the cell itself
        w = first + i * wide
        a = a + load(weights, w, lanes) * (load(maps, at + shifts[i], lanes) - now)
        b = b + load(weights, w + wide, lanes) * (load(maps, at + shifts[i + 1], lanes) - now)
        c = c + load(weights, w + 2 * wide, lanes) * (load(maps, at + shifts[i + 2], lanes) - now)
        d = d + load(weights, w + 3 * wide, lanes) * (load(maps, at + shifts[i + 3], lanes) - now)
    for i in range(1 + (len(shifts) - 1) // 4 * 4, len(shifts)):
        a = a + load(weights, first + i * wide, lanes) * (load(maps, at + shifts[i], lanes) - now)
    return (a + b) + (c + d)


@njit(cache=True, nogil=True)
def _change_of_two(maps, more, at, weights, first, shifts, lanes):  # type: ignore[no-untyped-def]
    """`_change` of two maps at once, the same sums: each weight is read once for both."""
    now, here, wide = load(maps, at, lanes), load(more, at, lanes), len(lanes)
    a, b = splat(np.float32(0), lanes), splat(np.float32(0), lanes)
    c, d = splat(np.float32(0), lanes), splat(np.float32(0), lanes)
    e, f = splat(np.float32(0), lanes), splat(np.float32(0), lanes)
    g, h = splat(np.float32(0), lanes), splat(np.float32(0), lanes)
    for i in range(1, len(shifts) - 3, 4):
        w = first + i * wide
        weight = load(weights, w, lanes)
        a = a + weight * (load(maps, at + shifts[i], lanes) - now)
        e = e + weight * (load(more, at + shifts[i], lanes) - here)
        weight = load(weights, w + wide, lanes)
        b = b + weight * (load(maps, at + shifts[i + 1], lanes) - now)
        f = f + weight * (load(more, at + shifts[i + 1], lanes) - here)
        weight = load(weights, w + 2 * wide, lanes)
        c = c + weight * (load(maps, at + shifts[i + 2], lanes) - now)
        g = g + weight * (load(more, at + shifts[i + 2], lanes) - here)
        weight = load(weights, w + 3 * wide, lanes)
        d = d + weight * (load(maps, at + shifts[i + 3], lanes) - now)
        h = h + weight * (load(more, at + shifts[i + 3], lanes) - here)
    for i in range(1 + (len(shifts) - 1) // 4 * 4, len(shifts)):
        weight = load(weights, first + i * wide, lanes)
        a = a + weight * (load(maps, at + shifts[i], lanes) - now)
        e = e + weight * (load(more, at + shifts[i], lanes) - here)
    return (a + b) + (c + d), (e + f) + (g + h)


def _inside(length: int, shift: int) -> slice:
    """The cells of an axis from which `shift` leads to a cell of it."""
    return slice(max(0, -shift), max(0, length - max(0, shift)))


def _margin(step: Transition) -> int:
    return max(max(abs(dy), abs(dx)) for dy, dx in step.offsets)
