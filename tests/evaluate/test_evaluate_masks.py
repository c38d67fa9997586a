"""Lists of masks: against torchmetrics over the whole list, against one thread, and against hand-made folders."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from weakseg.evaluate.folders import evaluate_folders, format_table
from weakseg.evaluate.masks import evaluate_masks
from weakseg.types import WeaksegError

CLASSES = ("cat", "dog", "cow")
IDS = [f"2007_{k:06d}" for k in range(9)]


@pytest.fixture
def masks():
    """id -> (prediction, truth) of different sizes; the truth is right in about two pixels of three."""
    g = torch.Generator().manual_seed(0)
    found = {}
    for k, id in enumerate(IDS):
        size = (11 + k, 20 - k)
        truth = torch.randint(0, 4, size, generator=g, dtype=torch.uint8)
        pred = torch.where(torch.rand(size, generator=g) < 0.6, truth, torch.randint(0, 4, size, generator=g))
        truth[torch.rand(size, generator=g) < 0.1] = 255
        found[id] = (pred.to(torch.uint8).clamp(max=3), truth)
    return found


def run(masks, threads=2, **kwargs):
    return evaluate_masks(
        lambda id: masks[id][0], lambda id: masks[id][1], list(masks), CLASSES, threads=threads, **kwargs
    )


def test_one_matrix_over_the_list_is_torchmetrics(masks):
    metric = MulticlassJaccardIndex(num_classes=4, ignore_index=255, average="none")
    for pred, truth in masks.values():
        metric.update(pred[None].long(), truth[None].long())
    result = run(masks)
    np.testing.assert_allclose(result["iou"], metric.compute(), rtol=1e-6)
    assert result["miou"] == pytest.approx(metric.compute().mean().item())
    assert result["classes"] == ["background", *CLASSES]
    counted = torch.cat([t[t != 255] for _, t in masks.values()])
    right = torch.cat([(p == t)[t != 255] for p, t in masks.values()])
    assert result["pixel_accuracy"] == pytest.approx(right.double().mean().item())
    assert result["truth_background_share"] == pytest.approx((counted == 0).double().mean().item())
    assert result["all_background_miou"] == pytest.approx((counted == 0).double().mean().item() / 4)
    assert result["images"] == len(IDS)
    assert result["ignored_images"] == 0


def test_threads_change_nothing_and_json_takes_it(masks):
    def steady(result):
        return {k: v for k, v in result.items() if k not in ("seconds", "images_per_second")}

    one, four = run(masks, threads=1), run(masks, threads=4)
    assert steady(one) == steady(four)
    assert list(one["per_image"]) == IDS
    assert steady(json.loads(json.dumps(one, allow_nan=False))) == steady(one)


def test_the_mean_over_images_is_not_the_number(masks):
    result = run(masks)
    assert result["miou"] != pytest.approx(np.mean(list(result["per_image"].values())), abs=1e-4)


def test_photographs_without_truth_are_counted_and_left_out(masks):
    alone = {IDS[0]: masks[IDS[0]]}
    result = evaluate_masks(lambda id: masks[id][0], lambda id: masks[id][1] if id == IDS[0] else None, IDS, CLASSES)
    assert result["without_truth"] == 8
    assert result["confusion"] == run(alone)["confusion"]
    with pytest.raises(WeaksegError, match="none of 9 photographs has a true mask"):
        evaluate_masks(lambda id: masks[id][0], lambda id: None, IDS, CLASSES)


def test_ignored_predictions_follow_the_named_convention(masks):
    for pred, _ in masks.values():
        pred[:3] = 255
    results = {rule: run(masks, ignored_prediction=rule) for rule in ("miss", "drop", "background")}
    assert len({r["miou"] for r in results.values()}) == 3
    assert max(results, key=lambda rule: results[rule]["miou"]) == "drop"
    assert results["miss"]["ignored_images"] == len(IDS)
    assert "EPS" in results["drop"]["conventions"]["as in"]
    assert results["miss"]["pixel_accuracy"] < results["drop"]["pixel_accuracy"]


def test_a_skipped_class_is_null_in_json(masks):
    truth = torch.zeros(4, 4, dtype=torch.uint8)
    result = evaluate_masks(lambda id: truth, lambda id: truth, ["a"], CLASSES)
    assert result["iou"] == [1.0, None, None, None]
    assert result["miou"] == 1


def test_errors_name_the_photograph(masks):
    masks[IDS[4]] = (masks[IDS[4]][0][1:], masks[IDS[4]][1])
    with pytest.raises(WeaksegError, match=r"2007_000004: the prediction is \(14, 16\) and the truth \(15, 16\)"):
        run(masks)


def write(folder, masks, which):
    folder.mkdir()
    for id, pair in masks.items():
        Image.fromarray(pair[which].numpy()).save(folder / f"{id}.png")
    return folder


def test_folders_are_matched_by_stem(tmp_path, masks):
    pred, truth = write(tmp_path / "pred", masks, 0), write(tmp_path / "truth", masks, 1)
    names = tmp_path / "classes.txt"
    names.write_text("background\ncat\ndog\n\ncow\n")
    (pred / "notes.txt").write_text("not a mask")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(pred / "extra.png")
    result = evaluate_folders(pred, truth, classes=names)
    expected = run(masks)
    for key in ("miou", "iou", "confusion", "per_image", "classes", "pixel_accuracy"):
        assert result[key] == expected[key]
    assert result["extra_predictions"] == 1
    table = format_table(result)
    assert f"mIoU {100 * expected['miou']:.1f} over 9 images" in table
    assert "dog" in table
    assert "a miss for the true class" in table


def test_without_a_class_list_the_largest_id_ends_it(tmp_path, masks):
    pred, truth = write(tmp_path / "pred", masks, 0), write(tmp_path / "truth", masks, 1)
    result = evaluate_folders(pred, truth)
    assert result["classes"] == ["background", "class 1", "class 2", "class 3"]
    assert result["miou"] == run(masks)["miou"]


def test_bad_folders_say_what_to_do(tmp_path, masks):
    pred, truth = write(tmp_path / "pred", masks, 0), write(tmp_path / "truth", masks, 1)
    (pred / f"{IDS[3]}.png").unlink()
    with pytest.raises(WeaksegError, match=r"1 of 9 true masks have no prediction .*2007_000003"):
        evaluate_folders(pred, truth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeaksegError, match="holds no PNG"):
        evaluate_folders(tmp_path / "empty", truth)
    with pytest.raises(WeaksegError, match="is no folder"):
        evaluate_folders(tmp_path / "nowhere", truth)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(pred / f"{IDS[3]}.png")
    with pytest.raises(WeaksegError, match=r"2007_000003: the prediction is \(5, 7\) and the truth \(14, 17\)"):
        evaluate_folders(pred, truth)
    Image.fromarray(masks[IDS[3]][0].numpy()).save(pred / f"{IDS[3]}.png")
    with pytest.raises(WeaksegError, match="class id 3, but ids go from 0 to 2"):
        evaluate_folders(pred, truth, classes=["cat", "dog"])
    with pytest.raises(WeaksegError, match="cannot be read"):
        evaluate_folders(pred, truth, classes=tmp_path / "no.txt")
    (pred / f"{IDS[3]}.png").write_bytes(b"damaged")
    with pytest.raises(WeaksegError, match="2007_000003"):
        evaluate_folders(pred, truth)
