"""How far a long job is: a bar with the time left on a terminal, a plain line every half minute elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from weakseg._words import duration

LINE_SECONDS = 30.0
"""How often a job that writes to a file or a pipe says where it is."""

_hidden: ContextVar[bool] = ContextVar("hidden", default=False)

Advance = Callable[..., None]
"""``advance(n=1, note="")``: `n` more are done; `note` is shown beside the bar."""


@contextmanager
def track(total: int, label: str = "", *, done: int = 0, show: bool = True) -> Iterator[Advance]:
    """Show the progress of a job on stderr while the ``with`` block runs.

    Args:
        total: units of work in all.
        label: what is being done, a word or two.
        done: units finished by an earlier run; they do not count for the time left.
        show: False stays silent (every process but the first).

    Yields:
        ``advance(n=1, note="")``, to be called after each `n` units.
    """
    if not show or _hidden.get() or total <= done:
        yield lambda n=1, note="": None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total, label, done).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, note="")
        yield lambda n=1, note="": bar.update(task, advance=n, note=note)


@contextmanager
def hidden(yes: bool = True) -> Iterator[None]:
    """No bar and no line while the ``with`` block runs, whoever tracks there; with ``yes=False`` as before."""
    token = _hidden.set(yes or _hidden.get())
    try:
        yield
    finally:
        _hidden.reset(token)


@contextmanager
def ticking(label: str, *, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """``tick(done, total)`` that shows a job whose size is known only when it has begun."""
    with ExitStack() as stack:
        bars: list[Advance] = []

        def tick(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(track(total, label, show=show)))
            bars[0](1)

        yield tick


class _Lines:
    """Plain lines to stderr, the first after `LINE_SECONDS`: short jobs say nothing."""

    def __init__(self, total: int, label: str, done: int) -> None:
        self.total, self.label, self.done, self.first = total, label, done, done
        self.start = self.shown = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        left = (now - self.start) * (self.total - self.done) / max(1, self.done - self.first)
        print(
            f"{self.label} {self.done}/{self.total}, {duration(left)} left {note}".strip(), file=sys.stderr, flush=True
        )
