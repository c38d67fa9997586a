"""`cls_labels.npy` without unpickling: label files of PSA, SEAM, EPS, AEFT (string keys) and IRN, AMN, RIB (int keys).

Such a file is a NumPy object array that holds one dict, and NumPy stores objects as a pickle, which may run anything
when it is loaded. Nothing is loaded here: `pickletools.genops` only *splits* the stream into opcodes, and the small
machine below understands the few that a dict of names and number arrays needs. A global name is a plain string compared
with a handful of known ones; no import, call or attribute access exists for a stream to reach. All else is an error.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from weakseg.types import WeaksegError


def read_label_dict(path: str | Path) -> dict[str | int, np.ndarray]:
    """The dict ``image -> tag vector`` of a ``cls_labels.npy``, keys as they stand in the file.

    Args:
        path: a ``.npy`` file that holds one dict of str or int keys and one-dimensional number arrays.

    Returns:
        Keys str (``"2007_000032"``) or int (``2007000032``); values arrays (C,).

    Raises:
        WeaksegError: the file is damaged, or holds anything but such a dict.
    """
    path = Path(path)
    try:
        found = _read(path.read_bytes())
    except OSError as error:
        raise WeaksegError(f"{path} cannot be read: {error.strerror or error}") from error
    except WeaksegError as error:
        raise WeaksegError(f"{path}: {error}") from None
    except Exception as error:  # a damaged stream trips NumPy's header parser or the machine in any way it likes
        raise WeaksegError(f"{path} is damaged or no label file of NumPy: {error}") from error
    if not isinstance(found, dict):
        raise WeaksegError(f"{path} holds {type(found).__name__}, wanted one dict of image -> tag vector")
    for key, value in found.items():
        if isinstance(key, bool) or not isinstance(key, str | int) or not isinstance(value, np.ndarray):
            raise WeaksegError(f"{path}: entry {key!r} is not a name with an array")
        if value.ndim != 1:
            raise WeaksegError(f"{path}: the tags of {key!r} have shape {value.shape}, wanted (classes,)")
    return found


def voc_id(key: str | int) -> str:
    """The image id behind a key: ``2007000032`` -> ``"2007_000032"``; other numbers as they are written.

    >>> voc_id(2007000032), voc_id("2008_000008"), voc_id(9)
    ('2007_000032', '2008_000008', '9')
    """
    text = str(key)
    return f"{text[:4]}_{text[4:]}" if isinstance(key, int) and len(text) == 10 else text


def _read(data: bytes) -> object:
    stream = BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype != np.dtype(object) or shape != ():
        raise WeaksegError(f"it holds an array {shape} of {dtype}, wanted one dict of image -> tag vector")
    result = _Machine().run(data[stream.tell() :])
    if not isinstance(result, _Array) or result.items is None or len(result.items) != 1:
        raise WeaksegError("its object array does not hold exactly one dict")
    return _plain(result.items[0])


def _plain(value: object) -> object:
    """The dict with real arrays; anything else as it is, for the caller to refuse."""
    if isinstance(value, dict):
        return {k: v.numpy() if isinstance(v, _Array) else v for k, v in value.items()}
    return value


@dataclass(frozen=True)
class _Global:
    """A name in the stream. It is compared, never looked up."""

    name: str


_RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_SCALAR = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
_FROM_BUFFER = {"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"}
_ALLOWED = {*_RECONSTRUCT, *_SCALAR, *_FROM_BUFFER, "numpy.ndarray", "numpy.dtype", "_codecs.encode"}


@dataclass
class _Type:
    """A number type being described; `order` comes with its BUILD."""

    code: str
    order: str = "|"

    def numpy(self) -> np.dtype:
        if self.code[:1] not in "biuf" or self.code[1:] not in ("1", "2", "4", "8"):
            raise WeaksegError(f"arrays of type {self.code!r} are not allowed in a label file, only numbers")
        return np.dtype((self.order if self.order in "<>" else "|") + self.code)


@dataclass
class _Array:
    """An array being described; `items` only for the outer object array."""

    shape: tuple[int, ...] = ()
    type: _Type | None = None
    data: bytes = b""
    fortran: bool = False
    items: list[Any] | None = None

    def numpy(self) -> np.ndarray:
        if self.type is None or self.items is not None:
            raise WeaksegError("an array inside holds objects; only numbers are allowed")
        flat = np.frombuffer(self.data, self.type.numpy())
        return flat.reshape(self.shape, order="F" if self.fortran else "C").copy()


_MARK = object()
_PUSH_ARGUMENT = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING", "STRING"),
}
_PUSH: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}


@dataclass
class _Machine:
    """A stack and a memo; one branch for each opcode that a label file may hold."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise WeaksegError("its stream has no end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _PUSH:
            stack.append(_PUSH[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.pop(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(self.marked()))
        elif name == "LIST":
            stack.append(self.marked())
        elif name in ("APPEND", "APPENDS"):
            items = self.pop(1) if name == "APPEND" else self.marked()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = self.pop(2) if name == "SETITEM" else self.marked()
            if name == "DICT":
                stack.append({})
            self.top(dict).update((_key(k), v) for k, v in zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, attribute = argument.split(" ") if name == "GLOBAL" else self.pop(2)
            stack.append(_global(f"{module}.{attribute}"))
        elif name == "REDUCE":
            function, arguments = self.pop(2)
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            (state,) = self.pop(1)
            _build(stack[-1], state)
        else:
            raise WeaksegError(f"opcode {name} is not allowed in a label file")

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise WeaksegError("its stream takes more than it gave")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def marked(self) -> list[Any]:
        at = max(i for i, value in enumerate(self.stack) if value is _MARK)
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise WeaksegError(f"it puts items into a {type(self.stack[-1]).__name__}")
        return self.stack[-1]


def _key(value: Any) -> str | int:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str | int):
        raise WeaksegError(f"key {value!r} is neither text nor a whole number")
    return value


def _global(name: str) -> _Global:
    if name not in _ALLOWED:
        raise WeaksegError(f"it names {name}, which has no place in a label file; it was not loaded")
    return _Global(name)


def _reduce(function: Any, arguments: Any) -> Any:
    """What a label file may build: an empty array, a number type, a number, bytes."""
    name = function.name if isinstance(function, _Global) else None
    if name in _RECONSTRUCT:
        return _Array()
    if name == "numpy.dtype":
        return _Type(_text(arguments[0]))
    if name in _SCALAR:
        return np.frombuffer(_raw(arguments[1]), arguments[0].numpy())[0].item()
    if name in _FROM_BUFFER:
        data, number, shape, order = arguments
        return _Array(tuple(map(int, shape)), number, _raw(data), order == "F")
    if name == "_codecs.encode" and arguments[1] == "latin1":  # bytes as protocol 2 writes them
        return arguments[0].encode("latin1")
    raise WeaksegError(f"it calls {name or function!r}, which is not allowed in a label file")


def _build(target: Any, state: Any) -> None:
    """The state of a number type or of an array, as NumPy writes it."""
    if isinstance(target, _Type):
        target.order = _text(state[1])
    elif isinstance(target, _Array) and len(state) == 5:
        _, shape, target.type, fortran, data = state
        target.shape, target.fortran = tuple(map(int, shape)), bool(fortran)
        if isinstance(data, list):
            target.items = data
        else:
            target.data = _raw(data)
    else:
        raise WeaksegError("it sets the state of something that is no array")


def _raw(value: Any) -> bytes:
    """Bytes; Python 2's strings come as text of the same code points."""
    return value.encode("latin1") if isinstance(value, str) else bytes(memoryview(value))


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
