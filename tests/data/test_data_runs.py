"""Run lengths: pycocotools' own for what is sound, a sentence for what a stranger made up."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from weakseg.data import store
from weakseg.data.runs import decode_runs, encode_runs, unpack_runs
from weakseg.types import Instances, WeaksegError


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 300)])
def test_they_are_pycocotools(size, share):
    inside = np.random.default_rng(3).random(size) < share
    runs = encode_runs(inside)
    assert np.array_equal(coco_mask.decode(runs) > 0, inside)
    assert np.array_equal(decode_runs(runs, size), inside)
    plain = {"size": list(size), "counts": unpack_runs(runs["counts"])}
    assert coco_mask.frPyObjects(plain, *size)["counts"].decode() == runs["counts"]
    assert np.array_equal(decode_runs(plain, size), inside)


STRANGE = [
    ({"size": [2, 2], "counts": [2, 3]}, "do not add up"),
    ({"size": [2, 2], "counts": [6, -2]}, "whole numbers of 0 and more"),
    ({"size": [2, 2], "counts": "24"}, "do not add up"),
    ({"size": [2, 2], "counts": "6N"}, "whole numbers of 0 and more"),
    ({"size": [2, 2], "counts": [True, 3]}, "whole numbers"),
    ({"size": [2, 2], "counts": [1.5, 2.5]}, "whole numbers"),
    ({"size": [2, 2]}, "whole numbers"),
    ({"size": [2, 2], "counts": "é"}, "foreign character"),
    ({"size": [2, 2], "counts": "o" * 1_000_000}, "number without end"),
    ({"size": [4, 1], "counts": [4]}, "size"),
    ([1, 2, 3], "size"),
    (None, "size"),
]


@pytest.mark.parametrize(("runs", "match"), STRANGE)
def test_a_strangers_run_lengths_never_reach_the_c_decoder(runs, match, monkeypatch):
    monkeypatch.setattr(coco_mask, "decode", lambda *_: pytest.fail("the C decoder was called"))
    with pytest.raises(WeaksegError, match=match):
        decode_runs(runs, (2, 2))


def test_a_claimed_size_is_not_believed():
    size = [100_000, 100_000]
    with pytest.raises(WeaksegError, match="100000 x 100000 pixels; at most"):
        decode_runs({"size": size, "counts": [10**10]}, (size[0], size[1]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("category_id", 0),
        ("category_id", 255),
        ("category_id", "1"),
        ("score", None),
        ("score", float("inf")),
        ("bbox", [0, 0, float("nan"), 1]),
        ("bbox", [0, 0, 1]),
        ("segmentation", {"size": [3, 4], "counts": [13]}),
        ("segmentation", {"size": [30, 40], "counts": [1200]}),
        ("segmentation", [[0, 0, 1, 1, 2, 2]]),
    ],
)
def test_a_strangers_instances_are_read_with_care(tmp_path, key, value):
    one = torch.ones(1, 3, 4, dtype=torch.bool)
    good = Instances(one, torch.ones(1, dtype=torch.int64), torch.ones(1), torch.tensor([[0.0, 0.0, 4.0, 3.0]]))
    path = tmp_path / "a.json"
    store.write_instances(path, good, "a")
    assert bool(store.read_instances(path).masks.all())
    content = json.loads(path.read_text())
    content["instances"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(WeaksegError, match="no readable file of instances"):
        store.read_instances(path)
