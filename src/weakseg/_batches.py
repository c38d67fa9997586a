"""Batches that depend on (seed, epoch, id) alone: not on workers, processes, or on where a killed run stopped."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from weakseg._devices import cores
from weakseg._optimisation import Plan
from weakseg.types import Batch, Sample, WeaksegError

T = TypeVar("T")
Item = tuple[int, int]
"""(epoch, place in the list) of one sample to load."""
Make = Callable[[Sample, int], dict[str, Any]]
"""(sample, epoch) -> the augmented tensors of one sample."""
Collate = Callable[[Sequence[dict[str, Any]]], Batch]


def derive(*parts: object) -> int:
    """A seed of 63 bits that depends on `parts` alone and is the same on every machine.

    >>> derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2)
    True
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """The order in which epoch `epoch` takes the `count` photographs of the list."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(count, generator=generator).tolist()


def parts(items: list[T], count: int) -> list[list[T]]:
    """`items` in at most `count` runs of nearly equal length, none of them empty.

    >>> parts([1, 2, 3, 4, 5], 2)
    [[1, 2, 3], [4, 5]]
    """
    count = min(count, len(items))
    edges = [-(-len(items) * k // count) for k in range(count + 1)]
    return [items[a:b] for a, b in pairwise(edges)]


class MicroBatches(Sampler[list[Item]]):
    """What this process loads, in order, from optimiser step `start` to the end of `plan`.

    A step's global batch depends on seed and step alone; process `rank` of `world` takes every `world`-th photograph
    of it and splits them into `accumulate` parts.
    """

    def __init__(self, plan: Plan, seed: int, start: int = 0, rank: int = 0, world: int = 1, accumulate: int = 1):
        self.plan, self.seed, self.start = plan, seed, start
        self.rank, self.world, self.accumulate = rank, world, accumulate

    def __iter__(self) -> Iterator[list[Item]]:
        known, order = -1, []
        for step in range(self.start, self.plan.total):
            epoch, batch = self.plan.locate(step)
            if epoch != known:
                known, order = epoch, epoch_order(self.seed, epoch, self.plan.count)
            size = self.plan.sizes[epoch]
            whole = order[batch * size : (batch + 1) * size]
            yield from parts([(epoch, index) for index in whole[self.rank :: self.world]], self.accumulate)

    def per_step(self, step: int) -> int:
        """Parts that this process takes for optimiser step `step`."""
        epoch, _ = self.plan.locate(step)
        return min(self.accumulate, len(range(self.rank, self.plan.sizes[epoch], self.world)))


class _Failure:
    """A sample that could not be made. It travels as a value: PyTorch would wrap an exception in a traceback."""

    def __init__(self, message: str) -> None:
        self.message = message


class _Items(Dataset[Any]):
    """Augmented samples by (epoch, place in the list); a batch of them by a pool of threads if there is one."""

    def __init__(self, samples: Sequence[Sample], make: Make, pool: ThreadPoolExecutor | None) -> None:
        self.samples, self.make, self.pool = samples, make, pool

    def __getitems__(self, items: list[Item]) -> list[dict[str, Any] | _Failure]:
        return list((self.pool.map if self.pool else map)(self.__getitem__, items))

    def __getitem__(self, item: Item) -> dict[str, Any] | _Failure:
        epoch, index = item
        try:
            return self.make(self.samples[index], epoch)
        except WeaksegError as error:
            return _Failure(str(error))


class _Collate:
    """`collate`, or the first failure among the items."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Batch | _Failure:
        failure = next((item for item in items if isinstance(item, _Failure)), None)
        try:
            return failure or self.collate(items)
        except WeaksegError as error:
            return _Failure(str(error))


def load_batches(
    samples: Sequence[Sample], make: Make, collate: Collate, sampler: MicroBatches, workers: int
) -> Generator[Batch, None, None]:
    """Batches in the order of `sampler`, prepared ahead by `workers` processes (0: when asked, by this one's threads).

    Raises:
        WeaksegError: what a sample's own reading or augmentation raised, in its words; or if the system ended a worker.
    """
    with _pool(cores() if workers == 0 else 0) as pool:
        loader: DataLoader[Any] = DataLoader(
            _Items(samples, make, pool),
            batch_sampler=sampler,
            collate_fn=_Collate(collate),
            num_workers=workers,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else the loader draws from the caller's global one
        )
        for batch in _guarded(iter(loader)):
            if isinstance(batch, _Failure):
                raise WeaksegError(batch.message)
            yield batch


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    """A pool of `threads` threads, each of which computes alone; None for 0."""
    if threads == 0:
        yield None
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "load", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(before)  # the number for threads to come is one for all of them


def _guarded(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; a sentence when the system ended a worker."""
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WeaksegError(
            "a process that loads photographs was ended by the system, most often for want of memory (or of shared "
            "memory in a container); use workers=0, or a smaller batch_size"
        ) from error


def _start_worker(worker: int) -> None:
    """One thread a worker: they share the cores with the network."""
    torch.set_num_threads(1)
