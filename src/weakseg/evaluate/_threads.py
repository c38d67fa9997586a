"""Many photographs, a few threads, the processes of a launcher, bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from weakseg import _ranks
from weakseg.progress import track
from weakseg.types import WeaksegError

T = TypeVar("T")
BLOCK = 64  # results in flight: a confusion matrix of COCO is 50 kB, 40,000 of them would be 2 GB


def each(
    function: Callable[[str], T], ids: Sequence[str], threads: int = 1, label: str = ""
) -> Iterator[tuple[str, T]]:
    """(id, function(id)) in the order of `ids`; an error names its photograph. The kernels release the GIL.

    Under a launcher each process works on its share and all of them get every result, in the same order: what is summed
    up from them is the same to the last bit, however many processes there are. All of them must call this.

    Args:
        function: of one id.
        ids: the list.
        threads: how many of `ids` are worked on at once.
        label: a word for the progress bar; without one none is shown.

    Raises:
        WeaksegError: in every process, the first that `function` raised in any.
    """

    def named(id: str) -> T:
        try:
            return function(id)
        except WeaksegError as error:
            raise WeaksegError(f"{id}: {error}") from error

    with ExitStack() as stack:
        advance = stack.enter_context(track(len(ids), label, show=bool(label) and _ranks.rank() == 0))
        work = stack.enter_context(ThreadPoolExecutor(threads)).map if threads > 1 else map
        size = BLOCK * _ranks.world()
        for start in range(0, len(ids), size):
            block = ids[start : start + size]
            results = _ranks.exchanged(lambda block=block: list(work(named, _ranks.share(block))))  # type: ignore[misc]
            yield from zip(block, results, strict=True)
            advance(len(block))
