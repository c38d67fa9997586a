"""The page of departures: every setting it names exists, is allowed, and is not the default."""

import re
from pathlib import Path

import pytest
import yaml

from weakseg.methods import load
from weakseg.pipeline.evaluations import EVALUATIONS
from weakseg.pipeline.recipe import configure

PAGE = Path(__file__).parents[2] / "docs" / "departures.md"
STEPS = {
    "cam": ("cam.resnet38", "cam.resnet50"),
    "psa": ("psa.psa",),
    "irn": ("irn",),
    "seeds": ("labels.ir_label",),
    "threshold": ("labels.threshold",),
    "seam": ("seam",),
    "eps": ("eps.voc",),
    "amn": ("amn",),
    "aeft": ("aeft.voc",),
    "bap": ("bana.bap",),
    "labels": ("bana.labels",),
    "nal": ("bana.nal", "bana.nal_v2"),
    "segment": ("deeplab.v1_resnet101", "deeplab.v2_resnet101", "deeplab.v1_resnet38_aeft"),
}
SETTINGS = re.findall(r"`([a-z]+)\.([a-z_]+)=([^`]+)`", PAGE.read_text())


def test_the_page_names_settings():
    assert len(SETTINGS) > 45
    assert {step for step, _, _ in SETTINGS} == {*STEPS, "masks"}


@pytest.mark.parametrize(("step", "key", "value"), SETTINGS)
def test_each_setting_departs_from_the_default(step, key, value):
    defaults = [EVALUATIONS["masks"]] if step == "masks" else [load(name) for name in STEPS[step]]
    changed = [configure(default, {key: yaml.safe_load(value)}, step) for default in defaults]
    assert any(getattr(c, key) != getattr(d, key) for c, d in zip(changed, defaults, strict=True))
