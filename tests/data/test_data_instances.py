"""True instances of VOC's two maps and of COCO's segmentations."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from weakseg.data.dataset import open_dataset
from weakseg.data.instances import from_object_map, object_map, true_instances
from weakseg.data.scenes import make_scenes
from weakseg.types import WeaksegError


def test_an_object_map_with_its_classes():
    """Object 7 is a 3 with one stray pixel, object 2 a 5; seams are nobody's."""
    objects = torch.tensor([[0, 7, 7, 255], [2, 7, 7, 0]], dtype=torch.uint8)
    labels = torch.tensor([[0, 3, 5, 255], [5, 3, 255, 0]], dtype=torch.uint8)
    instances, crowd = from_object_map(objects, labels)
    assert instances.labels.tolist() == [5, 3]
    assert torch.equal(instances.masks, torch.stack([objects == 2, objects == 7]))
    assert instances.boxes.tolist() == [[0, 1, 1, 2], [1, 0, 3, 2]]
    assert instances.scores.tolist() == [1, 1]
    assert crowd.tolist() == [False, False]


def test_an_object_map_is_written_as_it_is_read():
    """A pixel that two objects of one class share goes to the smaller; crowds and other classes' pixels to none."""
    masks = torch.tensor(
        [[[1, 1, 1, 1], [0, 0, 0, 1]], [[0, 0, 1, 0], [0, 0, 1, 0]], [[1, 0, 0, 0], [1, 0, 0, 0]]]
    ).bool()
    labels = torch.tensor([[3, 5, 3, 255], [4, 0, 3, 3]], dtype=torch.uint8)
    made = object_map(true_instances(masks, [3, 3, 4]), labels)
    assert made.tolist() == [[1, 0, 2, 255], [3, 0, 2, 1]]
    assert object_map(true_instances(masks, [3, 3, 4], [False, True, False]), labels).tolist()[0] == [1, 0, 1, 255]
    again = from_object_map(made, labels)
    assert again.instances.labels.tolist() == [3, 3, 4]
    assert torch.equal(object_map(again, labels), made)
    many = torch.ones(255, 1, 1, dtype=torch.bool)
    with pytest.raises(WeaksegError, match="255 objects in one photograph"):
        object_map(true_instances(many, [1] * 255), torch.ones(1, 1, dtype=torch.uint8))


def test_no_object_and_a_classless_one():
    empty = torch.zeros(2, 3, dtype=torch.uint8)
    assert from_object_map(empty, empty).instances.masks.shape == (0, 2, 3)
    with pytest.raises(WeaksegError, match="object 1 covers no pixel of a class"):
        from_object_map(empty + 1, empty)
    with pytest.raises(WeaksegError, match=r"\(2, 3\), that of classes \(1, 3\)"):
        from_object_map(empty, empty[:1])


def test_scenes_know_their_objects(tmp_path):
    """As many as their annotations hold, with the same classes and boxes."""
    make_scenes(tmp_path, count=6, seed=0, size=64)
    data = open_dataset(tmp_path)
    assert "instances" in data.has
    for id in data.ids:
        true, (boxes, labels) = data.instances(id).instances, data.boxes(id)
        assert torch.equal(true.boxes, boxes)
        assert torch.equal(true.labels, labels)
    path = data.instances_path(data.ids[0])
    assert path.parent.name == "SegmentationObject"
    Image.fromarray(np.zeros((64, 32), np.uint8)).save(path)
    with pytest.raises(WeaksegError, match=path.name):
        data.instances(data.ids[0])


def test_coco_gives_overlapping_objects_and_crowds(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    Image.new("RGB", (8, 6)).save(tmp_path / "b.jpg")
    images = [{"id": i, "file_name": f"{n}.jpg", "width": 8, "height": 6} for i, n in ((1, "a"), (2, "b"))]
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    crowd = {"size": [6, 8], "counts": [24, 24]}
    annotations = [
        {"image_id": 1, "category_id": 9, "bbox": [1, 1, 4, 4], "segmentation": square},
        {"image_id": 1, "category_id": 4, "bbox": [4, 0, 4, 6], "segmentation": crowd, "iscrowd": 1},
        {"image_id": 1, "category_id": 4, "bbox": [0, 0, 2, 2]},
    ]
    categories = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = open_dataset(tmp_path)
    instances, crowds = data.instances("a")
    assert [data.classes[k - 1] for k in instances.labels.tolist()] == ["dog", "cat", "cat"]
    assert crowds.tolist() == [False, True, True]  # an object with a box alone is as vague as a crowd
    assert instances.masks.flatten(1).sum(1).tolist() == [16, 24, 4]
    assert bool((instances.masks[0] & instances.masks[1]).any())
    assert len(data.instances("b").crowd) == 0  # listed without an object: whatever is found there is wrong


def test_without_object_maps_there_are_none(tmp_path):
    make_scenes(tmp_path, count=2, seed=0, size=64)
    for path in (tmp_path / "SegmentationObject").iterdir():
        path.unlink()
    data = open_dataset(tmp_path)
    assert "instances" not in data.has
    assert data.instances(data.ids[0]) is None


@pytest.mark.realdata
def test_real_coco_objects_are_pycocotools(tmp_path):
    root = Path(__file__).parents[2] / ".." / "shared" / "data" / "coco-sample"
    if not root.is_dir():
        pytest.skip("coco-sample is not there")
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO(str(root / "instances.json"))
    names = {k: c["name"] for k, c in peer.cats.items()}
    data = open_dataset(root)
    for number, image in list(peer.imgs.items())[:12]:
        true, crowd = data.instances(Path(image["file_name"]).stem)
        annotations = peer.imgToAnns[number]
        assert [data.classes[k - 1] for k in true.labels.tolist()] == [names[a["category_id"]] for a in annotations]
        assert crowd.tolist() == [bool(a["iscrowd"]) for a in annotations]
        for mask, annotation in zip(true.masks, annotations, strict=True):
            assert np.array_equal(mask.numpy(), peer.annToMask(annotation).astype(bool))
