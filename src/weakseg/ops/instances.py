"""Instances from displacements and score maps (IRN; methods.md 4).

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019, sec. 4.2 and
supplement: every cell follows the displacement field to its centre; centres that lie in one region of small
displacements are one; each class's map is split by centre; connected parts of the winners are the instances.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from weakseg.types import Instances, WeaksegError


def follow(displacement: Tensor, steps: int = 300) -> Tensor:
    """Where each cell ends that moves by the displacement it stands on, `steps` times.

    Args:
        displacement: float (2, h, w), (dy, dx) in cells; between cells it is read bilinearly.
        steps: the paper's refinement steps, "any number of at least 100".

    Returns:
        int64 (2, h, w), the cell (y, x) next to each end; nobody leaves the map.

    >>> field = torch.tensor([[[0.0, 0.0, 0.0]], [[1.0, 0.0, -1.0]]])  # one row; all point at its middle
    >>> follow(field)[1]
    tensor([[1, 1, 1]])
    """
    _, height, width = displacement.shape
    top = displacement.new_tensor([height - 1, width - 1])[:, None]
    grid = torch.meshgrid(
        torch.arange(height, device=top.device), torch.arange(width, device=top.device), indexing="ij"
    )
    place = torch.stack(grid).flatten(1).to(displacement.dtype)
    field = displacement.flatten(1)
    for _ in range(steps):
        place = (place + _bilinear(field, place, width)).clamp(min=0).minimum(top)
    return place.round().long().reshape(2, height, width)


def centroid_clusters(centroids: Tensor, displacement: Tensor, threshold: float = 2.5) -> Tensor:
    """Which object each cell belongs to: the connected region of small displacements that its centroid lies in.

    Cells whose centroid lies in no such region form a cluster of their own.

    Args:
        centroids: int64 (2, h, w), from `follow`.
        displacement: float (2, h, w), cells.
        threshold: displacements shorter than this mark a centre, cells.

    Returns:
        int64 (h, w), 0..N-1, each number used; regions are connected through sides, not corners.

    >>> field = torch.tensor([[[0.0] * 5], [[0.0, -3.0, 0.0, 3.0, 0.0]]])
    >>> centroid_clusters(follow(field), field)
    tensor([[0, 0, 1, 2, 2]])
    """
    small = displacement.square().sum(dim=0).sqrt() < threshold
    regions, _ = ndimage.label(small.cpu().numpy())
    found = torch.from_numpy(regions).long().to(centroids.device)[centroids[0], centroids[1]]
    return torch.unique(found, return_inverse=True)[1].reshape(found.shape)


def split_by_cluster(scores: Tensor, clusters: Tensor) -> Tensor:
    """Each map cut into one map a cluster, zero elsewhere.

    Args:
        scores: float (K, h, w).
        clusters: int64 (h, w), 0..N-1.

    Returns:
        float (K N, h, w): all clusters of the first map, then those of the second.

    >>> split_by_cluster(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[1, 0]]))[:, 0].tolist()
    [[0.0, 2.0], [1.0, 0.0]]
    """
    count = int(clusters.max()) + 1 if clusters.numel() else 0
    masks = clusters == torch.arange(count, device=clusters.device)[:, None, None]
    return (scores[:, None] * masks).flatten(0, 1)


def detect_instances(maps: Tensor, ids: Tensor, background: float = 0.25, min_area: float = 0.01) -> Instances:
    """The connected parts of what each map wins against the others and a constant background.

    Args:
        maps: float (M, H, W), 0-1, one map an instance candidate.
        ids: int (M,), the class 1..C of each.
        background: the constant; a tie goes to it.
        min_area: a part of less than this share of the photograph is kept with score 0.

    Returns:
        instances in the order of `maps`, parts from top to bottom; the score is the highest value inside. Parts are
        connected through sides, not corners.

    >>> maps = torch.tensor([[[0.9, 0.1, 0.5, 0.1]], [[0.0, 0.3, 0.1, 0.0]]])
    >>> found = detect_instances(maps, torch.tensor([4, 7]))
    >>> [(k, round(s, 2), box) for k, s, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist())]
    [(4, 0.9, [0.0, 0.0, 1.0, 1.0]), (4, 0.5, [2.0, 0.0, 3.0, 1.0]), (7, 0.3, [1.0, 0.0, 2.0, 1.0])]
    """
    if len(maps) != len(ids):
        raise WeaksegError(f"{len(maps)} maps with {len(ids)} class ids: give one id a map")
    height, width = maps.shape[1:]
    constant = maps.new_full((1, height, width), background)
    winner = torch.cat([constant, maps]).argmax(dim=0).cpu().numpy()
    masks: list[Tensor] = []
    labels, scores = [], []
    for k in np.unique(winner[winner > 0]).tolist():
        values = maps[k - 1].cpu().numpy()
        parts, count = ndimage.label(winner == k)
        for part in range(1, count + 1):
            inside = parts == part
            small = inside.sum() < height * width * min_area  # in this order: 243 of 108 x 225 are not below 1 %
            masks.append(torch.from_numpy(inside))
            labels.append(int(ids[k - 1]))
            scores.append(0.0 if small else float(values[inside].max()))
    stacked = torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.bool)
    return Instances(
        masks=stacked,
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
        boxes=mask_boxes(stacked),
    )


def mask_boxes(masks: Tensor) -> Tensor:
    """float32 (K, 4), XYXY pixels half-open, around bool masks (K, H, W); zeros around an empty one.

    >>> mask_boxes(torch.tensor([[[False, True, True], [False, True, False]]]))
    tensor([[1., 0., 3., 2.]])
    """
    boxes = torch.zeros((len(masks), 4))
    for k, mask in enumerate(masks):
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        if len(rows):
            boxes[k] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return boxes


def _bilinear(field: Tensor, place: Tensor, width: int) -> Tensor:
    """The field (2, h w) at the places (2, n), which lie on the map."""
    low, high = place.floor(), place.ceil()
    ty, tx = place - low
    (y0, x0), (y1, x1) = low.long(), high.long()
    upper = field[:, y0 * width + x0] * (1 - tx) + field[:, y0 * width + x1] * tx
    lower = field[:, y1 * width + x0] * (1 - tx) + field[:, y1 * width + x1] * tx
    return upper * (1 - ty) + lower * ty
