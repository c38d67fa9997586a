"""Label maps from score maps, boxes and other label maps."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.types import BACKGROUND, IGNORE, LabelMap, ScoreMap, WeaksegError, check_label_map


def threshold(score_map: ScoreMap, background: float, size: tuple[int, int] | None = None) -> LabelMap:
    """The winner among the present classes and a constant background score.

    A tie goes to background, then to the class that comes first in `ids`. A background map (id 0) takes no part: the
    constant stands in its place, as it does where AMN's maps become label maps (methods.md 8.5).

    Args:
        score_map: maps of the present classes, 0-1. Maps of another resolution than the photograph are resized first,
            bilinearly.
        background: the constant, 0-1.
        size: (H, W) of the result; None = the photograph's.

    Returns:
        uint8 (H, W), 0 and present ids.

    >>> maps = ScoreMap(torch.tensor([2, 5], dtype=torch.uint8), torch.tensor([[[0.9, 0.2]], [[0.1, 0.3]]]), (1, 2))
    >>> threshold(maps, 0.2), threshold(maps, 0.3)
    (tensor([[2, 5]], dtype=torch.uint8), tensor([[2, 0]], dtype=torch.uint8))
    """
    maps = foreground(score_map)
    scores = resized_scores(maps, size)
    constant = scores.new_full((1, *scores.shape[1:]), background)
    winner = torch.cat([constant, scores]).argmax(dim=0)
    return torch.cat([maps.ids.new_zeros(1), maps.ids])[winner]


def winners(score_map: ScoreMap, size: tuple[int, int] | None = None) -> LabelMap:
    """The highest map of each pixel, where background has a map of its own: no threshold is chosen.

    A tie goes to background, then to the class that comes first in `ids`.

    Args:
        score_map: one of its maps is background's (id 0).
        size: (H, W) of the result; None = the photograph's.

    Returns:
        uint8 (H, W), 0 and present ids.

    Raises:
        WeaksegError: if there is no background map.

    >>> maps = ScoreMap(torch.tensor([2, 0], dtype=torch.uint8), torch.tensor([[[0.9, 0.3]], [[0.1, 0.3]]]), (1, 2))
    >>> winners(maps)
    tensor([[2, 0]], dtype=torch.uint8)
    """
    own = score_map.ids == BACKGROUND
    if not bool(own.any()):
        raise WeaksegError(
            f"these score maps have no background map (ids {score_map.ids.tolist()}): give a background threshold"
        )
    scores, order = resized_scores(score_map, size), (~own).long().argsort(stable=True)
    return score_map.ids[order][scores[order].argmax(dim=0)]


def foreground(score_map: ScoreMap) -> ScoreMap:
    """The maps without background's (id 0), if they hold one.

    >>> maps = ScoreMap(torch.tensor([0, 2], dtype=torch.uint8), torch.rand(2, 3, 3), (3, 3))
    >>> foreground(maps).ids.tolist()
    [2]
    """
    kept = score_map.ids != BACKGROUND
    if bool(kept.all()):
        return score_map
    box = None if score_map.box is None else score_map.box[kept]
    return ScoreMap(score_map.ids[kept], score_map.scores[kept], score_map.size, box)


def resized_scores(score_map: ScoreMap, size: tuple[int, int] | None = None) -> Tensor:
    """float32 (K, H, W): the maps at `size` (None = the photograph's), bilinear if they have another resolution.

    >>> m = ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.ones(1, 2, 2), (3, 5))
    >>> tuple(resized_scores(m).shape)
    (1, 3, 5)
    """
    target = tuple(size or score_map.size)
    if tuple(score_map.scores.shape[1:]) == target:
        return score_map.scores
    if not len(score_map.scores):
        return score_map.scores.new_zeros((0, *target))
    return interpolate(score_map.scores[None], target, mode="bilinear", align_corners=False)[0]


def merge(base: LabelMap, over: LabelMap) -> LabelMap:
    """`over` laid on `base`: 255 in `over` is transparent.

    Args:
        base: uint8 (H, W).
        over: uint8 (H, W), for example corrected or true labels of some pixels.

    Returns:
        uint8 (H, W).

    >>> merge(torch.tensor([[1, 1, 255]], dtype=torch.uint8), torch.tensor([[0, 255, 255]], dtype=torch.uint8))
    tensor([[  0,   1, 255]], dtype=torch.uint8)
    """
    check_label_map(base)
    check_label_map(over, (base.shape[0], base.shape[1]))
    return torch.where(over == IGNORE, base, over)


def class_ids(
    named: Sequence[int | str], classes: Sequence[str], *, optional: Collection[str] = (), what: str = "the list"
) -> tuple[int, ...]:
    """Ids 1..C of classes that are given by name or by id.

    Args:
        named: names and ids.
        classes: the C foreground names.
        optional: names that are left out where `classes` does not hold them, such as a default's.
        what: how an error calls `named`.

    Raises:
        WeaksegError: another name that is no class, or an id outside 1..C.

    >>> class_ids(("sofa", 1), ("cat", "sofa"), optional=("chair",))
    (2, 1)
    """
    ids: list[int] = []
    for name in named:
        if isinstance(name, str) and name not in classes and name not in optional:
            raise WeaksegError(f"{what} names {name!r}; the classes are {', '.join(classes)}: mend the name")
        ids += [name] if isinstance(name, int) else [classes.index(name) + 1] if name in classes else []
    if wrong := [id for id in ids if not 1 <= id <= len(classes)]:
        raise WeaksegError(f"{what} holds id {wrong[0]}; class ids are 1 to {len(classes)}")
    return tuple(ids)


def box_fill(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> LabelMap:
    """Every box filled with its class, smaller boxes on top of larger ones.

    Args:
        boxes: float (K, 4), XYXY pixels, half-open; rounded to whole pixels and clipped to the photograph.
        labels: int (K,), ids 1..C.
        size: (H, W), pixels.

    Returns:
        uint8 (H, W), 0 outside all boxes.

    >>> boxes = torch.tensor([[1.0, 0.0, 2.0, 1.0], [0.0, 0.0, 3.0, 2.0]])
    >>> box_fill(boxes, torch.tensor([7, 4]), (2, 4))
    tensor([[4, 7, 4, 0],
            [4, 4, 4, 0]], dtype=torch.uint8)
    """
    height, width = size
    out = torch.zeros(size, dtype=torch.uint8, device=boxes.device)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for k in area.argsort(descending=True, stable=True).tolist():
        left, top, right, bottom = (round(v) for v in boxes[k].tolist())
        out[max(top, 0) : max(min(bottom, height), 0), max(left, 0) : max(min(right, width), 0)] = int(labels[k])
    return out


def local_labels(labels: LabelMap) -> tuple[Tensor, Tensor]:
    """The ids that occur, and the map renumbered by them: what a CRF over the photograph's own classes wants.

    Args:
        labels: uint8 (H, W); 255 stays 255.

    Returns:
        ids uint8 (K,), sorted; labels uint8 (H, W) with entries 0..K-1 or 255, such that ``ids[local] == labels``.

    >>> ids, local = local_labels(torch.tensor([[0, 9, 255, 4]], dtype=torch.uint8))
    >>> ids.tolist(), local.tolist()
    ([0, 4, 9], [[0, 2, 255, 1]])
    """
    check_label_map(labels)
    ids = torch.unique(labels)
    ids = ids[ids != IGNORE]
    table = torch.full((256,), IGNORE, dtype=torch.uint8, device=labels.device)
    table[ids.long()] = torch.arange(len(ids), dtype=torch.uint8, device=labels.device)
    return ids, table[labels.long()]
