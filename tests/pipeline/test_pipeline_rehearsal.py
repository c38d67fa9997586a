"""What would stop a run hours later is said before its first step works."""

import dataclasses

import pytest
import torch

from weakseg import api, methods
from weakseg.data.dataset import open_dataset
from weakseg.data.scenes import make_scenes
from weakseg.data.store import write_json, write_tensors
from weakseg.pipeline.plan import Lists, plan
from weakseg.pipeline.recipe import override, parse_recipe, resolve
from weakseg.pipeline.rehearsal import published_rates, rehearse
from weakseg.pipeline.run import Options
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [8, 8, 16, 16]}}
steps:
- name: cam
  method: cam.resnet38
  set: {crop: 32, epochs: 1, batch_size: 4, freeze_bn: false, freeze_affine: false, freeze_stem: false}
- {name: threshold, method: labels.threshold, scores: cam/full}
- {name: segment, method: deeplab.v1, seeds: threshold, set: {freeze_bn: false, freeze_affine: false, crop: 32}}
"""
OPTIONS = Options(device="cpu", workers=0, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal") / "scenes"
    make_scenes(folder, count=6, seed=3, size=64)
    return open_dataset(folder)


def planned(data, out, **settings):
    recipe = override(parse_recipe(RECIPE, "t"), {k.replace("__", "."): v for k, v in settings.items()})
    return plan(resolve(recipe), data, Lists(), out, seed=0, precision="no")


def test_a_good_recipe_passes_writes_nothing_and_draws_nothing(data, tmp_path):
    before = torch.get_rng_state()
    rehearse(planned(data, tmp_path), data, OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cam__crop": 0}, r"step cam \(cam.resnet38\) cannot be set up: .*at least 1 pixel"),
        ({"cam__batch_size": 0}, "step cam: batch_size 0 .* trains nothing"),
        ({"segment__crop": -1}, r"step segment \(deeplab.v1\) cannot be set up"),
        ({"cam__freeze_bn": True}, "step cam: .*BatchNorm"),
        ({"backbone__output_stride": 5}, "step cam.* resnet10t"),
        ({"backbone__create": {"chanels": 3}}, "step cam.* resnet10t"),
    ],
)
def test_the_step_that_cannot_be_set_up_is_named_in_a_sentence(data, tmp_path, settings, says):
    steps = planned(data, tmp_path, **settings)
    with pytest.raises(WeaksegError, match=says):
        rehearse(steps, data, OPTIONS)


def test_weights_that_do_not_fit_are_found_for_the_last_step_too(data, tmp_path):
    write_tensors(tmp_path / "w.safetensors", {"conv1.weight": torch.zeros(8, 3, 3, 3)}, {})
    plain = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    note = {"name": "resnet10t", "create": {"channels": [8, 8, 16, 16]}, **plain}
    write_json(tmp_path / "w.safetensors.json", note)
    steps = planned(data, tmp_path / "out")
    broken = dataclasses.replace(steps[2].backbone, weights=str(tmp_path / "w.safetensors"))
    steps = (*steps[:2], dataclasses.replace(steps[2], backbone=broken))
    with pytest.raises(WeaksegError, match=r"step segment: .* does not fit this network"):
        rehearse(steps, data, OPTIONS)


def test_an_unknown_precision_comes_first(data, tmp_path):
    with pytest.raises(WeaksegError, match='precision "fp8"'):
        rehearse(planned(data, tmp_path, cam__crop=0), data, dataclasses.replace(OPTIONS, precision="fp8"))


def test_a_step_that_is_done_or_fitted_elsewhere_is_not_tried(data, tmp_path):
    cam = planned(data, tmp_path, cam__crop=0)[0]
    write_json(cam.folder / "done.json", {"fingerprint": cam.fingerprint})
    rehearse([cam], data, OPTIONS)
    (cam.folder / "done.json").unlink()
    spec = cam.step.spec.model_copy(update={"fitted": str(tmp_path)})
    rehearse([dataclasses.replace(cam, step=dataclasses.replace(cam.step, spec=spec))], data, OPTIONS)


# --- a paper's learning rate on another network ---


def test_a_papers_rate_on_another_network_is_one_warning(data, tmp_path):
    said = published_rates(planned(data, tmp_path, cam__lr=0.01))
    assert said.startswith("learning rates of other networks: cam trains resnet10t at 0.01, published for resnet38d.")
    assert "--set cam.lr=" in said
    assert "segment" not in said  # no paper's network for the heads on any backbone


def test_a_rate_of_ones_own_the_papers_network_and_fitted_or_done_steps_are_silent(data, tmp_path):
    assert not published_rates(planned(data, tmp_path, cam__lr=0.02))
    cam = planned(data, tmp_path)[0]
    assert published_rates([cam])
    own = dataclasses.replace(cam, backbone=dataclasses.replace(cam.backbone, name="resnet38d"))
    fitted = cam.step.spec.model_copy(update={"fitted": str(tmp_path)})
    elsewhere = dataclasses.replace(cam, step=dataclasses.replace(cam.step, spec=fitted))
    assert not published_rates([own, elsewhere])
    write_json(cam.folder / "done.json", {"fingerprint": cam.fingerprint})
    assert not published_rates([cam])


def test_every_published_network_is_one_that_there_is(data):
    shelf = [name for name in methods.names() if methods.published_backbone(name)]
    assert {"cam.resnet38", "cam.resnet50", "eps.voc", "eps.coco", "amn.amn", "irn.irn"} <= set(shelf)
    built = {"resnet38d", "irn_resnet50", "vgg16d", "resnet101_caffe", "resnet50"}
    assert {methods.published_backbone(name) for name in shelf} <= built
    assert methods.published_backbone("labels.threshold") is None
    with pytest.raises(WeaksegError, match=r"no method 'cm\.resnet38'"):
        methods.published_backbone("cm.resnet38")


def test_a_dry_run_and_a_run_print_it_once(data, tmp_path):
    (tmp_path / "t.yaml").write_text(RECIPE[: RECIPE.index("- {name: threshold")])
    for dry_run in (True, False):
        lines = []
        more = {"device": "cpu", "workers": 0, "progress": False, "seeds": 2, "say": lines.append}
        api.run(tmp_path / "t.yaml", data.root, tmp_path / "out", dry_run=dry_run, **more)
        assert len([line for line in lines if line.startswith("warning: learning rates of other networks")]) == 1
