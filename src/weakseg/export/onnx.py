"""A trained segmentation network as one ONNX file: photographs in, probabilities and labels out.

The file holds one look at each photograph, normalisation included. What `weakseg predict` does around the network
(several scales, mirror images, a CRF, EPS' square) is not in it; `left_out` says which of these the recipe asks for,
and so does the file. Five lines run it, without weakseg and without torch::

    import json, numpy, onnxruntime, PIL.Image
    session = onnxruntime.InferenceSession("net.onnx")
    image = numpy.asarray(PIL.Image.open("a.jpg").convert("RGB")).transpose(2, 0, 1)[None]  # uint8 (1, 3, H, W)
    probabilities, labels = session.run(None, {"image": image})  # float32 (N, C + 1, H, W), uint8 (N, H, W)
    names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])  # names[0] is background

torch's tracing exporter is used. Its successor (``dynamo=True``) gives the same numbers for most of the networks, but
it does not get through MSC's sizes, took 9 to 350 seconds where this one took half a second to 2 (torch 2.15, small
networks on a busy core, MobileNetV2 with "same" padding the slowest), and wants one more package. Tracing fixes what
Python decides on the way, so a file is compared with its network at sizes and batches that tracing did not see.
"""

import contextlib
import importlib
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weakseg.data.store import write_bytes
from weakseg.export.place import place_of
from weakseg.pipeline.book import versions
from weakseg.pipeline.networks import Network, network_of
from weakseg.types import WeaksegError

SUFFIX = ".onnx"
OPSETS = range(13, 21)
"""Versions of ONNX's operators that the exporter writes and that hold all that these networks need."""
OUTPUTS = ("probabilities", "labels")
TRACED = (2, 3, 64, 96)
"""Shape of the images that tracing sees."""
CHECKED = ((1, 3, 97, 123), (2, 3, 128, 96))
"""Shapes of the images that file and network are compared on."""
TOLERANCE = 1e-3
"""How far probabilities may differ."""
SHARE = 1e-3
"""Share of pixels whose label may differ: where two classes are equally likely, rounding decides."""

_SILENT = (
    # torch announces that this exporter will go some day, once in general and once from within it
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
)
_GROUP_NORM = "Converting a tensor to a Python boolean might cause the trace to be incorrect"
"""GroupNorm asks whether a group has a single value, an error in training; here it is no decision."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file that was written.

    Attributes:
        path: the file.
        megabytes: its size, 10^6 bytes.
        difference: largest difference of a probability between ONNX Runtime and torch; None = not compared.
        differing: share of pixels whose label differs, 0-1; None = not compared.
        left_out: what `weakseg predict` does besides, in words.
    """

    path: Path
    megabytes: float
    difference: float | None
    differing: float | None
    left_out: tuple[str, ...]

    def sentence(self) -> str:
        """One line for people: size, comparison, and what the file does not do."""
        compared = "not compared with torch"
        if self.difference is not None and self.differing is not None:
            compared = (
                f"probabilities as torch's within {self.difference:.0e}, labels differ in {100 * self.differing:.3g} %"
            )
        return f"{self.path}: {self.megabytes:.1f} MB, {compared}; {_besides(self.left_out)}"


def export_onnx(run: str | Path, out: str | Path, *, seed: int = 0, opset: int = 17, check: bool = True) -> Exported:
    """Write the segmentation network of an ended run as one ONNX file that needs no other, whole or not at all.

    Input ``image``: uint8 (N, 3, H, W), RGB 0-255; N, H and W are free. Outputs ``probabilities``: float32
    (N, C + 1, H, W), softmax at the input's size, channel 0 = background; ``labels``: uint8 (N, H, W), its argmax.
    No side needs to be a multiple of anything: the networks pad by themselves. The file's metadata say this too, with
    the names of the classes, the recipe, its step and the sha256 of the weights.

    The file looks at each photograph once, as it is. Scales, mirror images, EPS' square and the CRF of `weakseg
    predict` are not in it: labels are those of `weakseg predict` only where the recipe asks for none (`left_out`).

    Args:
        run: the run's folder.
        out: ``FILE.onnx``; what is there is replaced.
        seed: which of the run's seeds.
        opset: version of ONNX's operators, 13 to 20; 17 is read by every runtime since 2022.
        check: compare the file with the network in ONNX Runtime on the CPU before it is written.

    Returns:
        the file's size, the comparison, and what is left out.

    Raises:
        WeaksegError: another suffix or opset; the extra is not installed; no ended run, or one without such a network;
            a network of instances; probabilities differ by more than 1e-3, or more than 0.1 % of the labels.
    """
    path = place_of(out, SUFFIX, Path(run))
    if opset not in OPSETS:
        raise WeaksegError(f"opset {opset} is not written: give one from {OPSETS.start} to {OPSETS.stop - 1}")
    for package in ("onnx", *(("onnxruntime",) if check else ())):
        _extra(package)  # said before a network is loaded
    network = network_of(Path(run), seed)
    data = encode(network, opset)
    difference, differing = compare(network, data) if check else (None, None)
    if difference is not None and differing is not None and (difference > TOLERANCE or differing > SHARE):
        raise WeaksegError(
            f"{path} is not written: in ONNX Runtime probabilities differ from torch's by up to {difference:.2g} and "
            f"{100 * differing:.2g} % of the labels; try another opset, and tell us which network it is"
        )
    write_bytes(path, data)
    return Exported(path, len(data) / 1e6, difference, differing, left_out(network.method))


def encode(network: Network, opset: int = 17) -> bytes:
    """The bytes of an ONNX file of `network`, whose weights, modes and device stay as they are.

    Raises:
        WeaksegError: the network is of instances, or of a method without `one_view`.
    """
    onnx = _extra("onnx")
    looks = _Look(_exportable(network), network.model)
    device, buffer = next(network.model.parameters()).device, io.BytesIO()
    with _at_rest(network.model), torch.no_grad(), warnings.catch_warnings():
        for category, message in _SILENT:
            warnings.filterwarnings("ignore", message, category)
        warnings.filterwarnings("ignore", _GROUP_NORM, torch.jit.TracerWarning, r"torch\.nn\.functional")
        torch.onnx.export(
            looks,
            (_images(TRACED).to(device),),
            buffer,  # type: ignore[arg-type]  # the annotation is the successor's
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: _free(name) for name in ("image", *OUTPUTS)},
        )
    model = onnx.load_from_string(buffer.getvalue())
    channels = model.graph.output[0].type.tensor_type.shape.dim[1]
    channels.dim_value = len(network.about.classes) + 1  # setting it takes away the exporter's invented name
    onnx.helper.set_model_props(model, metadata(network))
    onnx.checker.check_model(model, full_check=True)
    encoded: bytes = model.SerializeToString(deterministic=True)
    return encoded


def compare(network: Network, data: bytes) -> tuple[float, float]:
    """Largest difference of a probability, and share of labels that differ, between an ONNX file's bytes and `network`.

    Two sizes, one of them odd, and two batch sizes; ONNX Runtime on the CPU.
    """
    runtime = _extra("onnxruntime")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    device = next(network.model.parameters()).device
    look, difference, wrong, pixels = _Look(network.method, network.model), 0.0, 0, 0
    for shape in CHECKED:
        images = _images(shape)
        with _at_rest(network.model), torch.no_grad():
            ours = [output.cpu() for output in look(images.to(device))]
        theirs = [torch.from_numpy(x) for x in session.run(list(OUTPUTS), {"image": images.numpy()})]
        difference = max(difference, float((ours[0] - theirs[0]).abs().max()))
        wrong, pixels = wrong + int((ours[1] != theirs[1]).sum()), pixels + ours[1].numel()
    return difference, wrong / pixels


def metadata(network: Network) -> dict[str, str]:
    """What the file says of itself, text by key; ``classes`` is a JSON list whose entry k is label k."""
    about, backbone = network.about, network.about.backbone
    return {
        "classes": json.dumps(["background", *about.classes], ensure_ascii=False),
        "input": "image: uint8 (N, 3, H, W), RGB 0-255, any size; it is normalised inside",
        "outputs": (
            "probabilities: float32 (N, C + 1, H, W), softmax at the input's size, channel 0 = background; "
            "labels: uint8 (N, H, W), their argmax, an index into classes"
        ),
        "left_out": _besides(left_out(network.method)),
        "recipe": about.recipe,
        "step": about.step,
        "seed": str(about.seed),
        "method": about.method.rpartition("/")[2],  # of a method of one's own: the file, not its folder
        "backbone": backbone.name,
        "mean": json.dumps(backbone.mean),
        "std": json.dumps(backbone.std),
        "weights_sha256": about.weights_sha256,
        "weakseg": versions()["weakseg"],
        "trained_with": json.dumps(dict(about.versions)),
    }


def left_out(method: Any) -> tuple[str, ...]:
    """What `weakseg predict` does with this method that one look at the photograph does not, in words."""
    scales, square = tuple(getattr(method, "scales", (1.0,))), getattr(method, "test_size", None)
    said = []
    if square is not None:
        said.append(f"scales photographs to {square} x {square} pixels")
    if scales != (1.0,):
        said.append(f"looks at scales {', '.join(f'{s:g}' for s in scales)}")
    if getattr(method, "flip", False):
        said.append("looks at mirror images")
    if (crf := getattr(method, "crf", None)) is not None:
        said.append(f"ends with the CRF {crf}")
    return tuple(said)


def _besides(said: tuple[str, ...]) -> str:
    if not said:
        return "its labels are those of `weakseg predict`"
    return f"it looks at a photograph once, as it is: `weakseg predict` also {', '.join(said)}, so its labels differ"


class _Look(nn.Module):
    """Photographs uint8 (N, 3, H, W) -> probabilities and labels."""

    def __init__(self, method: Any, model: nn.Module) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = self.method.one_view(self.model, image)
        return probabilities, probabilities.argmax(dim=1).to(torch.uint8)


def _exportable(network: Network) -> Any:
    method, name = network.method, network.about.method
    if hasattr(method, "one_view"):
        return method
    if hasattr(method, "writes") and "instances" in method.writes:
        raise WeaksegError(
            f"{name} finds instances, and ONNX files are made of networks that label pixels: keep the run's folder, or "
            "a .safetensors bundle"
        )
    raise WeaksegError(f"{name} has no one_view(model, images), which is what an ONNX file holds: give it one")


def _extra(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WeaksegError(f"{package} is not installed, which ONNX files want: pip install 'weakseg[onnx]'") from error


def _free(name: str) -> dict[int, str]:
    return {0: "N", 1: "H", 2: "W"} if name == "labels" else {0: "N", 2: "H", 3: "W"}


def _images(shape: tuple[int, ...]) -> Tensor:
    """uint8 noise, the same each time."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Inference mode (no dropout, BatchNorm's stored statistics) for a while; then each module's own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
