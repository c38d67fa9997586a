"""The processes of one run, as a launcher starts them: who is first, who does what, waiting, ending together.

Without a launcher everything here is the plain thing: one process, which is the first, does all the work, and waits for
nobody. All processes see the same folders, and all of them call `wait`, `first` and `exchanged` in the same order.
"""

import os
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import torch.distributed as dist

from weakseg._devices import processes, resolve_device
from weakseg.types import WeaksegError

T = TypeVar("T")
S = TypeVar("S", bound=Sequence)  # type: ignore[type-arg]

_FAILED = "weakseg/failed"
_NOTHING: Any = object()


def join(device: str = "cpu") -> None:
    """Find the other processes, if a launcher started several; `device` is a person's word for one.

    Raises:
        WeaksegError: this machine has no such device.
    """
    place = resolve_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not _several():
        processes(place)


def rank() -> int:
    """Which process this is, 0 onwards."""
    return dist.get_rank() if _several() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def share(items: S) -> S:
    """Every n-th of `items`, beginning with this process's own number: together the processes have each once."""
    return items[rank() :: world()]  # type: ignore[return-value]


def wait() -> None:
    """Return when every process has come here."""
    if _several():
        dist.barrier()


def first(work: Callable[[], T]) -> T:
    """What ``work()`` returns in the first process, for all; the others wait for it. `work` itself asks nobody.

    Raises:
        WeaksegError: in every process, if `work` raised it in the first one.
    """
    if not _several():
        return work()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = work()
        except WeaksegError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise WeaksegError(answer[1])
    return answer[0]  # type: ignore[no-any-return]


def exchanged(work: Callable[[], list[T]]) -> list[T]:
    """The lists of all processes as one, whose k-th entry is of process k modulo `world`: the inverse of `share`.

    Args:
        work: returns this process's list. Lists may differ in length by one, the first processes' being longer.

    Raises:
        WeaksegError: in every process, the first that `work` raised in any.
    """
    if not _several():
        return work()
    try:
        own: list[T] | str = work()
    except WeaksegError as error:
        own = str(error)
    lists: list[list[T] | str] = [[] for _ in range(world())]
    dist.all_gather_object(lists, own)
    if failures := [found for found in lists if isinstance(found, str)]:
        raise WeaksegError(failures[0])
    return [entry for row in zip_longest(*lists, fillvalue=_NOTHING) for entry in row if entry is not _NOTHING]


def speaks() -> bool:
    """Whether this process, which has failed, is the one to say so: the first that asks is.

    The others fail because of it, or in the same way, and a sentence that is said twice is not clearer.
    """
    if not _several():
        return int(os.environ.get("RANK", 0)) == 0  # before they met all fail alike
    try:
        return dist.distributed_c10d._get_default_store().add(_FAILED, 1) == 1
    except Exception:  # the process that keeps the count is gone, and has spoken
        return False


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
