"""Metrics against sklearn, torchmetrics and numbers worked out by hand."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from weakseg.ops.metrics import TOOL_RULES, average_precision, confusion_matrix, iou_table, tag_map
from weakseg.types import WeaksegError


def masks(seed: int, classes: int = 5, ignored_truth: bool = True, ignored_pred: bool = True, size=(37, 53)):
    g = torch.Generator().manual_seed(seed)
    pred = torch.randint(0, classes, size, generator=g, dtype=torch.uint8)
    truth = torch.where(torch.rand(size, generator=g) < 0.5, pred, torch.randint(0, classes, size, generator=g))
    truth = truth.to(torch.uint8)
    if ignored_truth:
        truth[torch.rand(size, generator=g) < 0.1] = 255
    if ignored_pred:
        pred[torch.rand(size, generator=g) < 0.1] = 255
    return pred, truth


@pytest.mark.parametrize("seed", range(4))
def test_confusion_matrix_is_sklearns(seed):
    pred, truth = masks(seed)
    expected = sklearn.metrics.confusion_matrix(
        truth[truth != 255].numpy(), pred[truth != 255].numpy(), labels=[0, 1, 2, 3, 4, 255]
    )
    before = pred.clone(), truth.clone()
    matrix = confusion_matrix(pred, truth, 5)
    assert matrix.dtype == torch.int64
    assert np.array_equal(matrix.numpy(), expected[:5])
    assert torch.equal(before[0], pred)
    assert torch.equal(before[1], truth)


def test_confusion_matrix_takes_views_and_the_largest_class_list():
    pred, truth = masks(0)
    assert torch.equal(confusion_matrix(pred.T, truth.T, 5), confusion_matrix(pred, truth, 5))
    last = torch.full((2, 2), 254, dtype=torch.uint8)
    matrix = confusion_matrix(last, last, 255)
    assert matrix.shape == (255, 256)
    assert matrix[254, 254] == 4 == matrix.sum()


@pytest.mark.parametrize("seed", range(3))
def test_miou_is_torchmetrics_over_a_whole_list(seed):
    pairs = [masks(10 * seed + i, ignored_pred=False) for i in range(3)]
    per_class = MulticlassJaccardIndex(num_classes=5, ignore_index=255, average="none")
    macro = MulticlassJaccardIndex(num_classes=5, ignore_index=255, average="macro")
    for pred, truth in pairs:
        per_class.update(pred[None].long(), truth[None].long())
        macro.update(pred[None].long(), truth[None].long())
    scores = iou_table(sum(confusion_matrix(p, t, 5) for p, t in pairs))
    assert torch.allclose(scores.iou.float(), per_class.compute())
    assert scores.mean.item() == pytest.approx(macro.compute().item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_are_sklearns(seed):
    pred, truth = masks(seed)
    keep = truth != 255
    scores = iou_table(confusion_matrix(pred, truth, 5))
    precision, recall, _, _ = sklearn.metrics.precision_recall_fscore_support(
        truth[keep].numpy(), pred[keep].numpy(), labels=range(5), zero_division=np.nan
    )
    np.testing.assert_allclose(scores.precision, precision)
    np.testing.assert_allclose(scores.recall, recall)


def by_loops(pred, truth, classes, ignored, absent):
    """The conventions of methods.md 1.5 as one would read them aloud."""
    pairs = [(p, t) for p, t in zip(pred.flatten().tolist(), truth.flatten().tolist(), strict=True) if t != 255]
    if ignored == "drop":
        pairs = [(p, t) for p, t in pairs if p != 255]
    if ignored == "background":
        pairs = [(0 if p == 255 else p, t) for p, t in pairs]
    ious = []
    for c in range(classes):
        both = sum(p == c and t == c for p, t in pairs)
        either = sum(p == c or t == c for p, t in pairs)
        in_truth = any(t == c for _, t in pairs)
        if not either:
            ious.append(0.0 if absent == "zero" else math.nan)
        elif not in_truth and absent == "skip_truthless":
            ious.append(math.nan)
        else:
            ious.append(both / either)
    return ious


@pytest.mark.parametrize("ignored", ["miss", "drop", "background"])
@pytest.mark.parametrize("absent", ["irn", "zero", "skip_truthless"])
@pytest.mark.parametrize("seed", range(3))
def test_every_convention_is_the_naive_loop(ignored, absent, seed):
    pred, truth = masks(seed, classes=4, size=(9, 11))
    truth[truth == 3] = 0  # class 3: predicted, never true; class 4: neither; class 5: true where 255 is predicted
    truth[0, :3], pred[0, :3] = 5, 255
    scores = iou_table(confusion_matrix(pred, truth, 6), ignored, absent)
    expected = by_loops(pred, truth, 6, ignored, absent)
    np.testing.assert_allclose(scores.iou, expected, equal_nan=True)
    assert scores.mean.item() == pytest.approx(np.nanmean(expected))


def test_conventions_by_hand():
    # truth:      0 0 0 0 1 1 1 1;   prediction: 0 0 1 2 1 1 255 255;   classes 0..3
    pred = torch.tensor([[0, 0, 1, 2, 1, 1, 255, 255]], dtype=torch.uint8)
    truth = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.uint8)
    matrix = confusion_matrix(pred, truth, 4)
    nan = math.nan
    table = {
        ("miss", "irn"): [2 / 4, 2 / 5, 0, nan],
        ("miss", "zero"): [2 / 4, 2 / 5, 0, 0],
        ("miss", "skip_truthless"): [2 / 4, 2 / 5, nan, nan],
        ("drop", "irn"): [2 / 4, 2 / 3, 0, nan],
        ("background", "irn"): [2 / 6, 2 / 5, 0, nan],
    }
    for rule, expected in table.items():
        scores = iou_table(matrix, *rule)
        np.testing.assert_allclose(scores.iou, expected, equal_nan=True, err_msg=str(rule))
        assert scores.mean.item() == pytest.approx(np.nanmean(expected))
    default = iou_table(matrix)
    np.testing.assert_allclose(default.precision, [1, 2 / 3, 0, nan], equal_nan=True)
    np.testing.assert_allclose(default.recall, [1 / 2, 1 / 2, nan, nan], equal_nan=True)
    assert all(iou_table(matrix, *rule).mean.isfinite() for rule in TOOL_RULES.values())


def test_255_as_a_class_of_its_own_lowers_the_mean_as_irns_eval_cam_does():
    """methods.md 1.5: with all 21 classes there, the score times 21/22; the classes' own numbers do not change."""
    truth = torch.arange(21, dtype=torch.uint8).repeat_interleave(4)[None]
    pred = truth.clone()
    pred[0, ::4] = 255  # a quarter of every class
    matrix = confusion_matrix(pred, truth, 21)
    plain, own = iou_table(matrix), iou_table(matrix, *TOOL_RULES["IRN eval_cam"])
    assert own.mean.item() == pytest.approx(plain.mean.item() * 21 / 22)
    assert own.mean.item() == pytest.approx((21 * 0.75 + 0) / 22)
    assert torch.equal(own.iou, plain.iou)
    perfect = confusion_matrix(truth, truth, 21)
    assert iou_table(perfect, "class").mean == 1  # no 255 predicted, no such class
    half = torch.stack([matrix, perfect])
    assert iou_table(half, "class").mean.tolist() == [own.mean.item(), 1.0]


def test_a_perfect_prediction_scores_one_and_a_stack_equals_its_parts():
    _, truth = masks(3)
    assert iou_table(confusion_matrix(truth, truth, 5)).mean == 1
    stack = torch.stack([confusion_matrix(*masks(i), 5) for i in range(3)])
    for i, matrix in enumerate(stack):
        assert torch.equal(iou_table(stack).iou[i], iou_table(matrix).iou)
        assert iou_table(stack, "background").mean[i] == iou_table(matrix, "background").mean


def test_wrong_masks_are_told_apart():
    pred, truth = masks(0)
    with pytest.raises(WeaksegError, match=r"\(36, 53\) and the truth \(37, 53\)"):
        confusion_matrix(pred[1:], truth, 5)
    with pytest.raises(WeaksegError, match="prediction holds class id 4, but ids go from 0 to 3"):
        confusion_matrix(pred, truth.clamp(max=0), 4)
    with pytest.raises(WeaksegError, match="truth holds class id 4"):
        confusion_matrix(pred.clamp(max=0), truth, 4)
    pred[truth == 255] = 200  # what stands where nothing is counted is nobody's concern
    confusion_matrix(pred, truth, 5)
    with pytest.raises(WeaksegError, match="uint8"):
        confusion_matrix(pred.long(), truth, 5)
    with pytest.raises(WeaksegError, match="conventions are"):
        iou_table(torch.zeros(2, 3), "dropped")  # type: ignore[arg-type]
    with pytest.raises(WeaksegError, match="C \\+ 1, C \\+ 2"):
        iou_table(torch.zeros(2, 2))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_sklearns_with_and_without_ties(seed):
    g = torch.Generator().manual_seed(seed)
    labels = torch.rand(60, generator=g) < 0.3
    for scores in (torch.randn(60, generator=g), torch.randint(0, 4, (60,), generator=g).float()):
        expected = sklearn.metrics.average_precision_score(labels.numpy(), scores.numpy())
        assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_tag_map_leaves_out_classes_without_images():
    g = torch.Generator().manual_seed(0)
    logits, tags = torch.randn(40, 3, generator=g), torch.rand(40, 3, generator=g) < 0.4
    tags[:, 1] = False
    result = tag_map(logits, tags)
    keep = [0, 2]
    expected = sklearn.metrics.average_precision_score(tags[:, keep].numpy(), logits[:, keep].numpy(), average="macro")
    assert math.isnan(result.per_class[1])
    assert result.mean == pytest.approx(expected)
    assert result.chance == pytest.approx(tags[:, keep].double().mean().item())


def test_random_logits_reach_chance():
    g = torch.Generator().manual_seed(0)
    result = tag_map(torch.randn(4000, 5, generator=g), torch.rand(4000, 5, generator=g) < 0.25)
    assert result.mean == pytest.approx(result.chance, abs=0.02)


def test_diverged_logits_are_an_error():
    with pytest.raises(WeaksegError, match="finite"):
        tag_map(torch.tensor([[float("nan")]]), torch.tensor([[True]]))
