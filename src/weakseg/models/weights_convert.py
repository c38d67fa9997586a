"""Published weights made usable: other tools' files into safetensors that `--weights` takes.

MXNet's `.params`, Caffe's `.caffemodel`, and `.pth` files of torchvision, timm and the papers' authors; neither MXNet
nor Caffe is needed. Every tensor of the network must come, with its shape; what is left over is named.
"""

import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from weakseg._words import near
from weakseg.models._foreign_names import (
    common_prefix,
    from_caffe,
    from_mxnet,
    from_torchvision_vgg16,
    is_torchvision_vgg16,
    reshaped,
)
from weakseg.models.backbones import OWN, PAPERS, backbone_from_name, build_backbone
from weakseg.models.caffemodel import read_caffemodel
from weakseg.models.mxnet_params import read_params
from weakseg.models.weights import file_hash, read_weights
from weakseg.types import LATER, Backbone, WeaksegError

Shapes = dict[str, tuple[int, ...]]

_HEADS = re.compile(
    r"(fc\d*|fc1_\w+|fc\d_\w+|classifier\w*|head|linear\d*|last_linear|cls\w*|aspp|c\d|bn8|f8_\d|gn8_\d|f9|gconv\d"
    r"|label_enc|fc_edge\d|fc_dp\d|mean_shift)[._].*"
)
"""Names of what sits on a backbone in the published networks: it may be left over."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What `convert_weights` wrote.

    Attributes:
        path: the safetensors file; its description is ``path.json``.
        name: the network.
        tensors: how many were written.
        left_out: names in the source that are no part of the network: classifiers, heads.
        sha256: of the written file, as it stands in a run's manifest.
    """

    path: Path
    name: str
    tensors: int
    left_out: tuple[str, ...]
    sha256: str


def convert_weights(
    source: str | Path, out: str | Path, *, to: str | None = None, leave_out: Sequence[str] = ()
) -> Converted:
    """Write the backbone's weights in `source` as a safetensors file with its description beside it.

    Args:
        source: `.params`, `.caffemodel`, `.safetensors`, or anything that `torch.load` reads with ``weights_only``.
        out: ``FILE.safetensors``; ``FILE.safetensors.json`` names the network, mean, std, the source and its sha256.
        to: a network of weakseg (``resnet38d``, ``vgg16d``, ``resnet101_caffe``, ``irn_resnet50``) or of timm; None =
            the one of weakseg's that the file fits.
        leave_out: beginnings of further names that may be left over; classifiers and heads always may.

    Returns:
        what was written.

    Raises:
        WeaksegError: the source is missing, damaged or of another network: names that are missing, too many or of
            another shape, with near ones; or numbers that are not finite.
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".safetensors":
        raise WeaksegError(f"the result is a safetensors file: call it {out.name}.safetensors")
    if out.resolve() == source.resolve():
        raise WeaksegError(f"{out} would overwrite its source: choose another name")
    state = read_foreign(source)
    name = to or _recognised(state, source)
    statistics = backbone_from_name(name)
    if name == "vgg16d" and is_torchvision_vgg16(state):
        state = from_torchvision_vgg16(state)
        statistics = backbone_from_name("irn_resnet50")  # torchvision's mean and std
    chosen, left = select(state, _shapes(name), str(source), leave_out=leave_out, optional=_classifier(name))
    about = {
        "name": name,
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "create": {},
        "source": source.name,
        "source_sha256": file_hash(source),
        "left_out": sorted(left),
    }
    _write(out, chosen, about)
    return Converted(out, name, len(chosen), tuple(sorted(left)), file_hash(out))


def read_foreign(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a file of MXNet, Caffe, safetensors or PyTorch, under the names of weakseg's networks.

    Raises:
        WeaksegError: the file is missing, damaged, or of none of these formats.
    """
    path = Path(path)
    if path.suffix == ".params":
        return from_mxnet(read_params(path))
    if path.suffix == ".caffemodel":
        return from_caffe(read_caffemodel(path))
    _check_stored(path)
    state = read_weights(path)
    for name, tensor in state.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise WeaksegError(f"{path}: {str(name)[:80]!r} is no plain tensor of real numbers: save `state_dict()`")
    return state


def select(
    state: Mapping[str, Tensor],
    wanted: Shapes,
    source: str,
    *,
    leave_out: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors `wanted`, as float32 and in their shapes, and the names that are left over.

    A common prefix of the names (``module.``, ``base.``) is taken off.

    Args:
        state: tensors by the file's names.
        wanted: shapes by the network's names.
        source: the file, for errors.
        leave_out, optional: beginnings of names that may be left over, or missing.

    Raises:
        WeaksegError: as `convert_weights`.
    """
    wanted = {n: s for n, s in wanted.items() if not n.endswith("num_batches_tracked")}
    prefix = common_prefix(state, wanted)
    given = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    found = {n: reshaped(given[n], shape) for n, shape in wanted.items() if n in given}
    other = {n for n, t in found.items() if t is None}
    missing = [n for n in wanted if n not in found and not n.startswith(tuple(optional))]
    used = {_place(given[n]) for n in found}
    left = [n for n in state if n.removeprefix(prefix) not in found or not n.startswith(prefix)]
    left = [n for n in left if not n.endswith("num_batches_tracked") and _place(state[n]) not in used]
    strange = [n for n in left if not _may_stay(n.removeprefix(prefix), leave_out)]
    _refuse(source, missing, strange, [f"{n} {tuple(given[n].shape)} for {wanted[n]}" for n in sorted(other)])
    chosen = {n: t.to(torch.float32, copy=True).contiguous() for n, t in found.items() if t is not None}
    if damaged := [n for n, t in chosen.items() if not t.isfinite().all()]:
        raise WeaksegError(f"{source}: {_some(damaged)} hold numbers that are not finite: download the file again")
    return chosen, left


def _is_plain(tensor: Tensor) -> bool:
    """Dense, on the CPU, of real numbers: what a weight is."""
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
    return dense and tensor.device.type == "cpu" and not tensor.is_complex()


def _place(tensor: Tensor) -> tuple[int, int, tuple[int, ...]]:
    """Where a tensor lies: the published files hold some tensors under two names."""
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tuple(tensor.shape)


def _may_stay(name: str, leave_out: Sequence[str]) -> bool:
    return bool(_HEADS.fullmatch(name)) or name.startswith(tuple(leave_out))


def _refuse(source: str, missing: list[str], strange: list[str], other: list[str]) -> None:
    if not (missing or strange or other):
        return
    parts = [
        f"{_some(missing)} missing{near(missing[0], strange)}" if missing else "",
        f"{_some(strange)} unexpected{near(strange[0], missing)}" if strange else "",
        f"{_some(other)} of another shape" if other else "",
    ]
    torchvision = any(".block1." in n for n in missing) and any(n.endswith("layer1.0.conv1.weight") for n in strange)
    hint = "torchvision's ResNet101 is not Caffe's" if torchvision else "name the right one with --to"
    only = " (or name what may be left over with --leave-out)" if strange and not missing and not other else ""
    raise WeaksegError(
        f"{source} holds another network than the one wanted: {'; '.join(filter(None, parts))}; {hint}{only}"
    )


def _recognised(state: Mapping[str, Tensor], source: Path) -> str:
    """The network of weakseg's most of whose tensors are in `state`."""
    if is_torchvision_vgg16(state):
        return "vgg16d"
    shares = {name: _share(state, _shapes(name)) for name in OWN}
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < 0.5:
        raise WeaksegError(
            f"{source} holds none of {', '.join(OWN)} (its names: {_some(list(state))}): say which network "
            "it is with --to NAME, weakseg's or timm's"
        )
    return best


def _share(state: Mapping[str, Tensor], wanted: Shapes) -> float:
    prefix = common_prefix(state, wanted)
    return sum(prefix + name in state for name in wanted) / len(wanted)


def _shapes(name: str) -> Shapes:
    """Shapes of the network's tensors by name; nothing is allocated."""
    with torch.device("meta"):
        if name in OWN:
            stride = PAPERS[name].strides[-1] if name in PAPERS else 16
            model: torch.nn.Module = build_backbone(Backbone(name, LATER, stride)).net
        else:
            model = timm.create_model(name)
        return {n: tuple(t.shape) for n, t in model.state_dict().items()}


def _classifier(name: str) -> tuple[str, ...]:
    """Beginnings of the names of timm's classifier, which a file may lack."""
    if name in OWN:
        return ()
    config = timm.get_pretrained_cfg(name)
    classifier = getattr(config, "classifier", None) or ()
    return tuple(f"{c}." for c in ([classifier] if isinstance(classifier, str) else classifier))


def _check_stored(path: Path) -> None:
    """PyTorch packs without compression; a small file that unpacks to a huge one is not from there."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # a damaged archive raises whatever zipfile meets first
        raise WeaksegError(f"{path} is damaged ({error}): download it again") from None
    if unpacked > path.stat().st_size:
        raise WeaksegError(f"{path} unpacks to {unpacked} bytes, more than it has: PyTorch writes no such file")


def _write(out: Path, tensors: dict[str, Tensor], about: Mapping[str, object]) -> None:
    """Both files under temporary names first, so that an interrupted conversion leaves none that is half written."""
    beside = out.with_name(out.name + ".json")
    parts = [out.with_name(f".tmp-{out.name}"), out.with_name(f".tmp-{beside.name}")]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, parts[0])
        parts[1].write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        for part, path in zip(parts, (out, beside), strict=True):
            os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise WeaksegError(f"cannot write {out}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _some(names: Sequence[str]) -> str:
    """``3 (a, b, ...)``."""
    return f"{len(names)} ({', '.join(n[:80] for n in names[:3])}{', ...' if len(names) > 3 else ''})"
