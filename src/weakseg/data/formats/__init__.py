"""One file per annotation tool: its masks out of weakseg, and the corrected ones back.

A tool's file holds pure functions that encode and decode in memory, and these names, by which it is found:

- ``SUFFIX``: ending of the one file that it writes (``.zip``); ``""`` if it writes a folder.
- ``FILE``: name of that file where `out` is a folder; ``""`` likewise.
- ``NAMES_PHOTOS``: whether the endings of the photographs' names stand in its files.
- ``written(outgoing, out) -> list[Path]``: every file that an export makes, so that none is overwritten by accident.
- ``export(outgoing, out, tick)``: write them, through `weakseg.data.store`.
- ``open_file(path, classes, size) -> Incoming``: look at a stranger's file; masks are read one by one afterwards.

Siblings never import one another; what they share stands in the files that begin with ``_``.
"""

import importlib
import pkgutil
from types import ModuleType

from weakseg._words import near
from weakseg.types import WeaksegError


def load(name: str) -> ModuleType:
    """The file of the tool called `name`; WeaksegError names the nearest ones.

    >>> load("label-studio").__name__
    'weakseg.data.formats.label_studio'
    """
    if name not in names():
        raise WeaksegError(f"{name!r} is no annotation tool that is known{near(name, names(), or_all=True)}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def names() -> list[str]:
    """Names of the tools, as the command line spells them.

    >>> names()
    ['coco', 'cvat', 'label-studio', 'labelme', 'yolo']
    """
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
