"""Instances of many photographs as ONE COCO JSON (run lengths), which pycocotools, CVAT and weakseg itself open.

Where the data set came as COCO JSON its own image and category ids are kept, so that the file can be judged against the
official annotations; elsewhere images count from 1 in the order of the list, and category k is class id k.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weakseg.data.coco import coco_numbers
from weakseg.data.dataset import Dataset
from weakseg.data.images import image_size
from weakseg.data.runs import encode_runs
from weakseg.data.store import write_json
from weakseg.ops.boxes import box_masks
from weakseg.types import IGNORE, Instances, LabelMap, WeaksegError


def write_coco_instances(
    path: Path,
    dataset: Dataset,
    ids: Sequence[str],
    read: Callable[[str], Instances],
    reliable: Callable[[str], LabelMap] | None = None,
) -> int:
    """Write the instances of a list of photographs as one COCO JSON, atomically; returns how many there are.

    Args:
        path: the file; weakseg opens it as a data set if its name begins with ``instances``.
        dataset: where the photographs are.
        ids: the photographs, each listed in the file even if it shows nothing.
        read: id -> its instances. Those without a pixel are left out: other tools refuse them.
        reliable: id -> label map, 255 where a label is unreliable. Each annotation then has ``unreliable``, the run
            lengths of these pixels of its box, which other tools pass over and a network can leave out of its loss.

    Raises:
        WeaksegError: a file is damaged, or instances are not of their photograph's size.
    """
    image_ids, category_ids = _numbers(dataset, ids)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for id in ids:
        name = dataset.image_path(id).name
        found, (height, width) = read(id), image_size(dataset.image_path(id))
        if tuple(found.masks.shape[1:]) != (height, width):
            raise WeaksegError(f"{id}: instances of {tuple(found.masks.shape[1:])}, a photograph of {(height, width)}")
        images.append({"id": image_ids[id], "file_name": name, "width": width, "height": height})
        unsure = None if reliable is None else reliable(id) == IGNORE
        for entry in coco_annotations(found, image_ids[id], category_ids, unsure):
            annotations.append({"id": len(annotations) + 1, **entry})
    categories = [{"id": k, "name": name} for k, name in zip(category_ids, dataset.classes, strict=True)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return len(annotations)


def coco_annotations(
    instances: Instances, image_id: int | str, category_ids: Sequence[int], unsure: torch.Tensor | None = None
) -> list[dict[str, Any]]:
    """COCO's entry of each instance that has a pixel, without its ``id``.

    Args:
        instances: K of them.
        image_id: COCO's number of the photograph.
        category_ids: COCO's number of class k at k - 1.
        unsure: bool (H, W), unreliable pixels, or None.
    """
    masks, entries = instances.masks.numpy(), []
    size = (int(masks.shape[1]), int(masks.shape[2]))
    for k in np.flatnonzero(masks.any(axis=(1, 2))).tolist():
        x0, y0, x1, y1 = (round(float(v), 2) for v in instances.boxes[k])
        entry = {
            "image_id": image_id,
            "category_id": category_ids[int(instances.labels[k]) - 1],
            "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
            "area": int(masks[k].sum()),
            "iscrowd": 0,
            "score": round(float(instances.scores[k]), 6),
            "segmentation": encode_runs(masks[k]),
        }
        if unsure is not None:
            entry["unreliable"] = encode_runs((box_masks(instances.boxes[k : k + 1], size)[0] & unsure).numpy())
        entries.append(entry)
    return entries


def _numbers(dataset: Dataset, ids: Sequence[str]) -> tuple[dict[str, int | str], list[int]]:
    """COCO's image id of each photograph, and its category id of each class in order."""
    known = coco_numbers(dataset.root) if dataset.layout == "coco" else None
    if known is None or not set(ids) <= known.images.keys() or not set(dataset.classes) <= known.categories.keys():
        return {id: k for k, id in enumerate(ids, 1)}, list(range(1, len(dataset.classes) + 1))
    return {id: known.images[id] for id in ids}, [known.categories[name] for name in dataset.classes]
