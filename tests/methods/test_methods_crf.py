"""The CRF refiners: what they read, which classes they choose from, what they write."""

import pytest
import torch
from torchvision import tv_tensors

from weakseg.methods.crf import METHODS, CrfLabels, CrfScores
from weakseg.ops.crf import RECIPES, CrfParams, crf_from_labels, crf_with_alpha
from weakseg.types import Refiner, Sample, ScoreMap, WeaksegError

SIZE = (20, 30)


def make_sample(tags, seeds=None, scores=None):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=generator)
    return Sample(
        "photo",
        tv_tensors.Image(image),
        torch.tensor(tags),
        seeds={} if seeds is None else {"seeds": seeds},
        scores={} if scores is None else {"scores": scores},
    )


def half_and_half(left, right):
    seeds = torch.full(SIZE, left, dtype=torch.uint8)
    seeds[:, SIZE[1] // 2 :] = right
    return seeds


@pytest.mark.parametrize("name", METHODS)
def test_plays_the_role(name):
    assert isinstance(METHODS[name], Refiner)
    assert METHODS[name].needs == {"tags"}


def test_labels_choose_among_background_and_tags():
    sample = make_sample([True, False, True], seeds=half_and_half(0, 3))
    got = CrfLabels().refine(None, sample)
    want = crf_from_labels(sample.image, sample.seeds["seeds"], torch.tensor([0, 1, 3], dtype=torch.uint8))
    assert set(got) == set(CrfLabels.writes)
    assert type(got["labels"]) is torch.Tensor
    assert torch.equal(got["labels"], want)


def test_labels_keep_a_class_that_no_tag_names():
    sample = make_sample([True, False, False], seeds=half_and_half(0, 3))
    assert 3 in CrfLabels(confidence=0.99).refine(None, sample)["labels"].unique().tolist()


def test_labels_without_tags_stay_background():
    sample = make_sample([False, False, False], seeds=torch.zeros(SIZE, dtype=torch.uint8))
    assert not CrfLabels().refine(None, sample)["labels"].any()


def test_labels_decide_unknown_pixels():
    sample = make_sample([True, False, False], seeds=half_and_half(255, 1))
    assert set(CrfLabels().refine(None, sample)["labels"].unique().tolist()) <= {0, 1}


def test_scores_write_probabilities_and_their_argmax():
    maps = ScoreMap(torch.tensor([2, 3], dtype=torch.uint8), torch.rand(2, *SIZE), SIZE)
    sample = make_sample([False, True, True], scores=maps)
    got = CrfScores(alpha=9.0).refine(None, sample)
    want = crf_with_alpha(sample.image, maps, 9.0)
    assert set(got) == set(CrfScores.writes)
    assert got["scores"].ids.tolist() == [0, 2, 3]
    assert torch.equal(got["scores"].scores, want.scores)
    assert torch.equal(got["labels"], want.ids[want.scores.argmax(0)])


def test_strided_scores_are_resized():
    maps = ScoreMap(torch.tensor([2], dtype=torch.uint8), torch.rand(1, 5, 8), SIZE)
    got = CrfScores().refine(None, make_sample([False, True, False], scores=maps))
    assert got["scores"].scores.shape == (2, *SIZE)
    assert got["labels"].shape == SIZE


def test_scores_without_classes_are_background():
    maps = ScoreMap(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 5, 8), SIZE)
    got = CrfScores().refine(None, make_sample([False, False, False], scores=maps))
    assert got["scores"].ids.tolist() == [0]
    assert torch.equal(got["labels"], torch.zeros(SIZE, dtype=torch.uint8))


def test_scores_with_their_own_background():
    maps = ScoreMap(torch.tensor([0, 2], dtype=torch.uint8), torch.rand(2, *SIZE), SIZE)
    sample = make_sample([False, True, False], scores=maps)
    got = CrfScores(alpha=None, recipe="psa_post_rw").refine(None, sample)
    assert got["scores"].ids.tolist() == [0, 2]
    with pytest.raises(WeaksegError, match="foreground"):
        CrfScores(alpha=4.0).refine(None, sample)


def test_numbers_can_be_overridden_one_by_one():
    assert CrfLabels().params == RECIPES["irn_label"]
    assert CrfScores().params == RECIPES["psa"]
    assert CrfLabels(iterations=3, bilateral_srgb=7.0).params == CrfParams(3, 3, 3, 50, 7.0, 10)


def test_impossible_numbers_are_refused_at_once():
    for wrong in ({"recipe": "irn"}, {"bilateral_sxy": -1.0}, {"image": "bgr"}):
        with pytest.raises(WeaksegError):
            CrfLabels(**wrong)


def test_the_wrapped_image_makes_a_difference():
    maps = ScoreMap(torch.tensor([1], dtype=torch.uint8), torch.rand(1, *SIZE), SIZE)
    sample = make_sample([True], scores=maps)
    right, wrong = (CrfScores(image=i).refine(None, sample)["scores"].scores for i in ("rgb", "wrapped_bgr"))
    assert not torch.equal(right, wrong)
