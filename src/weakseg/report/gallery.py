"""Which photographs a report shows: the best, the median and the worst, so that nobody picks them by taste."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

Rank: TypeAlias = Literal["best", "median", "worst"]


def pick(per_image: Mapping[str, float], n: int = 3) -> list[tuple[str, Rank]]:
    """At most `n` ids of each rank, none twice; equal scores by id.

    Args:
        per_image: mIoU by id, as in the result of `evaluate.masks.evaluate_masks`.
        n: photographs of each rank; fewer where there are fewer than 3 n.

    >>> pick({"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.4, "e": 0.6}, n=1)
    [('b', 'best'), ('a', 'median'), ('c', 'worst')]
    """
    order = sorted(per_image, key=lambda id: (-per_image[id], id))
    if len(order) < 3:
        ranks: list[Rank] = ["best", "worst"]
        return list(zip(order, ranks, strict=False))
    n = max(1, min(n, len(order) // 3))
    first = min(max((len(order) - n) // 2, n), len(order) - 2 * n)
    shown: list[tuple[Rank, list[str]]] = [
        ("best", order[:n]),
        ("median", order[first : first + n]),
        ("worst", order[-n:][::-1]),
    ]
    return [(id, rank) for rank, ids in shown for id in ids]
