"""The plainest PNG without Pillow: 8-bit palette or grey indices in rows without filter, as `store` writes them.

Pillow takes three times as long for such a file, most of it in zlib, whose place zlib-ng takes here. Whatever is
otherwise, damage included, is left to Pillow.
"""

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KNOWN = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_MAX_PIXELS = 1 << 26
"""Far below Pillow's limit for a decompression bomb, which is its to judge."""


def plain_indices(data: bytes) -> NDArray[np.uint8] | None:
    """uint8 (H, W) of such a file; None if `data` is anything else."""
    try:
        return _indices(data)
    except (zlib_ng.error, ValueError, IndexError):  # type: ignore[misc]  # its stub declares no class
        return None


def _indices(data: bytes) -> NDArray[np.uint8] | None:
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    depth, colour, compression, filtering, interlace = data[24:29]
    if depth != 8 or colour not in (0, 3) or compression or filtering or interlace:
        return None
    if not 0 < width * height <= _MAX_PIXELS:
        return None
    stream = _stream(data)
    if stream is None:
        return None
    size = height * (width + 1)
    if len(stream) > size + 1024:  # nothing that these pixels need
        return None
    rows = np.frombuffer(zlib_ng.decompress(stream, bufsize=size + 1), np.uint8)
    if rows.size != size:
        return None
    rows = rows.reshape(height, width + 1)
    return None if rows[:, 0].any() else rows[:, 1:].copy()  # a row begins with its filter


def _stream(data: bytes) -> bytes | None:
    """The compressed pixels of a file all of whose chunks are known and undamaged, the last of them its end."""
    parts, kinds, at = [], set(), len(_SIGNATURE)
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind not in _KNOWN or zlib_ng.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return None
        kinds.add(kind)
        if kind == b"IDAT":
            parts.append(data[at + 8 : end])
        at = end + 4
    palette = data[25] == 3
    return b"".join(parts) if kind == b"IEND" and palette == (b"PLTE" in kinds) else None
