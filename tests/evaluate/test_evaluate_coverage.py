"""Precision and recall of activation by hand, and against scikit-learn on whole lists."""

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_score, recall_score

from weakseg.evaluate.coverage import coverage, evaluate_coverage
from weakseg.types import ScoreMap, WeaksegError

TRUTH = torch.tensor([[1, 1, 0, 2, 255]], dtype=torch.uint8)
MAPS = ScoreMap(
    torch.tensor([1, 3], dtype=torch.uint8),
    torch.tensor([[[0.9, 0.3, 0.6, 0.1, 1.0]], [[0.0, 0.4, 0.5, 0.8, 1.0]]]),
    (1, 5),
)


def test_by_hand():
    """The mask at 0.35 is 1 3 1 3 (.): class 1 is right once of two, class 3 has no object, class 2 no map."""
    assert coverage(MAPS, TRUTH, 0.35) == {1: (1, 2, 2), 2: (0, 0, 1), 3: (0, 2, 0)}
    assert coverage(MAPS, TRUTH, 0.35, "above") == {1: (1, 2, 2), 2: (0, 0, 1), 3: (0, 3, 0)}
    soft = coverage(MAPS, TRUTH, 0.35, "soft")
    assert soft[1] == pytest.approx((1.2, 1.9, 2))
    assert soft[3] == pytest.approx((0, 1.7, 0))


def test_the_threshold_itself_is_background():
    assert coverage(MAPS, TRUTH, 0.9)[1].all == 0


def judged(maps, truths, **options):
    ids = list(maps)
    return evaluate_coverage(maps.get, truths.get, ids, ("a", "b", "c"), threads=1, **options)


def test_means_over_classes_that_have_one():
    found = judged({"x": MAPS}, {"x": TRUTH}, threshold=0.35)
    assert found["per_class"] == {"precision": [0.5, None, 0.0], "recall": [0.5, 0.0, None]}
    assert (found["precision"], found["recall"]) == (0.25, 0.25)


@pytest.mark.parametrize("count", ["mask", "above"])
def test_a_list_against_sklearn(count):
    g = torch.Generator().manual_seed(0)
    maps, truths = {}, {}
    for id in "xyz":
        scores = torch.rand(2, 9, 8, generator=g)
        ids = torch.randperm(3, generator=g)[:2].sort().values + 1
        maps[id] = ScoreMap(ids.to(torch.uint8), scores, (9, 8))
        truths[id] = torch.randint(0, 4, (9, 8), generator=g).to(torch.uint8)
        truths[id][0] = 255
    found = judged(maps, truths, threshold=0.5, count=count)
    for k in (1, 2, 3):
        truth, prediction = [], []
        for id, t in truths.items():
            dense = maps[id].dense(4)
            dense[0] = 0.5
            active = dense.argmax(0) == k if count == "mask" else dense[k] > 0.5
            truth.append((t == k)[t != 255].numpy())
            prediction.append(active[t != 255].numpy())
        truth, prediction = np.concatenate(truth), np.concatenate(prediction)
        assert found["per_class"]["precision"][k - 1] == pytest.approx(precision_score(truth, prediction))
        assert found["per_class"]["recall"][k - 1] == pytest.approx(recall_score(truth, prediction))
    assert found["images"] == 3


def test_photographs_without_truth_are_counted():
    found = judged({"x": MAPS, "y": MAPS}, {"x": TRUTH})
    assert (found["images"], found["without_truth"]) == (1, 1)


def test_what_cannot_be_judged():
    with pytest.raises(WeaksegError, match="none of 1 photographs"):
        judged({"x": MAPS}, {})
    with pytest.raises(WeaksegError, match="threshold lies in"):
        judged({"x": MAPS}, {"x": TRUTH}, threshold=1.5)
    with pytest.raises(WeaksegError, match="resize the maps"):
        judged({"x": MAPS}, {"x": TRUTH[:, :3]})
    with pytest.raises(WeaksegError, match="class id 9"):
        judged({"x": MAPS}, {"x": torch.full_like(TRUTH, 9)})


def test_the_cam_precision_of_boxes():
    """Two boxes of class 1 overlap on the second pixel, where the higher u_c counts; the last pixel is 255."""
    u = torch.tensor([[[1.0, 0.0, 0.0, 0.5, 0.5]], [[0.8, 0.4, 0.0, 0.0, 1.0]], [[0.0, 0.6, 0.2, 0.0, 1.0]]])
    box = torch.tensor([-1, 0, 1], dtype=torch.int32)
    maps = ScoreMap(torch.tensor([0, 1, 1], dtype=torch.uint8), u, (1, 5), box)
    assert coverage(maps, TRUTH, 0.0, "soft")[1] == pytest.approx((1.4, 1.6, 2))
    assert coverage(maps, TRUTH, 0.0, "above")[1] == (2, 3, 2)
