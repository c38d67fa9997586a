"""Which device, and which process of how many: the little that training and inference share about the machine."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from weakseg.types import WeaksegError

KINDS = ("cpu", "cuda", "mps")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def resolve_device(device: str = "auto") -> torch.device:
    """The torch device that a person's word means.

    Args:
        device: ``auto`` (a CUDA GPU, else Apple's, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Under a
            launcher with several processes ``auto`` and ``cuda`` mean the GPU of this process.

    Raises:
        WeaksegError: if the word is none of these, or this machine (or this build of PyTorch) has no such device.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    kind, _, number = device.partition(":")
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind not in KINDS or (number and (kind != "cuda" or not number.isdigit())):
        raise WeaksegError(f'device "{device}" is unknown; use auto, cpu, cuda, cuda:1 (a GPU by number) or mps')
    if kind == "cuda":
        return _cuda_device(device, int(number) if number else int(os.environ.get("LOCAL_RANK", 0)))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise WeaksegError('device "mps" is not available here; use "cpu" or "auto"')
    return torch.device(kind)


def _cuda_device(asked: str, index: int) -> torch.device:
    """``cuda:index`` if this machine has it."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise WeaksegError(f'device "{asked}" is not available: PyTorch sees {count} CUDA GPU(s); use "cpu" or "auto"')
    return torch.device("cuda", index)


def cores() -> int:
    """CPU cores that this process may use: its part of them where a launcher started several on one machine."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what tensors free instead of handing it back to the system after every layer.

    By default it maps each large block anew, and the system fills it with zeros page by page: a quarter of a training
    step on the CPU (MobileNetV2, two cores). Nothing happens on other systems, nor where a ``MALLOC_`` variable says
    that somebody has settings of their own.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_freed_memory() -> None:
    """Hand what lies free back to the system: photographs of many sizes leave gaps that the next ones do not fit into.

    Nothing happens where the C library has no ``malloc_trim``.
    """
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_libc(name: str) -> Any:
    """A function of Linux's C library; None elsewhere, and where the library lacks it."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def loader_workers(workers: int | None, device: torch.device) -> int:
    """How many processes load photographs: `workers`, or what suits the device.

    Beside a GPU one for each core of this process's share, at most 8. On the CPU none: the network uses every core, and
    processes that load at the same time made training a quarter slower (two cores, MobileNetV2).

    >>> loader_workers(None, torch.device("cpu")), loader_workers(3, torch.device("cpu"))
    (0, 3)
    """
    if workers is not None:
        return workers
    if device.type == "cpu":
        return 0
    return min(8, cores())


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch compute on the CPU with `count` threads, in this thread and in those started within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processes(device: torch.device) -> PartialState:
    """accelerate's view of the processes of this run, joined if a launcher started several.

    accelerate keeps one such state for the life of a process. Steps of one run may ask for another device (a refiner on
    the CPU after training on a GPU), so a single process starts afresh when the kind of device changes.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # accelerate's plain "cuda" then means this GPU
    state = PartialState(cpu=device.type == "cpu")
    if state.num_processes == 1 and state.device.type != device.type:
        AcceleratorState._reset_state(reset_partial_state=True)
        state = PartialState(cpu=device.type == "cpu")
    return state
