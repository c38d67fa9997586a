"""One file per paper; siblings never import one another."""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from weakseg._words import near
from weakseg.types import WeaksegError


def load(name: str) -> Any:
    """The method called `name`: ``cam.resnet50``, or ``path/to/file.py:name`` for a file of one's own.

    A method file exports ``METHODS: dict[str, object]``; a bare ``eps`` means that file's only or own-named entry.

    Raises:
        WeaksegError: no such file or entry; the nearest names are offered.
    """
    module, entry = _module(name)
    return _entry(module, entry, name)


def published_backbone(name: str) -> str | None:
    """The network that the learning rates of method `name` were published for, if its file says so in ``BACKBONES``.

    >>> published_backbone("cam.resnet38")
    'resnet38d'
    """
    module, entry = _module(name)
    found: str | None = getattr(module, "BACKBONES", {}).get(entry)
    return found


def modules() -> list[str]:
    """Names of the method files that ship with weakseg."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def names() -> list[str]:
    """Full names of all methods that ship with weakseg: ``file.entry``."""
    return [f"{m}.{e}" for m in modules() for e in importlib.import_module(f"weakseg.methods.{m}").METHODS]


def _module(name: str) -> tuple[ModuleType, str]:
    """The method's file, and the name of its entry there."""
    if ".py:" in name:
        path, _, entry = name.rpartition(":")
        return _outsider(Path(path)), entry
    file, _, entry = name.partition(".")
    if file not in modules():
        raise WeaksegError(f"there is no method {name!r}{near(name, names(), or_all=True)}")
    return importlib.import_module(f"weakseg.methods.{file}"), entry or file


def _entry(module: ModuleType, entry: str, name: str) -> Any:
    table: dict[str, Any] = getattr(module, "METHODS", {})
    if entry in table:
        return table[entry]
    if len(table) == 1 and entry == module.__name__.rpartition(".")[2]:
        return next(iter(table.values()))
    hint = near(entry, table) or f"; {module.__name__} has: {', '.join(table) or 'no METHODS'}"
    raise WeaksegError(f"{name!r} names no method{hint}")


def _outsider(path: Path) -> ModuleType:
    if not path.is_file():
        raise WeaksegError(f"no method file at {path}")
    spec = importlib.util.spec_from_file_location(f"weakseg_outsider_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise WeaksegError(f"{path} is not a Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
