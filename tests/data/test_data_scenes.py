"""The generated data set: the same bytes from the same seed, labels that agree, the three troubles present."""

import csv
import hashlib
from pathlib import Path

import defusedxml.ElementTree as ElementTree
import numpy as np
import pytest
from PIL import Image

from weakseg.data import _scene_compose as composing
from weakseg.data import scenes as scenes_module
from weakseg.data.scenes import CLASSES, CONTEXT_CLASSES, make_scenes, split
from weakseg.types import WeaksegError

COUNT = 66  # three decks


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "new"
    make_scenes(out, count=COUNT, seed=0)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).copy()


def names(scenes: Path) -> list[str]:
    return sorted(path.stem for path in (scenes / "JPEGImages").iterdir())


def tags(scenes: Path) -> dict[str, set[str]]:
    with open(scenes / "tags.csv", newline="") as file:
        return {row["image"].removesuffix(".jpg"): set(row["tags"].split(";")) for row in csv.DictReader(file)}


def objects(scenes: Path, name: str) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Class and 0-based half-open box of each object of the XML file."""
    root = ElementTree.parse(scenes / "Annotations" / f"{name}.xml").getroot()
    found = []
    for node in root.iter("object"):
        box = [int(node.find("bndbox").find(key).text) for key in ("xmin", "ymin", "xmax", "ymax")]
        found.append((node.find("name").text, (box[0] - 1, box[1] - 1, box[2], box[3])))
    return found


def material(scenes: Path, name: str, *wanted: str) -> np.ndarray:
    return np.isin(read(scenes / "ContextClass" / f"{name}.png"), [CONTEXT_CLASSES.index(w) + 1 for w in wanted])


# --- determinism ---


def test_the_same_seed_gives_the_same_bytes_and_scene_k_does_not_depend_on_count(scenes, tmp_path, monkeypatch):
    make_scenes(tmp_path / "few", count=24, seed=0)
    few, many = digests(tmp_path / "few"), digests(scenes)
    pictures = {path: digest for path, digest in few.items() if "scene_" in path}
    assert len(pictures) == 24 * 6
    assert pictures.items() <= many.items()
    assert few["classes.txt"] == many["classes.txt"]
    for listed in ("train", "val"):
        short, long = (
            (root / "ImageSets" / "Segmentation" / f"{listed}.txt").read_text().split()
            for root in (tmp_path / "few", scenes)
        )
        assert short == long[: len(short)]
    lost = tmp_path / "few" / "Saliency" / "scene_00003.png"
    lost.unlink()
    painted = []
    monkeypatch.setattr(scenes_module, "compose", lambda *scene: painted.append(scene) or composing.compose(*scene))
    make_scenes(tmp_path / "few", count=24, seed=0)  # again, into the same folder
    assert digests(tmp_path / "few") == few
    assert painted == [(0, 3, 128)]


def test_another_seed_gives_other_scenes():
    one, two = composing.compose(0, 3, 64), composing.compose(1, 3, 64)
    assert (one.image != two.image).mean() > 0.5


def test_no_global_randomness_is_used():
    before = composing.compose(0, 5, 64).image
    np.random.seed(99)
    composing.compose(7, 1, 96)
    np.testing.assert_array_equal(before, composing.compose(0, 5, 64).image)


# --- labels agree ---


def test_every_file_has_the_photographs_size(scenes):
    for name in names(scenes):
        assert read(scenes / "JPEGImages" / f"{name}.jpg").shape == (128, 128, 3)
        for folder in ("SegmentationClass", "SegmentationObject", "Saliency", "ContextClass"):
            labels = read(scenes / folder / f"{name}.png")
            assert labels.shape == (128, 128)
            assert labels.dtype == np.uint8


def test_boxes_are_the_exact_bounds_of_the_objects_in_the_masks(scenes):
    for name in names(scenes):
        numbers = read(scenes / "SegmentationObject" / f"{name}.png")
        mask = read(scenes / "SegmentationClass" / f"{name}.png")
        listed = objects(scenes, name)
        assert sorted(set(np.unique(numbers)) - {0, 255}) == list(range(1, len(listed) + 1))
        np.testing.assert_array_equal(mask == 255, numbers == 255)
        for number, (label, (x0, y0, x1, y1)) in enumerate(listed, start=1):
            here = numbers == number
            assert set(np.unique(mask[here])) == {CLASSES.index(label) + 1}
            assert (np.flatnonzero(here.any(axis=0))[[0, -1]] == (x0, x1 - 1)).all()
            assert (np.flatnonzero(here.any(axis=1))[[0, -1]] == (y0, y1 - 1)).all()


def test_tags_are_the_classes_of_the_mask(scenes):
    table = tags(scenes)
    assert sorted(table) == names(scenes)
    for name, found in table.items():
        ids = set(np.unique(read(scenes / "SegmentationClass" / f"{name}.png"))) - {0, 255}
        assert found == {CLASSES[k - 1] for k in ids}


def test_the_ignored_seam_is_thin_and_only_around_fur(scenes):
    for name in names(scenes):
        mask = read(scenes / "SegmentationClass" / f"{name}.png")
        furry = bool({"cat", "dog", "sheep"} & tags(scenes)[name])
        assert (mask == 255).mean() < 0.06
        assert furry or not (mask == 255).any()


def test_the_photograph_changes_where_the_mask_does(scenes):
    """Independent of the generator: truth that were shifted or mirrored would lie on weaker edges."""
    here, shifted = [], []
    for name in names(scenes):
        grey = read(scenes / "JPEGImages" / f"{name}.jpg").astype(float).mean(axis=2)
        slope = np.hypot(*np.gradient(grey))
        mask = read(scenes / "SegmentationObject" / f"{name}.png") > 0
        border = mask ^ np.roll(mask, 1, axis=1)
        border[:, :8] = border[:, -8:] = False
        here.append(slope[border].mean())
        shifted.append(slope[np.roll(border, 6, axis=1)].mean())
    assert np.nanmean(here) > 1.4 * np.nanmean(shifted)


# --- variety ---


def test_classes_are_balanced_and_scenes_hold_one_to_three_objects(scenes):
    table = tags(scenes)
    for label in CLASSES:
        assert 0.09 <= np.mean([label in found for found in table.values()]) <= 0.4, label
    counts = [len(objects(scenes, name)) for name in names(scenes)]
    assert set(counts) == {1, 2, 3}


def test_sizes_spread_from_small_to_large(scenes):
    areas = []
    for name in names(scenes):
        numbers = read(scenes / "SegmentationObject" / f"{name}.png")
        areas += [float((numbers == k + 1).mean()) for k in range(len(objects(scenes, name)))]
    assert min(areas) >= 0.012
    assert max(areas) <= 0.48
    assert np.mean(np.less(areas, 0.05)) > 0.15
    assert np.mean(np.greater(areas, 0.2)) > 0.15


# --- the troubles ---


def test_trains_and_rails_come_together_boats_float_and_cars_keep_to_the_road(scenes):
    for name, found in tags(scenes).items():
        assert material(scenes, name, "rail").any() == ("train" in found), name
        assert "boat" not in found or material(scenes, name, "water").any(), name
        assert "car" not in found or material(scenes, name, "road").any(), name


def test_context_is_zero_exactly_on_objects(scenes):
    for name in names(scenes):
        context = read(scenes / "ContextClass" / f"{name}.png")
        mask = read(scenes / "SegmentationClass" / f"{name}.png")
        assert context.max() <= len(CONTEXT_CLASSES)
        sure = mask != 255
        np.testing.assert_array_equal((context == 0)[sure], (mask > 0)[sure])


def test_cat_and_dog_differ_only_in_the_head():
    """The same draws give the same animal but for its head: most of the body's pixels are equal."""
    from weakseg.data import _scene_animals as animals
    from weakseg.data._scene_paint import Canvas, Sketch
    from weakseg.data._scene_places import MOODS, light_of

    shares = []
    for seed in range(12):
        alphas, pictures = [], []
        for draw in (animals.cat, animals.dog):
            rng = np.random.default_rng(seed)
            sketch = Sketch(Canvas(128, light_of(rng, MOODS[0]), rng), 0.5, 0.95, 0.7, reach=animals.REACH)
            draw(sketch)
            alphas.append(sketch.alpha >= 0.5)
            pictures.append(sketch.rgb)
        both = alphas[0] & alphas[1]
        same = (np.abs(pictures[0] - pictures[1]).max(axis=2) < 1e-6) & both
        shares.append(same.sum() / (alphas[0] | alphas[1]).sum())
    assert np.mean(shares) > 0.6
    assert max(shares) < 0.95


def test_saliency_is_imperfect_but_follows_the_foreground(scenes):
    ious = []
    for name in names(scenes):
        mask = read(scenes / "SegmentationClass" / f"{name}.png")
        sure = mask != 255
        guess, truth = read(scenes / "Saliency" / f"{name}.png") >= 128, mask > 0
        ious.append((guess & truth)[sure].sum() / (guess | truth)[sure].sum())
    assert 0.6 < np.mean(ious) < 0.85
    assert np.std(ious) > 0.05
    assert np.mean([0.5 <= iou <= 0.92 for iou in ious]) > 0.8


# --- lists, layout, arguments ---


def test_lists_are_disjoint_complete_and_of_the_wanted_share(scenes):
    lists = {
        name: (scenes / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()
        for name in ("train", "val", "train_small")
    }
    assert not set(lists["train"]) & set(lists["val"])
    assert sorted(lists["train"] + lists["val"]) == names(scenes)
    assert set(lists["train_small"]) < set(lists["train"])
    assert abs(len(lists["val"]) / COUNT - 0.25) < 0.02
    table = tags(scenes)
    for chosen in lists.values():
        assert set().union(*(table[name] for name in chosen)) == set(CLASSES)


@pytest.mark.parametrize(("count", "share"), [(2, 0.25), (7, 0.5), (40, 0.1), (101, 0.9)])
def test_split_keeps_its_share(count, share):
    lists = split(count, share)
    assert abs(len(lists["val"]) - count * share) <= 1
    assert sorted(lists["train"] + lists["val"]) == list(range(count))


def test_the_data_set_opens(scenes):
    from weakseg.data.check import check
    from weakseg.data.dataset import open_dataset

    data = open_dataset(scenes)
    assert data.layout == "voc"
    assert data.classes == CLASSES
    assert data.has == {"tags", "boxes", "saliency", "masks", "instances"}
    assert data.tags_source == "tags.csv"
    name = data.list("val")[0]
    sample = data.sample(name, truth=True)
    assert {data.classes[k - 1] for k in sample.present.tolist()} == tags(scenes)[name]
    assert [tuple(box) for box in sample.boxes.int().tolist()] == [box for _, box in objects(scenes, name)]
    assert data.context_path(name) == scenes / "ContextClass" / f"{name}.png"
    report = check(scenes)
    assert not report.errors
    assert not report.warnings


def test_scenes_of_another_size_are_exact_too(tmp_path):
    make_scenes(tmp_path / "big", count=4, seed=5, size=200)
    for name in names(tmp_path / "big"):
        assert read(tmp_path / "big" / "JPEGImages" / f"{name}.jpg").shape == (200, 200, 3)
        assert read(tmp_path / "big" / "SegmentationClass" / f"{name}.png").shape == (200, 200)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"count": 1}, "empty list"),
        ({"count": 0}, "empty list"),
        ({"count": 8, "val_share": 0.0}, "empty list"),
        ({"count": 8, "val_share": 1.0}, "empty list"),
        ({"count": 8, "seed": -1}, "seed"),
        ({"count": 8, "size": 16}, "64 to 1024"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, sentence):
    with pytest.raises(WeaksegError, match=sentence):
        make_scenes(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(WeaksegError, match="not an empty folder"):
        make_scenes(tmp_path, count=4)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_scenes_of_another_seed_or_a_smaller_count_are_not_mixed_in(tmp_path):
    make_scenes(tmp_path / "a", count=4, seed=1, size=64)
    before = digests(tmp_path / "a")
    with pytest.raises(WeaksegError, match="choose another folder"):
        make_scenes(tmp_path / "a", count=4, seed=2, size=64)
    with pytest.raises(WeaksegError, match="choose another folder"):
        make_scenes(tmp_path / "a", count=3, seed=1, size=64)
    assert digests(tmp_path / "a") == before
    make_scenes(tmp_path / "a", count=6, seed=1, size=64)
    assert len(names(tmp_path / "a")) == 6
