"""The evaluation of score maps: fixed and best threshold against masks made at those thresholds."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from weakseg.evaluate.folders import format_table
from weakseg.evaluate.masks import evaluate_masks
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.pipeline.evaluations import EVALUATIONS
from weakseg.types import ScoreMap, WeaksegError, deciding_constants

CLASSES = ("cat", "dog")
IDS = [f"p{k}" for k in range(7)]


@pytest.fixture
def data():
    """Maps that are higher on their object: a best threshold exists inside."""
    g = torch.Generator().manual_seed(1)
    found = {}
    for k, id in enumerate(IDS):
        size = (12, 15 + k)
        truth = torch.zeros(size, dtype=torch.uint8)
        truth[3:9, 2 : 6 + k] = 1 + k % 2
        scores = 0.55 * torch.rand(size, generator=g) + 0.4 * (truth > 0) * torch.rand(size, generator=g)
        truth[0] = 255
        found[id] = (ScoreMap(torch.tensor([1 + k % 2], dtype=torch.uint8), scores[None], size), truth)
    return found


def run(data, **kwargs):
    return evaluate_scores(lambda id: data[id][0], lambda id: data[id][1], list(data), CLASSES, **kwargs)


def at(data, threshold):
    def mask(id):
        dense = data[id][0].dense(3).numpy()
        dense[0] = threshold
        return torch.from_numpy(dense.argmax(0).astype(np.uint8))

    return evaluate_masks(mask, lambda id: data[id][1], list(data), CLASSES)


@pytest.mark.parametrize("fixed", [0.2, 0.15, 1 / 3])
def test_fixed_and_best_are_the_masks_at_these_thresholds(data, fixed):
    result = run(data, fixed=fixed)
    for key, threshold in (("fixed", fixed), ("best", result["best"]["threshold"])):
        masks = at(data, threshold)
        assert result[key]["threshold"] == pytest.approx(threshold, abs=1e-6)
        for number in ("miou", "iou", "precision", "recall"):
            assert result[key][number] == masks[number], number
    assert result["best"]["miou"] == max(result["curve"]["miou"]) > result["fixed"]["miou"]
    assert len(result["curve"]["thresholds"]) == (256 if fixed == 0.2 else 256 + (round(fixed * 255) != fixed * 255))
    first, last = result["plateau"]
    assert first <= result["best"]["threshold"] <= last
    assert result["plateau_width"] == pytest.approx(last - first)


def test_per_image_histogram_counts_every_photograph(data):
    result = run(data)
    assert sum(result["per_image_best"]["counts"]) == result["images"] == len(IDS)
    assert len(result["per_image_best"]["edges"]) == len(result["per_image_best"]["counts"]) + 1
    assert 0 < result["per_image_best"]["mean"] < 1


def test_threads_change_nothing_and_json_takes_it(data):
    one, four = run(data, threads=1), run(data, threads=4)
    for result in (one, four):
        result.pop("seconds")
        result.pop("images_per_second")
    assert one == four == json.loads(json.dumps(one, allow_nan=False))


def test_the_table_tells_the_two_thresholds_apart(data):
    result = run(data, fixed=0.25)
    table = format_table(result)
    assert f"mIoU {100 * result['fixed']['miou']:.1f} over 7 images at the fixed background threshold 0.250" in table
    assert "chosen on the truth" in table


def test_bad_input_is_told(data):
    with pytest.raises(WeaksegError, match="no pixel was counted"):
        evaluate_scores(lambda id: data[id][0], lambda id: None, IDS, CLASSES)
    with pytest.raises(WeaksegError, match=r"0\.\.1"):
        run(data, fixed=20)
    data["p3"] = (data["p2"][0], data["p3"][1])
    with pytest.raises(WeaksegError, match=r"p3: the score maps are \(12, 17\) and the truth \(12, 18\)"):
        run(data)


def test_a_recipe_step_has_a_switch_for_classes_without_pixels(data):
    """And its default leaves the keys of earlier runs as they were."""
    look = SimpleNamespace(
        read=lambda id: data[id][0],
        truth=lambda id: data[id][1],
        view=SimpleNamespace(ids=IDS, dataset=SimpleNamespace(classes=(*CLASSES, "unicorn"))),
        threads=1,
    )
    irn = EVALUATIONS["scores"].evaluate(look).result
    zero = replace(EVALUATIONS["scores"], absent="zero").evaluate(look).result
    classes = len(CLASSES) + 2
    assert zero["fixed"]["miou"] == pytest.approx(irn["fixed"]["miou"] * (classes - 1) / classes)
    assert "SEAM" in zero["conventions"]["as in"]
    assert "absent" not in deciding_constants(EVALUATIONS["scores"])
