"""Analyses of folders, through the verb: numbers, table, and what is missing."""

import pytest
import torch

from weakseg import api
from weakseg.data.context import read_context
from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.data.store import write_label_map, write_score_maps
from weakseg.evaluate.boundaries import evaluate_boundaries, of_masks
from weakseg.evaluate.folders import format_table
from weakseg.evaluate.saliency import format_saliency
from weakseg.ops.saliency import saliency_score_map
from weakseg.types import ScoreMap, WeaksegError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Scenes, and masks that are the truth a few pixels to the right."""
    place = tmp_path_factory.mktemp("folders")
    make_scenes(place / "scenes", count=12, seed=1, size=64)
    dataset = open_dataset(place / "scenes")
    for id in dataset.ids:
        truth = dataset.truth(id)
        write_label_map(place / "pred" / f"{id}.png", truth.masked_fill(truth == 255, 0).roll(3, 1))
    return place


def judged(place, **more):
    scenes = place / "scenes"
    return api.evaluate(place / "pred", scenes / "SegmentationClass", classes=scenes / "classes.txt", **more)


def test_folders_give_the_numbers_of_the_functions(place):
    result = judged(place, boundaries=True, context=place / "scenes" / "ContextClass")
    dataset = open_dataset(place / "scenes")

    def shifted(id):
        truth = dataset.truth(id)
        return truth.masked_fill(truth == 255, 0).roll(3, 1)

    direct = evaluate_boundaries(shifted, of_masks(dataset.truth), dataset.ids)
    assert result["boundaries"]["tolerances"] == direct["tolerances"]
    pairs = {f"{p['class']}/{p['with']}": p for p in result["confusion_ratios"]["pairs"]}
    boat = pairs["boat/water"]
    water = wrong = right = 0
    for id in dataset.ids:
        context = read_context(dataset.context_path(id))
        pred, truth = shifted(id), dataset.truth(id)
        wrong += int(((context == 7) & (pred == 2) & (truth != 2)).sum())
        right += int(((pred == 2) & (truth == 2)).sum())
        water += int((context == 7).sum())
    assert water
    assert boat["ratio"] == wrong / right
    assert boat["iou"] == pytest.approx(result["iou"][2])


def test_nothing_more_is_done_unless_it_is_asked_for(place):
    result = judged(place)
    assert "boundaries" not in result
    assert "confusion_ratios" not in result
    assert "F1" not in format_table(result)


def test_the_table_prints_what_was_asked_for(place):
    result = judged(place, boundaries=True, confusion=True, pairs=["boat/train", "train/boat"])
    lines = format_table(result).splitlines()
    narrow = result["boundaries"]["tolerances"][0]
    assert any(f"0.75 % of the diagonal: precision {100 * narrow['precision']:.1f} %" in line for line in lines)
    assert any(line.startswith("boat / train") for line in lines)
    assert any(line.startswith("true boundaries: true masks") for line in lines)


def test_true_boundaries_of_a_folder(place):
    for path in sorted((place / "pred").glob("*.png"))[:2]:
        write_label_map(place / "edges" / path.name, torch.eye(64, dtype=torch.uint8))
    result = judged(place, true_boundaries=place / "edges")["boundaries"]
    assert (result["images"], result["without_truth"]) == (2, 10)
    assert result["conventions"]["true boundaries"] == "files of edges"


def test_what_is_missing_is_said(place, tmp_path):
    with pytest.raises(WeaksegError, match="no context labels"):
        judged(place, context=tmp_path)
    write_label_map(tmp_path / "inside" / "a.png", torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(WeaksegError, match=r"context_classes\.txt"):
        judged(place, context=tmp_path / "inside")


# --- score maps and saliency maps ---


def test_one_kind_of_folder_at_a_time(place):
    scenes = place / "scenes"
    with pytest.raises(WeaksegError, match="one of --pred"):
        api.evaluate(None, scenes / "SegmentationClass")
    with pytest.raises(WeaksegError, match="one of --pred"):
        api.evaluate(place / "pred", scenes / "SegmentationClass", saliency_maps=scenes / "Saliency")
    with pytest.raises(WeaksegError, match="--classes"):
        api.evaluate(None, scenes / "SegmentationClass", scores=scenes)


def test_score_maps_of_a_folder(place):
    """Each class of the truth has 0.85 on its pixels and 0.35 elsewhere: every threshold between them is perfect."""
    scenes = place / "scenes"
    dataset = open_dataset(scenes)
    for id in dataset.ids:
        truth = dataset.truth(id)
        ids = torch.tensor([k for k in truth.unique().tolist() if k not in (0, 255)], dtype=torch.uint8)
        maps = torch.stack([torch.where(truth == k, 0.85, 0.35) for k in ids.tolist()])
        write_score_maps(place / "step" / "scores" / f"{id}.npz", {"full": ScoreMap(ids, maps, tuple(truth.shape))})
    more = {"classes": scenes / "classes.txt", "fixed": 0.5, "thresholds": 11}
    result = api.evaluate(None, scenes / "SegmentationClass", scores=place / "step", **more)
    assert result["fixed"]["miou"] == pytest.approx(1.0)
    assert result["plateau"] == pytest.approx([0.4, 0.8])
    assert result["foreground_activation"]["share"] == pytest.approx([0, 0, 0, 0, 1])
    assert result["per_image_best"]["mean"] == pytest.approx(0.6)
    table = format_table(result)
    assert "from 0.400 to 0.800, a width of 0.400" in table
    assert "own best threshold: 0.600 ± 0.000" in table
    assert "0.8-1 100.0 %" in table
    part = api.evaluate(None, scenes / "SegmentationClass", scores=place / "step", share=0.25, **more)
    assert part["images"] == 3


def test_saliency_maps_of_a_folder(place):
    scenes = place / "scenes"
    dataset = open_dataset(scenes)
    for id in dataset.ids:
        sure = ((dataset.truth(id) != 0) & (dataset.truth(id) != 255)).float()[None]
        write_score_maps(place / "salient" / f"{id}.npz", {"saliency": saliency_score_map(sure)})
    result = api.evaluate(
        None, scenes / "SegmentationClass", saliency_maps=place / "salient", given=scenes / "Saliency"
    )
    assert result["estimated"]["error"] == pytest.approx(0, abs=1e-3)
    assert result["estimated"]["f_measure"] == pytest.approx(1, abs=1e-3)
    wanted = [
        float(
            (dataset.sample(i).saliency[0] - ((dataset.truth(i) != 0) & (dataset.truth(i) != 255)).float()).abs().mean()
        )
        for i in dataset.ids
    ]
    assert result["error_to_given"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-3)
    lines = format_saliency(result).splitlines()
    assert lines[0].startswith("these maps: mean absolute error 0.000")
    assert lines[-1] == "12 photographs, 0 without truth"
    with pytest.raises(WeaksegError, match="no saliency maps"):
        api.evaluate(None, scenes / "SegmentationClass", saliency_maps=place)
    write_label_map(place / "small" / f"{dataset.ids[0]}.png", torch.zeros(2, 2, dtype=torch.uint8), palette=False)
    with pytest.raises(WeaksegError, match=r"saliency map is \(2, 2\)"):
        api.evaluate(None, scenes / "SegmentationClass", saliency_maps=place / "small")
