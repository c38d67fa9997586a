"""Numbers of made-up runs: what a record holds and hides, how rows are made of seeds, and the table."""

import json
import re
import statistics

import pytest

from weakseg import api
from weakseg.pipeline.results import clean_command, read_results, seed_result, without_paths, write_results
from weakseg.report.table import COLUMNS, DASH, markdown, percent, printed, printed_numbers, rows
from weakseg.types import WeaksegError

SECRET = "/home/somebody/machine-7"


def spec(name, method=None, *, scores=None, seeds=None, lists=(), model=None, folder=None, title=None):
    return {
        "name": name,
        "method": method,
        "folder": folder,
        "fit": "train",
        "list": list(lists),
        "model": model,
        "scores": scores or {},
        "seeds": seeds or {},
        "set": {},
        "backbone": {},
        "fitted": None,
        "title": title,
    }


STEPS = [
    spec("cam", "cam.resnet50", lists=["train", "val"]),
    spec("threshold", "labels.threshold", scores={"scores": "cam/full"}),
    spec("crf", "crf.labels", seeds={"seeds": "threshold"}, scores={"scores": "cam/strided"}),
    spec("segment", "deeplab.v3plus", seeds={"seeds": "crf"}, lists=["val"]),
    spec("truth", "labels.truth"),
    spec("reference", "deeplab.v3plus", seeds={"seeds": "truth"}, lists=["val"]),
    spec("maps", "evaluate.scores", scores={"scores": "cam/full"}, lists=["train"], title="Score maps"),
    spec("refined-maps", "evaluate.scores", scores={"scores": "crf/scores"}, lists=["train"]),
    spec("val-maps", "evaluate.scores", scores={"scores": "cam/full"}, lists=["val"]),
    spec("raw", "evaluate.masks", seeds={"seeds": "threshold"}, lists=["train"]),
    spec("masks", "evaluate.masks", seeds={"seeds": "crf"}, lists=["train"]),
    spec("network", "evaluate.masks", seeds={"seeds": "segment"}, lists=["val"]),
    spec("reference-network", "evaluate.masks", seeds={"seeds": "reference"}, lists=["val"]),
]
NEEDS = {"cam": ["tags"], "truth": ["mask"], "threshold": [], "crf": [], "segment": [], "reference": []}
SECONDS = {"cam": 3600.0, "threshold": 36.0, "crf": 360.0, "segment": 1800.0, "reference": 9999.0}
MIOU = {"raw": 0.45, "masks": 0.5, "network": 0.55, "reference-network": 0.7}


def make_run(place, seeds=(0,), *, recipe="cam-crf-mobile", shift=0.0, changes=None, without=(), commit="c" * 40):
    """A run folder of that recipe: each seed a point better than the one before."""
    for seed in seeds:
        folder = place / f"seed-{seed}"
        steps = []
        for number, s in enumerate((s for s in STEPS if s["name"] not in without), start=1):
            name, own = s["name"], f"steps/{number}-{s['name']}"
            steps.append(
                {
                    "name": name,
                    "method": s["method"],
                    "needs": NEEDS.get(name, ["mask"]),
                    "constants": {"crop": 208, "weights_file": f"{SECRET}/x.pth", **(changes or {}).get(name, {})},
                    "folder": own,
                    "fingerprint": "f",
                    "photographs": {"fit": 100 if name in ("cam", "segment") else 0, "outputs": 120},
                    "truth": 100 if "mask" in NEEDS.get(name, ["mask"]) else 0,
                    "backbone": {"name": "resnet50", "weights": f"{SECRET}/w.pth"}
                    if name in ("cam", "segment", "reference")
                    else None,
                    "weights_sha256": "ab" * 32 if name in ("cam", "segment", "reference") else None,
                    "seconds": SECONDS.get(name, 500.0),
                    "times": {},
                }
            )
            result = evaluation(s, shift + 0.01 * seed)
            if result:
                (folder / own).mkdir(parents=True, exist_ok=True)
                (folder / own / "result.json").write_text(json.dumps(result))
        manifest = {
            "recipe": {
                "name": recipe,
                "summary": "",
                "backbone": {},
                "labels": "crf",
                "predictions": "segment",
                "steps": [s for s in STEPS if s["name"] not in without],
            },
            "seed": seed,
            "classes": ["cat"],
            "data": {"name": "animals", "layout": "voc", "lists": {"train": "train_small", "val": "val"}},
            "steps": steps,
            "device": "cpu",
            "versions": {"torch": "2.6.0"},
            "git_commit": commit,
            "command": f"{SECRET}/bin/weakseg run {recipe} --data {SECRET}/animals --out runs/x --weights={SECRET}/w.pth",
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return place


def evaluation(s, shift):
    conventions = {"true 255": "not counted"}
    base = {"of": next(iter({**s["scores"], **s["seeds"]}.values()), ""), "headline": [["", 0.5, "mIoU"]]}
    if s["method"] == "evaluate.scores":
        level = 0.4 if s["name"] == "maps" else 0.9
        result = {
            "fixed": {"threshold": 0.4, "miou": level + shift, "iou": []},
            "best": {"threshold": 0.3, "miou": level + 0.1 + shift, "iou": []},
            "conventions": conventions,
        }
        return {**base, "kind": "sweep", "result": result}
    if s["method"] == "evaluate.masks":
        return {**base, "kind": "masks", "result": {"miou": MIOU[s["name"]] + shift, "conventions": conventions}}
    return None


def test_a_record_holds_the_three_numbers_of_the_method_itself(tmp_path):
    record = seed_result(make_run(tmp_path) / "seed-0")
    # of the training list and of the network itself; val's and the refined maps have 0.9
    assert record["maps"]["fixed"] == {"threshold": 0.4, "miou": 0.4}
    assert record["maps"]["best"]["miou"] == 0.5
    assert record["labels"]["miou"] == 0.5  # after the CRF, which the recipe calls its labels
    assert record["val"]["miou"] == 0.55  # not the supervised reference beside it
    assert record["hours"] == pytest.approx((3600 + 36 + 360 + 1800) / 3600, abs=1e-4)
    assert record["supervision"] == ["tags"]
    assert record["truth_photographs"] == 0
    assert record["backbones"] == [{"name": "resnet50", "weights_sha256": "ab" * 32}]
    assert (record["data"], record["list"], record["val_list"]) == ("animals", "train_small", "val")
    assert record["conventions"] == {"true 255": "not counted"}
    assert record["evaluations"][0]["step"] == "maps"


def test_no_machine_path_stays(tmp_path):
    (path,) = write_results(make_run(tmp_path / "run"), tmp_path / "results")
    text = path.read_text()
    assert path.name == "animals.cam-crf-mobile.train_small.seed-0.json"
    assert "somebody" not in text
    assert str(tmp_path) not in text
    assert json.loads(text)["command"] == ("weakseg run cam-crf-mobile --data animals --out runs/x --weights=w.pth")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cam/full", "cam/full"),
        ("runs/eps", "runs/eps"),
        ("../../sets/voc/", "voc"),
        ("~/sets/voc", "voc"),
        (r"C:\Users\x\voc", "voc"),
        ("a.folder=/mnt/disk/maps", "a.folder=maps"),
        ("/mnt/mine.py:method", "mine.py:method"),
        ("{a: /mnt/disk/x, b: [/y/z]}", "{a: x, b: [z]}"),
        ("https://arxiv.org/abs/1512.04150", "https://arxiv.org/abs/1512.04150"),
        (["/a/b", 3, None], ["b", 3, None]),
    ],
)
def test_paths_lose_their_folders_and_nothing_else_does(given, kept):
    assert without_paths(given) == kept


def test_a_command_that_no_shell_can_split_is_cleaned_too():
    assert clean_command("weakseg run 'x --data /mnt/disk/voc") == "weakseg run 'x --data voc"


def test_seeds_make_one_row_with_mean_and_sample_deviation(tmp_path):
    (row,) = api.compare([make_run(tmp_path, seeds=(0, 1, 2))])
    values = [0.55, 0.56, 0.57]
    assert row["seeds"] == [0, 1, 2]
    assert row["val"]["values"] == pytest.approx(values)
    assert row["val"]["mean"] == pytest.approx(0.56)
    assert row["val"]["std"] == pytest.approx(statistics.stdev(values))
    assert row["maps_best"]["mean"] == pytest.approx(0.51)
    assert row["settings"] == []


def test_two_seeds_carry_no_spread(tmp_path):
    (row,) = api.compare([make_run(tmp_path, seeds=(0, 1))])
    assert row["val"]["std"] is None
    assert "| 2 (no spread) |" in markdown([row])
    assert "±" not in markdown([row]).split("## animals")[1]


def test_other_settings_are_a_row_of_their_own_that_says_which(tmp_path):
    plain = make_run(tmp_path / "a", seeds=(0, 1, 2))
    other = make_run(tmp_path / "b", changes={"cam": {"crop": 96}})
    found = api.compare([plain, other])
    assert [r["settings"] for r in found] == [["cam.crop=208"], ["cam.crop=96"]]
    assert [r["seeds"] for r in found] == [[0, 1, 2], [0]]


def test_settings_of_evaluations_and_the_reference_do_not_part_seeds(tmp_path):
    first = make_run(tmp_path / "a", seeds=(0,))
    second = make_run(tmp_path / "b", seeds=(1,), changes={"maps": {"fixed": 0.9}, "reference": {"crop": 1}})
    assert len(api.compare([first, second])) == 1


def test_a_number_that_one_seed_lacks_is_no_mean_of_the_others(tmp_path):
    first = make_run(tmp_path / "a", seeds=(0,))
    second = make_run(tmp_path / "b", seeds=(1,), without=("network",))
    (row,) = api.compare([first, second])
    assert row["val"] is None
    assert row["labels"]["mean"] == pytest.approx(0.505)


def test_results_write_the_table_from_everything_that_lies_there(tmp_path):
    say = [].append
    api.results(make_run(tmp_path / "a", seeds=(0, 1, 2)), tmp_path / "results", say=say)
    written = api.results([make_run(tmp_path / "b", recipe="eps-mobile")], tmp_path / "results", say=say)
    assert written[-1].name == "table.md"
    text = written[-1].read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == ["cam-crf-mobile", "eps-mobile"]
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert len(cells) == len(COLUMNS)
    assert cells[4:9] == ["3", "41.0 ± 1.0", "51.0 ± 1.0", "51.0 ± 1.0", "56.0 ± 1.0"]
    assert cells[9] == f"48.3 / 54.3 / {DASH} [^cam-crf]"
    assert "69.4 / 69.4 / 71.0 [^eps]" in lines[1]
    for key in re.findall(r"\[\^([\w-]+)\]", lines[0] + lines[1]):
        assert re.search(rf"^\[\^{key}\]: .*VOC 2012.*ResNet", text, re.MULTILINE)
    assert cells[-1] == "ccccccccc"


def test_a_run_with_other_settings_does_not_replace_a_result_in_silence(tmp_path):
    write_results(make_run(tmp_path / "a"), tmp_path / "results")
    other = make_run(tmp_path / "b", changes={"cam": {"crop": 96}})
    with pytest.raises(WeaksegError, match=r"cam\.crop=96.*--name"):
        write_results(other, tmp_path / "results")
    write_results(other, tmp_path / "results", name="cam-crf-96")
    assert len(read_results(tmp_path / "results")) == 2
    write_results(other, tmp_path / "results", overwrite=True)
    assert {r["constants"]["cam"]["crop"] for r in read_results(tmp_path / "results")} == {96}


def test_the_same_run_again_replaces_its_own_result(tmp_path):
    write_results(make_run(tmp_path / "a", commit="a" * 40), tmp_path / "results")
    write_results(make_run(tmp_path / "a", commit="b" * 40), tmp_path / "results")
    (record,) = read_results(tmp_path / "results")
    assert record["commit"] == "b" * 40


def test_supervision_of_masks_and_of_a_strangers_folder(tmp_path):
    folder = make_run(tmp_path) / "seed-0" / "manifest.json"
    manifest = json.loads(folder.read_text())
    manifest["recipe"]["predictions"] = "reference"
    folder.write_text(json.dumps(manifest))
    assert seed_result(folder.parent)["supervision"] == ["tags", "masks"]  # tags: its labels are still the CRF's
    manifest["recipe"]["labels"] = "truth"
    manifest["recipe"]["steps"][4] |= {"folder": "/x/y", "method": None}
    folder.write_text(json.dumps(manifest))
    assert seed_result(folder.parent)["supervision"] == ["masks", "given"]


def test_what_is_no_run_and_no_result_is_said(tmp_path):
    with pytest.raises(WeaksegError, match="no run folder"):
        write_results(tmp_path, tmp_path)
    with pytest.raises(WeaksegError, match="holds no results"):
        read_results(tmp_path)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(WeaksegError, match="no result of this version"):
        read_results(tmp_path)
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "manifest.json").write_text('{"recipe": {}}')
    with pytest.raises(WeaksegError, match="damaged"):
        seed_result(tmp_path / "seed-0")


def test_printed_numbers_name_their_source():
    assert printed("eps-mobile") == printed("eps")
    assert printed("eps-of-mine") is None
    for source in printed_numbers().values():
        assert source["paper"]
        assert source["data"]
        assert source["network"]
        assert all(20 < source[k] < 100 for k in ("maps", "labels", "val") if k in source)


def test_cells():
    assert percent({"mean": 0.5331, "std": 0.0042}) == "53.3 ± 0.4"
    assert percent(None) == DASH
    assert rows([]) == []
