"""What stands in a run folder: links, steps of other runs, other configurations, strangers' files."""

import errno
import os

import pytest
import torch

from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.data.store import TEMPORARY, read_json, write_json, write_label_map
from weakseg.pipeline import files
from weakseg.pipeline.files import adopt, begun_otherwise, complete, link_file, link_masks, reuse, settle
from weakseg.pipeline.plan import Lists, plan
from weakseg.pipeline.recipe import parse_recipe, resolve
from weakseg.pipeline.rehearsal import rehearse
from weakseg.pipeline.run import Chain, Options, run_step
from weakseg.types import IGNORE, LABELS, WeaksegError

RECIPE = """
labels: crf
steps:
- {name: truth, method: labels.truth}
- {name: crf, method: crf.labels, seeds: truth, set: {iterations: 1}}
- {name: masks, method: evaluate.masks, seeds: crf, list: train}
"""
OPTIONS = Options(device="cpu", workers=0, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "scenes"
    make_scenes(folder, count=6, seed=3, size=64)
    return open_dataset(folder)


def planned(data, out, text=RECIPE, seed=0):
    return plan(resolve(parse_recipe(text, "t")), data, Lists(), out, seed=seed, precision="no")


def run(data, out, text=RECIPE, steps=None):
    """The plan of `out` after its first `steps` steps."""
    made = planned(data, out, text)
    chain = Chain(data, {p.name: p for p in made}, 0, OPTIONS)
    for p in made[:steps]:
        run_step(chain, p)
    return made


# --- links ---


def test_a_link_takes_the_place_of_an_older_file_and_leaves_no_other(tmp_path):
    source, target = tmp_path / "a.png", tmp_path / "below" / "b.png"
    source.write_bytes(b"new")
    target.parent.mkdir()
    target.write_bytes(b"old")
    for _ in range(2):  # the second time they are one file already
        link_file(source, target)
        assert target.samefile(source)
        assert os.listdir(target.parent) == ["b.png"]


def test_a_file_is_copied_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "a").write_bytes(b"bytes")
    link_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"bytes"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_a_full_disk_leaves_the_older_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(files.shutil, "copy2", full)
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(WeaksegError, match="the disk is full"):
        link_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_masks_of_another_list_go_and_other_files_stay(data, tmp_path):
    truth = run(data, tmp_path / "run", steps=1)[0]
    shown = tmp_path / "labels"
    shown.mkdir()
    for name in ("stranger.png", "classes.txt"):
        (shown / name).write_bytes(b"")
    link_masks(truth, shown)
    assert {f.name for f in shown.iterdir()} == {f"{id}.png" for id in data.list("train")} | {"classes.txt"}
    assert (shown / f"{truth.ids[0]}.png").samefile(truth.store.path(truth.ids[0], LABELS))


# --- reuse ---


def test_a_step_of_the_same_fingerprint_is_linked_and_its_note_comes_last(data, tmp_path, monkeypatch):
    first, other = run(data, tmp_path / "a" / "seed-0"), planned(data, tmp_path / "b" / "seed-0")
    linked, link = [], files.link_file
    monkeypatch.setattr(files, "link_file", lambda s, t: (linked.append(t.name), link(s, t)))
    assert reuse(other[1], [tmp_path / "a"])
    assert linked[-1] == "done.json"
    assert other[1].done
    assert complete(other[1])
    id = other[1].ids[0]
    assert other[1].store.path(id, LABELS).samefile(first[1].store.path(id, LABELS))
    assert not other[0].done


def test_another_constant_another_run_and_itself_are_not_reused(data, tmp_path):
    mine = run(data, tmp_path / "a" / "seed-0")
    changed = planned(data, tmp_path / "b" / "seed-0", RECIPE.replace("iterations: 1", "iterations: 2"))
    assert reuse(changed[0], [tmp_path / "a"])
    assert not reuse(changed[1], [tmp_path / "a"])
    assert not reuse(mine[0], [tmp_path / "a"])
    assert not reuse(mine[0], [])


def test_a_half_done_step_is_not_reused(data, tmp_path):
    mine = run(data, tmp_path / "a" / "seed-0", steps=1)
    (mine[0].folder / "done.json").unlink()
    assert not reuse(planned(data, tmp_path / "b")[0], [tmp_path / "a"])


# --- what is complete ---


def test_a_removed_file_makes_a_step_incomplete_and_is_made_again_alone(data, tmp_path):
    made = run(data, tmp_path)
    assert all(complete(p) for p in made)
    gone, kept = (made[1].store.path(id, LABELS) for id in made[1].ids[:2])
    before, inode = gone.read_bytes(), kept.stat().st_ino
    gone.unlink()
    (made[2].folder / "result.json").unlink()
    assert [complete(p) for p in made] == [True, False, False]
    run(data, tmp_path)
    assert all(complete(p) for p in made)
    assert gone.read_bytes() == before
    assert kept.stat().st_ino == inode


# --- another configuration ---


def test_other_constants_are_refused_by_name_with_the_steps_that_follow(data, tmp_path):
    run(data, tmp_path)
    settle(planned(data, tmp_path), tmp_path, overwrite=False)
    changed = planned(data, tmp_path, RECIPE.replace("iterations: 1", "iterations: 2"))
    with pytest.raises(WeaksegError, match=r"2-crf \(set.iterations: 1 -> 2\); and with them 3-masks\. Choose another"):
        settle(changed, tmp_path, overwrite=False)
    assert [begun_otherwise(p) for p in changed] == [False, True, True]


def test_overwriting_moves_aside_and_never_onto_another(data, tmp_path):
    for iterations in (1, 2, 3):
        text = RECIPE.replace("iterations: 1", f"iterations: {iterations}")
        settle(planned(data, tmp_path, text), tmp_path, overwrite=True)
        run(data, tmp_path, text)
    names = {f.name for f in (tmp_path / "steps").iterdir()}
    assert {n for n in names if "crf" in n} == {"2-crf", "2-crf.old-1", "2-crf.old-2"}
    assert {n for n in names if "truth" in n} == {"1-truth"}
    kept = [read_json(tmp_path / "steps" / f"2-crf{end}" / "plan.json")["parts"] for end in (".old-1", ".old-2", "")]
    assert [parts["set.iterations"] for parts in kept] == [1, 2, 3]


def test_a_step_the_recipe_does_not_have_is_named(data, tmp_path):
    run(data, tmp_path)
    shorter = RECIPE[: RECIPE.index("- {name: masks")]
    with pytest.raises(WeaksegError, match=r"3-masks \(the recipe has no such step\)"):
        settle(planned(data, tmp_path, shorter), tmp_path, overwrite=False)


def test_a_step_that_has_made_nothing_is_begun_anew_without_a_word(data, tmp_path):
    changed = planned(data, tmp_path)[1]
    write_json(changed.folder / "plan.json", {"fingerprint": "other", "parts": {}})
    (changed.folder / f"{TEMPORARY}1").write_bytes(b"half")
    settle([changed], tmp_path, overwrite=False)
    assert not (changed.folder / "plan.json").exists()
    write_json(changed.folder / "plan.json", {"fingerprint": "other", "parts": {}})
    (changed.folder / "labels").mkdir()
    (changed.folder / "labels" / "a.png").write_bytes(b"whole")
    with pytest.raises(WeaksegError, match="begun with another configuration"):
        settle([changed], tmp_path, overwrite=False)


# --- a stranger's folder ---


def strangers(data, folder, change=lambda labels: labels):
    for id in data.list("train"):
        write_label_map(folder / f"{id}.png", change(data.truth(id)))
    return planned(data, folder.parent / "out", f"steps: [{{name: masks, folder: {folder}}}]")[0]


def test_a_strangers_masks_become_the_steps_own(data, tmp_path):
    def hollow(labels):
        return torch.where(labels == 0, IGNORE, labels).byte()

    step = strangers(data, tmp_path / "theirs", hollow)
    adopt(step, data)
    assert complete(step)
    for id in step.ids:
        assert torch.equal(step.store.labels(id, LABELS), hollow(data.truth(id)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda labels: labels[:-1], "is 64x63, its photograph 64x64"),
        (lambda labels: labels.clamp(min=77), "holds id 77, but there are 7 classes"),
    ],
)
def test_a_strangers_mask_that_cannot_be_right_is_named(data, tmp_path, change, says):
    step = strangers(data, tmp_path / "theirs", change)
    with pytest.raises(WeaksegError, match=f"{step.ids[0]}.png {says}"):
        adopt(step, data)
    assert not step.store.done()


def test_a_strangers_file_that_is_missing_is_found_in_the_rehearsal(data, tmp_path):
    step = strangers(data, tmp_path / "theirs")
    rehearse([step], data, OPTIONS)
    for id in step.ids[:2]:
        (tmp_path / "theirs" / f"{id}.png").unlink()
    with pytest.raises(WeaksegError, match=rf"step masks: .*{step.ids[0]}.png is missing, and 1 more"):
        rehearse([step], data, OPTIONS)
