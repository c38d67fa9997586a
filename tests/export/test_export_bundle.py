"""Bundles: a network in one file that predicts what the run predicts, and files that are no bundle."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tiny_networks import CLASSES, SMALL, images, network
from weakseg.export import bundle
from weakseg.export.bundle import KEY, export_bundle, is_bundle, load_bundle, write_bundle
from weakseg.types import Backbone, Instances, WeaksegError

CRF = ("deeplab.v1", SMALL, {"scales": (1.0, 0.75), "crf": "deeplab_v2_res101"})
KINDS = {  # the last number is a seed whose labels differ from pixel to pixel
    "v2-msc-square": ("deeplab.v2", SMALL, {"msc": True, "test_size": 48}, 3),
    "v3plus": ("deeplab.v3plus", SMALL, {"channels": 32, "rates": (2, 4)}),
    "nal": ("bana.nal", SMALL, {"head": "aspp", "channels": 32, "scale": 7.0}, 1),
}


@pytest.fixture(scope="module")
def made():
    return network("deeplab.v1", SMALL, {"scales": (0.5, 1.0)})


@pytest.fixture
def file(made, tmp_path):
    write_bundle(tmp_path / "net.safetensors", made)
    return tmp_path / "net.safetensors"


def rewrite(file, change):
    """The same file with another record."""
    with safe_open(file, "pt") as opened:
        record = json.loads(opened.metadata()[KEY])
    change(record)
    save_file(load_file(file), file, {KEY: json.dumps(record)})


@pytest.mark.parametrize("kind", [*KINDS, pytest.param("v1-crf", marks=pytest.mark.slow)])  # its kernels are compiled
def test_the_labels_are_the_very_same(kind, tmp_path):
    made, (photograph,) = network(*KINDS.get(kind, CRF)), images(1, 3, 50, 67)
    write_bundle(tmp_path / "net.safetensors", made)
    loaded = load_bundle(tmp_path / "net.safetensors")
    labels = loaded.predict(photograph)
    assert (labels.dtype, tuple(labels.shape)) == (torch.uint8, (50, 67))
    assert torch.equal(labels, made.predict(photograph))
    assert len(labels.unique()) > 1
    assert loaded.method == made.method
    assert loaded.about == dataclasses.replace(
        made.about, backbone=dataclasses.replace(made.about.backbone, weights="later")
    )
    assert not any(module.training for module in loaded.model.modules())


@pytest.mark.slow
def test_a_network_of_instances_has_bundles_too(tmp_path):
    settings = {"channels": 16, "hidden": 16, "long_side": 96, "score_threshold": 0.0, "detections": 5}
    backbone = Backbone("resnet10t", None, 32, create={"channels": [8, 16, 16, 32]})
    made, (photograph,) = network("maskrcnn.resnet50", backbone, settings), images(1, 3, 64, 80)
    write_bundle(tmp_path / "net.safetensors", made)
    found, own = load_bundle(tmp_path / "net.safetensors").predict(photograph), made.predict(photograph)
    assert isinstance(found, Instances)
    assert torch.equal(found.masks, own.masks)
    assert torch.equal(found.scores, own.scores)


def test_the_same_network_gives_the_same_bytes(made, file, tmp_path):
    write_bundle(tmp_path / "again.safetensors", made)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_the_header_says_what_it_is(file):
    with safe_open(file, "pt") as opened:
        record = json.loads(opened.metadata()[KEY])
    assert record["about"]["classes"] == list(CLASSES)
    assert record["about"]["method"] == "deeplab.v1"
    assert record["about"]["backbone"]["create"] == {"channels": [8, 16, 16, 32]}
    assert record["constants"]["scales"] == [0.5, 1.0]
    assert set(record["written_by"]) >= {"weakseg", "torch", "timm"}


def test_no_file_and_no_download_is_read_for_a_bundle(file):
    rewrite(file, lambda record: record["about"]["backbone"].update(weights="pretrained"))
    assert load_bundle(file).about.backbone.weights == "later"


def test_a_constant_that_came_later_stands_for_as_before(made, file):
    rewrite(file, lambda record: record["constants"].pop("test_size"))
    assert load_bundle(file).method == made.method


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.pop("constants"), "no readable bundle"),
        (lambda r: r.pop("format"), "no readable bundle"),
        (lambda r: r.update(constants=3), "no readable bundle"),
        (lambda r: r["about"].pop("step"), "no readable bundle"),
        (lambda r: r.update(about=[]), "no readable bundle"),
        (lambda r: r.update(format=2), "newer weakseg"),
        (lambda r: r.update(tensors_sha256="0"), "is damaged"),
        (lambda r: r["about"].update(method="deeplab.v4"), "names no method"),
        (lambda r: r["about"].update(method="x/evil.py:v1"), "one that ships with weakseg"),
        (lambda r: r["constants"].update(scalse=[1]), "no setting 'scalse'"),
        (lambda r: r["about"]["classes"].pop(), "does not fit the model"),
        (lambda r: r["about"]["backbone"].update(name="resnet10x"), "no backbone 'resnet10x'"),
    ],
)
def test_a_record_that_makes_no_sense_is_one_sentence(file, change, sentence):
    rewrite(file, change)
    with pytest.raises(WeaksegError, match=sentence):
        load_bundle(file)


def test_weights_alone_and_damaged_files_are_no_bundles(file, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(WeaksegError, match="does not say of which network"):
        load_bundle(tmp_path / "plain.safetensors")
    with pytest.raises(WeaksegError, match="safetensors file"):
        load_bundle(tmp_path / "none.safetensors")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(WeaksegError, match="safetensors file"):
        load_bundle(file)


def test_a_bit_that_fell_over_is_found(file):
    data = bytearray(file.read_bytes())
    data[-5] ^= 16
    file.write_bytes(data)
    with pytest.raises(WeaksegError, match="is damaged"):
        load_bundle(file)


def test_a_method_of_ones_own_has_no_bundle(made, tmp_path):
    own = dataclasses.replace(made, about=dataclasses.replace(made.about, method="my/file.py:net"))
    with pytest.raises(WeaksegError, match="a method of your own"):
        write_bundle(tmp_path / "net.safetensors", own)
    assert list(tmp_path.iterdir()) == []


def test_the_runs_own_weights_are_not_replaced(tmp_path):
    weights = tmp_path / "run" / "seed-0" / "steps" / "1-segment" / "fit" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    with pytest.raises(WeaksegError, match="among the run's own files"):
        export_bundle(tmp_path / "run", weights)
    with pytest.raises(WeaksegError, match=r"no name of a \.safetensors file"):
        export_bundle(tmp_path / "run", tmp_path / "net.bin")


def test_a_folder_of_that_name_is_a_run(tmp_path):
    (tmp_path / "run.safetensors").mkdir()
    assert not is_bundle(tmp_path / "run.safetensors")
    assert not is_bundle(tmp_path / "run")
    assert is_bundle(tmp_path / "net.safetensors")
    assert bundle.SUFFIX == ".safetensors"
