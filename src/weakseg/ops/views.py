"""The views of a photograph that multi-scale inference sends through a network, and draws that depend on it alone."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from weakseg.ops.image import scale_image
from weakseg.types import WeaksegError


def scaled_views(
    image: Tensor,
    scales: Sequence[float],
    normalise: Callable[[Tensor], Tensor],
    *,
    flip: bool = True,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Each scale of a photograph as a network's input, with its left-right mirror image behind it in the batch.

    The photograph itself is resized, bicubically as Pillow does, and normalised afterwards (methods.md 2.1, 2.2).

    Args:
        image: uint8 (3, H, W), RGB.
        scales: factors of both sides, in the order in which the views come.
        normalise: the network's own, uint8 -> float32.
        flip: whether the mirror image is wanted too.
        device: where the views are normalised; None = where the photograph lies.

    Yields:
        float32 (2, 3, round(scale H), round(scale W)), or (1, ...) without `flip`.

    >>> [tuple(v.shape) for v in scaled_views(torch.zeros(3, 4, 6, dtype=torch.uint8), (1, 0.5), lambda x: x.float())]
    [(2, 3, 4, 6), (2, 3, 2, 3)]
    """
    image = image.as_subclass(Tensor)  # of a tv_tensor, whose wrapping costs in every operation
    for scale in scales:
        view = normalise(scale_image(image, scale).to(image.device if device is None else device))[None]
        yield torch.cat([view, view.flip(-1)]) if flip else view


def turned_back(views: Tensor) -> Tensor:
    """What a network made of one of `scaled_views`, (1 or 2, ..., w): that of the mirror image is mirrored again.

    >>> turned_back(torch.tensor([[1, 2], [2, 1]])).tolist()
    [[1, 2], [1, 2]]
    """
    return torch.cat([views[:1], views[1:].flip(-1)])


def mean_of_views(views: Iterable[Tensor]) -> Tensor:
    """Mean over all views and their mirror images, holding one view at a time.

    Args:
        views: float (1 or 2, ...) each, of one size; at least one.

    Raises:
        WeaksegError: there is no view.

    >>> mean_of_views([torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])])
    tensor([3.])
    """
    total, count = None, 0
    for view in views:
        summed = view.sum(dim=0)
        total, count = summed if total is None else total + summed, count + len(view)
    if total is None:
        raise WeaksegError("prediction needs at least one scale: set scales, such as [1.0]")
    return total / count


def max_of_views(views: Iterable[Tensor]) -> Tensor:
    """Maximum over all views and their mirror images, holding one view at a time (methods.md 9.6, the test of AEFT's).

    Args:
        views: float (1 or 2, ...) each, of one size; at least one.

    Raises:
        WeaksegError: there is no view.

    >>> max_of_views([torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])])
    tensor([6.])
    """
    best: Tensor | None = None
    for view in views:
        highest = view.amax(dim=0)
        best = highest if best is None else torch.maximum(best, highest)
    if best is None:
        raise WeaksegError("prediction needs at least one scale: set scales, such as [1.0]")
    return best


def generator_of(id: str) -> torch.Generator:
    """Draws of one photograph, on the CPU: the same in whatever order, thread or process it is worked on.

    >>> bool(torch.rand((), generator=generator_of("a")) == torch.rand((), generator=generator_of("a")))
    True
    """
    digest = hashlib.sha256(id.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
