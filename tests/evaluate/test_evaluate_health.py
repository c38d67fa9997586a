"""Health checks: each sickness is made by hand and must be named; a sound patient must be left alone."""

import json

import numpy as np
import pytest
import torch

from weakseg.evaluate.health import check_classifier, check_masks, check_predictions, mask_stats
from weakseg.ops.metrics import TagScores, tag_map

CLASSES = ("cat", "dog", "cow")
IDS = [f"p{k}" for k in range(30)]


def tags(id):
    """One class a photograph, in turn."""
    return torch.arange(3) == int(id[1:]) % 3


def mask(id, share=0.3, label=None):
    labels = torch.zeros(10, 10, dtype=torch.uint8)
    labels[: round(10 * share)] = 1 + int(id[1:]) % 3 if label is None else label
    return labels


def stats(read, with_tags=True):
    return mask_stats(read, IDS, CLASSES, tags=tags if with_tags else None)


def test_a_classifier_at_chance_learned_nothing_and_a_good_one_is_well():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(1000, 4, generator=g) < 0.3
    noise = torch.randn(1000, 4, generator=g)
    [finding] = check_classifier(tag_map(noise, truth))
    assert finding.level == "error"
    assert "learned nothing" in finding.title
    assert "momentum 0.9" in finding.text
    assert [f.level for f in check_classifier(tag_map(noise + 4 * truth, truth))] == ["ok"]
    assert [f.level for f in check_classifier(tag_map(noise + 0.6 * truth, truth))] == ["warning"]


def test_a_class_that_was_not_learned_is_named():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(1000, 3, generator=g) < 0.3
    logits = torch.randn(1000, 3, generator=g) + 4 * truth
    logits[:, 1] = torch.randn(1000, generator=g)
    [finding] = check_classifier(tag_map(logits, truth), CLASSES)
    assert finding.level == "warning"
    assert finding.title == "1 class not learned"
    assert "dog" in finding.text
    assert "cat" not in finding.text


def test_tags_that_teach_nothing():
    nan = torch.full((2,), torch.nan)
    assert check_classifier(TagScores(nan, nan, float("nan"), float("nan")))[0].level == "error"
    assert check_classifier(tag_map(torch.zeros(3, 2), torch.ones(3, 2)))[0].title == "Every photograph has every tag"


def test_sound_masks_are_left_alone():
    found = stats(mask)
    assert [f.level for f in check_masks(found)] == ["ok"]
    assert [f.level for f in check_predictions(stats(mask, with_tags=False))] == ["ok"]
    assert json.loads(json.dumps(found)) == found


SICK = {
    "All background": lambda id: mask(id, 0),
    "Hardly any background": lambda id: mask(id, 1),
    "All one class: dog": lambda id: mask(id, label=2),
    "Many masks are all background": lambda id: mask(id, 0.3 if int(id[1:]) < 10 else 0),
    "Most pixels are undecided": lambda id: torch.cat([mask(id), torch.full((20, 10), 255, dtype=torch.uint8)]),
    "Nothing was labelled": lambda id: torch.full((4, 4), 255, dtype=torch.uint8),
}


@pytest.mark.parametrize("title", SICK)
def test_sick_masks_are_named(title):
    findings = check_masks(stats(SICK[title]))
    assert title in [f.title for f in findings]
    assert all(f.level != "ok" and f.text for f in findings)


@pytest.mark.parametrize("title", ["All background", "Hardly any background", "Nothing was labelled"])
def test_collapsed_predictions_are_errors(title):
    findings = check_predictions(stats(SICK[title], with_tags=False))
    assert (findings[0].level, findings[0].title) == ("error", title)


def test_present_classes_without_a_pixel_and_absent_ones_with_pixels():
    found = stats(lambda id: mask(id, label=1) if int(id[1:]) % 3 == 1 else mask(id))  # dogs are called cats
    assert found["without_pixel"] == found["stray_images"] == 10
    assert found["without_pixel_by_class"] == [0, 10, 0]
    assert found["stray_pixels"] == 300
    findings = {f.title: f.text for f in check_masks(found)}
    assert "dog 10" in findings["Present classes without a pixel"]
    assert "p1, p4" in findings["Pixels of absent classes"]


def test_a_network_that_forgot_most_classes():
    classes = [f"c{k}" for k in range(10)]
    found = mask_stats(lambda id: mask(id, label=1 + int(id[1:]) % 2), IDS, classes)
    [finding] = check_predictions(found)
    assert finding.title == "Most classes are never predicted"
    assert "8 of 10" in finding.text


def test_stats_are_plain_counts():
    found = stats(mask)
    everything = np.bincount(torch.cat([mask(i) for i in IDS]).numpy().ravel(), minlength=4)
    assert found["pixels"] == everything.tolist()
    assert found["tags"] == len(IDS)
    assert found["ignored"] == found["empty_images"] == found["full_images"] == 0
