"""Batches and the generator of a sample."""

import pytest
import torch

from weakseg.data.collate import collate, sample_generator
from weakseg.types import WeaksegError


def item(id, size=(4, 6), **fields):
    return {
        "id": id,
        "image": torch.rand(3, *size),
        "valid": torch.ones(1, *size, dtype=torch.bool),
        "tags": torch.tensor([True, False]),
        "saliency": None,
        "seeds": {},
        "scores": {},
        "boxes": None,
        "box_labels": None,
        **fields,
    }


def test_items_are_stacked_in_order():
    items = [item("a"), item("b", tags=torch.tensor([False, True]))]
    batch = collate(items)
    assert batch.ids == ("a", "b")
    assert batch.images.shape == (2, 3, 4, 6)
    assert torch.equal(batch.images[1], items[1]["image"])
    assert batch.tags.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert batch.tags.dtype == torch.float32
    assert batch.valid.shape == (2, 1, 4, 6)
    assert batch.saliency is None
    assert batch.boxes is None
    assert batch.box_labels is None
    assert dict(batch.seeds) == {}


def test_what_only_some_have_is_blank_for_the_others():
    labels, scores = torch.ones(4, 6, dtype=torch.uint8), torch.ones(3, 4, 6)
    boxes = {"boxes": torch.ones(2, 4), "box_labels": torch.tensor([1, 2])}
    batch = collate([item("a"), item("b", seeds={"over": labels}, scores={"walk": scores}, **boxes)])
    assert batch.seeds["over"].unique().tolist() == [1, 255]
    assert (batch.seeds["over"][0] == 255).all()
    assert not batch.scores["walk"][0].any()
    assert torch.equal(batch.scores["walk"][1], scores)
    assert [len(b) for b in batch.boxes] == [0, 2]
    assert batch.box_labels[1].tolist() == [1, 2]
    assert batch.box_labels[0].dtype == torch.int64


def test_a_missing_saliency_map_is_told():
    saliency = torch.rand(1, 4, 6)
    assert collate([item("a", saliency=saliency)]).saliency.shape == (1, 1, 4, 6)
    with pytest.raises(WeaksegError, match="b has no saliency map"):
        collate([item("a", saliency=saliency), item("b")])


def test_images_of_two_sizes_are_told():
    with pytest.raises(ValueError, match=r"one size.*crop"):
        collate([item("a"), item("b", (5, 6))])


def test_a_generator_belongs_to_its_seed_epoch_and_id():
    def draws(*key):
        return tuple(torch.rand(4, generator=sample_generator(*key)).tolist())

    assert draws(1, 2, "a") == draws(1, 2, "a")
    others = {draws(1, 2, "a"), draws(2, 1, "a"), draws(1, 3, "a"), draws(1, 2, "b"), draws(12, 0, "a")}
    assert len(others) == 5
    firsts = torch.tensor([draws(0, e, f"{k}")[0] for e in range(5) for k in range(100)])
    assert 0.45 < firsts.mean() < 0.55
