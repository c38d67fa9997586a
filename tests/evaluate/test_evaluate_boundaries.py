"""Boundary numbers of a list: sums against a mean of images, files of true boundaries, what is left out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import io, sparse

from weakseg.evaluate.boundaries import (
    boundary_folder,
    evaluate_boundaries,
    of_masks,
    read_boundaries,
    true_boundaries,
)
from weakseg.ops.boundaries import boundary_counts, boundary_map
from weakseg.types import WeaksegError


def square(top, left, side, size=(60, 80), value=1):
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[top : top + side, left : left + side] = value
    return mask


TRUTH = {"a": square(10, 10, 30), "b": square(20, 20, 8, value=2), "c": None}
PRED = {"a": square(12, 10, 30), "b": square(40, 60, 8), "c": square(0, 0, 5)}


def judged(**more):
    return evaluate_boundaries(PRED.get, of_masks(TRUTH.get), list(TRUTH), **more)


def test_numbers_are_sums_over_the_list():
    result = judged()
    parts = [boundary_counts(PRED[id], TRUTH[id]) for id in ("a", "b")]
    total = parts[0] + parts[1]
    assert result["precision"] == total.precision
    assert result["recall"] == total.recall
    assert result["f1"] == total.f1
    assert result["f1"] != pytest.approx(np.mean([p.f1 for p in parts]))  # a mean of images is another number
    assert result["per_image"] == {"a": parts[0].f1, "b": 0.0}
    assert (result["images"], result["without_truth"]) == (2, 1)
    assert result["predicted_pixels"] == sum(int(boundary_map(PRED[id]).sum()) for id in "ab")


def test_both_tolerances_are_reported_and_the_wider_finds_more():
    narrow, wide = judged()["tolerances"]
    assert (narrow["max_dist"], wide["max_dist"]) == (0.0075, 0.02)
    assert wide["f1"] > narrow["f1"]
    assert judged(max_dists=(0.02,))["f1"] == wide["f1"]
    json.dumps(judged(), allow_nan=False)


def test_threads_change_nothing():
    once, many = judged(threads=1), judged(threads=3)
    for result in (once, many):
        del result["seconds"], result["images_per_second"]
    assert once == many


def test_an_empty_prediction_has_no_precision_and_recall_zero():
    result = evaluate_boundaries(lambda id: square(0, 0, 0), of_masks(TRUTH.get), ["a"])
    assert result["precision"] is None
    assert (result["recall"], result["f1"]) == (0, 0)


def test_nothing_to_judge_and_no_tolerance_are_said():
    with pytest.raises(WeaksegError, match="true boundaries"):
        evaluate_boundaries(PRED.get, of_masks(TRUTH.get), ["c"])
    with pytest.raises(WeaksegError, match="max_dists"):
        judged(max_dists=())


def test_an_error_names_its_photograph():
    with pytest.raises(WeaksegError, match=r"^a: .*\(60, 80\)"):
        evaluate_boundaries(lambda id: square(0, 0, 5, size=(60, 81)), of_masks(TRUTH.get), ["a"])


def write_sbd(path, maps):
    cells = np.empty((len(maps), 1), object)
    for k, m in enumerate(maps):
        cells[k, 0] = sparse.csc_matrix(m.numpy())
    io.savemat(path, {"GTcls": {"Boundaries": cells, "Segmentation": np.zeros(maps[0].shape, np.uint8)}})


def test_boundaries_from_sbd_files_and_from_pngs(tmp_path):
    first, second = boundary_map(TRUTH["a"]), boundary_map(TRUTH["b"])
    (tmp_path / "cls").mkdir()
    write_sbd(tmp_path / "cls" / "a.mat", [first, second])
    assert torch.equal(read_boundaries(tmp_path / "cls" / "a.mat"), boundary_map(TRUTH["a"]) | boundary_map(TRUTH["b"]))
    (tmp_path / "Boundaries").mkdir()
    assert boundary_folder(tmp_path) == tmp_path / "cls"
    Image.fromarray(first.numpy().astype(np.uint8) * 255).save(tmp_path / "Boundaries" / "a.png")
    assert boundary_folder(tmp_path) == tmp_path / "Boundaries"
    read = true_boundaries(tmp_path / "Boundaries")
    assert read("b") is None
    result = evaluate_boundaries(TRUTH.get, read, ["a", "b"], source="files")
    assert result["f1"] == 1
    assert result["without_truth"] == 1
    assert result["conventions"]["true boundaries"] == "files"


def test_files_that_hold_no_boundaries_are_said(tmp_path):
    with pytest.raises(WeaksegError, match="no boundaries"):
        true_boundaries(tmp_path)
    assert boundary_folder(tmp_path) is None
    io.savemat(tmp_path / "x.mat", {"other": np.zeros(3)})
    with pytest.raises(WeaksegError, match=r"x\.mat.*GTcls"):
        read_boundaries(tmp_path / "x.mat")
    (tmp_path / "y.mat").write_bytes(b"nothing")
    with pytest.raises(WeaksegError, match=r"y\.mat"):
        read_boundaries(tmp_path / "y.mat")
