"""Other tools' weights files: written byte by byte as their formats are documented, read, renamed, checked, damaged."""

import json
import random
import struct
import zipfile
from typing import ClassVar

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from weakseg.models._foreign_names import common_prefix, from_caffe, from_mxnet, from_torchvision_vgg16, reshaped
from weakseg.models.backbones import PAPERS, build_backbone
from weakseg.models.caffemodel import Layer, read_caffemodel
from weakseg.models.mxnet_params import read_params
from weakseg.models.resnet38d import PlainBlock, ResNet38d
from weakseg.models.resnet101 import Bottleneck, CaffeResNet101, ConvNorm
from weakseg.models.vgg16 import Vgg16
from weakseg.models.weights import backbone_from_file, file_hash
from weakseg.models.weights_convert import convert_weights, read_foreign, select
from weakseg.types import WeaksegError

# --- writers, after the documentation of the formats ---

TYPES = {np.float32: 0, np.float64: 1, np.float16: 2, np.uint8: 3, np.int32: 4, np.int8: 5, np.int64: 6}


def mxnet_file(arrays: dict, form: str = "v2") -> bytes:
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        if form == "v2":
            head = struct.pack("<IiI", 0xF993FAC9, 0, array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
        elif form == "v1":
            head = struct.pack("<II", 0xF993FAC8, array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
        else:
            head = struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        out += head + struct.pack("<iii", 1, 0, TYPES[array.dtype.type]) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    return out + b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in arrays)


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array: np.ndarray, how: str = "shape") -> bytes:
    if how == "legacy":  # num, channels, height, width
        sides = (1,) * (4 - array.ndim) + array.shape
        return b"".join(field(i, side) for i, side in enumerate(sides, start=1)) + field(5, array.tobytes())
    dims = b"".join(map(varint, array.shape))
    shape = field(7, field(1, dims) if how != "unpacked" else b"".join(field(1, side) for side in array.shape))
    if how == "double":
        return shape + field(8, array.astype(np.float64).tobytes())
    if how == "unpacked":
        return shape + b"".join(field(5, float(v)) for v in array.flatten())
    half = array.size // 2 * 4
    return shape + field(5, array.tobytes()[:half]) + field(6, b"\0" * 8) + field(5, array.tobytes()[half:])


def caffe_file(layers: dict, how: str = "shape") -> bytes:
    out = field(1, b"net") + field(3, b"data")
    for name, (kind, arrays) in layers.items():
        if how == "legacy":
            body = field(4, name.encode()) + field(5, 4) + b"".join(field(6, blob(a, how)) for a in arrays)
            out += field(2, field(2, b"bottom") + body + field(7, 1.0))
        else:
            body = field(1, name.encode()) + field(2, kind.encode()) + field(3, b"bottom")
            out += field(100, body + b"".join(field(7, blob(a, how)) for a in arrays) + field(5, 1.0))
    return out + field(100, field(1, b"relu") + field(2, b"ReLU"))


def numbers(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


# --- the readers ---


@pytest.mark.parametrize("form", ["v2", "v1", "legacy"])
def test_mxnet(tmp_path, form):
    arrays = {"arg:conv_weight": numbers(4, 3, 2, 2), "aux:bn_moving_mean": numbers(5), "arg:é": numbers(1, 2)}
    (tmp_path / "w.params").write_bytes(mxnet_file(arrays, form))
    read = read_params(tmp_path / "w.params")
    assert list(read) == ["conv_weight", "bn_moving_mean", "é"]
    for tensor, array in zip(read.values(), arrays.values(), strict=True):
        assert np.array_equal(tensor.numpy(), array)


def test_mxnet_types_and_arrays_without_content(tmp_path):
    arrays = {f"arg:{t.__name__}": np.arange(6).reshape(2, 3).astype(t) for t in TYPES}
    written = mxnet_file({**arrays, "arg:none": np.zeros(())})
    empty = struct.pack("<IiI", 0xF993FAC9, 0, 0)
    written = written.replace(empty + struct.pack("<iii", 1, 0, 1) + b"\0" * 8, empty)  # ends after its shape
    (tmp_path / "w.params").write_bytes(written)
    read = read_params(tmp_path / "w.params")
    assert list(read) == [t.__name__ for t in TYPES]
    assert all(torch.equal(t.double(), torch.arange(6.0).reshape(2, 3).double()) for t in read.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b"\0" * 16, "0x112"),
        (lambda b: b[:4], "0x112"),
        (lambda b: b[:16] + struct.pack("<Q", 1 << 60) + b[24:], "do not fit"),
        (lambda b: b[:28] + struct.pack("<i", 1) + b[32:], "dense"),
        (lambda b: b[:32] + struct.pack("<I", 1 << 20) + b[36:], "dimensions"),
        (lambda b: b[:36] + struct.pack("<q", 1 << 40) + b[44:], "should take"),
        (lambda b: b[:36] + struct.pack("<q", -2) + b[44:], "shape"),
        (lambda b: b[:52] + struct.pack("<i", 99) + b[56:], "type 99"),
        (lambda b: b[:-2], "should take"),
        (lambda b: b[:-1] + b"\xff", "no text"),
        (lambda b: b.replace(b"arg:b", b"arg:a"), "one name"),
    ],
)
def test_damaged_mxnet(tmp_path, change, words):
    good = mxnet_file({"arg:a": numbers(2), "arg:b": numbers(3)})
    (tmp_path / "w.params").write_bytes(change(good))
    with pytest.raises(WeaksegError, match=words):
        read_params(tmp_path / "w.params")


@pytest.mark.parametrize("how", ["shape", "legacy", "unpacked", "double"])
def test_caffe(tmp_path, how):
    layers = {"conv1_1": ("Convolution", [numbers(4, 3, 2, 2), numbers(4)]), "fc": ("InnerProduct", [numbers(2, 3)])}
    (tmp_path / "w.caffemodel").write_bytes(caffe_file(layers, how))
    read = read_caffemodel(tmp_path / "w.caffemodel")
    assert list(read) == ["conv1_1", "fc"]
    assert read["fc"].type == ("4" if how == "legacy" else "InnerProduct")
    for name, (_, arrays) in layers.items():
        for tensor, array in zip(read[name].blobs, arrays, strict=True):
            assert tensor.dtype == torch.float32
            assert np.array_equal(reshaped(tensor, array.shape).numpy(), array)


def layer(body: bytes) -> bytes:
    return field(100, field(1, b"x") + field(7, body))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no layer with weights"),
        (layer(blob(numbers(2))) * 2, "two layers"),
        (field(100, b"")[:-1] + b"\xff\xff\xff\xff\x0f", "should take"),
        (b"\xff" * 20, "ten bytes"),
        (varint(1 << 3 | 3), "wire type 3"),
        (varint(2), "field number 0"),
        (layer(field(7, field(1, varint(1 << 62) * 2)) + field(5, b"")), "shape"),
        (layer(field(7, field(1, varint(-1))) + field(5, b"")), "shape"),
        (layer(field(7, field(1, varint(1) * 99)) + field(5, b"\0" * 4)), "dimensions"),
        (layer(field(7, field(1, varint(2))) + field(5, b"\0" * 7)), "7 bytes"),
        (layer(blob(numbers(2)))[:-3], "should take"),
        (field(100, field(1, b"\xff") + field(7, blob(numbers(2)))), "no text"),
        (field(100, field(1, b"x") + field(7, blob(numbers(1))) * 99), "blobs"),
    ],
)
def test_damaged_caffe(tmp_path, data, words):
    (tmp_path / "w.caffemodel").write_bytes(data)
    with pytest.raises(WeaksegError, match=words):
        read_caffemodel(tmp_path / "w.caffemodel")


@pytest.mark.parametrize("suffix", [".params", ".caffemodel", ".pth", ".safetensors"])
def test_thousands_of_damaged_files_never_surprise(tmp_path, suffix):
    if suffix == ".params":
        good = mxnet_file({"arg:a": numbers(2, 3), "aux:b": numbers(3)})
    elif suffix == ".caffemodel":
        good = caffe_file({"a": ("Convolution", [numbers(2, 3), numbers(2)]), "b": ("Scale", [numbers(2)])})
    else:
        tensors = {"a": torch.ones(2, 3), "b": torch.zeros(3)}
        save_file(tensors, tmp_path / "good") if suffix == ".safetensors" else torch.save(tensors, tmp_path / "good")
        good = (tmp_path / "good").read_bytes()
    path, draw = tmp_path / f"w{suffix}", random.Random(0)
    refused = 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        path.write_bytes(data[: draw.randrange(len(data) + 1)] if draw.random() < 0.3 else data)
        try:
            read_foreign(path)
        except WeaksegError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["w.params", "w.caffemodel", "w.pth", "w.safetensors"])
def test_missing_files(tmp_path, name):
    with pytest.raises(WeaksegError, match="there is no weights file"):
        read_foreign(tmp_path / name)


def test_a_pth_that_unpacks_to_more_than_it_has(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as good, zipfile.ZipFile(tmp_path / "w.pth", "w") as bad:
        for entry in good.namelist():
            bad.writestr(entry, good.read(entry))
        bad.writestr("good/data/9", bytes(1_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(WeaksegError, match="unpacks to"):
        read_foreign(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "state",
    [
        {"a": torch.zeros(2).to_sparse()},
        {"a": torch.zeros(2, dtype=torch.complex64)},
        {1: torch.zeros(2)},
        {"a": torch.zeros(2, device="meta")},
    ],
)
def test_only_plain_tensors(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeaksegError, match="plain tensor"):
        read_foreign(tmp_path / "w.pth")


# --- names ---


def test_every_name_of_resnet38_has_one_in_mxnet():
    with torch.device("meta"):
        wanted = [n for n in ResNet38d().state_dict() if not n.endswith("num_batches_tracked")]
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    theirs = {}
    for name in wanted:
        block, _, rest = name.partition(".")
        if block in ("conv1a", "bn7"):
            theirs[f"{block}_{rest if block == 'conv1a' else kinds[rest]}"] = name
            continue
        stage, _, later = block[1:].partition("_")
        layer, kind = rest.rsplit(".", 1)
        which, branch = layer.split("_")
        where = f"{stage}a" if not later else f"{stage}b{later}"
        theirs[f"res{where}_{branch}_weight" if which == "conv" else f"bn{where}_{branch}_{kinds[kind]}"] = name
    renamed = from_mxnet({n: torch.tensor(i) for i, n in enumerate(theirs)})
    assert list(renamed) == list(theirs.values())
    assert "res3b2_branch2b1_weight" in theirs
    assert list(from_mxnet({"linear1000_weight": torch.zeros(1)})) == ["linear1000_weight"]


def test_every_name_of_resnet101_has_one_in_caffe():
    with torch.device("meta"):
        wanted = {n for n in CaffeResNet101().state_dict() if not n.endswith("num_batches_tracked")}
    layers, one = {}, torch.ones(1)
    names = ["conv1"]
    for stage, count in ((2, 3), (3, 4), (4, 23), (5, 3)):
        blocks = ["a", "b", "c"] if count == 3 else ["a", *(f"b{i}" for i in range(1, count))]
        names += [f"{stage}{b}_branch{k}" for b in blocks for k in ("1", "2a", "2b", "2c") if k != "1" or b == "a"]
    for name in names:
        stem = name == "conv1"
        layers["conv1" if stem else f"res{name}"] = Layer("Convolution", (one,))
        layers[f"bn{'_' * stem}{name}"] = Layer("BatchNorm", (one, one, one))
        layers[f"scale{'_' * stem}{name}"] = Layer("Scale", (one, one))
    assert set(from_caffe(layers)) == wanted


def test_caffe_statistics_share_a_factor():
    blobs = (torch.tensor([4.0, 8.0]), torch.tensor([2.0, 6.0]), torch.tensor([2.0]))
    read = from_caffe({"bn2b_branch2c": Layer("BatchNorm", blobs)})
    assert read["layer2.block2.increase.bn.running_mean"].tolist() == [2.0, 4.0]
    assert read["layer2.block2.increase.bn.running_var"].tolist() == [1.0, 3.0]
    nothing = from_caffe({"bn_conv1": Layer("BatchNorm", (*blobs[:2], torch.zeros(1)))})
    assert nothing["layer1.conv1.bn.running_mean"].tolist() == [0.0, 0.0]
    with pytest.raises(WeaksegError, match="4 blobs"):
        from_caffe({"bn_conv1": Layer("BatchNorm", (*blobs, blobs[0]))})


def test_vgg_of_caffe_keeps_its_names():
    read = from_caffe({"conv3_2": Layer("Convolution", (torch.zeros(1), torch.ones(1)))})
    assert list(read) == ["conv3_2.weight", "conv3_2.bias"]


@pytest.mark.slow
def test_vgg_of_torchvision(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16(weights=None).eval()
    path = tmp_path / "vgg16.pth"
    torch.save(theirs.state_dict(), path)
    made = convert_weights(path, tmp_path / "vgg.safetensors")
    assert (made.name, made.left_out) == ("vgg16d", ())
    model = build_backbone(backbone_from_file(made.path, 8)).eval()
    image = torch.randint(0, 256, (3, 64, 48), dtype=torch.uint8)
    with torch.inference_mode():
        ours = model(model.normalise(image)[None])
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = ((image / 255 - mean[:, None, None]) / std[:, None, None])[None]
        torch.testing.assert_close(model.net.conv1_1(model.normalise(image)[None]), theirs.features[0](x))
    assert torch.equal(model.net.fc6.weight[1], theirs.classifier[0].weight.reshape(4096, 512, 7, 7)[4, :, ::3, ::3])
    assert torch.equal(model.net.fc7.weight[2, :, 0, 0], theirs.classifier[3].weight[8, ::4])
    assert ours[-1].shape == (1, 1024, 8, 6)


def test_another_vgg_of_torchvision():
    with torch.device("meta"):
        state = dict(torchvision.models.vgg16(weights=None).state_dict())
    state["classifier.0.weight"] = torch.zeros(4096, 512, device="meta")
    with pytest.raises(WeaksegError, match="25088"):
        from_torchvision_vgg16(state)


def test_common_prefix():
    wanted = ["layer1.conv.weight", "layer1.bn.weight"]
    assert (
        common_prefix([f"module.base.{n}" for n in wanted] + ["module.base.aspp.c0.weight"], wanted) == "module.base."
    )
    assert common_prefix([*wanted, *(f"copy.{n}" for n in wanted)], wanted) == ""
    assert common_prefix(["x", "." * 100_000], wanted) == ""


# --- the check against the network ---

WANTED = {"conv.weight": (4, 3, 1, 1), "bn.weight": (4,), "bn.num_batches_tracked": ()}


def state(**other):
    return {"conv.weight": torch.ones(4, 3, 1, 1), "bn.weight": torch.ones(1, 1, 1, 4), **other}


def test_select():
    alias = torch.ones(4, 3, 1, 1)
    given = state(**{"conv.weight": alias, "stage1.0.weight": alias, "fc8.weight": torch.ones(2), "x": torch.ones(1)})
    chosen, left = select(given, WANTED, "w", leave_out=["x"])
    assert {n: tuple(t.shape) for n, t in chosen.items()} == {"conv.weight": (4, 3, 1, 1), "bn.weight": (4,)}
    assert left == ["fc8.weight", "x"]
    half, _ = select({f"module.{n}": t.half() for n, t in state().items()}, WANTED, "w")
    assert all(t.dtype == torch.float32 for t in half.values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"conv.weight": torch.ones(4, 3, 1, 1), "bn.weights": torch.ones(4)},
            r"1 \(bn.weight\) missing.*mean 'bn.weights'",
        ),
        (state(extra=torch.ones(1)), r"1 \(extra\) unexpected.*--leave-out"),
        (state(**{"conv.weight": torch.ones(4, 3, 3, 3)}), r"conv.weight \(4, 3, 3, 3\) for \(4, 3, 1, 1\)"),
        (state(**{"conv.weight": torch.ones(3, 4, 1, 1)}), "another shape"),
        (state(**{"bn.weight": torch.tensor([1.0, float("nan"), 1, 1])}), "not finite"),
        ({"layer1.0.conv1.weight": torch.ones(1)}, "2 .* missing"),
        ({}, "missing"),
    ],
)
def test_select_refuses(given, words):
    with pytest.raises(WeaksegError, match=words):
        select(given, WANTED, "w")


def test_a_tensor_spread_over_nothing_is_refused_by_its_shape():
    huge = torch.ones(1).expand(1 << 40)
    with pytest.raises(WeaksegError, match="another shape"):
        select(state(**{"conv.weight": huge}), WANTED, "w")


# --- the whole way ---


class Tiny38(nn.Module):
    channels: ClassVar = (4, 8)
    strides: ClassVar = (1, 2)
    mean: ClassVar = ResNet38d.mean
    std: ClassVar = ResNet38d.std
    bgr: ClassVar = False
    published: ClassVar = "nothing"

    def __init__(self):
        super().__init__()
        self.conv1a = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.b2 = PlainBlock(4, 8, 8, stride=2)
        self.bn7 = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.conv1a(x)
        return [x, self.bn7(self.b2(x)).relu()]


class Tiny101(nn.Module):
    channels: ClassVar = (4, 8)
    strides: ClassVar = (2, 2)
    mean: ClassVar = CaffeResNet101.mean
    std: ClassVar = CaffeResNet101.std
    bgr: ClassVar = True
    published: ClassVar = "nothing"

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", ConvNorm(3, 4, 7, 2, 3))
        self.layer2 = nn.Sequential()
        self.layer2.add_module("block1", Bottleneck(4, 8, 1, 1, first=True))

    def forward(self, x):
        x = self.layer1(x).relu()
        return [x, self.layer2(x)]


def test_from_mxnet_to_a_network(tmp_path, monkeypatch):
    monkeypatch.setitem(PAPERS, "resnet38d", Tiny38)
    arrays = {"arg:conv1a_weight": numbers(4, 3, 3, 3), "arg:linear1000_weight": numbers(10, 8)}
    for where, size in (("bn2a_branch2a", 4), ("bn2a_branch2b1", 8), ("bn7", 8)):
        for i, (part, kind) in enumerate(
            (("arg", "gamma"), ("arg", "beta"), ("aux", "moving_mean"), ("aux", "moving_var"))
        ):
            arrays[f"{part}:{where}_{kind}"] = np.abs(numbers(size)) + i
    arrays |= {"arg:res2a_branch2a_weight": numbers(8, 4, 3, 3), "arg:res2a_branch2b1_weight": numbers(8, 8, 3, 3)}
    arrays |= {"arg:res2a_branch1_weight": numbers(8, 4, 1, 1)}
    (tmp_path / "w.params").write_bytes(mxnet_file(arrays, "legacy"))
    made = convert_weights(tmp_path / "w.params", tmp_path / "out" / "w.safetensors")
    assert (made.name, made.tensors, made.left_out) == ("resnet38d", 16, ("linear1000_weight",))
    assert made.sha256 == file_hash(made.path)
    about = json.loads((tmp_path / "out" / "w.safetensors.json").read_text())
    assert about["source"] == "w.params"
    assert about["source_sha256"] == file_hash(tmp_path / "w.params")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["w.safetensors", "w.safetensors.json"]
    model = build_backbone(backbone_from_file(made.path, 2), freeze_bn=True)
    assert np.array_equal(model.net.b2.conv_branch2b1.weight.detach(), arrays["arg:res2a_branch2b1_weight"])
    assert np.array_equal(model.net.bn7.running_var, arrays["aux:bn7_moving_var"])
    assert np.array_equal(model.net.bn7.bias.detach(), arrays["arg:bn7_beta"])
    assert (convert_weights(tmp_path / "w.params", tmp_path / "w2.safetensors").sha256) == made.sha256


def test_from_caffe_to_a_network(tmp_path, monkeypatch):
    monkeypatch.setitem(PAPERS, "resnet101_caffe", Tiny101)
    layers = {}
    for name, shape in (
        ("conv1", (4, 3, 7, 7)),
        ("res2a_branch1", (8, 4, 1, 1)),
        ("res2a_branch2a", (2, 4, 1, 1)),
        ("res2a_branch2b", (2, 2, 3, 3)),
        ("res2a_branch2c", (8, 2, 1, 1)),
    ):
        short = f"_{name}" if name == "conv1" else name.removeprefix("res")
        layers[name] = ("Convolution", [numbers(*shape)])
        layers[f"bn{short}"] = ("BatchNorm", [numbers(shape[0]), np.abs(numbers(shape[0])), np.float32([2.0])])
        layers[f"scale{short}"] = ("Scale", [numbers(shape[0]), numbers(shape[0])])
    layers["fc1_voc12_c0"] = ("Convolution", [numbers(21, 8, 3, 3), numbers(21)])
    (tmp_path / "w.caffemodel").write_bytes(caffe_file(layers))
    made = convert_weights(tmp_path / "w.caffemodel", tmp_path / "w.safetensors")
    assert made.name == "resnet101_caffe"
    assert made.left_out == ("fc1_voc12_c0.bias", "fc1_voc12_c0.weight")
    backbone = backbone_from_file(made.path, 2)
    model = build_backbone(backbone)
    assert backbone.std == (1 / 255,) * 3
    bn = model.net.layer2.block1.increase.bn
    assert np.array_equal(bn.running_mean, layers["bn2a_branch2c"][1][0] / 2)
    assert np.array_equal(bn.bias.detach(), layers["scale2a_branch2c"][1][1])


def test_from_pth_to_timm(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t")
    wrapped = {"state_dict": {f"module.{n}": t for n, t in theirs.state_dict().items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "w.pth")
    made = convert_weights(tmp_path / "w.pth", tmp_path / "w.safetensors", to="resnet10t")
    assert torch.equal(load_file(made.path)["layer1.0.conv1.weight"], theirs.layer1[0].conv1.weight)
    build_backbone(backbone_from_file(made.path), freeze_bn=True)
    with pytest.raises(WeaksegError, match="--to NAME"):
        convert_weights(tmp_path / "w.pth", tmp_path / "w2.safetensors")
    without = {n: t for n, t in theirs.state_dict().items() if not n.startswith("fc.")}
    torch.save(without, tmp_path / "w.pth")
    assert convert_weights(tmp_path / "w.pth", tmp_path / "w3.safetensors", to="resnet10t").left_out == ()


@pytest.mark.slow
def test_from_irn_with_its_second_names(tmp_path):
    """The published files name each tensor twice: as the network's and as the stage's."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None)
    published = nn.Module()
    published.resnet50, published.stage1 = theirs, nn.Sequential(theirs.conv1, theirs.bn1, nn.ReLU(), theirs.layer1)
    published.classifier = nn.Conv2d(2048, 20, 1, bias=False)
    torch.save(published.state_dict(), tmp_path / "res50_cam.pth")
    made = convert_weights(tmp_path / "res50_cam.pth", tmp_path / "w.safetensors")
    assert made.name == "irn_resnet50"
    assert made.left_out == ("classifier.weight", "resnet50.fc.bias", "resnet50.fc.weight")
    model = build_backbone(backbone_from_file(made.path))
    assert torch.equal(model.net.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)


def test_torchvisions_resnet101_is_told_apart(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(WeaksegError, match="torchvision's ResNet101 is not Caffe's"):
        convert_weights(tmp_path / "w.pth", tmp_path / "w.safetensors", to="resnet101_caffe")


def test_names_of_the_result(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(WeaksegError, match=r"w\.pth\.safetensors"):
        convert_weights(tmp_path / "w.safetensors", tmp_path / "w.pth")
    with pytest.raises(WeaksegError, match="overwrite its source"):
        convert_weights(tmp_path / "w.safetensors", tmp_path / "w.safetensors")
    with pytest.raises(WeaksegError, match="resnet38d"):
        convert_weights(tmp_path / "x.pth", tmp_path / "w.safetensors", to="resnet38e")


def test_a_whole_vgg_has_the_shapes_of_the_published_file():
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in Vgg16().state_dict().items()}
    legacy = {n: torch.empty((1,) * (4 - len(s)) + s, device="meta") for n, s in shapes.items()}
    assert all(reshaped(t, shapes[n]).shape == shapes[n] for n, t in legacy.items())
    assert reshaped(torch.zeros(2, 3), (3, 2)) is None
