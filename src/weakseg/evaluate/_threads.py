"""Many photographs, a few threads, bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from weakseg.types import WeaksegError

T = TypeVar("T")
BLOCK = 64  # results in flight: a confusion matrix of COCO is 50 kB, 40,000 of them would be 2 GB


def each(function: Callable[[str], T], ids: Sequence[str], threads: int = 1) -> Iterator[tuple[str, T]]:
    """(id, function(id)) in the order of `ids`; an error names its photograph. The kernels release the GIL."""

    def named(id: str) -> T:
        try:
            return function(id)
        except WeaksegError as error:
            raise WeaksegError(f"{id}: {error}") from error

    if threads <= 1:
        yield from ((id, named(id)) for id in ids)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(ids), BLOCK):
            block = ids[start : start + BLOCK]
            yield from zip(block, pool.map(named, block), strict=True)
