"""Labels from boxes without training: GrabCut behind a guarded import, and a dense CRF with a filling prior."""

import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from weakseg.methods.labels import BoxCrf, GrabCut, grab_cut
from weakseg.ops.boxes import box_masks
from weakseg.types import Sample, WeaksegError

SIZE = (40, 60)


def sample(boxes=((10.0, 8.0, 34.0, 30.0),), labels=(2,)) -> Sample:
    """A bright rectangle of 14 x 12 pixels in a dark photograph, with a box around it."""
    image = torch.full((3, *SIZE), 40, dtype=torch.uint8)
    image[:, 12:26, 16:28] = 220
    return Sample(
        "a",
        tv_tensors.Image(image),
        torch.tensor([True, True, True]),
        boxes=tv_tensors.BoundingBoxes(torch.tensor(boxes).reshape(-1, 4), format="XYXY", canvas_size=SIZE),
        box_labels=torch.tensor(labels, dtype=torch.int64),
    )


def fake_opencv(found):
    """A module of that name whose GrabCut finds `found` of any box."""
    module = types.ModuleType("cv2")
    module.GC_FGD, module.GC_PR_FGD, module.GC_INIT_WITH_RECT = 1, 3, 0
    module.error = type("error", (Exception,), {})
    module.setRNGSeed = lambda seed: None

    def cut(image, marks, rectangle, background, foreground, iterations, mode):
        if isinstance(found, Exception):
            raise found
        x, y, w, h = rectangle
        marks[y : y + h, x : x + w] = 2
        marks[found] = 3

    module.grabCut = cut
    return module


def test_without_opencv_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(WeaksegError, match=r"pip install 'weakseg\[grabcut\]'"):
        GrabCut().refine(None, sample())


def test_grabcuts_foreground_stays_in_its_box(monkeypatch):
    found = np.zeros(SIZE, bool)
    found[12:26, 16:50] = True
    monkeypatch.setitem(sys.modules, "cv2", fake_opencv(found))
    labels = GrabCut().refine(None, sample())["labels"]
    expected = torch.zeros(SIZE, dtype=torch.uint8)
    expected[12:26, 16:34] = 2
    assert torch.equal(labels, expected)
    both = sample(((10.0, 8.0, 34.0, 30.0), (14.0, 10.0, 24.0, 20.0)), (2, 3))
    labels = GrabCut().refine(None, both)["labels"]  # the smaller box is on top
    assert int(labels[15, 18]) == 3
    assert int(labels[15, 30]) == 2


def test_a_box_in_which_nothing_is_found_is_filled(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", fake_opencv(np.zeros(SIZE, bool)))
    image, box = sample().image.as_subclass(torch.Tensor), torch.tensor([10.0, 8.0, 34.0, 30.0])
    assert int(grab_cut(image, box).sum()) == 24 * 22
    few = np.zeros(SIZE, bool)
    few[12, 16:20] = True
    monkeypatch.setitem(sys.modules, "cv2", fake_opencv(few))
    assert int(grab_cut(image, box).sum()) == 4
    assert int(grab_cut(image, box, min_filling=0.1).sum()) == 24 * 22
    assert int(grab_cut(image, torch.tensor([0.0, 0.0, 60.0, 40.0])).sum()) == 2400  # the whole photograph
    assert int(grab_cut(image, torch.tensor([5.0, 5.0, 6.0, 6.0])).sum()) == 1


def test_the_real_grabcut_finds_the_bright_rectangle():
    pytest.importorskip("cv2")
    labels = GrabCut().refine(None, sample())["labels"]
    truth = torch.zeros(SIZE, dtype=torch.bool)
    truth[12:26, 16:28] = True
    assert float(((labels == 2) & truth).sum() / ((labels == 2) | truth).sum()) > 0.95
    assert torch.equal(labels, GrabCut().refine(None, sample())["labels"])


@pytest.mark.parametrize(
    "box",
    [
        (5.0, 5.0, 6.0, 7.0),
        (0.0, 0.0, 60.0, 39.0),
        (0.0, 0.0, 2.0, 40.0),
        (57.6, 36.4, 70.0, 50.0),
        (0.0, 0.0, 9.0, 5.0),
    ],
)
def test_the_real_grabcut_takes_any_box_of_any_photograph(box):
    """Two pixels, all but a row, a strip, a corner that leaves the photograph, one even colour; twice the same."""
    pytest.importorskip("cv2")
    box, inside = torch.tensor(box), box_masks(torch.tensor(box)[None], SIZE)[0]
    noise = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for image in (sample().image.as_subclass(torch.Tensor), noise, torch.full_like(noise, 90)):
        before, found = image.clone(), grab_cut(image, box)
        assert bool(found.any())
        assert not bool((found & ~inside).any())
        assert torch.equal(found, grab_cut(image, box))
        assert torch.equal(image, before)


def test_the_real_grabcut_is_the_same_in_many_threads():
    pytest.importorskip("cv2")
    noise = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[3.0 + k, 4.0, 40.0 + k, 33.0] for k in range(8)])
    alone = [grab_cut(noise, box) for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(alone, pool.map(lambda b: grab_cut(noise, b), boxes), strict=True))


def test_the_crf_finds_the_bright_rectangle_and_stays_in_the_box():
    labels = BoxCrf().refine(None, sample())["labels"]
    truth = torch.zeros(SIZE, dtype=torch.bool)
    truth[12:26, 16:28] = True
    found = labels == 2
    assert float((found & truth).sum() / (found | truth).sum()) > 0.9
    assert not bool(found[:8].any())
    assert set(labels.unique().tolist()) == {0, 2}


@pytest.mark.parametrize("boxes", [((0.0, 0.0, 60.0, 40.0),), ((5.0, 5.0, 6.0, 6.0),), ((3.0, 3.0, 30.0, 30.0),) * 2])
def test_the_crf_takes_any_box(boxes):
    labels = BoxCrf().refine(None, sample(boxes, (1, 3)[: len(boxes)]))["labels"]
    assert set(labels.unique().tolist()) <= {0, 1, 3}
    if boxes[0][2] == 60:
        assert bool((labels == 1).all())  # nothing is known of the background


def test_no_boxes_and_no_annotation():
    assert int(BoxCrf().refine(None, sample((), ()))["labels"].max()) == 0
    without = Sample("b", sample().image, torch.tensor([True]))
    for method in (BoxCrf(), GrabCut()):
        with pytest.raises(WeaksegError, match="no boxes"):
            method.refine(None, without)
