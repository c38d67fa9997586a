"""Words for people: the names that were probably meant, and how long something takes."""

from collections.abc import Iterable
from difflib import get_close_matches


def near(word: str, known: Iterable[str], *, or_all: bool = False) -> str:
    """The end of a sentence about an unknown name: the one or two known ones that look like it.

    Args:
        word: what came.
        known: what there is.
        or_all: name all of `known` where none looks like `word`; otherwise nothing is said then.

    >>> near("dgo", ["cat", "dog"]), near("bus", ["cat", "dog"]), near("bus", ["cat", "dog"], or_all=True)
    (" (did you mean 'dog'?)", '', ' (there are: cat, dog)')
    """
    names = list(known)
    if found := get_close_matches(word, names, n=2, cutoff=0.5):
        return f" (did you mean {' or '.join(map(repr, found))}?)"
    return f" (there are: {', '.join(names) or 'none'})" if or_all else ""


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.42), duration(42.4), duration(83), duration(4000)
    ('0.4 s', '42 s', '1 min 23 s', '1 h 6 min')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
