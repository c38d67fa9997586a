"""The one-pass sweep against a naive one: argmax with a constant background channel, counted by sklearn."""

import time

import numpy as np
import pytest
import sklearn.metrics
import torch

from weakseg.ops.metrics import iou_table
from weakseg.ops.thresholds import Sweep, best_threshold, even_thresholds, joint_histogram
from weakseg.types import ScoreMap, WeaksegError

CLASSES = 5


def photograph(seed: int, ids=(3, 1), size=(13, 17), grid: int | None = None):
    """Random maps and truth; with `grid`, scores are multiples of 1/grid, so that they tie with thresholds."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(ids), *size, generator=g)
    if grid:
        scores = (scores * grid).round() / grid
    truth = torch.randint(0, CLASSES, size, generator=g, dtype=torch.uint8)
    truth[torch.rand(size, generator=g) < 0.1] = 255
    return ScoreMap(torch.tensor(ids, dtype=torch.uint8), scores, size), truth


def naive(score_map: ScoreMap, truth: torch.Tensor, threshold: float) -> np.ndarray:
    dense = score_map.dense(CLASSES).numpy()
    dense[0] = threshold
    pred = dense.argmax(0)  # numpy's argmax takes the first of equal ones
    keep = truth.numpy() != 255
    return sklearn.metrics.confusion_matrix(truth.numpy()[keep], pred[keep], labels=range(CLASSES))


@pytest.mark.parametrize("grid", [None, 255, 10])
@pytest.mark.parametrize("thresholds", [256, 7, torch.tensor([0.0, 0.03, 0.1, 0.1, 0.5, 0.92]), torch.tensor([0.3])])
def test_every_matrix_is_the_naive_sweeps(grid, thresholds):
    photographs = [photograph(0, (3, 1), grid=grid), photograph(1, (2,), grid=grid), photograph(2, (), grid=grid)]
    sweep = Sweep(CLASSES, thresholds)
    for score_map, truth in photographs:
        sweep.update(score_map, truth)
    matrices = sweep.matrices()
    assert matrices.shape == (len(sweep.thresholds), CLASSES, CLASSES + 1)
    for level, matrix in list(zip(sweep.thresholds.tolist(), matrices.numpy(), strict=True))[
        :: 1 + len(matrices) // 40
    ]:
        expected = sum(naive(m, t, level) for m, t in photographs)
        assert np.array_equal(matrix[:, :-1], expected), level
    assert not matrices[..., -1].any()


def test_scores_of_the_edges_of_the_grid_fall_on_the_right_side():
    """On and one float beside each of 256 thresholds: the guessed bin must be walked to the exact one."""
    levels = even_thresholds(256)
    up, down = torch.nextafter(levels, torch.tensor(2.0)), torch.nextafter(levels, torch.tensor(-1.0))
    scores = torch.cat([levels, up, down, torch.tensor([-3.0, 7.0, torch.inf, -torch.inf])])[None]
    truth = torch.ones(scores.shape, dtype=torch.uint8)
    joint = joint_histogram(
        ScoreMap(torch.tensor([1], dtype=torch.uint8), scores[None], (1, scores.numel())), truth, levels
    )
    expected = np.bincount(np.searchsorted(levels.numpy(), scores[0].numpy(), side="left"), minlength=257)
    assert np.array_equal(joint.counts[:, 0, 0], expected)


def test_equal_scores_go_to_background_first_and_then_to_the_lower_id():
    score_map = ScoreMap(torch.tensor([4, 2], dtype=torch.uint8), torch.full((2, 1, 1), 0.5), (1, 1))
    truth = torch.tensor([[2]], dtype=torch.uint8)
    sweep = Sweep(CLASSES, torch.tensor([0.4, 0.5, 0.6]))
    sweep.update(score_map, truth)
    assert sweep.matrices().nonzero().tolist() == [[0, 2, 2], [1, 2, 0], [2, 2, 0]]


def test_a_background_map_is_replaced_and_maps_of_boxes_are_united():
    score_map, truth = photograph(4, (0, 2, 3))
    without = ScoreMap(score_map.ids[1:], score_map.scores[1:], score_map.size)
    boxed = ScoreMap(
        torch.tensor([2, 3, 2], dtype=torch.uint8),
        torch.stack([score_map.scores[1] * 0.5, score_map.scores[2], score_map.scores[1]]),
        score_map.size,
        box=torch.arange(3, dtype=torch.int32),
    )
    results = []
    for maps in (score_map, without, boxed):
        sweep = Sweep(CLASSES, 64)
        sweep.update(maps, truth)
        results.append(sweep.matrices())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_curve_is_the_mean_iou_of_each_matrix():
    sweep = Sweep(CLASSES, 32)
    for seed in range(3):
        sweep.update(*photograph(seed))
    curve = sweep.scores()
    expected = [iou_table(m).mean.item() for m in sweep.matrices()]
    assert curve.miou.tolist() == expected
    assert curve.best == max(expected)
    assert curve.best_threshold == curve.thresholds[int(np.argmax(expected))]
    assert curve.area == pytest.approx(np.trapezoid(expected, curve.thresholds.numpy()))
    assert curve.at(curve.best_threshold) == curve.best
    with pytest.raises(WeaksegError, match="was not swept"):
        curve.at(0.2)


def test_plateau_by_hand():
    """100 object pixels score 0.9, 30 and 1 background pixels 0.25 and 0.65: below t = 0.65 one pixel is wrong."""
    score_map = ScoreMap(
        torch.tensor([1], dtype=torch.uint8),
        torch.cat([torch.full((100,), 0.9), torch.full((30,), 0.25), torch.full((270,), 0.0), torch.tensor([0.65])])[
            None, None
        ],
        (1, 401),
    )
    truth = torch.cat([torch.ones(100), torch.zeros(301)]).to(torch.uint8)[None]
    sweep = Sweep(2, even_thresholds(11))
    sweep.update(score_map, truth)
    curve = sweep.scores()
    assert curve.best == 1
    assert curve.best_threshold == pytest.approx(0.7)
    assert curve.miou[3].item() == pytest.approx((100 / 101 + 300 / 301) / 2)  # 0.9934: within a point
    assert curve.plateau == pytest.approx((0.3, 0.8))
    assert curve.plateau_width == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(6))
def test_best_threshold_of_an_image_is_the_naive_search(seed):
    score_map, truth = photograph(seed, ids=[(1,), (2, 4), (4, 2, 1)][seed % 3], size=(6, 7), grid=20)
    levels = even_thresholds(256)
    present = sorted(set(truth.flatten().tolist()) - {255})
    values = []
    for level in levels.tolist():
        matrix = naive(score_map, truth, level)
        ious = [matrix[c, c] / (matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]) for c in present]
        values.append(np.mean(ious))
    best = np.isclose(values, max(values), rtol=0, atol=1e-12)
    starts = [i for i in range(256) if best[i] and (i == 0 or not best[i - 1])]
    runs = [(i, next((j for j in range(i, 256) if not best[j]), 256) - 1) for i in starts]
    first, last = max(runs, key=lambda r: r[1] - r[0])
    expected = (levels[first].item() + levels[last].item()) / 2
    assert best_threshold(score_map, truth) == pytest.approx(expected, abs=1e-6)


def test_best_threshold_without_truth_or_maps():
    score_map, truth = photograph(0, ())
    assert np.isnan(best_threshold(score_map, torch.full_like(truth, 255)))
    assert best_threshold(score_map, truth) == pytest.approx(0.5)  # every threshold is as good


def test_inputs_stay_and_bad_ones_are_told():
    score_map, truth = photograph(0)
    scores, labels = score_map.scores.clone(), truth.clone()
    sweep = Sweep(CLASSES)
    sweep.update(score_map, truth)
    assert torch.equal(scores, score_map.scores)
    assert torch.equal(labels, truth)
    with pytest.raises(WeaksegError, match=r"maps are \(13, 17\) and the truth \(12, 17\)"):
        sweep.update(score_map, truth[1:])
    with pytest.raises(WeaksegError, match="class id 4"):
        Sweep(3).update(score_map, truth.clamp(max=4))
    score_map.scores[0, 0, :] = torch.nan
    with pytest.raises(WeaksegError, match="nan"):
        sweep.update(score_map, torch.zeros_like(truth))
    with pytest.raises(WeaksegError, match="sorted"):
        joint_histogram(score_map, truth, torch.tensor([0.5, 0.1]))
    with pytest.raises(WeaksegError, match="no pixel"):
        Sweep(CLASSES).scores()
    with pytest.raises(WeaksegError, match="at least 2"):
        even_thresholds(1)


def test_one_pass_is_faster_than_thirty_naive_thresholds():
    score_map, truth = photograph(0, (1, 2), size=(240, 320))
    levels = even_thresholds(256)
    joint_histogram(score_map, truth, levels)  # compiled
    start = time.perf_counter()
    joint_histogram(score_map, truth, levels)
    one_pass = time.perf_counter() - start
    start = time.perf_counter()
    for level in levels.tolist()[:30]:
        dense = score_map.dense(CLASSES).numpy()
        dense[0] = level
        np.bincount(truth.numpy().ravel().astype(int) * 256 + dense.argmax(0).ravel(), minlength=65536)
    assert one_pass < time.perf_counter() - start
