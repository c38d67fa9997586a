"""The store: what is written comes back, equal contents give equal bytes, and nothing half-written is ever seen."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from weakseg.data import _scoremaps, store
from weakseg.data.store import Store
from weakseg.types import Instances, ScoreMap, WeaksegError


def score_map(scores, ids=None, size=None, box=None):
    scores = torch.as_tensor(scores, dtype=torch.float32)
    ids = list(range(1, len(scores) + 1)) if ids is None else ids
    box = None if box is None else torch.tensor(box, dtype=torch.int32)
    return ScoreMap(torch.tensor(ids, dtype=torch.uint8), scores, size or tuple(scores.shape[1:]), box)


def activation(size, k=2, seed=0, cells=(24, 32)):
    """Maps as a classifier makes them: coarse, positive in places, enlarged, divided by their maximum."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, k, *size)
    for scale in (0.5, 1, 1.5):
        h, w = (max(2, round(n * scale)) for n in cells)
        coarse = torch.nn.functional.avg_pool2d(torch.randn(1, k, h + 4, w + 4, generator=generator), 5, 1)
        total += torch.nn.functional.interpolate(coarse.relu(), size, mode="bilinear", align_corners=False)
    return total[0] / (total[0].amax((1, 2), keepdim=True) + 1e-5)


def instances(k=2):
    masks = torch.zeros(k, 6, 9, dtype=torch.bool)
    boxes = torch.zeros(k, 4)
    for n in range(k):
        masks[n, n : n + 3, 2 : 5 + n] = True
        boxes[n] = torch.tensor([2, n + 0.1, 5 + n, n + 3.7])
    return Instances(masks, torch.arange(1, k + 1), torch.linspace(0.1, 0.9, k), boxes)


# --- atomic files ---


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    store.write_text(path, "old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for broken in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, refuse)
            with pytest.raises(WeaksegError, match=r"a\.txt cannot be written: the disk is full"):
                store.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path):
    def write_half():
        with store.replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_no_output(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from weakseg.data.store import replacing\n"
        "with replacing(Path(sys.argv[1]) / 'scores' / 'a.npz') as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert result.returncode == -9
    assert len(list((tmp_path / "scores").iterdir())) == 1
    assert Store(tmp_path, ["full"]).done() == set()
    assert store.remove_leftovers(tmp_path) == 1
    assert list((tmp_path / "scores").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeaksegError, match="cannot be written"):
        store.write_json(tmp_path / "file" / "a.json", {})


def test_written_files_have_the_usual_rights(tmp_path):
    store.write_text(tmp_path / "ours", "")
    (tmp_path / "theirs").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "/etc/passwd", "a\0"])
def test_names_that_would_leave_the_folder_are_refused(name, tmp_path):
    with pytest.raises(WeaksegError, match="cannot name a file"):
        store.safe_name(name)
    with pytest.raises(WeaksegError, match="cannot name a file"):
        Store(tmp_path, ["labels"]).write(name, {"labels": torch.zeros(2, 2, dtype=torch.uint8)})
    assert list(tmp_path.rglob("*.png")) == []


def test_ordinary_names_pass():
    for name in ("2007_000032", "a..b", "photo 1", "Käfer", "a.b"):
        assert store.safe_name(name) == name


# --- JSON ---


def test_json_of_what_the_house_keeps(tmp_path):
    path = tmp_path / "a.json"
    store.write_json(
        path,
        {
            "n": np.float32(0.5),
            "t": torch.tensor([1, 2]),
            "s": {"b", "a"},
            "p": tmp_path / "x",
            3: float("nan"),
            "é": (),
        },
    )
    assert store.read_json(path) == {
        "n": 0.5,
        "t": [1, 2],
        "s": ["a", "b"],
        "p": (tmp_path / "x").as_posix(),
        "3": None,
        "é": [],
    }
    assert "NaN" not in path.read_text()


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_json_is_told(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(WeaksegError, match=r"a\.json is no readable JSON file"):
        store.read_json(tmp_path / "a.json")
    with pytest.raises(WeaksegError, match=r"b\.json cannot be read"):
        store.read_json(tmp_path / "b.json")


# --- label maps ---


def test_the_palette_is_vocs():
    # from the VOC development kit's table: background, aeroplane, bicycle ... tv/monitor, void
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {k: store.colour(k) for k in known} == known
    assert len({store.colour(k) for k in range(256)}) == 256


@pytest.mark.parametrize("palette", [True, False])
def test_label_maps_come_back_and_open_elsewhere(tmp_path, palette):
    labels = torch.arange(256, dtype=torch.uint8).repeat(3, 1)
    store.write_label_map(tmp_path / "a.png", labels, palette)
    assert torch.equal(store.read_label_map(tmp_path / "a.png", (3, 256)), labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("P" if palette else "L")
        if palette:
            assert image.convert("RGB").getpixel((15, 0)) == store.colour(15)


def test_label_maps_that_are_none_are_told(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "rgb.png")
    Image.new("L", (4, 3)).save(tmp_path / "l.png")
    Image.new("L", (4, 3)).save(tmp_path / "jpeg.png", "JPEG")
    (tmp_path / "cut.png").write_bytes((tmp_path / "l.png").read_bytes()[:45])
    for name, message in {
        "rgb.png": "mode RGB",
        "cut.png": "no readable PNG",
        "jpeg.png": "no readable PNG",
        "none.png": "cannot be read",
    }.items():
        with pytest.raises(WeaksegError, match=message):
            store.read_label_map(tmp_path / name)
    with pytest.raises(WeaksegError, match="4x3, its photograph 5x3"):
        store.read_label_map(tmp_path / "l.png", (3, 5))


def test_a_cut_label_map_is_told_or_whole(tmp_path):
    labels = torch.randint(0, 256, (20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "a.png"
    store.write_label_map(path, labels)
    whole, told = path.read_bytes(), 0
    for end in range(0, len(whole), 5):
        path.write_bytes(whole[:end])
        try:
            assert torch.equal(store.read_label_map(path), labels)
        except WeaksegError:
            told = end
    assert told > len(whole) - 40  # only the checksum and the end mark may be missing


# --- score maps ---


@settings(deadline=None, max_examples=80)
@given(
    k=st.integers(0, 4),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    low=st.floats(-1e6, 1e6, width=32),
    span=st.floats(0, 1e6, width=32),
    seed=st.integers(0, 999),
)
def test_scores_come_back_within_a_2000th_of_their_range(k, h, w, low, span, seed):
    scores = low + span * torch.rand(k, h, w, generator=torch.Generator().manual_seed(seed))
    scores.view(-1)[::3] = 0
    levels, limits = _scoremaps.quantise(scores.numpy())
    got = torch.from_numpy(_scoremaps.restore(_scoremaps.accumulate(_scoremaps.difference(levels)), limits))
    for want, back in zip(scores, got, strict=True):
        rounding = float(want.abs().max()) * 2e-7  # float32's own
        assert (back - want).abs().max() <= 5e-4 * (want.max() - want.min()) + rounding
        assert back.min() >= want.min()
        assert back.max() <= want.max()
        assert (back[want == 0] == 0).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), high=st.sampled_from([2, 1025, 65536]))
def test_differences_are_undone_exactly(seed, high):
    levels = np.random.default_rng(seed).integers(0, high, (2, 5, 7)).astype(np.uint16)
    assert np.array_equal(_scoremaps.accumulate(_scoremaps.difference(levels)), levels)


def test_score_maps_come_back_with_ids_size_and_boxes(tmp_path):
    maps = {
        "full": score_map(activation((75, 100)), [0, 7]),
        "strided": score_map(activation((19, 25), 3), [2, 2, 254], (75, 100), [0, 1, 5]),
        "empty": score_map(torch.zeros(0, 19, 25), [], (75, 100)),
        "flat": score_map(torch.full((1, 2, 2), 0.3)),
        "logits": score_map(torch.tensor([[[-3.0, 0.0], [2.0, 9.0]]])),
    }
    path = tmp_path / "a.npz"
    store.write_score_maps(path, maps)
    got = store.read_score_maps(path)
    assert list(got) == list(maps)
    for key, want in maps.items():
        assert got[key].ids.tolist() == want.ids.tolist()
        assert got[key].size == want.size
        assert (got[key].box is None) == (want.box is None)
        reach = 5e-4 if key != "logits" else 5e-4 * 12
        torch.testing.assert_close(got[key].scores, want.scores, rtol=0, atol=reach)
    assert got["strided"].box.tolist() == [0, 1, 5]
    assert torch.equal(got["flat"].scores, maps["flat"].scores)
    assert list(store.read_score_maps(path, ["strided"])) == ["strided"]


def test_score_maps_are_small_and_read_by_numpy_without_objects(tmp_path):
    maps = {"full": score_map(activation((375, 500))), "strided": score_map(activation((94, 125)), None, (375, 500))}
    store.write_score_maps(tmp_path / "a.npz", maps)
    plain = sum(m.scores.numel() * 4 for m in maps.values())
    assert (tmp_path / "a.npz").stat().st_size * 8 < plain
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["full.ids"].tolist() == [1, 2]
        assert file["strided.size"].tolist() == [375, 500]


def test_equal_score_maps_give_equal_bytes(tmp_path, monkeypatch):
    maps = {"full": score_map(activation((30, 40)))}
    store.write_score_maps(tmp_path / "a.npz", maps)
    monkeypatch.setattr("time.time", lambda: 2e9)
    store.write_score_maps(tmp_path / "b.npz", maps)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = store.read_score_maps(tmp_path / "a.npz")
    store.write_score_maps(tmp_path / "c.npz", again)
    assert torch.equal(store.read_score_maps(tmp_path / "c.npz")["full"].scores, again["full"].scores)


def test_scores_that_are_not_finite_are_not_written(tmp_path):
    for value in (float("nan"), float("inf")):
        with pytest.raises(WeaksegError, match=r"full of classes \[1\].*not finite"):
            store.write_score_maps(tmp_path / "a.npz", {"full": score_map([[[value, 1.0]]])})
    assert not (tmp_path / "a.npz").exists()


def test_damaged_score_maps_are_told(tmp_path):
    path = tmp_path / "a.npz"
    store.write_score_maps(path, {"full": score_map(activation((30, 40)))})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        with pytest.raises(WeaksegError, match=r"a\.npz is no readable file of score maps"):
            store.read_score_maps(path)
    rng = np.random.default_rng(0)
    for _ in range(200):  # one wrong byte: either noticed, or in a part that carries nothing
        place = int(rng.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            got = store.read_score_maps(path)
        except WeaksegError:
            continue
        if "full" in got:
            path.write_bytes(whole)
            assert torch.equal(got["full"].scores, store.read_score_maps(path)["full"].scores)
    path.write_bytes(whole)
    with pytest.raises(WeaksegError, match="holds the score maps full, not strided"):
        store.read_score_maps(path, ["strided"])


def test_pickled_score_maps_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"full.ids": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(WeaksegError, match="no readable file"):
        store.read_score_maps(path)


# --- instances and tensors ---


@pytest.mark.parametrize("k", [0, 1, 3])
def test_instances_come_back(tmp_path, k):
    want = instances(k)
    store.write_instances(tmp_path / "a.json", want, "a")
    got = store.read_instances(tmp_path / "a.json")
    for name in ("masks", "labels", "scores", "boxes"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
        assert getattr(got, name).dtype == getattr(want, name).dtype


def test_instances_are_cocos_results(tmp_path):
    from pycocotools import mask as coco

    store.write_instances(tmp_path / "a.json", instances(2), "a")
    entry = json.loads((tmp_path / "a.json").read_text())["instances"][1]
    assert set(entry) == {"image_id", "category_id", "score", "bbox", "segmentation"}
    assert coco.area(entry["segmentation"]) == instances(2).masks[1].sum()
    assert entry["bbox"][2] == pytest.approx(4.0)


@pytest.mark.parametrize("content", ["[]", "{}", '{"size": [2, 2], "instances": [{}]}', '{"size": 3, "instances": []}'])
def test_damaged_instances_are_told(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(WeaksegError, match="no readable file of instances"):
        store.read_instances(tmp_path / "a.json")


def test_tensors_come_back_tied_or_strided(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    tensors = {"b": weight, "tied": weight, "turned": weight.t(), "n": torch.tensor(3), "half": weight.bfloat16()}
    store.write_tensors(tmp_path / "a.safetensors", tensors, {"who": "é", "a": "1"})
    got = store.read_tensors(tmp_path / "a.safetensors")
    assert set(got) == set(tensors)
    assert all(torch.equal(got[name], tensors[name]) for name in tensors)
    assert store.read_metadata(tmp_path / "a.safetensors") == {"who": "é", "a": "1"}


def test_equal_tensors_give_equal_bytes(tmp_path):
    path, digests = tmp_path / "a.safetensors", set()
    for _ in range(8):  # the library orders metadata by a hash with a new seed each time
        store.write_tensors(path, {k: torch.ones(3) for k in "edcba"}, {f"k{i}": "v" for i in range(9)})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_damaged_tensors_are_told(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write_tensors(path, {"a": torch.ones(50)})
    whole = path.read_bytes()
    for end in (0, 5, 30, len(whole) - 1):
        path.write_bytes(whole[:end])
        for read in (store.read_tensors, store.read_metadata):
            with pytest.raises(WeaksegError, match=r"a\.safetensors is no readable safetensors"):
                read(path)
    with pytest.raises(WeaksegError, match="cannot be read"):
        store.read_tensors(tmp_path / "b.safetensors")


# --- the outputs of a step ---


def outputs(seed=0):
    return {
        "full": score_map(activation((12, 16), seed=seed)),
        "strided": score_map(activation((3, 4), seed=seed), None, (12, 16)),
        "labels": torch.full((12, 16), seed, dtype=torch.uint8),
        "masks": instances(2),
    }


def test_a_step_is_read_by_another_store(tmp_path):
    written = Store(tmp_path, list(outputs()))
    assert written.done() == set()
    assert not written.has("a")
    written.write("a", outputs(1))
    written.write("b.c", outputs(2))
    for opened in (written, Store(tmp_path, list(outputs()))):
        assert opened.done() == {"a", "b.c"}
        assert opened.has("b.c")
        assert not opened.has("d")
        assert [opened.kind(k) for k in outputs()] == ["scores", "scores", "labels", "instances"]
        assert opened.read("b.c", "strided").scores.shape == (2, 3, 4)
        assert torch.equal(opened.labels("b.c", "labels"), outputs(2)["labels"])
        assert torch.equal(opened.read("a", "masks").masks, instances(2).masks)
    assert opened.path("a", "full") == opened.path("a", "strided") == tmp_path / "scores" / "a.npz"
    assert opened.path("a", "labels") == tmp_path / "labels" / "a.png"


def test_an_id_is_done_when_every_key_is_there(tmp_path, monkeypatch):
    made = Store(tmp_path, list(outputs()))
    with monkeypatch.context() as patch:  # the very first id, stopped before each of its three files
        for name in ("write_label_map", "write_instances", "write_score_maps"):
            patch.setattr(store, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                made.write("a", outputs())
            assert made.done() == Store(tmp_path, list(outputs())).done() == set()
            patch.undo()
    made.write("a", outputs())
    made.write("b", outputs())
    made.path("b", "masks").unlink()
    assert made.done() == {"a"}
    assert not made.has("b")
    assert made.holds("b", "labels")


def test_two_label_maps_are_not_done_by_one(tmp_path):
    blank = torch.zeros(2, 2, dtype=torch.uint8)
    store.write_label_map(tmp_path / "crf" / "a.png", blank)
    made = Store(tmp_path, ["crf", "ret"])
    assert made.done() == set()
    made.write("a", {"crf": blank, "ret": blank})
    assert made.done() == {"a"}


def test_what_a_step_lacks_is_told(tmp_path):
    made = Store(tmp_path, ["labels"])
    with pytest.raises(WeaksegError, match="no output 'labels'; run its step first"):
        made.read("a", "labels")
    made.write("a", {"labels": torch.zeros(2, 2, dtype=torch.uint8)})
    with pytest.raises(WeaksegError, match="has no labels of b; run the step again"):
        made.read("b", "labels")
    with pytest.raises(ValueError, match="the store wants"):
        made.write("b", {"label": torch.zeros(2, 2, dtype=torch.uint8)})
    scores = Store(tmp_path / "s", ["full"])
    scores.write("a", {"full": score_map(activation((4, 4)))})
    with pytest.raises(WeaksegError, match="holds scores under 'full'; label maps were wanted"):
        scores.labels("a", "full")


def test_a_damaged_archive_hides_no_other(tmp_path):
    made = Store(tmp_path, ["full"])
    made.write("b", {"full": score_map(activation((4, 4)))})
    (tmp_path / "scores" / "a.npz").write_bytes(b"PK")
    fresh = Store(tmp_path, ["full"])
    assert fresh.kind("full") == "scores"
    with pytest.raises(WeaksegError, match=r"a\.npz is no readable"):
        fresh.read("a", "full")
    with zipfile.ZipFile(tmp_path / "scores" / "b.npz") as archive:
        assert archive.testzip() is None
