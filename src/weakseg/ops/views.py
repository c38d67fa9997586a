"""The views of a photograph that multi-scale inference sends through a network, and draws that depend on it alone."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from weakseg.ops.image import scale_image


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


def generator_of(id: str) -> torch.Generator:
    """Draws of one photograph, on the CPU: the same in whatever order, thread or process it is worked on.

    >>> bool(torch.rand((), generator=generator_of("a")) == torch.rand((), generator=generator_of("a")))
    True
    """
    digest = hashlib.sha256(id.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
