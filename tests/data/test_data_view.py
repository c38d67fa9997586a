"""What a step sees: its own names, earlier steps' files, and no truth."""

from dataclasses import dataclass

import pytest
import torch
from torchvision import tv_tensors

from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.types import Sample, ScoreMap, WeaksegError


@dataclass
class Photographs:
    """Stands for a data set: 4x6 photographs of any id."""

    def sample(self, id, *, truth=False, need_tags=True, saliency=True):
        mask = tv_tensors.Mask(torch.zeros(4, 6, dtype=torch.uint8)) if truth else None
        image = tv_tensors.Image(torch.zeros(3, 4, 6, dtype=torch.uint8))
        return Sample(id, image, torch.tensor([True, need_tags]), mask=mask)


def labels(value, size=(4, 6)):
    return torch.full(size, value, dtype=torch.uint8)


def scores(value=0.5, size=(4, 6)):
    return ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.full((1, 2, 3), value), size)


@pytest.fixture
def stores(tmp_path):
    masks, maps = Store(tmp_path / "2-seeds", ["labels"]), Store(tmp_path / "1-cam", ["full", "strided"])
    for id, value in {"a": 1, "b": 2}.items():
        masks.write(id, {"labels": labels(value)})
        maps.write(id, {"full": scores(value / 4), "strided": scores(value / 8)})
    return masks, maps


def test_a_step_sees_earlier_outputs_under_its_own_names(stores):
    masks, maps = stores
    view = View(Photographs(), ("b", "a"), {"refined": (masks, "labels")}, {"scores": (maps, "strided")})
    assert len(view) == 2
    assert [s.id for s in view] == ["b", "a"]
    assert view[-1].id == "a"
    first = view[0]
    assert list(first.seeds) == ["refined"]
    assert (first.seeds["refined"] == 2).all()
    assert first.scores["scores"].scores[0, 0, 0] == 0.25
    assert first.mask is None


def test_a_slice_is_a_view(stores):
    view = View(Photographs(), ("a", "b", "a"), {"seeds": (stores[0], "labels")})[1:]
    assert isinstance(view, View)
    assert [s.id for s in view] == ["b", "a"]
    assert (view[0].seeds["seeds"] == 2).all()


def test_the_truth_is_seen_only_when_asked_for():
    assert View(Photographs(), ("a",))[0].mask is None
    assert View(Photographs(), ("a",), truth=True)[0].mask is not None
    assert View(Photographs(), ("a",), need_tags=False)[0].tags.tolist() == [True, False]


def test_a_missing_output_names_its_step_and_id(stores):
    with pytest.raises(WeaksegError, match=r"2-seeds.*labels of c"):
        View(Photographs(), ("c",), {"seeds": (stores[0], "labels")})[0]
    with pytest.raises(WeaksegError, match=r"1-cam.*full of c"):
        View(Photographs(), ("c",), {}, {"scores": (stores[1], "full")})[0]


def test_an_optional_output_may_be_missing(stores, tmp_path):
    masks, _ = stores
    never = Store(tmp_path / "never", ["labels"])
    sources = {"base": (masks, "labels"), "over": (masks, "labels"), "other": (never, "labels")}
    view = View(Photographs(), ("a", "c"), sources, optional=frozenset({"over", "other"}))
    assert set(view[0].seeds) == {"base", "over"}
    with pytest.raises(WeaksegError, match="labels of c"):
        view[1]
    only = View(Photographs(), ("c",), {"over": (masks, "labels")}, optional=frozenset({"over"}))
    assert dict(only[0].seeds) == {}


def test_a_map_of_another_size_or_kind_is_told(stores):
    masks, maps = stores
    masks.write("a", {"labels": labels(0, (6, 4))})
    with pytest.raises(WeaksegError, match=r"a\.png belongs to a photograph of 4x6 pixels, a has 6x4"):
        View(Photographs(), ("a",), {"seeds": (masks, "labels")})[0]
    maps.write("a", {"full": scores(size=(9, 9)), "strided": scores()})
    with pytest.raises(WeaksegError, match=r"a\.npz belongs to a photograph of 9x9"):
        View(Photographs(), ("a",), {}, {"scores": (maps, "full")})[0]
    with pytest.raises(WeaksegError, match="score maps were wanted"):
        View(Photographs(), ("b",), {}, {"scores": (masks, "labels")})[0]
    with pytest.raises(WeaksegError, match="label maps were wanted"):
        View(Photographs(), ("b",), {"seeds": (maps, "full")})[0]
