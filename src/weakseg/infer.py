"""Map a function over photographs into a store: scoring, refining and predicting, all the same loop.

Photographs are read ahead and outputs written behind in threads (decoding, compression and fsync free the interpreter),
so that the network need not wait. Every finished photograph is on disk; a run that was killed does the others.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from weakseg._checkpoint import load_weights_strictly
from weakseg._devices import (
    cores,
    give_back_freed_memory,
    keep_freed_memory,
    processes,
    resolve_device,
    torch_threads,
)
from weakseg.data.store import read_tensors
from weakseg.progress import Advance, track
from weakseg.types import Instances, LabelMap, Outputs, Sample, ScoreMap, WeaksegError

__all__ = ["load_model", "map_samples", "resolve_device"]

Output = ScoreMap | LabelMap | Instances
T = TypeVar("T")

BETWEEN_TRIMS = 50
"""Photographs after which freed memory goes back to the system."""


class Photographs(Protocol):
    """What there is to map over, such as a `data.view.View`."""

    @property
    def ids(self) -> Sequence[str]:
        """File stems, in order."""

    def __getitem__(self, index: int) -> Sample: ...


class Target(Protocol):
    """Where outputs go, such as a `data.store.Store`."""

    def done(self) -> set[str]:
        """Ids that need no more work."""

    def write(self, id: str, outputs: Outputs) -> None:
        """Keep the outputs of one sample, whole or not at all."""


def map_samples(
    function: Callable[[Sample], Outputs],
    view: Photographs,
    store: Target,
    *,
    workers: int | None = None,
    threads: int = 1,
    device: str = "auto",
    progress: bool = True,
    label: str = "",
) -> int:
    """Write ``function(sample)`` to `store` for every sample of `view` that the store does not have yet.

    Under a launcher each process takes every n-th photograph; all wait for one another at the end.

    Args:
        function: gets a sample whose image is on the device (nothing else is moved); runs without gradient. Called in
            the order of `view` from this thread, or from `threads` threads at once in any order.
        view: the photographs; `view[i]` may be called from several threads.
        store: receives the outputs, moved to the CPU.
        workers: threads that read ahead (0: read in place; None: 2); with `threads` > 1 each of those reads its own.
        threads: photographs in work at a time, for the CPU: the cores are then shared out among them, which is faster
            than all cores on one photograph (maps of MobileNetV2 on two cores: by a half).
        device: see `resolve_device`. A network that `function` closes over must be there already (`load_model`).
        progress: show a bar on a terminal, a line every half minute elsewhere.
        label: a word for that bar.

    Returns:
        How many photographs this process has done now.

    Raises:
        WeaksegError: what reading, `function` or writing raised, with the id of the photograph in front. Other
            exceptions come as RuntimeError with the id, from the original one. What is finished stays.
    """
    keep_freed_memory()
    place = resolve_device(device)
    state = processes(place)
    done = store.done()
    share = range(state.process_index, len(view.ids), state.num_processes)
    todo = [index for index in share if view.ids[index] not in done]
    with track(len(share), label, done=len(share) - len(todo), show=progress and state.is_main_process) as advance:
        job = _Job(function, view, store, place)
        if threads > 1:
            job.in_threads(todo, threads, _sparing(advance))
        else:
            job.in_order(todo, 2 if workers is None else workers, _sparing(advance))
    give_back_freed_memory()
    state.wait_for_everyone()
    return len(todo)


def load_model(model: nn.Module, path: Path, device: str = "cpu") -> nn.Module:
    """`model` with the weights of a safetensors file, on `device`, ready for inference.

    Raises:
        WeaksegError: if the file is missing or damaged, or names and shapes are not exactly the model's.
    """
    return with_weights(model, read_tensors(Path(path)), Path(path), device)


def with_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path, device: str = "cpu") -> nn.Module:
    """`load_model` of tensors that were read from `path` already."""
    load_weights_strictly(model, tensors, path)
    return model.to(resolve_device(device)).eval()


def _sparing(advance: Advance) -> Advance:
    """`advance` that hands freed memory back after every `BETWEEN_TRIMS` photographs: it would grow with the list."""
    done = itertools.count(1)

    def advance_and_trim(*arguments: Any) -> None:
        advance(*arguments)
        if next(done) % BETWEEN_TRIMS == 0:
            give_back_freed_memory()

    return advance_and_trim


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """Read, apply, write: the three steps of one photograph, each naming it when it fails."""

    function: Callable[[Sample], Outputs]
    view: Photographs
    store: Target
    device: torch.device

    def in_order(self, todo: Sequence[int], workers: int, advance: Advance) -> None:
        """Apply in this thread; `workers` threads read ahead and one writes behind."""
        with ThreadPoolExecutor(max(1, workers), "read") as readers, ThreadPoolExecutor(1, "write") as writer:
            writing: deque[Future[None]] = deque()
            ahead = 2 * workers if workers else 1
            for index, sample in zip(todo, _ahead(readers, self.read, todo, ahead), strict=True):
                outputs = self.apply(index, sample)
                while len(writing) >= 4:
                    writing.popleft().result()
                writing.append(writer.submit(self.write, index, outputs))
                advance()
            while writing:
                writing.popleft().result()

    def in_threads(self, todo: Sequence[int], threads: int, advance: Advance) -> None:
        """Do whole photographs, `threads` at a time."""
        with torch_threads(max(1, cores() // threads)), ThreadPoolExecutor(threads, "work") as pool:
            for _ in _ahead(pool, self.whole, todo, 2 * threads):
                advance()

    def whole(self, index: int) -> None:
        self.write(index, self.apply(index, self.read(index)))

    def read(self, index: int) -> Sample:
        return self._named(index, lambda: self.view[index])

    def apply(self, index: int, sample: Sample) -> Outputs:
        def work() -> Outputs:
            with torch.inference_mode():  # of this thread: the mode is not inherited
                there = dataclasses.replace(sample, image=sample.image.to(self.device))
                return {key: _to_cpu(output) for key, output in self.function(there).items()}

        return self._named(index, work)

    def write(self, index: int, outputs: Outputs) -> None:
        self._named(index, lambda: self.store.write(self.view.ids[index], outputs))

    def _named(self, index: int, work: Callable[[], T]) -> T:
        """`work()`; an exception names the photograph."""
        name = self.view.ids[index]
        try:
            return work()
        except torch.OutOfMemoryError as error:
            raise WeaksegError(
                f"{name}: the device's memory does not hold this photograph; use fewer or smaller scales, or device cpu"
            ) from error
        except WeaksegError as error:
            raise error if name in str(error) else WeaksegError(f"{name}: {error}") from error
        except Exception as error:
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error


def _ahead(pool: ThreadPoolExecutor, work: Callable[[int], T], items: Sequence[int], ahead: int) -> Iterator[T]:
    """``work(item)`` in order, at most `ahead` of them begun before they are asked for: memory stays flat."""
    begun: deque[Future[T]] = deque()
    try:
        for item in items:
            if len(begun) >= ahead:
                yield begun.popleft().result()
            begun.append(pool.submit(work, item))
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def _to_cpu(output: Output) -> Output:
    """The same output with its tensors on the CPU."""
    if isinstance(output, torch.Tensor):
        return output.cpu()
    fields = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    moved: dict[str, Any] = {k: v.cpu() for k, v in fields.items() if isinstance(v, torch.Tensor)}
    return dataclasses.replace(output, **moved)
