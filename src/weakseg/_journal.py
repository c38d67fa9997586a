"""The log of a training run: a JSON line every few steps, and the numbers that a checkpoint keeps of it."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from weakseg.data.store import write_text
from weakseg.types import WeaksegError

LINES = 200
"""About so many lines a run, and no more than `STEPS` steps a line."""
STEPS = 50


@dataclass(slots=True)
class Standing:
    """Where training stands; JSON-able, part of every checkpoint.

    Attributes:
        step: optimiser steps taken.
        seconds: spent on them.
        images: photographs trained on.
        window: sum of each loss since the last line of the log.
        counted: steps in `window`.
        first, last: mean of each loss in the first and the last line.
    """

    step: int = 0
    seconds: float = 0.0
    images: int = 0
    window: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)


class Journal:
    """Writes ``log.jsonl`` (and TensorBoard's files) of the main process and keeps `standing` up to date.

    Each line has ``step`` (steps taken), ``epoch`` (0-based), ``lr`` (of the pre-trained weights), ``losses`` by name
    (means since the line before), ``images_per_second`` and ``seconds`` since the start.
    """

    def __init__(self, out: Path, standing: Standing, total: int, tensorboard: bool, main: bool) -> None:
        self.path, self.standing, self.total = out / "log.jsonl", standing, total
        self.every = max(1, min(STEPS, total // LINES))
        self.main = main
        self.board = _board(out, standing.step) if tensorboard and main else None
        self.file: TextIO | None = None

    def __enter__(self) -> "Journal":
        if self.main:
            write_text(self.path, "".join(_lines_until(self.path, self.standing.step)))
            self.file = self.path.open("a", encoding="utf-8")
        self.clock = self.line_clock = time.perf_counter()
        self.line_images = 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()

    def record(self, losses: dict[str, float], epoch: int, lr: float, images: int) -> None:
        """Note one more step of `images` photographs."""
        now, standing = time.perf_counter(), self.standing
        standing.seconds += now - self.clock
        self.clock = now
        standing.step += 1
        standing.images += images
        standing.counted += 1
        self.line_images += images
        for name, loss in losses.items():
            standing.window[name] = standing.window.get(name, 0.0) + loss
        if standing.step % self.every == 0 or standing.step == self.total:
            self._line(epoch, lr, self.line_images / max(now - self.line_clock, 1e-9))
            self.line_clock, self.line_images = now, 0

    def _line(self, epoch: int, lr: float, speed: float) -> None:
        standing = self.standing
        means = {name: total / standing.counted for name, total in standing.window.items()}
        standing.first = standing.first or means
        standing.last, standing.window, standing.counted = means, {}, 0
        if self.file is not None:
            line: dict[str, Any] = {"step": standing.step, "epoch": epoch, "lr": lr, "losses": means}
            line |= {"images_per_second": round(speed, 3), "seconds": round(standing.seconds, 3)}
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        if self.board is not None:
            for name, value in {**{f"loss/{k}": v for k, v in means.items()}, "lr": lr}.items():
                self.board.add_scalar(name, value, standing.step)


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines of a log up to `step`: what came after the checkpoint is trained, and written, once more."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError, KeyError, TypeError):  # the last line of a killed run may be torn
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    return kept


def _board(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise WeaksegError("tensorboard is not installed; pip install 'weakseg[tensorboard]', or go without") from error
    return SummaryWriter(str(out / "tensorboard"), purge_step=step)
