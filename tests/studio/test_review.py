"""What a review keeps: order, corrections, decisions, and the data set that grows out of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from weakseg.data.dataset import open_dataset, open_photos
from weakseg.data.interchange import find_masks
from weakseg.data.store import read_label_map, write_label_map
from weakseg.studio.review import Review, doubts
from weakseg.types import WeaksegError

CLASSES = ("cat", "dog")


def labels(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


MASKS = {
    "fine": labels([0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]),
    "empty": torch.zeros(3, 4, dtype=torch.uint8),
    "stray": labels([2, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 255]),
}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "photos").mkdir()
    for k, (id, mask) in enumerate(MASKS.items()):
        photo = np.random.default_rng(k).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{id}.png")
        write_label_map(tmp_path / "made" / f"{id}.png", mask)
    (tmp_path / "made" / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "tags.csv").write_text("image,tags\nfine,cat\nempty,cat\nstray,cat\n")
    return tmp_path


def begin(place, out="out", **more):
    paths, classes = find_masks(place / "made", more.pop("classes", None))
    photos = open_photos(place / "photos", classes=classes, tags_csv=place / "tags.csv")
    return Review(photos, dict(paths.items()), classes, place / out, **more)


# --- doubts ---


def test_doubts_name_tags_without_pixels_and_pixels_without_tags():
    tags = torch.tensor([True, False])
    assert doubts(MASKS["fine"], CLASSES, tags) == []
    assert doubts(MASKS["empty"], CLASSES, tags) == [(3.0, "no pixel of cat")]
    assert doubts(MASKS["stray"], CLASSES, tags) == [(3.0, "dog is no tag of it")]


def test_doubts_without_tags():
    assert doubts(MASKS["empty"], CLASSES) == [(2.0, "all background")]
    assert doubts(torch.ones(3, 4, dtype=torch.uint8), CLASSES) == [(1.0, "100 % foreground")]
    speck = torch.zeros(40, 40, dtype=torch.uint8)
    speck[3, 3:5] = 2
    assert doubts(speck, CLASSES) == [(1.0, "0.1 % foreground")]


def test_pieces_are_counted_by_class_and_weigh_less_than_one():
    chequers = torch.zeros(6, 8, dtype=torch.uint8)
    chequers[::2, ::2] = 1  # twelve pixels that touch nowhere
    assert doubts(chequers, CLASSES) == [(0.5, "cat in 12 pieces")]
    assert doubts(chequers[:3, :6], CLASSES) == []  # six


def test_an_empty_mask_of_a_photograph_without_tags_is_no_doubt():
    assert doubts(MASKS["empty"], CLASSES, torch.tensor([False, False])) == []


# --- a review ---


def test_the_gravest_come_first_and_entries_tell_what_is_known(place):
    review = begin(place)
    assert review.ids == ("empty", "stray", "fine")
    entry = review.entry("stray")
    assert (entry["width"], entry["height"], entry["decision"], entry["edited"]) == (4, 3, "open", False)
    assert entry["shares"] == {0: 0.6667, 1: 0.0833, 2: 0.1667, 255: 0.0833}
    assert entry["tags"] == [1]
    assert [c["name"] for c in review.legend()] == ["background", "cat", "dog", "undecided"]
    assert review.counts() == {"open": 3, "accepted": 0, "rejected": 0, "edited": 0}


def test_what_is_accepted_is_a_data_set_that_weakseg_opens(place):
    review = begin(place)
    review.decide("fine", "accepted")
    review.decide("stray", "accepted")
    review.decide("empty", "rejected")
    made = open_dataset(place / "out")
    assert made.ids == made.list("train") == ("fine", "stray")
    assert made.classes == CLASSES
    assert torch.equal(made.truth("stray"), MASKS["stray"])
    assert made.tags("stray").tolist() == [True, True]  # what a person has accepted counts
    assert (place / "out/images/fine.png").read_bytes() == (place / "photos/fine.png").read_bytes()
    review.decide("stray", "open")
    assert open_dataset(place / "out").ids == ("fine",)
    assert not (place / "out/masks/stray.png").exists()


def test_corrections_are_kept_beside_the_masks_and_reach_the_data_set(place):
    review = begin(place)
    review.decide("empty", "accepted")
    mended = labels([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 255])
    entry = review.save("empty", mended)
    assert entry["edited"]
    assert entry["doubts"] == []
    assert torch.equal(review.mask("empty"), mended)
    assert torch.equal(read_label_map(place / "out/masks/empty.png"), mended)
    assert "empty.png,cat" in (place / "out/tags.csv").read_text().splitlines()
    assert torch.equal(read_label_map(place / "made/empty.png"), MASKS["empty"])  # only read
    assert not review.reset("empty")["edited"]
    assert torch.equal(read_label_map(place / "out/masks/empty.png"), MASKS["empty"])
    assert "empty.png," in (place / "out/tags.csv").read_text().splitlines()


def test_a_review_goes_on_where_it_ended(place):
    review = begin(place)
    review.decide("fine", "accepted")
    review.decide("stray", "rejected")
    review.save("empty", MASKS["fine"])
    again = begin(place)
    assert again.counts() == {"open": 1, "accepted": 1, "rejected": 1, "edited": 1}
    assert torch.equal(again.mask("empty"), MASKS["fine"])
    assert again.ids[-1] != "stray"  # the order follows the masks as they are now
    assert again.entry("empty")["doubts"] == []


def test_snapping_to_edges_keeps_nothing_and_answers_undecided_pixels(place):
    review = begin(place)
    refined = review.refined("stray", MASKS["stray"])
    assert refined.shape == (3, 4)
    assert set(refined.unique().tolist()) <= {0, 1, 2}
    assert not review.entry("stray")["edited"]


def test_snapping_moves_an_edge_to_that_of_the_photograph(tmp_path):
    photo = np.full((40, 60, 3), 30, np.uint8)
    photo[:, 30:] = 220
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos" / "a.png")
    rough = torch.zeros(40, 60, dtype=torch.uint8)
    rough[:, 34:] = 1
    write_label_map(tmp_path / "made" / "a.png", rough)
    review = Review(open_photos(tmp_path / "photos"), {"a": tmp_path / "made/a.png"}, CLASSES, tmp_path / "out")
    true = torch.zeros(40, 60, dtype=torch.uint8)
    true[:, 30:] = 1
    assert torch.equal(review.refined("a", rough), true)


# --- what is refused ---


def test_masks_that_do_not_fit_are_left_out_with_a_sentence(place):
    write_label_map(place / "made" / "fine.png", torch.zeros(5, 5, dtype=torch.uint8))
    write_label_map(place / "made" / "stray.png", labels([0, 0, 9, 0], [0, 0, 0, 0], [0, 0, 0, 0]))
    write_label_map(place / "made" / "nobody.png", MASKS["fine"])
    review = begin(place)
    assert review.ids == ("empty",)
    assert len(review.skipped) == 3
    assert "nobody has a mask and no photograph" in review.skipped
    assert any("id 9, but there are 2 classes" in line for line in review.skipped)


def test_nothing_to_review_is_one_sentence(place):
    photos = open_photos(place / "photos")
    with pytest.raises(WeaksegError, match="none of the 1 masks can be reviewed"):
        Review(photos, {"other": place / "made/fine.png"}, CLASSES, place / "out")


def test_a_folder_of_somebody_else_is_not_written_into(place):
    (place / "out/masks").mkdir(parents=True)
    with pytest.raises(WeaksegError, match="no review made it"):
        begin(place)


def test_a_review_of_other_classes_is_refused(place):
    begin(place).decide("fine", "accepted")
    with pytest.raises(WeaksegError, match="review of the classes cat, dog"):
        begin(place, classes=["dog", "cat"])


def test_a_decision_of_another_program_is_not_trusted(place):
    begin(place).decide("fine", "accepted")
    note = place / "out/review/review.json"
    told = json.loads(note.read_text())
    told["decisions"] = {"fine": "deleted", "stray": "rejected"}
    note.write_text(json.dumps(told))
    assert begin(place).counts() == {"open": 2, "accepted": 0, "rejected": 1, "edited": 0}


@pytest.mark.parametrize(
    ("mask", "reason"),
    [(torch.zeros(4, 3, dtype=torch.uint8), "4x3"), (labels([7, 0, 0, 0], [0] * 4, [0] * 4), "id 7")],
)
def test_a_correction_that_fits_nothing_is_refused_and_nothing_changes(place, mask, reason):
    review = begin(place)
    with pytest.raises(WeaksegError, match=reason):
        review.save("fine", mask)
    assert not review.entry("fine")["edited"]
    with pytest.raises(WeaksegError, match="one of open, accepted, rejected"):
        review.decide("fine", "perhaps")
