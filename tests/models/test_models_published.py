"""Networks of the methods against the table of the published checkpoints: names, shapes, counts, output sizes.

IRN's, AMN's, PSA's and SEAM's own networks are compared in their files.
"""

import json
from pathlib import Path

import pytest
import torch

from weakseg.methods import load
from weakseg.models.classifier import CamNet
from weakseg.types import LATER, Backbone

NETWORKS = Path(__file__).parents[2] / ".." / "shared" / "networks.json"
CLASSIFIER = {"backbone.net.": "", "classifier": "fc8"}
PUBLISHED = {
    "psa_resnet38_cls": ("cam.resnet38", Backbone("resnet38d", LATER, 8), CLASSIFIER),
    "psa_vgg16_cls": ("cam.resnet38", Backbone("vgg16d", LATER, 8), CLASSIFIER),
    "eps_resnet38": ("eps.voc", Backbone("resnet38d", LATER, 8), CLASSIFIER),
    "irn_resnet50_cam": ("cam.resnet50", Backbone("irn_resnet50", LATER, 16), {"backbone.net.": "resnet50."}),
    "deeplabv1_resnet101": (
        "deeplab.v1_resnet101",
        Backbone("resnet101_caffe", LATER, 8),
        {"backbone.net.": "", "head.branches.0": "fc"},
    ),
    "deeplabv2_resnet101_msc": (
        "deeplab.v2_resnet101",
        Backbone("resnet101_caffe", LATER, 8),
        {"backbone.net.": "base.", "head.branches.": "base.aspp.c"},
    ),
}
"""Key of the table: method, backbone, and what the beginnings of our names are called there."""


@pytest.mark.realdata
@pytest.mark.skipif(not NETWORKS.is_file(), reason="needs the table of the published networks")
@pytest.mark.parametrize("key", PUBLISHED)
def test_tensors_and_sizes_are_the_published_ones(key):
    method, backbone, renamed = PUBLISHED[key]
    table = json.loads(NETWORKS.read_text())[key]
    with torch.device("meta"):
        model = load(method).build(20, backbone).eval()
        run = model.cams if isinstance(model, CamNet) else model
        sizes = {side: list(run(torch.empty(1, 3, int(side), int(side))).shape) for side in table["output_shapes"]}
    assert [[_named(n, renamed), list(p.shape)] for n, p in model.named_parameters()] == table["params"]
    assert [[_named(n, renamed), list(b.shape)] for n, b in model.named_buffers()] == table["buffers"]
    assert sum(p.numel() for p in model.parameters()) == table["n_params"]
    assert sizes == {side: maps.get("cam", maps.get("out")) for side, maps in table["output_shapes"].items()}


def _named(name: str, renamed: dict[str, str]) -> str:
    ours = next((begin for begin in renamed if name.startswith(begin)), "")
    return renamed.get(ours, "") + name.removeprefix(ours)
