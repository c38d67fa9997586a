"""Weights files: what is loaded, what is refused, and that nothing is left out in silence."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from weakseg.models.backbones import batch_norms, build_backbone
from weakseg.models.weights import backbone_from_file, file_hash, load_weights, read_weights
from weakseg.types import Backbone, WeaksegError

SHARED = Path(__file__).parents[2] / ".." / "shared"
REAL = SHARED / "weights" / "mobilenetv2_100.safetensors"


def describe(path: Path, name: str = "resnet10t", **about) -> Path:
    described = {"name": name, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], **about}
    path.with_name(path.name + ".json").write_text(json.dumps(described))
    return path


@pytest.fixture
def state():
    torch.manual_seed(0)
    return dict(timm.create_model("resnet10t").state_dict())


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv2_050"])
def test_features_equal_those_of_the_whole_network(name, tmp_path):
    """Classifier and head are left over, every other tensor arrives; convnext's names differ in the extractor."""
    torch.manual_seed(0)
    whole = timm.create_model(name, output_stride=16).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    path = describe(tmp_path / "w.safetensors", name)
    model = build_backbone(backbone_from_file(path)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(model(images)[-1], expected, rtol=1e-4, atol=1e-4)


def test_half_precision_becomes_float32(state, tmp_path):
    half = {k: v.half() if v.ndim == 4 else v for k, v in state.items()}
    save_file(half, tmp_path / "w.safetensors")
    model = build_backbone(backbone_from_file(describe(tmp_path / "w.safetensors")))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.dtype == torch.float32 for m in convolutions)
    assert torch.equal(model.state_dict()["net.layer1.0.conv1.weight"], half["layer1.0.conv1.weight"].float())


def test_missing_and_unexpected_names_are_counted(state, tmp_path):
    del state["layer1.0.conv1.weight"], state["layer1.0.bn1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeaksegError, match=r"2 \(layer1.*missing, 1 \(layer9.weight\) unexpected"):
        build_backbone(backbone_from_file(describe(tmp_path / "w.safetensors")))


def test_other_shapes_are_refused(state, tmp_path):
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeaksegError, match="another shape"):
        build_backbone(backbone_from_file(describe(tmp_path / "w.safetensors")))


def test_another_network_is_refused(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    path = describe(tmp_path / "w.safetensors")
    with pytest.raises(WeaksegError, match=r"'resnet10t'.*'resnet50'"):
        backbone_from_file(path, name="resnet50")
    with pytest.raises(WeaksegError, match=r"'resnet10t'.*'resnet50'"):
        build_backbone(Backbone("resnet50", str(path)))


def test_another_mean_or_padding_is_refused(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    path = describe(tmp_path / "w.safetensors", mean=[0.5, 0.5, 0.5], create={"act_layer": "relu"})
    with pytest.raises(WeaksegError, match="mean"):
        build_backbone(Backbone("resnet10t", str(path)))
    with pytest.raises(WeaksegError, match="creation options"):
        build_backbone(Backbone("resnet10t", str(path), mean=(0.5, 0.5, 0.5)))


def test_pth_files_and_their_wrappers(state, tmp_path):
    for wrapped in (state, {"state_dict": state, "epoch": 3}, {"model": state}):
        torch.save(wrapped, tmp_path / "w.pth")
        assert read_weights(tmp_path / "w.pth").keys() == state.keys()


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def test_damaged_and_hostile_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"not a tensor")
    (tmp_path / "b.pth").write_bytes(b"not a zip")
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"w": Malicious()}))
    torch.save({"w": Malicious()}, tmp_path / "d.pth")
    torch.save({"epoch": 3}, tmp_path / "e.pth")
    for name in ("a.safetensors", "b.pth", "c.pth", "d.pth", "e.pth", "missing.pth"):
        with pytest.raises(WeaksegError, match=name.partition(".")[0]):
            read_weights(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"name": "resnet10t"}', '{"name": "r", "mean": [1], "std": [1, 1, 1]}']
)
def test_the_description_is_checked(text, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    if text is not None:
        (tmp_path / "w.pth.json").write_text(text)
    with pytest.raises(WeaksegError, match=r"w\.pth\.json"):
        backbone_from_file(tmp_path / "w.pth")


def test_load_weights_of_a_whole_model(tmp_path):
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    save_file(a.state_dict(), tmp_path / "w.safetensors")
    load_weights(b, tmp_path / "w.safetensors")
    assert torch.equal(a.weight, b.weight)


def test_file_hash(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(WeaksegError, match="nothing"):
        file_hash(tmp_path / "nothing")


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_file(), reason="the shared folder is not beside the checkout")
def test_the_shared_weights_see():
    """Features of a photograph through the file's own head: a cat is a cat, and frozen BatchNorm is in inference mode."""
    backbone = backbone_from_file(REAL, name="mobilenetv2_100")
    assert dict(backbone.create) == {"pad_type": "same"}
    model = build_backbone(backbone, freeze_bn=True)
    assert model.training
    assert batch_norms(model)
    assert not any(m.training for m in batch_norms(model))
    whole = timm.create_model("mobilenetv2_100", output_stride=16, **backbone.create).eval()
    whole.load_state_dict(read_weights(REAL), strict=False)
    photos = sorted((SHARED / "data" / "voc-animals").rglob("*.jpg"))[:8]
    labels = set()
    with torch.inference_mode():
        for photo in photos:
            pixels = torch.tensor(
                list(Image.open(photo).convert("RGB").resize((224, 224)).tobytes()), dtype=torch.uint8
            )
            images = model.normalise(pixels.reshape(224, 224, 3).permute(2, 0, 1))[None]
            features = model(images)[-1]
            assert features.shape == (1, 320, 14, 14)
            expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
            torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
            labels.add(int(whole(images).argmax()))
    assert sum(label < 398 for label in labels) >= len(labels) / 2  # ImageNet's first 398 classes are animals
