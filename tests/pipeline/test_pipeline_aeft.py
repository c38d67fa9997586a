"""AEFT, GPP and PSA as chains: constants of the shipped recipes, both phases in a run, and the papers' grids."""

import pytest

from weakseg import api
from weakseg.data.scenes import make_scenes
from weakseg.data.store import read_json
from weakseg.pipeline.grid import studies
from weakseg.pipeline.recipe import read_recipe, resolve

EPOCHS = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 16, 16, 32]}}
steps:
- name: aeft
  method: aeft.voc
  set: {crop: 64, long_side: [64, 72], epochs: 2, batch_size: 4, triplet_epochs: 0, keep_epochs: true, lr: 0.5,
        width: 16, bins: [2, 4], freeze_bn: false, freeze_affine: false, freeze_stem: false, scales: [1.0]}
- {name: maps, method: evaluate.scores, scores: aeft/full, list: train, set: {fixed: 0.2}}
- {name: epochs, method: evaluate.checkpoints, model: aeft, list: train, set: {thresholds: [0.2]}}
"""
RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [16, 32, 64, 128]}}
labels: psa-crf
steps:
- name: aeft
  method: aeft.voc
  set: {crop: 64, long_side: [64, 72], epochs: 1, batch_size: 4, triplet_epochs: 1, triplet_batch_size: 8, lr: 0.02,
        momentum: 0.9, min_hard: 1, width: 16, bins: [2, 4], freeze_bn: false, freeze_affine: false, freeze_stem: false,
        scales: [1.0]}
- {name: crf-low, method: crf.scores, scores: aeft/full, set: {alpha: 2}}
- {name: crf-high, method: crf.scores, scores: aeft/full, set: {alpha: 21}}
- name: psa
  method: psa.aeft
  scores: {scores: aeft/full, low: crf-low/scores, high: crf-high/scores}
  set: {crop: 96, epochs: 1, batch_size: 4, widths: [8, 8, 8], freeze_bn: false, freeze_affine: false,
        freeze_stem: false, keep_steps: 1}
- {name: psa-crf, method: crf.scores, scores: psa/scores, set: {recipe: psa_post_rw, alpha: null}}
- {name: maps, method: evaluate.scores, scores: aeft/full, list: train, set: {fixed: 0.2}}
- {name: coverage, method: evaluate.coverage, scores: aeft/full, list: train, title: Activation}
- {name: masks, method: evaluate.masks, seeds: psa-crf, list: train}
- {name: checkpoints, method: evaluate.checkpoints, model: psa, scores: aeft/full, list: train, set: {first: 2}}
"""


def steps(name):
    return {step.name: step for step in resolve(read_recipe(name))}


def test_the_published_chain():
    """methods.md 9.5: CRF at alpha 9; PSA with 2, 21, 19; one iteration of CRF afterwards; 9.6."""
    found = steps("aeft-psa-voc")
    assert {name: found[name].method.alpha for name in ("crf", "crf-low", "crf-high", "psa")} == {
        "crf": 9,
        "crf-low": 2,
        "crf-high": 21,
        "psa": 19,
    }
    after = found["psa-crf"].method
    assert (after.alpha, after.params.iterations) == (None, 1)
    assert {ref.step for ref in found["psa"].scores.values()} == {"aeft", "crf-low", "crf-high"}
    assert found["segment"].seeds["seeds"].step == "psa-crf"
    coco = steps("aeft-irn-coco")
    assert (coco["aeft"].method.t_high, coco["aeft"].method.t_low, coco["aeft"].method.margin) == (0.7, 0.1, 0.1)
    assert coco["irn"].backbone["name"] == "irn_resnet50"
    assert steps("aeft-psa-coco")["aeft"].method == coco["aeft"].method


def test_mobile_recipes_change_what_they_are_named_for():
    plain, gpp = steps("cam-crf-mobile"), steps("cam-gpp-mobile")
    assert (plain["cam"].method.pooling, gpp["cam"].method.pooling) == ("gap", "gpp")
    assert {k: v for k, v in gpp.items() if k not in ("cam", "coverage")}.keys() == plain.keys() - {"cam"}
    assert steps("aeft-maps-mobile")["aeft"].method == steps("aeft-psa-mobile")["aeft"].method


def test_the_papers_grids():
    tables = studies(read_recipe("aeft-maps-voc"))
    assert len(tables["thresholds"]) == 20
    assert tables["thresholds"]["aeft.t_low=0.25,aeft.t_high=0.7"] == {"aeft.t_low": 0.25, "aeft.t_high": 0.7}
    assert [s.get("aeft.erasing", "soft") for s in tables["triplet"].values()] == ["soft", "rigid", "soft", "soft"]
    assert [s["aeft.pooling"] for s in tables["pooling"].values()][:2] == ["gap", "gpp"]
    assert [s["cam.pooling"] for s in studies(read_recipe("cam-gpp-mobile"))["pooling"].values()][:2] == ["gap", "gpp"]


def test_the_weights_of_an_epoch_can_be_judged_like_the_last(tmp_path):
    """methods.md 9.4 and 9.8, row 12: the published run chooses an epoch on the truth; here a person may."""
    make_scenes(tmp_path / "scenes", count=6, seed=3, size=64)
    (tmp_path / "tiny.yaml").write_text(EPOCHS)
    plain = {"device": "cpu", "workers": 0, "progress": False, "say": lambda _: None}

    def maps(name, **more):
        api.run(tmp_path / "tiny.yaml", tmp_path / "scenes", tmp_path / name, **plain, **more)
        fit = tmp_path / name / "seed-0" / "steps" / "1-aeft" / "fit"
        scores = sorted((fit.parent / "scores").iterdir())
        return fit, [path.read_bytes() for path in scores]

    fit, last = maps("trained")
    assert {"epoch-1.safetensors", "epoch-2.safetensors", "model.safetensors"} <= {f.name for f in fit.iterdir()}
    judged = {name: read_json(tmp_path / "trained" / "seed-0" / "steps" / name / "result.json")
              for name in ("2-maps", "3-epochs")}  # fmt: skip
    found = judged["3-epochs"]["result"]
    assert [row["name"] for row in found["checkpoints"]] == ["epoch-1", "epoch-2", "final"]
    assert found["final"]["miou"] == pytest.approx(judged["2-maps"]["result"]["fixed"]["miou"], abs=1e-3)
    assert found["checkpoints"][1]["miou"] == found["final"]["miou"]
    assert found["best"]["miou"] == max(row["miou"] for row in found["checkpoints"])
    linked, first = maps("first", set={"aeft.fitted": str(fit / "epoch-1.safetensors")})
    assert (linked / "model.safetensors").read_bytes() == (fit / "epoch-1.safetensors").read_bytes()
    assert first != last
    assert maps("second", set={"aeft.fitted": str(fit / "epoch-2.safetensors")})[1] == last


@pytest.mark.slow
def test_a_sweep_over_thresholds_on_scenes(tmp_path):
    make_scenes(tmp_path / "scenes", count=12, seed=3, size=64)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    found = api.sweep(
        tmp_path / "tiny.yaml",
        tmp_path / "scenes",
        tmp_path / "grid",
        grid={"aeft.t_high": [0.5, 0.7]},
        device="cpu",
        workers=0,
        progress=False,
        say=lambda _: None,
    )
    names = ["aeft.t_high=0.5", "aeft.t_high=0.7"]
    assert list(found["settings"]) == names
    for title in ("Activation, train, precision", "Activation, train, recall"):
        assert all(0 <= found["summary"][title][name]["mean"] <= 1 for name in names)
    fitted = tmp_path / "grid" / names[0] / "seed-0" / "steps" / "1-aeft" / "fit"
    summary = read_json(fitted / "fit.json")
    assert (summary["epochs"], summary["steps"]) == (2, 9 // 4 + 9 // 8)
    assert set(summary["losses_last"]) == {"cls", "attract", "repel"}
    assert len(list((tmp_path / "grid" / names[1] / "seed-0" / "labels").glob("*.png"))) == 9
    judged = read_json(fitted.parents[1] / "9-checkpoints" / "result.json")["result"]
    assert [row["name"] for row in judged["checkpoints"]] == ["step-2", "final"]  # of AffinityNet, by its own masks
    assert judged["best"] == {**judged["final"], "name": "step-2"}
    assert judged["final"]["threshold"] is None
    told = {f["step"] for f in read_json(tmp_path / "grid" / names[0] / "seed-0" / "manifest.json")["findings"]}
    assert told & {"psa", "psa-crf", "crf-low", "crf-high"} == {"psa-crf"}  # of the others only scores are read
