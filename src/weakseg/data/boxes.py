"""Boxes of one photograph in VOC XML or YOLO text. Both become half-open XYXY in the frame that a viewer displays."""

import math
import sys
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from weakseg.data.index import Files, Objects
from weakseg.data.lists import read_text
from weakseg.types import WeaksegError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class XmlObjects:
    """VOC XML by stem. A file is parsed when its photograph is first asked for, and remembered."""

    kind = "xml"

    def __init__(self, files: Files) -> None:
        self.files = files
        self._read: dict[str, Objects] = {}

    def __contains__(self, id: object) -> bool:
        return id in self.files

    def read(self, id: str) -> Objects:
        """The objects of `id`; WeaksegError names a damaged file."""
        if id not in self._read:
            self._read[id] = read_voc_xml(self.files[id])
        return self._read[id]

    def names(self, id: str) -> tuple[str, ...]:
        """Class names of the objects of `id`, one an object."""
        return self.read(id).names


class YoloObjects:
    """YOLO text by stem: ``class cx cy w h`` a line, the class an index into `classes`."""

    kind = "yolo"

    def __init__(self, files: Files, classes: tuple[str, ...]) -> None:
        self.files = files
        self.classes = classes
        self._read: dict[str, Objects] = {}

    def __contains__(self, id: object) -> bool:
        return id in self.files

    def read(self, id: str) -> Objects:
        """The objects of `id`, boxes relative; WeaksegError names a damaged file."""
        if id not in self._read:
            self._read[id] = read_yolo(self.files[id], self.classes)
        return self._read[id]

    def names(self, id: str) -> tuple[str, ...]:
        """Class names of the objects of `id`, one an object."""
        return self.read(id).names


def read_voc_xml(path: Path) -> Objects:
    """The objects of a VOC XML file, difficult ones too; parts of an object (head, hand) are not objects.

    VOC's (xmin, ymin, xmax, ymax) count pixels from 1 and include the last one, so the half-open box is
    (xmin - 1, ymin - 1, xmax, ymax).

    Raises:
        WeaksegError: the file is missing or damaged, or an object lacks its name or a corner.
    """
    try:
        root = fromstring(path.read_bytes(), forbid_dtd=True)
    except OSError as error:
        raise WeaksegError(f"{path} cannot be read: {error.strerror or error}") from error
    except DefusedXmlException as error:
        raise WeaksegError(f"{path} defines entities or a document type, which an annotation never needs") from error
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise WeaksegError(f"{path} is no readable XML: {error}") from error
    found = [_voc_object(element, path) for element in root.findall("object")]
    boxes = np.array([box for _, box in found], np.float64).reshape(-1, 4) - (1, 1, 0, 0)
    return Objects(tuple(name for name, _ in found), boxes)


def _voc_object(element: Element, path: Path) -> tuple[str, list[float]]:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise WeaksegError(f"{path}: an object has no name")
    corners = [_number(element.findtext(f"bndbox/{corner}")) for corner in _CORNERS]
    if None in corners:
        raise WeaksegError(f"{path}: the box of {name!r} lacks a number among {', '.join(_CORNERS)}")
    return sys.intern(name), [c for c in corners if c is not None]


def read_yolo(path: Path, classes: tuple[str, ...]) -> Objects:
    """The objects of a YOLO text file: ``class cx cy w h``, centre and sides as parts of the photograph's.

    Args:
        path: the file; an empty one is a photograph without objects.
        classes: names, index 0 = first foreground class. An index beyond them becomes the name ``class <index>``.

    Raises:
        WeaksegError: the file is missing, or a line has not five numbers.
    """
    names: list[str] = []
    boxes: list[tuple[float, float, float, float]] = []
    for line, text in enumerate(read_text(path).splitlines(), 1):
        parts = text.split()
        if not parts:
            continue
        numbers = [_number(part) for part in parts]
        if len(parts) != 5 or None in numbers or not parts[0].isdecimal():
            raise WeaksegError(f"{path}, line {line}: {text[:60]!r} is not 'class cx cy w h'")
        k, cx, cy, w, h = (n for n in numbers if n is not None)
        names.append(classes[int(k)] if k < len(classes) else f"class {int(k)}")
        boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    return Objects(tuple(names), np.array(boxes, np.float64).reshape(-1, 4), relative=True)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
