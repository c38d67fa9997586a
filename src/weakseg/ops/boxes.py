"""Boxes as pixels: where an object can be, where it cannot, and how much of its box it fills.

A box is XYXY in pixels, half-open: it holds the pixel (y, x) if left <= x < right and top <= y < bottom, with its
edges rounded to whole pixels.
"""

import torch
from torch import Tensor

from weakseg.types import BACKGROUND, IGNORE, LabelMap, Sample, WeaksegError, check_label_map


def boxes_of(sample: Sample) -> tuple[Tensor, Tensor]:
    """Boxes float (K, 4) and labels int64 (K,) of a photograph that has an annotation, perhaps of no object.

    Raises:
        WeaksegError: nobody has annotated the photograph.
    """
    if sample.boxes is None or sample.box_labels is None:
        raise WeaksegError(f"{sample.id} has no boxes: this step needs an annotation for every photograph")
    return sample.boxes.as_subclass(Tensor), sample.box_labels


def pixel_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes on whole pixels of the photograph, each at least one pixel large.

    Args:
        boxes: float (K, 4), XYXY pixels, half-open.
        size: (H, W).

    Returns:
        int64 (K, 4), XYXY, half-open, within the photograph.

    >>> pixel_boxes(torch.tensor([[0.4, 1.6, 2.6, 9.0], [1.2, 1.2, 1.4, 1.4]]), (4, 5)).tolist()
    [[0, 2, 3, 4], [1, 1, 2, 2]]
    """
    height, width = size
    limit = torch.tensor([width, height], device=boxes.device)
    whole = boxes.round().long().reshape(-1, 2, 2)  # k = box, corner, (x, y)
    low = whole[:, 0].clamp(min=0).minimum(limit - 1)
    high = whole[:, 1].minimum(limit).maximum(low + 1)
    return torch.stack([low, high], dim=1).reshape(-1, 4)


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """bool (K, H, W): the pixels of each box.

    Args:
        boxes: float (K, 4), XYXY pixels, half-open.
        size: (H, W).

    >>> box_masks(torch.tensor([[1.0, 0.0, 3.0, 1.0]]), (2, 4)).int().tolist()
    [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    left, top, right, bottom = pixel_boxes(boxes, size)[:, :, None].unbind(dim=1)
    rows, columns = (torch.arange(n, device=boxes.device) for n in size)
    inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def definite_background(boxes: Tensor, size: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """M: where no box is, and so no object (BANA, sec. 3.1).

    Args:
        boxes: float (K, 4), XYXY pixels, half-open.
        size: (H, W).
        valid: bool (H, W), false on padding, which is no background; None = all true.

    Returns:
        bool (H, W).

    >>> definite_background(torch.tensor([[1.0, 0.0, 3.0, 1.0]]), (2, 4)).int().tolist()
    [[1, 0, 0, 1], [1, 1, 1, 1]]
    """
    outside = ~box_masks(boxes, size).any(dim=0)
    return outside if valid is None else outside & valid


def class_masks(boxes: Tensor, labels: Tensor, ids: Tensor, size: tuple[int, int]) -> Tensor:
    """bool (N, H, W): where each of `ids` can be, the union of the boxes of its class; background (0) everywhere.

    Args:
        boxes: float (K, 4), XYXY pixels, half-open.
        labels: int (K,), ids 1..C.
        ids: int (N,).
        size: (H, W).

    >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [1.0, 0.0, 2.0, 1.0]])
    >>> class_masks(boxes, torch.tensor([5, 5, 7]), torch.tensor([0, 5, 7]), (1, 3)).int().tolist()
    [[[1, 1, 1]], [[1, 0, 1]], [[0, 1, 0]]]
    """
    inside = box_masks(boxes, size)
    own = ids[:, None].to(labels.device) == labels[None, :]  # n = class, k = box
    union = (own[:, :, None, None] & inside[None]).any(dim=1)
    return union | (ids == BACKGROUND)[:, None, None].to(union.device)


def paste_by_class(maps: Tensor, boxes: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
    """One map a box -> one map a class; where boxes of a class overlap the later box is on top.

    Args:
        maps: float (K, H, W), one a box.
        boxes: float (K, 4), XYXY pixels, half-open.
        labels: int (K,), ids 1..C.
        ids: int (N,).

    Returns:
        float (N, H, W), zero outside the boxes of a class.

    >>> maps = torch.tensor([[[0.1, 0.2, 0.0]], [[0.0, 0.7, 0.8]]])
    >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0]])
    >>> paste_by_class(maps, boxes, torch.tensor([4, 4]), torch.tensor([4]))
    tensor([[[0.1000, 0.7000, 0.8000]]])
    """
    size = (maps.shape[1], maps.shape[2])
    out = maps.new_zeros((len(ids), *size))
    place = {int(k): n for n, k in enumerate(ids.tolist())}
    for k, (left, top, right, bottom) in enumerate(pixel_boxes(boxes, size).tolist()):
        if (n := place.get(int(labels[k]))) is not None:
            out[n, top:bottom, left:right] = maps[k, top:bottom, left:right]
    return out


def centre_boxes(boxes: Tensor, share: float) -> Tensor:
    """The boxes shrunk about their centres to `share` of their area, 0-1; float (K, 4).

    >>> centre_boxes(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), 0.25)
    tensor([[2., 1., 6., 3.]])
    """
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * share**0.5
    return torch.cat([middle - half, middle + half], dim=1)


def filling_prior(
    boxes: Tensor, labels: Tensor, ids: Tensor, size: tuple[int, int], *, centre: float = 0.2, filling: float = 0.5
) -> Tensor:
    """What boxes alone tell of each pixel: background outside, the object in the centre, undecided between.

    In the centre of a box, `centre` of its area, its class is certain; where centres overlap, that of the smaller box.
    Elsewhere inside, background has 1 - `filling` and the classes whose boxes are there share `filling`.

    Args:
        boxes: float (K, 4), XYXY pixels, half-open.
        labels: int (K,), ids 1..C.
        ids: int (N,), 0 first, then the classes of `labels`, each once.
        size: (H, W).
        centre: share of a box's area that is surely object, 0-1.
        filling: probability of an object elsewhere in its box, 0-1: the filling rate expected of boxes.

    Returns:
        float32 (N, H, W), summing to one over N.

    References:
        Papandreou et al., "Weakly- and Semi-Supervised Learning of a Deep Convolutional Network for Semantic Image
        Segmentation" (WSSL), ICCV 2015, sec. 3.4: a CRF whose unary fixes the outside and the centre of each box.

    >>> boxes, ids = torch.tensor([[1.0, 0.0, 5.0, 1.0]]), torch.tensor([0, 3])
    >>> filling_prior(boxes, torch.tensor([3]), ids, (1, 6), centre=0.25)[1]
    tensor([[0.0000, 0.5000, 1.0000, 1.0000, 0.5000, 0.0000]])
    """
    possible = class_masks(boxes, labels, ids, size).float()
    possible[0] = 0
    count = possible.sum(dim=0, keepdim=True)
    prior = filling * possible / count.clamp(min=1)
    prior[0] = 1 - filling * (count[0] > 0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    certain = pixel_boxes(centre_boxes(boxes, centre), size).tolist() if centre > 0 else []
    for k in area.argsort(descending=True, stable=True).tolist() if certain else []:
        left, top, right, bottom = certain[k]
        prior[:, top:bottom, left:right] = (ids == labels[k]).float()[:, None, None].to(prior.device)
    return prior


def filling_rates(masks: LabelMap, boxes: Tensor, labels: Tensor) -> Tensor:
    """Share of each box that is labelled with the box's class (BANA, fig. 4b).

    Args:
        masks: uint8 (H, W), true or pseudo label map; pixels labelled 255 count neither above nor below the line.
        boxes: float (K, 4), XYXY pixels, half-open.
        labels: int (K,), ids 1..C.

    Returns:
        float32 (K,), 0-1; NaN for a box all of whose pixels are 255.

    >>> masks = torch.tensor([[3, 3, 0, 255], [3, 0, 0, 255]], dtype=torch.uint8)
    >>> filling_rates(masks, torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([3]))
    tensor([0.5000])
    """
    check_label_map(masks)
    inside = box_masks(boxes, (masks.shape[0], masks.shape[1])) & (masks != IGNORE)
    own = (masks[None] == labels[:, None, None].to(masks.device)) & inside
    return own.sum(dim=(1, 2)).float() / inside.sum(dim=(1, 2)).float()


def box_confusion(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count boxes by true and chosen class, int64 (C + 1, C + 1), rows truth.

    Args:
        logits: float (K, C + 1), background first; the highest is chosen, background too, which no box is.
        labels: int64 (K,), ids 1..C.
        num_classes: C + 1.

    Raises:
        WeaksegError: logits of other classes, or a label that is none.

    >>> box_confusion(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]]), torch.tensor([1, 2]), 3)
    tensor([[0, 0, 0],
            [0, 1, 0],
            [1, 0, 0]])
    """
    if logits.shape != (len(labels), num_classes):
        raise WeaksegError(
            f"logits of {len(labels)} boxes are ({len(labels)}, {num_classes}), background first; got "
            f"{tuple(logits.shape)}: is the network of other classes?"
        )
    if len(labels) and not 0 < int(labels.min()) <= int(labels.max()) < num_classes:
        raise WeaksegError(f"labels of boxes are class ids 1 to {num_classes - 1}; got {labels.unique().tolist()}")
    pairs = labels * num_classes + logits.argmax(dim=1)
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def truncated_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The whole pixels at which BANA's published code makes its labels: some coordinates land one pixel low.

    It normalises coordinates to -1..1 in float32, turns them back and cuts off the fraction (methods.md 7.7, row 20).

    Args:
        boxes: float (K, 4), XYXY pixels.
        size: (H, W).

    Returns:
        float32 (K, 4), whole numbers.

    >>> truncated_boxes(torch.tensor([[7.0, 7.0, 333.0, 100.0]]), (333, 500))
    tensor([[  7.,   7., 333., 100.]])
    """
    half = (torch.tensor([size[1], size[0]] * 2, dtype=torch.float32, device=boxes.device) - 1) / 2
    return ((boxes.float() / half - 1) * half + half).trunc()


def grown_edges(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Right and bottom edges that reach the end of the crop moved one pixel beyond it, as BANA's published code has it.

    Args:
        boxes: float (K, 4), XYXY pixels.
        size: (H, W) of the crop.

    >>> grown_edges(torch.tensor([[0.0, 0.0, 321.0, 320.0]]), (321, 321))
    tensor([[  0.,   0., 322., 320.]])
    """
    limit = boxes.new_tensor([size[1], size[0]])
    return torch.cat([boxes[:, :2], torch.where(boxes[:, 2:] >= limit, limit + 1, boxes[:, 2:])], dim=1)


def shifted(boxes: Tensor, offset: float) -> Tensor:
    """Left and top edges moved by `offset`: 1 makes VOC's 1-based corners of half-open boxes.

    >>> shifted(torch.tensor([[0.0, 4.0, 9.0, 9.0]]), 1).tolist()
    [[1.0, 5.0, 9.0, 9.0]]
    """
    return boxes + boxes.new_tensor([offset, offset, 0, 0])
