"""Context labels: what every pixel of a scene shows, beyond the classes (PASCAL-Context, and the generated scenes)."""

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from scipy import io
from torch import Tensor

from weakseg.data.lists import read_text
from weakseg.types import WeaksegError

SUFFIXES = (".png", ".mat")
NAME_FILES = ("context_classes.txt", "labels.txt")
_NUMBERED = re.compile(r"^(\d+)\s*[:\t ]\s*(\S.*)$")


def read_context(path: Path, size: tuple[int, int] | None = None) -> Int64[Tensor, "h w"]:
    """The context labels of one photograph: 1.., 0 = none.

    Args:
        path: a palette or grey PNG of 8 or 16 bits, or a ``.mat`` of PASCAL-Context with its ``LabelMap``.
        size: (H, W) that it must have, pixels.

    Raises:
        WeaksegError: the file is damaged, of another kind or of another size.
    """
    try:
        if path.suffix == ".mat":
            labels = np.asarray(io.loadmat(path)["LabelMap"])
        else:
            with Image.open(path) as image:
                labels = np.array(image)
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"labels of type {labels.dtype} and shape {labels.shape}")
    except Exception as error:  # Pillow and scipy raise a dozen types
        raise WeaksegError(
            f"{path} holds no context labels ({type(error).__name__}: {error}); wanted is a palette or grey PNG of "
            "labels, or PASCAL-Context's .mat with LabelMap"
        ) from error
    if size is not None and labels.shape != tuple(size):
        raise WeaksegError(f"context labels {path} are {labels.shape}, the photograph {tuple(size)} (height, width)")
    return torch.from_numpy(labels.astype(np.int64))


def context_names(*folders: Path) -> list[str] | None:
    """Names of the labels 1.. from ``context_classes.txt`` or PASCAL-Context's ``labels.txt`` in one of the folders.

    A line is a name, or ``number: name``; None if no folder holds such a file.

    Raises:
        WeaksegError: the numbered lines leave out a number.
    """
    path = next((f / n for f in folders for n in NAME_FILES if (f / n).is_file()), None)
    if path is None:
        return None
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    numbered = [_NUMBERED.match(line) for line in lines]
    if not lines or not all(numbered):
        return lines or None
    names = {int(m[1]): m[2] for m in numbered if m is not None}
    if sorted(names) != list(range(1, len(names) + 1)):
        raise WeaksegError(f"{path} numbers its labels with gaps; wanted is 1 to {len(names)}, one a line")
    return [names[k] for k in sorted(names)]
