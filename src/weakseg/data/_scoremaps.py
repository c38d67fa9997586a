"""Score maps as bytes and back: 1024 levels a map, differences to the left and upper neighbour, zlib.

A float32 map of one photograph takes 0.75 MB and carries about ten useful bits a pixel. Rounding it to 1024 levels
between its own minimum and maximum keeps every value within range / 2046, and because activation maps are smooth the
differences ``v(y, x) - v(y, x-1) - v(y-1, x) + v(y-1, x-1)`` of the levels are mostly -1, 0 or 1, which zlib packs into
one to two bits. The result is an ordinary ``.npz`` (no objects, fixed dates), so numpy alone can open it.

Members of a key ``full``: ``full.ids`` uint8 (K,), ``full.size`` int64 (2,), ``full.box`` int32 (K,) if the map has
boxes, ``full.limits`` float32 (K, 2) = minimum and maximum, ``full.differences`` uint8 (2, K, h, w) = low and high
bytes of the zigzag-coded differences.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from weakseg.types import ScoreMap

LEVELS = 1023
"""Steps between the minimum and the maximum of a map: a value is off by at most range / (2 LEVELS) = 4.9e-4 range."""
EFFORT = 3
"""zlib's level. On activation maps of 2x240x320: 3 packs 19 times in 8 ms, 1 packs 17 in 6, 6 packs 23 in 17."""
DAMAGE = (OSError, EOFError, KeyError, ValueError, NotImplementedError, MemoryError, OverflowError)
"""What reading a damaged archive may raise, beside `zipfile.BadZipFile`, `zlib.error` and `struct.error`."""
DAMAGED_ARCHIVE = (*DAMAGE, zipfile.BadZipFile, zlib.error, struct.error)

_DATE = (1980, 1, 1, 0, 0, 0)


def encode(maps: Mapping[str, ScoreMap]) -> bytes:
    """The bytes of an ``.npz`` with all `maps`; equal maps give equal bytes.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=EFFORT) as archive:
        for key, score_map in maps.items():
            for name, array in _to_arrays(key, score_map).items():
                _write_member(archive, f"{key}.{name}.npy", array)
    return buffer.getvalue()


def decode(file: io.BufferedIOBase, keys: Iterable[str] | None = None) -> dict[str, ScoreMap]:
    """The score maps of an archive that `encode` made: all of them, or those of `keys`, in that order.

    Raises:
        KeyError: a key is not in the archive.
        DAMAGED_ARCHIVE: the archive is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        return {key: _from_archive(archive, key) for key in (stored_keys(archive) if keys is None else keys)}


def stored_keys(archive: zipfile.ZipFile) -> tuple[str, ...]:
    """The keys of an archive, in the order they were written."""
    suffix = ".ids.npy"
    return tuple(name.removesuffix(suffix) for name in archive.namelist() if name.endswith(suffix))


def quantise(scores: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Levels uint16 (K, h, w), 0..1024, and limits float32 (K, 2) of score maps float32 (K, h, w).

    The levels lie on the multiples of the step, so that a score of zero comes back as zero.
    """
    limits = np.zeros((len(scores), 2), np.float32)
    if scores.size:
        limits = np.stack([scores.min((1, 2)), scores.max((1, 2))], 1)
    step, lowest = _grid(limits)
    levels = np.rint(scores / step[:, None, None]) - lowest[:, None, None]
    return levels.astype(np.uint16), limits


def restore(levels: NDArray[np.uint16], limits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores float32 (K, h, w) of `levels` and `limits`, never outside the limits."""
    step, lowest = _grid(limits)
    scores = ((levels + lowest[:, None, None]) * step[:, None, None]).astype(np.float32)
    return np.clip(scores, limits[:, 0, None, None], limits[:, 1, None, None], out=scores)


def difference(levels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """uint8 (2, K, h, w): low and high bytes of the differences to the left and upper neighbour, modulo 2^16.

    Zigzag coding (0, -1, 1, -2 ... -> 0, 1, 2, 3 ...) keeps small differences of either sign in the low byte.
    """
    across = levels.copy()
    across[:, :, 1:] -= levels[:, :, :-1]
    both = across.copy()
    both[:, 1:] -= across[:, :-1]
    signed = both.view(np.int16)
    zigzag = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
    return np.stack([(zigzag & 255).astype(np.uint8), (zigzag >> 8).astype(np.uint8)])


def accumulate(differences: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The inverse of `difference`."""
    zigzag = differences[0] | (differences[1].astype(np.uint16) << 8)
    signed = (zigzag >> 1) ^ (-(zigzag & 1).astype(np.int16)).view(np.uint16)
    down = np.cumsum(signed, axis=1, dtype=np.uint16)
    return np.cumsum(down, axis=2, dtype=np.uint16)


def _grid(limits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Step of the levels and index of the lowest level, float64 (K,) each."""
    low, high = limits[:, 0].astype(np.float64), limits[:, 1].astype(np.float64)
    step = np.where(high > low, (high - low) / LEVELS, 1.0)
    return step, np.rint(low / step)


def _to_arrays(key: str, score_map: ScoreMap) -> dict[str, NDArray[np.generic]]:
    scores = score_map.scores.detach().cpu().numpy()
    if not np.isfinite(scores).all():
        raise ValueError(f"score map {key} of classes {score_map.ids.tolist()} holds values that are not finite")
    levels, limits = quantise(scores)
    arrays: dict[str, NDArray[np.generic]] = {
        "ids": score_map.ids.cpu().numpy(),
        "size": np.asarray(score_map.size, np.int64),
        "limits": limits,
        "differences": difference(levels),
    }
    return arrays if score_map.box is None else {**arrays, "box": score_map.box.cpu().numpy()}


def _write_member(archive: zipfile.ZipFile, name: str, array: NDArray[np.generic]) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    archive.writestr(info, buffer.getvalue(), compresslevel=EFFORT)


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    # the whole member first: zipfile checks its sum only at the end, and numpy stops one byte short of it
    return np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)


def _from_archive(archive: zipfile.ZipFile, key: str) -> ScoreMap:
    def member(name: str, dtype: type[np.generic], ndim: int) -> NDArray[np.generic]:
        array = _read_member(archive, f"{key}.{name}.npy")
        if array.dtype != dtype or array.ndim != ndim:
            raise ValueError(f"{key}.{name} is {array.dtype} {array.shape}")
        return array

    boxed = f"{key}.box.npy" in archive.namelist()
    height, width = member("size", np.int64, 1).tolist()
    levels = accumulate(member("differences", np.uint8, 4))  # type: ignore[arg-type]
    scores = restore(levels, member("limits", np.float32, 2))  # type: ignore[arg-type]
    return ScoreMap(
        ids=torch.from_numpy(member("ids", np.uint8, 1)),
        scores=torch.from_numpy(scores),
        size=(height, width),
        box=torch.from_numpy(member("box", np.int32, 1)) if boxed else None,
    )
