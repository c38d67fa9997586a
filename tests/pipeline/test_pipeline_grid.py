"""Sweeps: which runs a grid makes, what they reuse, and the table over classes."""

import json

import pytest

from weakseg import api
from weakseg.data.scenes import make_scenes
from weakseg.pipeline.grid import class_table, combinations, read_grid, run_grid, studies, study, summed_up
from weakseg.pipeline.recipe import read_recipe
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 32, 64, 128]}}
labels: threshold
steps:
- name: eps
  method: eps.voc
  set: {crop: 64, long_side: [64, 72], jitter: false, iterations: null, epochs: 1, batch_size: 4, lr: 0.02,
        new_factor: 1, momentum: 0.9, freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: threshold, method: labels.threshold, scores: eps/full, set: {background: 0.2}}
- {name: masks, method: evaluate.masks, seeds: threshold, list: train}
"""


def test_the_grid_is_a_product_with_names_for_folders():
    found = combinations({"eps.lam": [0.5, 1], "eps.strategy": ["naive", "adaptive"]})
    assert len(found) == 4
    assert found["eps.lam=1,eps.strategy=naive"] == {"eps.lam": 1, "eps.strategy": "naive"}
    assert list(combinations({"eps.scales": [[0.5, 1.0]]})) == ["eps.scales=_0.5,_1.0_"]
    for bad in ({}, {"eps.tau": []}, {"eps.tau": 0.4}, {"eps.strategy": "naive"}):
        with pytest.raises(WeaksegError, match="list of values"):
            combinations(bad)
    with pytest.raises(WeaksegError, match="twice"):
        combinations({"eps.tau": [0.4, 0.4]})


def test_each_run_may_reuse_those_before_it(tmp_path):
    calls = []

    def run(**arguments):
        calls.append(arguments)
        return {"summary": len(calls)}

    found = run_grid({"a.b": [1, 2, 3]}, tmp_path, run)
    assert found == {"a.b=1": {"summary": 1}, "a.b=2": {"summary": 2}, "a.b=3": {"summary": 3}}
    assert [c["out"] for c in calls] == [tmp_path / f"a.b={n}" for n in (1, 2, 3)]
    assert calls[2] == {"out": tmp_path / "a.b=3", "set": {"a.b": 3}, "reuse": [tmp_path / "a.b=1", tmp_path / "a.b=2"]}


def test_the_table_is_the_mean_over_seeds(tmp_path):
    for seed, iou in ((0, [0.9, 0.5, None]), (1, [0.7, 0.3, None])):
        path = tmp_path / "run" / f"seed-{seed}" / "steps" / "3-masks" / "result.json"
        path.parent.mkdir(parents=True)
        miou = sum(iou[:2]) / 2
        path.write_text(
            json.dumps({"kind": "masks", "result": {"classes": ["background", "cat", "dog"], "miou": miou, "iou": iou}})
        )
    table = class_table({"naive": tmp_path / "run"}, "masks")
    assert table["classes"] == ["background", "cat", "dog"]
    assert table["iou"]["naive"] == [pytest.approx(0.8), pytest.approx(0.4), None]
    assert table["miou"]["naive"] == pytest.approx(0.6)
    with pytest.raises(WeaksegError, match="no ended evaluation 'maps'"):
        class_table({"naive": tmp_path / "run"}, "maps")


def test_a_grid_is_read_from_lines():
    assert read_grid(["eps.tau=0.2, 0.4", "amn.layers=[3],[3,4]", "eps.strategy=naive"]) == {
        "eps.tau": [0.2, 0.4],
        "amn.layers": [[3], [3, 4]],
        "eps.strategy": ["naive"],
    }
    for bad, why in (("tau=0.2", "STEP.KEY"), ("eps.tau", "STEP.KEY"), ("eps.tau=[", "not YAML")):
        with pytest.raises(WeaksegError, match=why):
            read_grid([bad])
    with pytest.raises(WeaksegError, match="twice"):
        read_grid(["eps.tau=0.2", "eps.tau=0.4"])


def test_the_papers_tables_are_studies_of_their_recipes():
    """EPS, Tables 3, A.1 and A.2; AMN, Tables 2 and A.1; BANA, Table 3 and its supplement's 1 and 5."""
    eps, amn = read_recipe("eps-voc"), studies(read_recipe("amn-irn-voc"))
    assert [s["eps.lam"] for s in study(eps, "lambda").values()] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [s["eps.tau"] for s in study(eps, "tau").values()] == [0.2, 0.3, 0.4, 0.5]
    assert [s["eps.strategy"] for s in study(eps, "strategies").values()] == [
        "baseline",
        "naive",
        "predefined",
        "adaptive",
    ]
    assert list(amn["label"].values()) == [
        {"amn.lc": False},
        {"amn.condition": "ones"},
        {"amn.condition": "noise"},
        {"amn.condition": "label"},
    ]
    assert [s["amn.layers"] for s in amn["layers"].values()] == [[1], [2], [3], [4], [3, 4], [2, 3, 4], [2, 3]]
    bana = studies(read_recipe("bana-voc"))  # each table is that of the step which has its constants
    assert set(bana) == {"grid", "unreliable", "classifier"}
    assert len(bana["grid"]) == 15
    assert {"bap.grid": 4, "bap.generating_grid": 1} in bana["grid"].values()
    assert [s["segment.unreliable"] for s in bana["unreliable"].values()] == ["nal", "ignore", "entropy", "bootstrap"]
    assert [s["segment.classifier"] for s in bana["classifier"].values()] == ["cosine", "dot"]
    with pytest.raises(WeaksegError, match=r"no study 'lamda'.*lambda"):
        study(eps, "lamda")


def test_numbers_side_by_side(tmp_path):
    """Means and spreads under their settings, and the classes of each evaluation that has an IoU."""
    ran = {}
    for name, miou in (("eps.tau=0.2", 0.4), ("eps.tau=0.4", 0.5)):
        for place, kind in (("10-masks", "masks"), ("2-tags", "tags"), ("3-maps", "sweep")):
            path = tmp_path / name / "seed-0" / "steps" / place / "result.json"
            path.parent.mkdir(parents=True)
            numbers = {"miou": miou, "iou": [miou + 0.1, miou - 0.1, None]}
            result = {"classes": ["background", "cat", "dog"], **numbers, "fixed": numbers}
            path.write_text(json.dumps({"kind": kind, "result": result}))
        row = {"name": "Pseudo-masks", "split": "train", "unit": "mIoU", "mean": miou, "std": None}
        ran[name] = {"summary": [row, {**row, "name": "Tags", "unit": "mAP", "std": 0.02}]}
    settings = {name: {"eps.tau": float(name[-3:])} for name in ran}
    found = summed_up(settings, ran, tmp_path)
    assert found["summary"]["Pseudo-masks, train, mIoU"]["eps.tau=0.4"] == {"mean": 0.5, "std": None}
    assert list(found["classes"]) == ["maps", "masks"]  # in the order of the recipe
    assert found == json.loads((tmp_path / "sweep.json").read_text())
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert "| eps.tau=0.2 | 40.0 | 40.0 ± 2.0 |" in lines
    assert "| cat | 30.0 | 40.0 |" in lines
    assert "| dog | \N{EN DASH} | \N{EN DASH} |" in lines


def test_a_sweep_wants_one_of_grid_and_study(tmp_path):
    for both in ({}, {"grid": ["eps.tau=0.2"], "study": "tau"}):
        with pytest.raises(WeaksegError, match="either --grid"):
            api.sweep("eps-voc", tmp_path, tmp_path / "out", **both)
    with pytest.raises(WeaksegError, match=r"tua.*tau"):
        api.sweep("eps-voc", tmp_path, tmp_path / "out", grid=["eps.tua=0.2"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_strategies_of_eps_on_scenes(tmp_path):
    make_scenes(tmp_path / "scenes", count=12, seed=3, size=64)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    found = api.sweep(
        tmp_path / "tiny.yaml",
        tmp_path / "scenes",
        tmp_path / "grid",
        study="strategies",
        set={"eps.epochs": 1},
        device="cpu",
        workers=0,
        progress=False,
        say=lambda _: None,
    )
    names = [f"eps.strategy={s}" for s in ("baseline", "naive", "predefined", "adaptive")]
    assert list(found["settings"]) == list(found["classes"]["masks"]["iou"]) == names
    table = found["classes"]["masks"]
    assert all(len(column) == len(table["classes"]) for column in table["iou"].values())
    shown = next(row for title, row in found["summary"].items() if title.endswith("mIoU"))
    assert table["miou"]["eps.strategy=naive"] == pytest.approx(shown["eps.strategy=naive"]["mean"])
    assert "eps.strategy=naive" in found["table"].read_text()
