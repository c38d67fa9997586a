"""CVAT: the zip of "Segmentation mask 1.1", VOC's folders with colours for classes.

``labelmap.txt`` (``label:color_rgb:parts:actions``), ``ImageSets/Segmentation/default.txt``,
``SegmentationClass/*.png`` in the colours of labelmap.txt, ``SegmentationObject/*.png`` in VOC's colours by number:
each connected region is an object, or each class where a photograph has more than 255 of them. In CVAT: a task with
the photographs and labels of these names, then "Upload annotations"; back with "Export task dataset".

255 travels as the label ``ignore`` in VOC's colour for it (224, 224, 192), which stands in labelmap.txt if it occurs.
Reading takes that colour, index 255 of a palette and a label of that name as 255.
"""

import io
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from weakseg.data.formats._exchange import (
    IGNORE_LABEL,
    Incoming,
    Outgoing,
    Per,
    SizeOf,
    Tick,
    background,
    each_once,
    incoming_classes,
    label_values,
    photo_id,
    value_of,
)
from weakseg.data.formats._pieces import pieces
from weakseg.data.formats._strangers import decode_png, indices
from weakseg.data.store import colour, palette, replacing
from weakseg.types import BACKGROUND, IGNORE, WeaksegError

SUFFIX = ".zip"
FILE = "cvat.zip"
NAMES_PHOTOS = False

Colour = tuple[int, int, int]

_LABELMAP = "labelmap.txt"
_LISTS = "ImageSets/Segmentation/"
_CLASSES = "SegmentationClass/"
_OBJECTS = "SegmentationObject/"
_HEADER = "# label:color_rgb:parts:actions"
_MAX_TEXT = 1 << 26
_MAX_PNG = 1 << 28
"""Bytes of an unpacked member: more is no labelmap, list or mask."""
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, zlib.error)


# --- in memory ---


def encode_labelmap(classes: Sequence[str], ignore: bool) -> str:
    """The text of labelmap.txt: VOC's colours by id.

    >>> encode_labelmap(["cat"], ignore=True).splitlines()[1:]
    ['background:0,0,0::', 'cat:128,0,0::', 'ignore:224,224,192::']
    """
    if strange := [name for name in classes if ":" in name or name.startswith("#")]:
        raise WeaksegError(f"class {strange[0]!r}: CVAT's labelmap.txt has no place for ':' and '#'; rename it")
    named = [("background", BACKGROUND), *((name, k) for k, name in enumerate(classes, 1))]
    named += [(IGNORE_LABEL, IGNORE)] if ignore else []
    return "".join([f"{_HEADER}\n", *(f"{name}:{','.join(map(str, colour(k)))}::\n" for name, k in named)])


def decode_labelmap(text: str, where: str = _LABELMAP) -> dict[Colour, str]:
    """Label names by colour, in the order of the lines; parts and actions are passed over.

    >>> decode_labelmap("# label:color_rgb:parts:actions\\ncat:128,0,0::\\n")
    {(128, 0, 0): 'cat'}
    """
    found: dict[Colour, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, rest = line.partition(":")
        channels = [c.strip() for c in rest.partition(":")[0].split(",")]
        if len(channels) != 3 or not all(c.isascii() and c.isdigit() and len(c) < 4 and int(c) < 256 for c in channels):
            raise WeaksegError(f"{where}: the line {line[:60]!r} is not label:r,g,b:parts:actions; export it again")
        key = (int(channels[0]), int(channels[1]), int(channels[2]))
        if found.setdefault(key, name.strip()) != name.strip():
            raise WeaksegError(f"{where}: {found[key]!r} and {name.strip()!r} share the colour {key}; change one")
    return found


def encode_classes(mask: np.ndarray) -> bytes:
    """The RGB PNG of a mask uint8 (H, W) in VOC's colours."""
    return _png(_PALETTE[mask])


def encode_objects(mask: np.ndarray, per: Per = "region") -> bytes:
    """The RGB PNG of a mask's objects in VOC's colours by number, from 1; a piece is an object (see `_pieces`)."""
    found = list(pieces(mask, per))
    if len(found) > 255:
        found = list(pieces(mask, "class"))
    numbers = np.zeros(mask.shape, np.uint8)
    for k, piece in enumerate(found, 1):
        numbers[piece.place][piece.inside] = k
    return _png(_PALETTE[numbers])


_PALETTE = np.array(palette(), np.uint8).reshape(256, 3)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode_classes(
    image: Image.Image, labels: Mapping[Colour, str], values: Mapping[str, int], where: str
) -> np.ndarray:
    """The mask uint8 (H, W) of an RGB or palette image.

    Args:
        image: of SegmentationClass.
        labels: colour -> label, of labelmap.txt.
        values: label -> id; a label that is no class matters only where its colour occurs.
        where: the file, for errors.

    Raises:
        WeaksegError: a colour is no label's and not VOC's for 255, or its label is no class.
    """
    rgb = np.asarray(image.convert("RGB")).astype(np.uint32)
    codes, inverse = np.unique(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], return_inverse=True)
    colours = [_channels(code) for code in codes.tolist()]
    ids = [value_of(labels[c], values, where) if c in labels else _UNLABELLED.get(c, -1) for c in colours]
    mask = np.array(ids, np.int16)[inverse.reshape(rgb.shape[:2])]
    if image.mode == "P":
        mask[(mask < 0) & (indices(image) == IGNORE)] = IGNORE
    if (mask < 0).any():
        strange = tuple(rgb[mask < 0][0].tolist())
        raise WeaksegError(f"{where} has the colour {strange}, which no label of {_LABELMAP} has; export it again")
    return mask.astype(np.uint8)


_UNLABELLED = {colour(IGNORE): IGNORE}


def _channels(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


# --- files ---


def written(outgoing: Outgoing, out: Path) -> list[Path]:
    """The one file of an export."""
    return [out]


def export(outgoing: Outgoing, out: Path, tick: Tick) -> None:
    """Write the zip; equal masks give equal bytes."""
    encode_labelmap(outgoing.classes, ignore=True)  # a name that cannot travel is said before any work
    unsure = False
    with replacing(out) as file, zipfile.ZipFile(file, "w") as archive:
        for id in outgoing.names:
            mask = outgoing.read(id)
            unsure |= bool((mask == IGNORE).any())
            _add(archive, f"{_CLASSES}{id}.png", encode_classes(mask))
            _add(archive, f"{_OBJECTS}{id}.png", encode_objects(mask, outgoing.per))
            tick()
        _add(archive, f"{_LISTS}default.txt", "".join(f"{id}\n" for id in outgoing.names).encode())
        _add(archive, _LABELMAP, encode_labelmap(outgoing.classes, unsure).encode())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system, member.external_attr = 3, 0o644 << 16  # the same on every system
    archive.writestr(member, data)


def open_file(path: Path, classes: tuple[str, ...] | None, size: SizeOf) -> Incoming:
    """The masks of a zip as CVAT exports it; nothing is unpacked to the disk.

    Photographs are those of the lists and of SegmentationClass; a listed one without a mask is background.

    Raises:
        WeaksegError: no such zip, a damaged one, or labels that mean nothing.
    """
    members = _members(path)
    where = f"{path}, {_LABELMAP}"
    labels = decode_labelmap(_text(path, members, _LABELMAP), where)
    names = classes or incoming_classes(labels.values(), where)
    values = label_values(names)
    masks = _masks(path, members)
    ids = dict.fromkeys([*_listed(path, members, masks), *masks])

    def read(id: str) -> np.ndarray:
        if id not in masks:
            return background(id, size, str(path))
        here = f"{path}, {masks[id]}"
        return decode_classes(decode_png(_bytes(path, members[masks[id]], _MAX_PNG), here), labels, values, here)

    return Incoming(names, tuple(ids), read)


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Members by name, without the folder that all may lie in."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename.replace("\\", "/"): info for info in archive.infolist() if not info.is_dir()}
    except _DAMAGE as error:
        raise WeaksegError(
            f"{path} is no readable zip ({error}); export it again as 'Segmentation mask 1.1'"
        ) from error
    tops = sorted((name[: -len(_LABELMAP)] for name in found if f"/{name}".endswith(f"/{_LABELMAP}")), key=len)
    if not tops:
        raise WeaksegError(f"{path} holds no {_LABELMAP}; export it from CVAT as 'Segmentation mask 1.1'")
    return {name.removeprefix(tops[0]): info for name, info in found.items() if name.startswith(tops[0])}


def _masks(path: Path, members: Iterable[str]) -> dict[str, str]:
    """id -> name of its mask among the members."""
    names = [name for name in members if name.startswith(_CLASSES) and name.lower().endswith(".png")]
    return dict(zip(each_once((photo_id(name, str(path)) for name in names), str(path)), names, strict=True))


def _listed(path: Path, members: Mapping[str, zipfile.ZipInfo], masks: Container[str]) -> Iterator[str]:
    """The photographs of all lists: file names without their endings, but for a stranger's."""
    for name in members:
        if name.startswith(_LISTS) and name.lower().endswith(".txt"):
            for line in filter(str.strip, _text(path, members, name).splitlines()):
                whole = photo_id(f"{line.strip()}.png", f"{path}, {name}")
                yield whole if whole in masks else photo_id(line.strip(), f"{path}, {name}")


def _text(path: Path, members: Mapping[str, zipfile.ZipInfo], name: str) -> str:
    try:
        return _bytes(path, members[name], _MAX_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WeaksegError(f"{path}, {name} is not UTF-8 text; export it again") from error


def _bytes(path: Path, member: zipfile.ZipInfo, most: int) -> bytes:
    """An unpacked member; WeaksegError if it is damaged or larger than `most` bytes, whatever its header says."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(most + 1)
    except _DAMAGE as error:
        raise WeaksegError(f"{path}, {member.filename[:80]} is damaged ({error}); export it again") from error
    if len(data) > most:
        raise WeaksegError(f"{path}, {member.filename[:80]} unpacks to more than {most:,} bytes; is it a zip bomb?")
    return data
