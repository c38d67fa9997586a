"""Networks as ONNX files: ONNX Runtime, somebody else's code, against torch, at sizes and batches that tracing never saw."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tiny_networks import SMALL, images, network
from weakseg.export import onnx as export
from weakseg.types import Backbone, WeaksegError

MOBILE = Backbone("mobilenetv2_050", None, 16)
SAME = Backbone("mobilenetv2_050", None, 16, create={"pad_type": "same"})
KINDS = {
    "v1": ("deeplab.v1", SMALL, {}),
    "largefov": ("deeplab.v1", SMALL, {"head": "largefov"}),
    "v2": ("deeplab.v2", SMALL, {}),
    "v2-msc": ("deeplab.v2", SMALL, {"msc": True}),
    "v3plus": ("deeplab.v3plus", SMALL, {"channels": 32}),
    "nal": ("bana.nal", SMALL, {"head": "aspp", "channels": 32}),
    "nal-dot": ("bana.nal", SMALL, {"head": "v3plus", "channels": 32, "classifier": "dot"}),
}
LARGE = {
    "mobile": ("deeplab.mobile", MOBILE, {}),
    "mobile-same": ("deeplab.mobile", SAME, {}),
    "v1-vgg16": ("deeplab.v1_vgg16", Backbone("vgg16d", None, 8), {}),
    "v2-vgg16": ("deeplab.v2_vgg16", Backbone("vgg16d", None, 8), {}),
    "nal-vgg16": ("bana.nal", Backbone("vgg16d", None, 8), {}),
    "v1-resnet101": ("deeplab.v1_resnet101", Backbone("resnet101_caffe", None, 8), {}),
    "irn-resnet50": ("deeplab.v3plus", Backbone("irn_resnet50", None, 16), {}),
}
EVERY = [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


def session(data):
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def run(data, photographs):
    return session(data).run(["probabilities", "labels"], {"image": photographs.numpy()})


@pytest.mark.parametrize("kind", EVERY)
def test_every_segmenter_computes_the_same_in_onnx_runtime(kind):
    made = network(*(KINDS | LARGE)[kind])
    data = export.encode(made)
    for shape in ((2, 3, 97, 123), (1, 3, 64, 64), (1, 3, 33, 150)):
        photographs = images(*shape)
        probabilities, labels = run(data, photographs)
        with torch.no_grad():
            ours = made.method.one_view(made.model, photographs)
        assert probabilities.dtype == np.float32
        assert labels.dtype == np.uint8
        assert labels.shape == (shape[0], *shape[2:])
        np.testing.assert_allclose(probabilities, ours.numpy(), atol=1e-4)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
        assert (labels != ours.argmax(dim=1).numpy()).mean() <= 1e-3
    difference, differing = export.compare(made, data)
    assert difference < 1e-4
    assert differing <= 1e-3


@pytest.fixture(scope="module")
def made():
    return network("deeplab.v3plus", SMALL, {"channels": 32, "scales": (1.0,), "flip": False})


@pytest.fixture(scope="module")
def data(made):
    return export.encode(made)


def test_the_labels_are_those_of_predict_at_one_scale(made, data):
    assert export.left_out(made.method) == ()
    (photograph,) = images(1, 3, 75, 101)
    _, labels = run(data, photograph[None])
    assert (labels[0] != made.predict(photograph).numpy()).mean() <= 1e-3
    assert len(np.unique(labels)) > 1  # a network that says something


def test_a_batch_of_two_is_two_batches_of_one(data):
    both = images(2, 3, 50, 70)
    together, alone = run(data, both), [run(data, image[None]) for image in both]
    np.testing.assert_allclose(together[0], np.concatenate([p for p, _ in alone]), atol=1e-5)
    assert (together[1] != np.concatenate([labels for _, labels in alone])).mean() <= 1e-3


def test_the_file_says_what_it_is(made, data):
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    (image,), outputs = session(data).get_inputs(), session(data).get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 3, "H", "W"])
    assert [(o.name, o.type, o.shape) for o in outputs] == [
        ("probabilities", "tensor(float)", ["N", 4, "H", "W"]),
        ("labels", "tensor(uint8)", ["N", "H", "W"]),
    ]
    about = session(data).get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["background", "cat", "dög", "cow"]
    assert (about["recipe"], about["step"], about["seed"]) == ("tiny", "segment", "0")
    assert about["weights_sha256"] == made.about.weights_sha256
    assert about["left_out"] == "its labels are those of `weakseg predict`"
    assert set(about) >= {"input", "outputs", "weakseg", "method", "mean", "std"}


def test_the_file_has_one_part_and_no_place_of_this_machine(data):
    model = onnx.load_from_string(data)
    assert not any(t.external_data for t in model.graph.initializer)
    assert str(torch.__path__[0]).rpartition("/")[0].encode() not in data
    assert export.__file__.encode() not in data


def test_the_same_network_gives_the_same_bytes(made, data):
    assert export.encode(made) == data


@pytest.mark.parametrize("opset", [export.OPSETS.start, export.OPSETS.stop - 1])
def test_the_oldest_and_the_newest_opset_compute_the_same(made, opset):
    data = export.encode(made, opset)
    assert onnx.load_from_string(data).opset_import[0].version == opset
    assert max(export.compare(made, data)) <= 1e-3


# --- a network in training mode ---


class Training(nn.Module):
    """BatchNorm, whose batch statistics would show, and a dropout of nearly everything."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.9), nn.Conv2d(8, 4, 1)
        )

    def forward(self, x):
        return self.layers(x)


class Plain:
    def one_view(self, model, images):
        return model(images.float() / 255).softmax(dim=1)


def test_nothing_of_training_is_in_the_file_and_the_network_stays_as_it_was(made):
    model = Training().train()
    model.layers[1].eval()  # frozen, as a backbone's BatchNorm is
    model.layers[3].weight.requires_grad_(False)
    trained = dataclasses.replace(made, model=model, method=Plain())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    data = export.encode(trained)
    difference, differing = export.compare(trained, data)
    operations = {node.op_type for node in onnx.load_from_string(data).graph.node}
    assert (difference < 1e-5, differing <= 1e-3) == (True, True)
    assert "Dropout" not in operations
    assert [m.training for m in model.modules()] == [True, True, True, False, True, True]
    assert not model.layers[3].weight.requires_grad
    assert model.layers[0].weight.requires_grad
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    same = torch.full((1, 3, 40, 40), 7, dtype=torch.uint8)
    np.testing.assert_array_equal(run(data, same)[0], run(data, same)[0])


# --- what is refused ---


def test_what_predict_does_besides_is_said():
    said = export.left_out(network("deeplab.v2", SMALL, {"test_size": 64, "crf": "deeplab_v2_res101"}).method)
    assert said == (
        "scales photographs to 64 x 64 pixels",
        "looks at scales 0.5, 0.75, 1, 1.25, 1.5",
        "looks at mirror images",
        "ends with the CRF deeplab_v2_res101",
    )
    told = export.Exported(Path("n.onnx"), 1.25, 2e-7, 0.0, said)
    assert "1.2 MB" in told.sentence()
    assert "`weakseg predict` also scales photographs" in told.sentence()


def test_instances_and_methods_without_one_view_are_refused(made):
    class Finds:
        writes = ("instances",)

    for method, sentence in ((Finds(), "finds instances"), (object(), "has no one_view")):
        with pytest.raises(WeaksegError, match=sentence):
            export.encode(dataclasses.replace(made, method=method))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_one_sentence_names_it(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeaksegError, match=rf"^{package} is not installed.*pip install 'weakseg\[onnx\]'$"):
        export.export_onnx(tmp_path, tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["net.pt", "net", "folder.onnx"])
def test_another_suffix_or_a_folder_is_refused(tmp_path, name):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(WeaksegError, match=r"no name of a \.onnx file"):
        export.export_onnx(tmp_path, tmp_path / name)


def test_an_unknown_opset_is_refused(tmp_path):
    with pytest.raises(WeaksegError, match="opset 9 is not written: give one from 13 to 20"):
        export.export_onnx(tmp_path, tmp_path / "net.onnx", opset=9)


def test_a_file_that_computes_something_else_is_not_left(made, data, tmp_path, monkeypatch):
    other = export.encode(network("deeplab.v3plus", SMALL, {"channels": 32}, seed=1))
    monkeypatch.setattr(export, "network_of", lambda run, seed: made)
    monkeypatch.setattr(export, "encode", lambda network, opset: other)
    with pytest.raises(WeaksegError, match=r"is not written: in ONNX Runtime probabilities differ"):
        export.export_onnx(tmp_path, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert export.export_onnx(tmp_path, tmp_path / "net.onnx", check=False).difference is None
    assert (tmp_path / "net.onnx").read_bytes() == other
