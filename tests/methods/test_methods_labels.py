"""Label maps without a network, on samples small enough to read."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad
from torchvision import tv_tensors

from weakseg.methods.labels import METHODS, IrLabel, Threshold, confident_labels, ir_label
from weakseg.ops.crf import CrfParams, crf_from_labels, recipe
from weakseg.types import Refiner, Sample, ScoreMap, WeaksegError, deciding_constants


def u8(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.uint8)


def sample(scores=None, seeds=None, classes=3, size=(2, 4), **fields) -> Sample:
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    tags = torch.zeros(classes, dtype=torch.bool)
    return Sample("a", image, tags, scores=scores or {}, seeds=seeds or {}, **fields)


def score_map(ids, maps) -> ScoreMap:
    maps = torch.as_tensor(maps, dtype=torch.float32)
    return ScoreMap(u8(ids), maps, (int(maps.shape[1]), int(maps.shape[2])))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_roles(method):
    assert isinstance(method, Refiner)
    assert method.writes == ("labels",)
    assert ("mask" in method.needs) == (method is METHODS["truth"])  # the only door to truth


def test_threshold_uses_its_background():
    s = sample({"scores": score_map([3], [[[0.1, 0.25, 0.3, 0.9]] * 2])})
    assert METHODS["threshold"].refine(None, s)["labels"].tolist() == [[0, 3, 3, 3]] * 2
    assert Threshold(background=0.3).refine(None, s)["labels"].tolist() == [[0, 0, 0, 3]] * 2


def test_a_background_map_gives_way_to_the_constant_and_decides_without_one():
    maps = score_map([0, 3], [[[0.6, 0.6, 0.1, 0.1]] * 2, [[0.4, 0.7, 0.05, 0.3]] * 2])
    s = sample({"scores": maps})
    assert Threshold(background=0.3).refine(None, s)["labels"].tolist() == [[3, 3, 0, 0]] * 2
    assert Threshold(background=None).refine(None, s)["labels"].tolist() == [[0, 3, 0, 3]] * 2


def test_confident_labels_table():
    """All four cases of methods.md 4, and the one where the CRFs disagree on the class: fg wins."""
    fg, bg = u8([[1, 0, 0, 1]]), u8([[1, 1, 0, 2]])
    assert confident_labels(fg, bg).tolist() == [[1, 255, 0, 1]]


def test_the_published_constants_of_ir_label():
    """methods.md 4 and 1.4."""
    method = METHODS["ir_label"]
    assert (method.conf_fg, method.conf_bg, method.crf, method.confidence) == (0.30, 0.05, "irn_label", 0.7)
    assert recipe("irn_label") == CrfParams(10, 3, 3, 50, 5, 10)


def photo_of_halves() -> tuple[tv_tensors.Image, torch.Tensor]:
    """Left half black, right half white; a score that is high, middling and low from left to right."""
    image = torch.zeros(3, 24, 48, dtype=torch.uint8)
    image[:, :, 24:] = 255
    scores = torch.zeros(1, 24, 48)
    scores[:, :, :16], scores[:, :, 16:24] = 0.9, 0.2
    return tv_tensors.Image(image), scores


def test_ir_label_follows_the_edge_of_the_photograph():
    image, scores = photo_of_halves()
    s = Sample("a", image, torch.tensor([False, True]), scores={"scores": score_map([2], scores)})
    labels = METHODS["ir_label"].refine(None, s)["labels"]
    # by thresholds alone columns 16-23 would be unsure; the CRF gives the whole black half to the object, the rest is 0
    assert labels.dtype == torch.uint8
    assert (labels[:, :16] == 2).all()
    assert (labels[:, 24:] == 0).all()
    assert set(labels.unique().tolist()) <= {0, 2, 255}


def test_ir_label_keeps_what_it_is_not_sure_of():
    image = tv_tensors.Image(torch.zeros(3, 24, 24, dtype=torch.uint8))
    unsure = score_map([2], torch.full((1, 24, 24), 0.2))  # above conf_bg, below conf_fg
    s = Sample("a", image, torch.tensor([False, True]), scores={"scores": unsure})
    assert (METHODS["ir_label"].refine(None, s)["labels"] == 255).all()
    assert (IrLabel(conf_fg=0.1).refine(None, s)["labels"] == 2).all()
    assert (IrLabel(conf_bg=0.25).refine(None, s)["labels"] == 0).all()


def test_ir_label_of_amns_maps_puts_its_constants_in_place_of_their_background():
    image, scores = photo_of_halves()
    tags = torch.tensor([False, True])
    background = torch.full((1, 24, 48), 0.95)  # would win everywhere
    both = Sample("a", image, tags, scores={"scores": score_map([0, 2], torch.cat([background, scores]))})
    alone = Sample("a", image, tags, scores={"scores": score_map([2], scores)})
    amn = IrLabel(conf_fg=0.45, conf_bg=0.15)
    assert torch.equal(amn.refine(None, both)["labels"], amn.refine(None, alone)["labels"])
    classless = Sample("a", image, torch.zeros(2, dtype=torch.bool), scores={"scores": score_map([0], background)})
    assert not amn.refine(None, classless)["labels"].any()


def test_ir_label_is_the_sentence_of_the_specification():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores = torch.rand(2, 20, 30, generator=torch.Generator().manual_seed(1)) ** 2
    keys, opinions = u8([0, 4, 9]), []
    for constant in (0.45, 0.15):  # pad with the constant, argmax, CRF over the photograph's own labels, their ids
        own = pad(scores, (0, 0, 0, 0, 1, 0), value=constant).argmax(dim=0).to(torch.uint8)
        opinions.append(keys[crf_from_labels(image, own, u8([0, 1, 2]), recipe("irn_label"), 0.7).long()].tolist())
    made = ir_label(image, score_map([4, 9], scores), 0.45, 0.15).tolist()
    assert {v for row in made for v in row} >= {0, 4, 9, 255}
    for y in range(20):
        for x in range(30):
            fg, bg = opinions[0][y][x], opinions[1][y][x]
            assert made[y][x] == (fg if fg else 0 if not bg else 255)


def test_ir_label_without_tags_is_background():
    s = sample({"scores": ScoreMap(u8([]), torch.zeros(0, 2, 4), (2, 4))})
    assert not METHODS["ir_label"].refine(None, s)["labels"].any()


def test_box_fill():
    boxes = tv_tensors.BoundingBoxes([[0.0, 0.0, 2.0, 1.0]], format="XYXY", canvas_size=(2, 4))
    s = sample(boxes=boxes, box_labels=torch.tensor([3]))
    out = METHODS["box_fill"].refine(None, s)["labels"]
    assert out.tolist() == [[3, 3, 0, 0], [0, 0, 0, 0]]
    assert type(out) is torch.Tensor
    with pytest.raises(WeaksegError, match="no boxes"):
        METHODS["box_fill"].refine(None, sample())


def test_truth():
    mask = tv_tensors.Mask(u8([[0, 1, 255, 2]] * 2))
    out = METHODS["truth"].refine(None, sample(mask=mask))["labels"]
    assert out.tolist() == mask.tolist()
    assert type(out) is torch.Tensor
    with pytest.raises(WeaksegError, match="no true mask"):
        METHODS["truth"].refine(None, sample())


def test_merge():
    base, over = u8([[1, 1, 1, 255]] * 2), u8([[255, 0, 2, 255]] * 2)
    merged = METHODS["merge"].refine(None, sample(seeds={"base": base, "over": over}))["labels"]
    assert merged.tolist() == [[1, 0, 2, 255]] * 2
    assert METHODS["merge"].refine(None, sample(seeds={"base": base}))["labels"].tolist() == base.tolist()
    opaque = replace(METHODS["merge"], opaque=True)  # a true mask in the place of pseudo labels
    assert opaque.refine(None, sample(seeds={"base": base, "over": over}))["labels"].tolist() == over.tolist()
    assert opaque.refine(None, sample(seeds={"base": base}))["labels"].tolist() == base.tolist()
    assert deciding_constants(METHODS["merge"]) == {}  # runs from before stay done
    with pytest.raises(WeaksegError, match="'base'"):
        METHODS["merge"].refine(None, sample(seeds={"over": over}))


def test_a_missing_input_is_told():
    with pytest.raises(WeaksegError, match=r"'scores'.*recipe"):
        METHODS["threshold"].refine(None, sample())
