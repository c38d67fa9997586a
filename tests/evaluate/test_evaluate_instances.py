"""Average precision of instances: curves worked by hand, the two rules' differences, and pycocotools over files."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weakseg.data.dataset import open_dataset
from weakseg.data.instances import true_instances
from weakseg.data.scenes import make_scenes
from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.evaluate.instances import evaluate_instances
from weakseg.ops.instances import mask_boxes
from weakseg.pipeline.evaluations import EVALUATIONS
from weakseg.pipeline.look import Look
from weakseg.types import Instances, WeaksegError

CLASSES = ["cat", "dog"]


def row(*spans, width=60):
    """Masks of one row, each a span of columns."""
    masks = torch.zeros(len(spans), 1, width, dtype=torch.bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[0, start:stop] = True
    return masks


def found(masks, scores, labels=None):
    labels = torch.ones(len(masks), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Instances(masks, labels, torch.tensor(scores, dtype=torch.float32), mask_boxes(masks))


def judge(predicted, truth, **more):
    return evaluate_instances(lambda id: predicted, lambda id: truth, ["a"], CLASSES, threads=1, **more)


def test_a_curve_by_hand():
    """Right, wrong, right, of two objects: precision 1 up to recall 1/2, then 2/3."""
    truth = true_instances(row((0, 10), (20, 30)), [1, 1])
    result = judge(found(row((20, 30), (40, 50), (0, 10)), [0.9, 0.8, 0.7]), truth)
    assert result["ap50_voc"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)  # 101 recalls, 0.00 to 0.50 and the others
    assert result["ap"] == pytest.approx(result["ap50"])
    assert result["per_class"]["ap50_voc"][1] is None  # no dog in the truth: skipped
    assert (result["instances"], result["predictions"], result["images"]) == (2, 3, 1)


def test_a_mask_is_right_up_to_its_iou():
    """31 of 50 pixels: IoU 0.62 counts at 0.50, 0.55 and 0.60."""
    result = judge(found(row((0, 31)), [0.5]), true_instances(row((0, 50)), [1]))
    assert result["ap_at"] == pytest.approx([1, 1, 1] + [0] * 7)
    assert (result["ap50"], result["ap75"], result["ap"]) == pytest.approx((1, 0, 0.3))


def test_where_the_two_rules_differ():
    """The second mask overlaps two objects alike: VOC's looks at the first, which is taken; COCO's at what is left."""
    truth = true_instances(row((0, 10), (2, 12)), [1, 1])
    result = judge(found(row((0, 10), (1, 11)), [0.9, 0.8]), truth)
    assert result["ap50_voc"] == pytest.approx(0.5)
    assert result["ap50"] == pytest.approx(1.0)


def test_a_second_mask_on_one_object_is_wrong_and_classes_do_not_mix():
    truth = true_instances(row((0, 10), (20, 30)), [1, 2])
    result = judge(found(row((0, 10), (0, 9), (20, 30)), [0.5, 0.9, 0.8], [1, 1, 1]), truth)
    assert result["per_class"]["ap50_voc"] == pytest.approx([1.0, 0.0])  # the better score claims the cat; no dog found
    assert result["ap50_voc"] == pytest.approx(0.5)


def test_crowds_are_neither_right_nor_wrong_for_coco():
    truth = true_instances(row((0, 10), (20, 60)), [1, 1], [False, True])
    result = judge(found(row((0, 10), (20, 40)), [0.5, 0.9]), truth)
    assert result["ap50"] == pytest.approx(1.0)
    assert result["ap50_voc"] == pytest.approx(0.5)  # VOC knows no crowds: the mask is one too many
    assert result["instances"] == 1


def test_nothing_predicted_and_nothing_true():
    truth = true_instances(row((0, 10)), [1])
    assert judge(found(row(), []), truth)["ap50_voc"] == judge(found(row(), []), truth)["ap50"] == 0
    with pytest.raises(WeaksegError, match="nothing to judge"):
        judge(found(row((0, 10)), [0.9]), true_instances(row(), []))
    with pytest.raises(WeaksegError, match=r"seeds: irn/instances"):
        judge(torch.zeros(1, 60, dtype=torch.uint8), truth)
    with pytest.raises(WeaksegError, match=r"true ones \(1, 60\)"):
        judge(found(row((0, 10), width=40), [0.9]), truth)


def test_equal_to_pycocotools_over_files(tmp_path):
    """Random boxes, some of them shifted truths, in 12 photographs: the same numbers as a COCO JSON and its results."""
    g = np.random.default_rng(0)
    truths, predictions = {}, {}
    for k in range(12):
        corners = g.integers(0, 28, (4, 2))
        masks = torch.zeros(4, 40, 40, dtype=torch.bool)
        moved = torch.zeros(6, 40, 40, dtype=torch.bool)
        for n, (y, x) in enumerate(corners):
            masks[n, y : y + 12, x : x + 12] = True
        for n in range(6):
            y, x = corners[n % 4] + g.integers(-2, 3, 2)
            moved[n, max(y, 0) : y + 12, max(x, 0) : x + 12] = True
        labels = g.integers(1, 3, 4)
        truths[str(k)] = true_instances(masks, labels.tolist(), (g.random(4) < 0.15).tolist())
        predictions[str(k)] = found(moved, g.random(6), [int(labels[n % 4]) if n < 5 else 1 for n in range(6)])
    result = evaluate_instances(predictions.__getitem__, truths.get, [*truths, "none"], CLASSES, threads=2)
    assert result["without_truth"] == 1
    annotations, results = [], []
    for id, (true, crowd) in truths.items():
        for mask, label, many in zip(true.masks, true.labels, crowd, strict=True):
            runs = rle(mask)
            entry = {"image_id": int(id), "category_id": int(label), "segmentation": runs, "iscrowd": int(many)}
            annotations.append({**entry, "id": len(annotations) + 1, "area": int(mask.sum()), "bbox": [0, 0, 1, 1]})
        p = predictions[id]
        for mask, label, score in zip(p.masks, p.labels, p.scores, strict=True):
            entry = {"image_id": int(id), "category_id": int(label), "segmentation": rle(mask), "score": float(score)}
            results.append(entry)
    images = [{"id": int(id), "height": 40, "width": 40} for id in truths]
    content = {"images": images, "categories": [{"id": 1}, {"id": 2}], "annotations": annotations}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        peer = COCOeval(truth, truth.loadRes(results), "segm")
        peer.evaluate()
        peer.accumulate()
        peer.summarize()
    assert (result["ap"], result["ap50"], result["ap75"]) == pytest.approx(tuple(peer.stats[:3]), abs=1e-12)
    assert 0.2 < result["ap"] < result["ap50"] < 1


def rle(mask):
    runs = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def test_as_a_step_over_stored_instances_of_scenes(tmp_path):
    """The true instances of scenes, through the store and back, score 1; with half of them lost, recall is what is left."""
    make_scenes(tmp_path / "scenes", count=6, seed=1, size=64)
    dataset = open_dataset(tmp_path / "scenes")
    whole, half = Store(tmp_path / "whole", ["instances"]), Store(tmp_path / "half", ["instances"])
    for id in dataset.ids:
        true = dataset.instances(id).instances
        first = slice(0, 1)
        whole.write(id, {"instances": true})
        half.write(
            id,
            {"instances": Instances(true.masks[first], true.labels[first], true.scores[first], true.boxes[first])},
        )
    assert whole.kind("instances") == "instances"
    assert whole.done() == set(dataset.ids)

    def outcome(store):
        look = Look(View(dataset, dataset.ids), (store, "instances"), None, None, torch.device("cpu"))
        return EVALUATIONS["instances"].evaluate(look)

    perfect, partial = outcome(whole), outcome(half)
    assert [value for _, value, _ in perfect.headline] == [1.0, 1.0, 1.0]
    assert partial.result["predictions"] == 6 < partial.result["instances"]
    assert partial.result["ap50_voc"] < 1
    json.dumps(perfect.result)
