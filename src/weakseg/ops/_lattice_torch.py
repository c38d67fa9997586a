"""The permutohedral lattice of `_lattice` in torch operations, for any device.

The same embedding, keys and filter; the hash table becomes a sort (`torch.unique`) and a binary search. On CUDA the
splat adds with atomics, so the last bits may differ from run to run unless torch.use_deterministic_algorithms is on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._lattice import RANK_BITS, SIMD, elevation_scale, packing


@dataclass(frozen=True, eq=False)
class TorchLattice:
    """Symmetrically normalised lattice of N points.

    Attributes:
        vertices: int64 (d + 1, N), lattice points 1..M of each point's simplex; 0 is a point that always holds 0.
        weights: float32 (d + 1, N), barycentric weights over the root of the point's own density.
        neighbours: int64 (d + 1, 2, M + 1), the lattice points on either side along each direction; 0 where none is.
    """

    vertices: Tensor
    weights: Tensor
    neighbours: Tensor

    def filter(self, values: Tensor) -> Tensor:
        """Filtered `values`, float32 (N, V) -> float32 (N, V)."""
        points = values.new_zeros((self.neighbours.shape[2], values.shape[1]))
        for vertex, weight in zip(self.vertices, self.weights, strict=True):
            points.index_add_(0, vertex, weight[:, None] * values)
        for before, after in self.neighbours:
            points = points + 0.5 * (points[before] + points[after])
            points[0] = 0
        out = torch.zeros_like(values)
        for vertex, weight in zip(self.vertices, self.weights, strict=True):
            out += weight[:, None] * points[vertex]
        return out / (1 + 2.0 ** (1 - len(self.vertices)))


def build(image: Tensor, sxy: float, srgb: float | None) -> TorchLattice:
    """Lattice of position (and colour, if `srgb` is given) of the pixels of `image`, uint8 (3, H, W)."""
    features = _features(image, sxy, srgb)
    n = features.shape[1]
    if n % SIMD:
        features = torch.cat([features, features.new_zeros(len(features), 1)], dim=1)
    shift, low = packing(features.amin(1).cpu().numpy(), features.amax(1).cpu().numpy())
    base, rank, weights = _embed(features)
    keys = _vertex_keys(base, rank, shift.tolist(), low.tolist())
    points, vertices = torch.unique(keys, return_inverse=True)
    vertices, weights = vertices[:, :n], weights[:, :n]
    lattice = TorchLattice(vertices + 1, weights, _neighbours(points, shift.tolist()))
    density = lattice.filter(weights.new_ones((weights.shape[1], 1)))[:, 0]
    normalised = weights * (density.double() + 1e-20).rsqrt().float()
    return TorchLattice(lattice.vertices, normalised, lattice.neighbours)


def _features(image: Tensor, sxy: float, srgb: float | None) -> Tensor:
    """float32 (d, N), in units of the kernel's standard deviation."""
    _, height, width = image.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=image.device),
        torch.arange(width, dtype=torch.float32, device=image.device),
        indexing="ij",
    )
    rows = [x / sxy, y / sxy, *([] if srgb is None else (image.float() / srgb).unbind(0))]
    return torch.stack(rows).reshape(len(rows), -1)


def _embed(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest point of remainder 0 over d + 1, int64 (d + 1, N); ranks, int64 (d + 1, N); barycentric weights."""
    d = len(features)
    scaled = features * torch.from_numpy(elevation_scale(d)).to(features.device)[:, None]
    x = torch.empty((d + 1, features.shape[1]), device=features.device)
    total = torch.zeros_like(scaled[0])
    for j in range(d, 0, -1):
        x[j] = total - j * scaled[j - 1]
        total = total + scaled[j - 1]
    x[0] = total
    nearest = (x / (d + 1) + 0.5).floor()
    x = x - nearest * (d + 1)
    base = nearest.long()
    rank = base.sum(0, keepdim=True).expand(d + 1, -1).clone()
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            less = x[i] < x[j]
            rank[i] += less
            rank[j] += ~less
    wrap = (rank < 0).long() - (rank > d).long()  # the nearest points of remainder 0 must sum to zero
    x = (x - wrap * (d + 1)).sort(0, descending=True).values / (d + 1)
    weights = torch.cat([1 + x[d:] - x[:1], (x[:-1] - x[1:]).flip(0)])
    return base + wrap, rank + wrap * (d + 1), weights


def _vertex_keys(base: Tensor, rank: Tensor, shift: list[int], low: list[int]) -> Tensor:
    """Packed keys, int64 (d + 1, N), as in `_lattice`: quotients of the coordinates by d + 1, the remainder once."""
    d = len(shift) - 1
    keys = []
    for r in range(d + 1):
        quotient = base - (rank > d - r).long()
        keys.append(sum(((quotient[i] - low[i]) << shift[i] for i in range(d)), torch.full_like(base[0], r)))
    return torch.stack(keys)


def _neighbours(points: Tensor, shift: list[int]) -> Tensor:
    """Lattice points (1-based) before and after each of the sorted keys `points` along each direction."""
    d = len(shift) - 1
    m = len(points)
    carry = d - sum(1 << s for s in shift[:d])
    back = torch.where(points & ((1 << RANK_BITS) - 1) == 0, carry, -1)
    neighbours = points.new_zeros((d + 1, 2, m + 1))
    index = torch.arange(1, m + 1, device=points.device)
    for j in range(d + 1):
        keys = points + back + (0 if j == d else 1 << shift[j])
        at = torch.searchsorted(points, keys).clamp_max(m - 1)
        hit = points[at] == keys
        neighbours[j, 0, 1:] = (at + 1) * hit
        neighbours[j, 1, at[hit] + 1] = index[hit]
    return neighbours
