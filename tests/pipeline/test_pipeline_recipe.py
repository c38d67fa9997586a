import pytest

from weakseg.pipeline.recipe import configure, override, parse_recipe, read_recipe, resolve, shipped
from weakseg.types import WeaksegError

TEXT = """
backbone: {name: resnet10t, weights: null}
labels: crf
steps:
- {name: cam, method: cam.resnet38, set: {crop: 64}}
- {name: threshold, method: labels.threshold, scores: cam/full, set: {background: 0.4}}
- {name: crf, method: crf.labels, seeds: threshold}
"""


def test_every_shipped_recipe_resolves():
    for name in shipped():
        assert [s.name for s in resolve(read_recipe(name))]


def test_inputs_point_to_outputs_of_earlier_steps():
    cam, threshold, crf = resolve(parse_recipe(TEXT, "t"))
    assert cam.learns
    assert (threshold.scores["scores"].step, threshold.scores["scores"].key) == ("cam", "full")
    assert (crf.seeds["seeds"].step, crf.seeds["seeds"].key) == ("threshold", "labels")
    assert cam.method.crop == 64
    assert cam.lists == ("train",)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (TEXT.replace("crop: 64", "crp: 64"), "did you mean 'crop'"),
        (TEXT.replace("crop: 64", "crop: large"), "crop"),
        (TEXT.replace("cam/full", "kam/full"), "no earlier step"),
        (TEXT.replace("cam/full", "cam/half"), "writes full, strided"),
        (TEXT.replace("cam.resnet38", "cam.resnet39"), "names no method"),
        (TEXT.replace("labels: crf", "labels: crv"), "did you mean 'crf'"),
        (TEXT.replace("name: crf", "name: cam"), "two steps"),
        (TEXT.replace("- {name: cam,", "- {name: cam, colour: red,"), "colour"),
    ],
)
def test_a_broken_recipe_is_answered_with_a_sentence(broken, says):
    with pytest.raises(WeaksegError, match=says):
        resolve(parse_recipe(broken, "t"))


def test_settings_change_constants_and_unknown_steps_are_named():
    changed = override(parse_recipe(TEXT, "t"), ["cam.crop=96", "backbone.output_stride=8"])
    assert resolve(changed)[0].method.crop == 96
    assert changed.backbone["output_stride"] == 8
    with pytest.raises(WeaksegError, match="did you mean 'cam'"):
        override(changed, ["cma.crop=96"])
    with pytest.raises(WeaksegError, match=r"STEP\.KEY=VALUE"):
        override(changed, ["crop=96"])


def test_configure_refuses_what_is_no_dataclass():
    with pytest.raises(WeaksegError, match="frozen dataclass"):
        configure(object(), {}, "step x")
