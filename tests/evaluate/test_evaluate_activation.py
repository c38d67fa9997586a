"""The analyses of AMN: histograms against numpy, curves and best thresholds against a plain loop over masks."""

import json

import numpy as np
import pytest
import sklearn.metrics
import torch

from weakseg.data.store import write_label_map, write_score_maps
from weakseg.evaluate.activation import (
    activation_histogram,
    foreground_activation,
    per_class,
    random_share,
    threshold_histogram,
)
from weakseg.evaluate.folders import evaluate_score_folder
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.ops.thresholds import Sweep, best_threshold, even_thresholds, plateau
from weakseg.types import ScoreMap, WeaksegError

CLASSES = ("cat", "dog", "cow")


def u8(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.uint8)


def photograph(seed: int, ids=(1, 2), size=(11, 14)) -> tuple[ScoreMap, torch.Tensor]:
    """Maps that are higher on their object; a background map of their own; some truth unknown."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.zeros(size, dtype=torch.uint8)
    truth[2:8, 1:6], truth[3:9, 8:13] = ids[0], ids[-1]
    lift = torch.stack([truth == id for id in (0, *ids)]).float()
    scores = 0.6 * torch.rand(len(ids) + 1, *size, generator=g) + 0.4 * lift * torch.rand(*size, generator=g)
    truth[0] = 255
    return ScoreMap(u8([0, *ids]), scores, size), truth


@pytest.fixture
def data():
    return {f"p{k}": photograph(k, ids) for k, ids in enumerate([(1, 2), (2,), (1,), (2, 1), (1,)])}


# --- activations inside the objects ---


def test_foreground_activation_equals_numpy_object_by_object():
    for seed in range(4):
        maps, truth = photograph(seed)
        found = foreground_activation(maps, truth)
        assert set(found) == {1, 2}
        for id, counts in found.items():
            values = maps.dense(4)[id][truth == id].numpy()
            assert counts.tolist() == np.histogram(values, 5, (0, 1))[0].tolist()
            assert int(counts.sum()) == int((truth == id).sum())


def test_values_on_the_edges_and_beyond_them():
    values = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, -0.5, 7.0])
    maps = ScoreMap(u8([3]), values[None, None], (1, 8))
    assert foreground_activation(maps, torch.full((1, 8), 3, dtype=torch.uint8))[3].tolist() == [2, 1, 1, 1, 3]
    assert foreground_activation(maps, torch.full((1, 8), 3, dtype=torch.uint8), bins=2)[3].tolist() == [4, 4]


def test_a_class_without_a_map_is_activated_nowhere():
    maps, truth = ScoreMap(u8([0]), torch.ones(1, 1, 3), (1, 3)), u8([[2, 2, 0]])
    assert foreground_activation(maps, truth)[2].tolist() == [2, 0, 0, 0, 0]
    assert foreground_activation(maps, u8([[0, 255, 0]])) == {}
    boxes = ScoreMap(
        u8([2, 2]), torch.tensor([[[0.1, 0.9, 0.0]], [[0.5, 0.1, 0.0]]]), (1, 3), torch.tensor([0, 1]).int()
    )
    assert foreground_activation(boxes, truth)[2].tolist() == [0, 0, 1, 0, 1]  # the higher of the two boxes' maps
    with pytest.raises(WeaksegError, match="full"):
        foreground_activation(maps, u8([[0]]))


def test_activation_histogram_adds_up():
    table = activation_histogram({1: torch.tensor([1, 0, 0, 0, 3]), 3: torch.tensor([0, 0, 0, 0, 4])}, 3)
    assert table["counts"] == [1, 0, 0, 0, 7]
    assert table["share"] == [0.125, 0, 0, 0, 0.875]
    assert table["per_class"] == [None, [0.25, 0, 0, 0, 0.75], None, [0, 0, 0, 0, 1.0]]
    assert table["edges"] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert activation_histogram({}, 1)["share"] == [0.0] * 5


# --- thresholds ---


def test_plateau_of_a_step_is_its_width():
    levels = even_thresholds(11)
    values = torch.tensor([0.0, 0.3, 0.592, 0.6, 0.6, 0.595, 0.505, 0.59, 0.0, 0.0, 0.0])
    assert plateau(levels, values) == pytest.approx((0.2, 0.5))
    assert plateau(levels, values, drop=0.1) == pytest.approx((0.2, 0.7))


def test_best_threshold_of_a_photograph_is_the_midpoint_of_its_interval():
    """Object at 0.7, its surroundings at 0.3: every threshold in [0.3, 0.7) is perfect, 0.5 is their midpoint."""
    scores = torch.where(u8([[0, 0, 1, 1]]) > 0, 0.7, 0.3)[None]
    levels = torch.linspace(0, 1, 1001)
    found = best_threshold(ScoreMap(u8([1]), scores, (1, 4)), u8([[0, 0, 1, 1]]), levels)
    assert found == pytest.approx((0.3 + 0.699) / 2, abs=1e-3)
    background = torch.full((1, 1, 4), 0.99)  # of the maps' own: it takes no part
    both = ScoreMap(u8([0, 1]), torch.cat([background, scores]), (1, 4))
    assert best_threshold(both, u8([[0, 0, 1, 1]]), levels) == found


def test_threshold_histogram_equals_numpy():
    best = np.random.default_rng(0).random(200).astype(np.float32)
    found = threshold_histogram(best.tolist())
    counts, edges = np.histogram(best, 20, (0, 1))
    assert found["counts"] == counts.tolist()
    assert found["edges"] == pytest.approx(edges.tolist(), abs=1e-4)
    assert (found["mean"], found["std"]) == pytest.approx((best.mean(), best.std()), abs=1e-6)
    assert threshold_histogram([])["mean"] is None


def test_class_curves_equal_masks_made_at_each_threshold(data):
    sweep = Sweep(4, 11)
    for maps, truth in data.values():
        sweep.update(maps, truth)
    own = [(best_threshold(m, t, sweep.thresholds), tuple(t.unique().tolist())) for m, t in data.values()]
    table = per_class(sweep.scores(), own)
    for index, level in enumerate(sweep.thresholds.tolist()):
        pred, true = [], []
        for maps, truth in data.values():
            dense = maps.dense(4).numpy()
            dense[0] = level
            keep = truth.numpy() != 255
            pred.append(dense.argmax(0)[keep])
            true.append(truth.numpy()[keep])
        expected = sklearn.metrics.jaccard_score(
            np.concatenate(true), np.concatenate(pred), labels=[0, 1, 2], average=None, zero_division=0
        )
        assert [table["curves"][k][index] for k in range(3)] == pytest.approx(expected.tolist(), abs=1e-5)
    for k in range(3):
        curve = table["curves"][k]
        assert table["best_iou"][k] == pytest.approx(max(curve), abs=1e-5)
        assert table["best_threshold"][k] == pytest.approx(sweep.thresholds[int(np.argmax(curve))].item(), abs=1e-6)
    assert all(row[3] is None for row in table.values())  # no photograph holds a cow


def test_class_histograms_count_the_photographs_that_hold_the_class(data):
    result = evaluate_scores(lambda id: data[id][0], lambda id: data[id][1], list(data), CLASSES, thresholds=101)
    histograms = result["per_class"]["per_image_best"]
    assert [None if h is None else sum(h["counts"]) for h in histograms] == [5, 4, 3, None]
    assert histograms[0] == result["per_image_best"]
    inside = result["foreground_activation"]
    assert sum(inside["counts"]) == sum(int(((t > 0) & (t < 255)).sum()) for _, t in data.values())
    json.dumps(result, allow_nan=False)


def test_flat_maps_have_the_wider_plateau():
    """What AMN is about: maps near one on whole objects and zero beside them do not care for the threshold."""
    _, truth = photograph(0, (1,))
    inside = (truth == 1).float()[None]
    peak = inside * torch.linspace(0.05, 1, 14)  # strong at one end of the objects alone
    results = [
        evaluate_scores(lambda id, m=m: ScoreMap(u8([1]), m, (11, 14)), lambda id: truth, ["a"], CLASSES)
        for m in (peak, 0.9 * inside + 0.05)
    ]
    assert results[1]["plateau_width"] > 5 * results[0]["plateau_width"]
    assert results[1]["area"] > results[0]["area"]
    assert results[1]["foreground_activation"]["share"][-1] == 1.0 > results[0]["foreground_activation"]["share"][-1]


# --- folders ---


@pytest.fixture
def folders(data, tmp_path):
    for id, (maps, truth) in data.items():
        write_score_maps(tmp_path / "step" / "scores" / f"{id}.npz", {"full": maps, "strided": maps})
        write_label_map(tmp_path / "truth" / f"{id}.png", truth)
    return tmp_path


def test_a_folder_of_maps_is_evaluated_as_its_maps(data, folders):
    result = evaluate_score_folder(folders / "step", folders / "truth", CLASSES, thresholds=64)
    memory = evaluate_scores(lambda id: data[id][0], lambda id: data[id][1], list(data), CLASSES, thresholds=64)
    assert result["curve"]["miou"] == pytest.approx(memory["curve"]["miou"], abs=0.01)  # maps are kept to 5e-4
    again = evaluate_score_folder(folders / "step" / "scores", folders / "truth", CLASSES, thresholds=64)
    assert again["curve"] == result["curve"]
    part = evaluate_score_folder(folders / "step", folders / "truth", CLASSES, thresholds=64, share=0.4)
    assert (result["images"], part["images"]) == (5, 2)


def test_bad_folders_are_told(folders):
    truth = folders / "truth"
    with pytest.raises(WeaksegError, match="no npz"):
        evaluate_score_folder(truth, truth, CLASSES)
    with pytest.raises(WeaksegError, match="full, strided, not strange"):
        evaluate_score_folder(folders / "step", truth, CLASSES, key="strange")
    (folders / "other").mkdir()
    write_label_map(folders / "other" / "q.png", u8([[1]]))
    with pytest.raises(WeaksegError, match="none of the 5 score maps"):
        evaluate_score_folder(folders / "step", folders / "other", CLASSES)


def test_a_random_tenth_of_coco():
    ids = [f"{k:012d}" for k in range(82_783)]
    tenth = random_share(ids, 0.1)
    assert len(tenth) == 8278
    assert tenth == sorted(tenth) == random_share(ids, 0.1)
    assert tenth != random_share(ids, 0.1, seed=1)
    assert random_share(ids[:5], 1.0) == ids[:5]
    with pytest.raises(WeaksegError, match=r"\(0, 1\]"):
        random_share(ids, 0)
