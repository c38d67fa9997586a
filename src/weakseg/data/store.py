"""The store: every file that weakseg keeps is written and read here, whole or not at all.

A file is written under a temporary name beside its place, flushed to the disk and renamed; a killed run leaves either
the finished file or none. Equal contents give equal bytes (no dates, no order of a hash), which is what lets a resumed
run be compared with an undisturbed one. Nothing is pickled.
"""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from weakseg.data import _scoremaps
from weakseg.data._files import (
    TEMPORARY,
    damaged,
    read_bytes,
    read_json,
    refused,
    remove_leftovers,
    replacing,
    safe_name,
    write_bytes,
    write_json,
    write_text,
)
from weakseg.data._png import plain_indices
from weakseg.data.runs import decode_runs, encode_runs
from weakseg.types import MAX_CLASSES, Instances, LabelMap, Outputs, ScoreMap, WeaksegError, check_label_map

__all__ = [
    "SCORES_FOLDER",
    "TEMPORARY",
    "Kind",
    "Store",
    "colour",
    "palette",
    "read_bytes",
    "read_instances",
    "read_json",
    "read_label_map",
    "read_metadata",
    "read_score_maps",
    "read_tensors",
    "refused",
    "remove_leftovers",
    "replacing",
    "safe_name",
    "write_bytes",
    "write_instances",
    "write_json",
    "write_label_map",
    "write_score_maps",
    "write_tensors",
    "write_text",
]

SCORES_FOLDER = "scores"
"""Folder of a step that holds the score maps of all its keys, one file an id."""

Kind = Literal["scores", "labels", "instances"]

_SUFFIX: dict[Kind, str] = {"scores": ".npz", "labels": ".png", "instances": ".json"}


# --- label maps ---


def colour(k: int) -> tuple[int, int, int]:
    """RGB 0-255 of label `k`, 0..255: VOC's palette, which deals the bits of k to the high bits of the channels.

    >>> colour(0), colour(1), colour(15), colour(255)
    ((0, 0, 0), (128, 0, 0), (192, 128, 128), (224, 224, 192))
    """
    r = g = b = 0
    for place in range(7, -1, -1):
        r |= (k & 1) << place
        g |= (k >> 1 & 1) << place
        b |= (k >> 2 & 1) << place
        k >>= 3
    return r, g, b


def palette() -> list[int]:
    """The 768 numbers of VOC's palette, as PIL's `putpalette` wants them."""
    return [channel for k in range(256) for channel in colour(k)]


def write_label_map(path: Path, labels: LabelMap, palette: bool = True) -> None:
    """Write a label map uint8 (H, W) as PNG, atomically: palette image in VOC's colours, or greyscale."""
    image = Image.fromarray(check_label_map(labels).detach().cpu().numpy())
    if palette:
        image.putpalette(_PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


_PALETTE = palette()


def read_label_map(path: Path, size: tuple[int, int] | None = None) -> LabelMap:
    """The label map uint8 (H, W) of a palette or greyscale PNG.

    Raises:
        WeaksegError: the file is missing, damaged, in colour, or not of `size` = (H, W).
    """
    data = read_bytes(path)
    mode, array = "P", plain_indices(data)
    try:
        if array is None:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                mode, array = image.mode, np.array(image)
    except (*_scoremaps.DAMAGE, SyntaxError, Image.DecompressionBombError) as error:
        raise damaged(path, "PNG label map", error) from error
    if mode not in ("P", "L"):
        raise WeaksegError(f"{path} is a PNG of mode {mode}; a label map is a palette (P) or 8-bit grey (L) image")
    if size is not None and array.shape != tuple(size):
        raise WeaksegError(f"{path} is {array.shape[1]}x{array.shape[0]}, its photograph {size[1]}x{size[0]} pixels")
    return torch.from_numpy(array)


# --- score maps ---


def write_score_maps(path: Path, maps: Mapping[str, ScoreMap]) -> None:
    """Write score maps by key to one ``.npz``, atomically; ids, size and box exactly, scores within 4.9e-4 x range.

    The range is that of each map alone. Zeros stay zeros and no score leaves the range of its map.

    Raises:
        WeaksegError: a score is NaN or infinite, a key cannot name a file, or the system refuses.
    """
    for key in maps:
        safe_name(key)
    try:
        data = _scoremaps.encode(maps)
    except ValueError as error:
        raise WeaksegError(f"{path} is not written: {error}; look for a diverged network") from error
    write_bytes(path, data)


def read_score_maps(path: Path, keys: Sequence[str] | None = None) -> dict[str, ScoreMap]:
    """The score maps of a file by key: all, or those of `keys`.

    Raises:
        WeaksegError: the file is missing or damaged, or lacks a key.
    """
    data = io.BytesIO(read_bytes(path))
    try:
        with zipfile.ZipFile(data) as archive:
            stored = _scoremaps.stored_keys(archive)
        lacking = [key for key in keys or () if key not in stored]
        if not lacking:
            return _scoremaps.decode(data, keys)
    except _scoremaps.DAMAGED_ARCHIVE as error:
        raise damaged(path, "file of score maps", error) from error
    raise WeaksegError(f"{path} holds the score maps {', '.join(stored) or 'none'}, not {', '.join(lacking)}")


# --- instances ---


def write_instances(path: Path, instances: Instances, id: str) -> None:
    """Write the instances of photograph `id` as JSON, atomically: COCO's results format under ``instances``.

    Each has ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height; pixels) and ``segmentation`` (run
    lengths, ``size`` = [H, W]).
    """
    entries = []
    masks = instances.masks.detach().cpu().numpy()
    for mask, label, score, box in zip(masks, instances.labels, instances.scores, instances.boxes, strict=True):
        x0, y0, x1, y1 = box.tolist()
        entries.append(
            {
                "image_id": id,
                "category_id": int(label),
                "score": float(score),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": encode_runs(mask),
            }
        )
    write_json(path, {"image_id": id, "size": list(instances.masks.shape[1:]), "instances": entries})


def read_instances(path: Path) -> Instances:
    """The instances of a file that `write_instances` made, or somebody else in the same form.

    Raises:
        WeaksegError: the file is missing or damaged, run lengths are not of its size, or a number makes no sense.
    """
    content = read_json(path)
    try:
        height, width = (int(n) for n in content["size"])
        entries = content["instances"]
        if not all(1 <= entry["category_id"] <= MAX_CLASSES for entry in entries):
            raise ValueError(f"class ids are 1..{MAX_CLASSES}")
        corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in entries)]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        scores = torch.tensor([entry["score"] for entry in entries], dtype=torch.float32)
        if not bool(boxes.isfinite().all() and scores.isfinite().all()):
            raise ValueError("a box or score is no number")
        masks = [torch.from_numpy(decode_runs(entry["segmentation"], (height, width))) for entry in entries]
        return Instances(
            masks=torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool),
            labels=torch.tensor([entry["category_id"] for entry in entries], dtype=torch.int64),
            scores=scores,
            boxes=boxes,
        )
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise damaged(path, "file of instances", error) from error


# --- tensors ---


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name as safetensors, atomically, with `metadata` (text by name) in the header."""
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        shared = tensor.untyped_storage().data_ptr() in storages  # tied weights: the format wants one storage each
        own[name] = tensor.clone() if shared else tensor
        storages.add(own[name].untyped_storage().data_ptr())
    write_bytes(path, _sorted_header(safetensors.torch.save(own, dict(metadata or {}))))


def _sorted_header(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes them in the order of a random hash."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU; raises WeaksegError if it is missing or damaged."""
    try:
        return dict(safetensors.torch.load(read_bytes(path)))
    except (safetensors.SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise damaged(path, "safetensors file", error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; raises WeaksegError if it is missing or damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, "safetensors file", error) from error


# --- the outputs of a step ---


class Store:
    """The outputs of one step: `keys` for every id, in `folder`.

    All score maps of an id share ``scores/<id>.npz``; a label map of key k is ``<k>/<id>.png``, instances are
    ``<k>/<id>.json``. What a key holds is seen from the files, so a folder of a stranger's masks can be read as well.
    """

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.keys = tuple(safe_name(key) for key in keys)
        self._kinds: dict[str, Kind] = {}

    def write(self, id: str, outputs: Outputs) -> None:
        """Write all outputs of one sample; the score maps last.

        Raises:
            ValueError: the keys of `outputs` are not those of the store.
            WeaksegError: `id` cannot name a file, or the system refuses.
        """
        if set(outputs) != set(self.keys):
            raise ValueError(f"{id}: the step makes {sorted(outputs)}, the store wants {sorted(self.keys)}")
        scores = {key: value for key, value in outputs.items() if isinstance(value, ScoreMap)}
        for key, value in outputs.items():
            if isinstance(value, Instances):
                self._kinds[key] = "instances"
                write_instances(self._file(id, key, "instances"), value, id)
            elif isinstance(value, Tensor):
                self._kinds[key] = "labels"
                write_label_map(self._file(id, key, "labels"), value)
        if scores:
            self._kinds.update(dict.fromkeys(scores, "scores"))
            write_score_maps(self._file(id, next(iter(scores)), "scores"), scores)

    def read(self, id: str, key: str) -> ScoreMap | LabelMap | Instances:
        """The output `key` of sample `id`; raises WeaksegError if it is missing or damaged."""
        path, kind = self.path(id, key), self.kind(key)
        if not path.is_file():
            raise WeaksegError(f"{path} is missing: {self.folder.name} has no {key} of {id}; run the step again")
        if kind == "scores":
            return read_score_maps(path, (key,))[key]
        return read_label_map(path) if kind == "labels" else read_instances(path)

    def labels(self, id: str, key: str) -> LabelMap:
        """The label map `key` of sample `id`; raises WeaksegError if it is missing, damaged or something else."""
        found = self.read(id, key)
        if not isinstance(found, Tensor):
            raise WeaksegError(f"{self.folder} holds {self.kind(key)} under {key!r}; label maps were wanted")
        return found

    def path(self, id: str, key: str) -> Path:
        """The file of `id` and `key`, whether it exists or not; raises WeaksegError if the step holds no such key."""
        return self._file(id, key, self.kind(key))

    def has(self, id: str) -> bool:
        """True if every key of `id` is on disk."""
        return all(self.holds(id, key) for key in self.keys)

    def holds(self, id: str, key: str) -> bool:
        """True if `key` of `id` is on disk."""
        return self._holds(key) and self.path(id, key).is_file()

    def done(self) -> set[str]:
        """The ids of which every key is on disk; one listing of each folder, made anew by each call."""
        if not self.keys or not all(self._holds(key) for key in self.keys):
            return set()
        places = {(self._folder(key, self.kind(key)), _SUFFIX[self.kind(key)]) for key in self.keys}
        return set.intersection(*(_stems(folder, suffix) for folder, suffix in places))

    def kind(self, key: str) -> Kind:
        """What `key` holds, found on disk; raises WeaksegError if there is nothing of that name."""
        if key not in self._kinds:
            found = self._find(safe_name(key))
            if found is None:
                raise WeaksegError(f"{self.folder} holds no output {key!r}; run its step first")
            self._kinds[key] = found
        return self._kinds[key]

    def _holds(self, key: str) -> bool:
        return key in self._kinds or self._find(key) is not None

    def _find(self, key: str) -> Kind | None:
        for kind in ("labels", "instances"):
            if next(_files(self.folder / key, _SUFFIX[kind]), None) is not None:
                return kind
        for path in _files(self.folder / SCORES_FOLDER, ".npz"):
            with contextlib.suppress(*_scoremaps.DAMAGED_ARCHIVE), zipfile.ZipFile(path) as archive:
                return "scores" if key in _scoremaps.stored_keys(archive) else None
        return None

    def _folder(self, key: str, kind: Kind) -> Path:
        return self.folder / (SCORES_FOLDER if kind == "scores" else key)

    def _file(self, id: str, key: str, kind: Kind) -> Path:
        return self._folder(key, kind) / f"{safe_name(id)}{_SUFFIX[kind]}"


def _files(folder: Path, suffix: str) -> Iterator[Path]:
    """Finished files of a folder that end in `suffix`, in the order of the file system."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(suffix) and not entry.name.startswith("."):
                    yield Path(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return


def _stems(folder: Path, suffix: str) -> set[str]:
    return {path.name.removesuffix(suffix) for path in _files(folder, suffix)}
