"""Files written whole or not at all: bytes, text and JSON. The kinds of outputs are in `data.store`."""

import contextlib
import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from weakseg.types import WeaksegError

TEMPORARY = ".tmp-"
"""Prefix of a file that is being written. What bears it is never an output."""


def safe_name(name: str) -> str:
    """Return `name` if it can be the stem of a file that stays in its folder.

    Raises:
        WeaksegError: it is empty, begins with a dot, or holds a slash, a backslash or NUL.

    >>> safe_name("2007_000032")
    '2007_000032'
    """
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise WeaksegError(
            f"{name!r} cannot name a file: a name is not empty, begins with no dot and holds no slash or backslash; "
            "rename it"
        )
    return name


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises:
        WeaksegError: the system refuses (disk full, no permission ...); what stood at `path` is untouched.
    """
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> WeaksegError:
    """The error of a file that the system does not let us write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "the disk is full; make room and start the same command again, finished files are kept"
    else:
        reason = f"{error.strerror or error}; choose another folder or mend this one"
    return WeaksegError(f"{path} cannot be written: {reason}")


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files that killed processes left under `folder`; returns how many.

    Call it only while no other process writes there (the run folder is locked).
    """
    found = [path for path in Path(folder).rglob(f"{TEMPORARY}*") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; raises WeaksegError if the system refuses."""
    with replacing(path) as file:
        file.write(data)


def read_bytes(path: Path) -> bytes:
    """All bytes of `path`; raises WeaksegError if it is missing or unreadable."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WeaksegError(f"{path} cannot be read: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, UTF-8 with ``\\n``."""
    write_bytes(path, text.encode())


def damaged(path: Path, what: str, error: BaseException) -> WeaksegError:
    """The error of a file whose contents make no sense."""
    detail = str(error) or type(error).__name__
    return WeaksegError(f"{path} is no readable {what} ({detail}); delete the file and run the step again")


# --- JSON ---


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as JSON, atomically.

    Mappings keep their order, sets are sorted, paths become text, numpy and torch scalars become numbers and arrays
    lists. A number that is not finite becomes null, for JSON has none.
    """
    write_text(path, json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(obj: Any) -> Any:
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, Tensor | np.ndarray | np.generic):
        return _plain(obj.tolist())
    if isinstance(obj, set | frozenset):
        return [_plain(value) for value in sorted(obj)]
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj.as_posix() if isinstance(obj, Path) else obj


def read_json(path: Path, kind: type = object) -> Any:
    """The contents of a JSON file; raises WeaksegError if it is missing, damaged, or no `kind` (dict, list ...)."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeaksegError):
            raise
        raise damaged(path, "JSON file", error) from error
    if not isinstance(content, kind):
        raise damaged(path, "file of ours", TypeError(f"it holds {type(content).__name__}, not {kind.__name__}"))
    return content
