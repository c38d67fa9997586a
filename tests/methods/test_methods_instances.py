"""Pseudo instances of boxes: masks, scores and reliable pixels of small photographs, by hand."""

import pytest
import torch
from torchvision import tv_tensors

from weakseg.methods import load
from weakseg.methods.instances import METHODS, BoxInstances
from weakseg.types import Sample, WeaksegError


def sample(boxes, ids, **seeds):
    height, width = next(iter(seeds.values())).shape if seeds else (2, 4)
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Sample(
        "a",
        tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)),
        torch.tensor([True] * 9),
        tv_tensors.BoundingBoxes(found, format="XYXY", canvas_size=(height, width)),
        torch.tensor(ids, dtype=torch.int64),
        seeds={name: tv_tensors.Mask(labels) for name, labels in seeds.items()},
    )


CRF = torch.tensor([[3, 3, 3, 0], [0, 3, 5, 0]], dtype=torch.uint8)
RET = torch.tensor([[3, 3, 0, 0], [0, 3, 5, 5]], dtype=torch.uint8)
BOXES, IDS = [[0, 0, 3, 2], [2, 0, 4, 2]], [3, 5]


def test_one_instance_a_box_with_the_agreement_of_both_maps():
    made = BoxInstances(confidence="agreement").refine(None, sample(BOXES, IDS, crf=CRF, ret=RET))
    first, second = made["instances"], made["retrieved"]
    assert first.masks.int().tolist() == [[[1, 1, 1, 0], [0, 1, 0, 0]], [[0, 0, 0, 0], [0, 0, 1, 0]]]
    assert second.masks.int().tolist() == [[[1, 1, 0, 0], [0, 1, 0, 0]], [[0, 0, 0, 0], [0, 0, 1, 1]]]
    assert first.scores.tolist() == second.scores.tolist() == [0.75, 0.5]
    assert first.labels.tolist() == IDS
    assert first.boxes.tolist() == BOXES
    assert made["reliable"].tolist() == [[3, 3, 255, 0], [0, 3, 5, 255]]
    assert set(made) == set(BoxInstances.writes)


def test_one_label_map_stands_for_both_and_scores_can_be_equal():
    made = METHODS["boxes"].refine(None, sample(BOXES, IDS, anything=CRF))
    assert torch.equal(made["instances"].masks, made["retrieved"].masks)
    assert made["instances"].scores.tolist() == [1.0, 1.0]
    assert torch.equal(made["reliable"], CRF)
    made = METHODS["boxes"].refine(None, sample(BOXES, IDS, crf=CRF, ret=RET))
    assert made["instances"].scores.tolist() == made["retrieved"].scores.tolist() == [1.0, 1.0]


def test_a_box_without_a_pixel_of_its_class_is_filled_and_unreliable():
    given = sample([[0, 0, 2, 2], [3, 0, 4, 1]], [3, 8], crf=CRF, ret=CRF)
    made = BoxInstances(confidence="agreement").refine(None, given)
    assert made["instances"].masks[1].int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert made["instances"].scores.tolist() == [1.0, 0.0]
    assert made["reliable"].tolist() == [[3, 3, 3, 255], [0, 3, 5, 0]]
    left = BoxInstances(fill_empty=False).refine(None, given)
    assert not left["instances"].masks[1].any()
    assert torch.equal(left["reliable"], CRF)


def test_boxes_that_overlap_share_or_split():
    labels = torch.full((1, 4), 3, dtype=torch.uint8)
    given = sample([[0, 0, 4, 1], [1, 0, 3, 1]], [3, 3], crf=labels)
    split, shared = (BoxInstances(split=s).refine(None, given)["instances"].masks[:, 0].int() for s in (True, False))
    assert split.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert shared.tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]


def test_a_photograph_without_objects_and_a_box_that_covers_all():
    none = METHODS["boxes"].refine(None, sample([], [], crf=torch.zeros(2, 4, dtype=torch.uint8)))
    assert none["instances"].masks.shape == (0, 2, 4)
    assert not none["reliable"].any()
    everything = METHODS["boxes"].refine(None, sample([[0, 0, 4, 2]], [3], crf=torch.full((2, 4), 3).byte()))
    assert everything["instances"].masks.all()


def test_what_is_missing_is_told():
    with pytest.raises(WeaksegError, match=r"reads the seeds 'crf' and 'ret', or one label map; got \['a', 'b'\]"):
        METHODS["boxes"].refine(None, sample(BOXES, IDS, a=CRF, b=RET))
    with pytest.raises(WeaksegError, match="got none"):
        METHODS["boxes"].refine(None, sample(BOXES, IDS))
    photo = Sample("a", tv_tensors.Image(torch.zeros(3, 2, 4, dtype=torch.uint8)), torch.tensor([True]))
    with pytest.raises(WeaksegError, match="a has no boxes"):
        METHODS["boxes"].refine(None, photo)
    assert load("instances.boxes") is METHODS["boxes"]
