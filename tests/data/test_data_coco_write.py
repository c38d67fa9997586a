"""One COCO JSON of many photographs' instances: other tools open it, and judge it as weakseg does."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weakseg.data.coco_write import coco_annotations, write_coco_instances
from weakseg.data.convert import convert
from weakseg.data.dataset import open_dataset
from weakseg.data.instances import objects_of_boxes, true_instances
from weakseg.data.scenes import make_scenes
from weakseg.evaluate.instances import evaluate_instances
from weakseg.ops.instances import mask_boxes
from weakseg.types import Instances, WeaksegError


def opened(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def judged(truth, found):
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, found, "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def official(root):
    """A COCO data set whose ids have gaps, as the official ones have: two photographs, three objects."""
    (root / "images").mkdir(parents=True)
    for k in (9, 25):
        Image.new("RGB", (20, 10)).save(root / f"images/{k:012d}.jpg")
    square = [2, 2, 8, 2, 8, 8, 2, 8]
    shapes = [(9, 44, square), (9, 3, [10, 0, 20, 0, 20, 10, 10, 10]), (25, 44, square)]
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "segmentation": [s], "iscrowd": 0, "area": 36,
         "bbox": [min(s[::2]), min(s[1::2]), max(s[::2]) - min(s[::2]), max(s[1::2]) - min(s[1::2])]}
        for n, (i, c, s) in enumerate(shapes, 1)
    ]  # fmt: skip
    content = {
        "images": [{"id": k, "file_name": f"{k:012d}.jpg", "width": 20, "height": 10} for k in (9, 25)],
        "categories": [{"id": 3, "name": "car"}, {"id": 44, "name": "bottle"}],
        "annotations": annotations,
    }
    (root / "instances.json").write_text(json.dumps(content))
    return root


def test_the_official_numbers_are_kept_and_pycocotools_agrees_with_us(tmp_path):
    root = official(tmp_path / "data")
    dataset = open_dataset(root)
    shifted = {}
    for id in dataset.ids:  # the true masks moved a pixel, scored by their place
        true = dataset.instances(id).instances
        masks = true.masks.roll(1, dims=2)
        shifted[id] = Instances(masks, true.labels, torch.linspace(0.9, 0.5, len(masks)), mask_boxes(masks))
    path = tmp_path / "instances_pseudo.json"
    assert write_coco_instances(path, dataset, dataset.ids, shifted.__getitem__) == 3
    found = opened(path)
    assert sorted(found.getImgIds()) == [9, 25]
    assert {c["id"]: c["name"] for c in found.loadCats(found.getCatIds())} == {3: "car", 44: "bottle"}
    first = found.loadAnns(found.getAnnIds(imgIds=25))[0]
    assert np.array_equal(found.annToMask(first) > 0, shifted["000000000025"].masks[0].numpy())
    assert first["area"] == shifted["000000000025"].masks[0].sum() == coco_mask.area(first["segmentation"])
    stats = judged(opened(root / "instances.json"), found)
    ours = evaluate_instances(shifted.__getitem__, dataset.instances, dataset.ids, dataset.classes, threads=1)
    assert (ours["ap"], ours["ap50"], ours["ap75"]) == pytest.approx(tuple(stats[:3]))
    assert 0 < ours["ap"] < 1


def test_weakseg_opens_what_it_wrote(tmp_path):
    dataset = open_dataset(official(tmp_path / "data"))
    new = tmp_path / "new"
    write_coco_instances(new / "instances.json", dataset, dataset.ids, lambda id: dataset.instances(id).instances)
    (new / "images").symlink_to(tmp_path / "data/images")
    again = open_dataset(new)
    assert again.classes == dataset.classes
    for id in dataset.ids:
        assert torch.equal(again.instances(id).instances.masks, dataset.instances(id).instances.masks)
        assert torch.equal(again.boxes(id)[0], dataset.boxes(id)[0])


def test_unreliable_pixels_of_a_box_and_empty_masks():
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    masks[0, :, :2] = True
    boxes = torch.tensor([[0.0, 0.0, 3.0, 2.0], [1.0, 0.0, 2.0, 1.0]])
    found = Instances(masks, torch.tensor([2, 1]), torch.tensor([0.25, 1.0]), boxes)
    unsure = torch.tensor([[False, False, True, True], [True, False, False, False]])
    (entry,) = coco_annotations(found, 7, [3, 44], unsure)  # the second has no pixel
    assert (entry["image_id"], entry["category_id"], entry["score"], entry["area"]) == (7, 44, 0.25, 4)
    assert entry["bbox"] == [0, 0, 3, 2]
    assert coco_mask.decode(entry["unreliable"]).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert coco_mask.decode(entry["segmentation"]).tolist() == masks[0].int().tolist()


def test_instances_of_another_size_are_refused(tmp_path):
    dataset = open_dataset(official(tmp_path / "data"))
    none = Instances(torch.zeros(0, 3, 3).bool(), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 4))
    with pytest.raises(WeaksegError, match=r"instances of \(3, 3\), a photograph of \(10, 20\)"):
        write_coco_instances(tmp_path / "x.json", dataset, dataset.ids, lambda id: none)
    assert not (tmp_path / "x.json").exists()


def test_boxes_find_their_objects():
    masks = torch.zeros(3, 6, 12, dtype=torch.bool)
    masks[0, 0:4, 0:4] = masks[1, 0:4, 2:6] = masks[2, 0:6, 6:12] = True
    boxes = torch.tensor([[2.0, 0.0, 6.0, 4.0], [0.0, 0.0, 4.0, 4.0], [6.0, 0.0, 12.0, 6.0], [0.0, 0.0, 4.0, 4.0]])
    labels = torch.tensor([1, 1, 1, 1])
    assert objects_of_boxes(boxes, labels, true_instances(masks, [1, 1, 2])) == [1, 0, None, None]
    crowds = true_instances(masks, [1, 1, 1], [True, False, False])
    assert objects_of_boxes(boxes, labels, crowds) == [1, None, 2, None]
    none = true_instances(masks[:0], [])
    assert objects_of_boxes(boxes, labels, none) == [None] * 4
    assert objects_of_boxes(boxes[:0], labels[:0], crowds) == []


def test_scenes_keep_their_instances_in_cocos_layout(tmp_path):
    make_scenes(tmp_path / "scenes", 4, seed=1, size=64)
    convert(tmp_path / "scenes", tmp_path / "coco", "coco")
    one, other = open_dataset(tmp_path / "scenes"), open_dataset(tmp_path / "coco")
    assert "instances" in other.has
    total = 0
    for id in one.ids:
        a, b = one.instances(id).instances, other.instances(id).instances
        assert sorted(m.numpy().tobytes() for m in a.masks) == sorted(m.numpy().tobytes() for m in b.masks)
        assert a.labels.sort().values.tolist() == b.labels.sort().values.tolist()
        assert torch.equal(one.truth(id), other.truth(id))
        total += len(a.masks)
    assert len(opened(tmp_path / "coco/instances.json").getAnnIds()) == total > 0
