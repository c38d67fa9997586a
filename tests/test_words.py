import pytest

from weakseg._words import duration, near


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.42, "0.4 s"), (9.96, "10 s"), (42.4, "42 s"), (59.6, "1 min 0 s"), (83, "1 min 23 s"),
     (3599.7, "1 h 0 min"), (4000, "1 h 6 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_near_names_are_offered_and_else_all_if_wanted():
    assert near("dgo", ["cat", "dog"]) == " (did you mean 'dog'?)"
    assert near("crv", ("crf", "cam", "crw")) == " (did you mean 'crw' or 'crf'?)"
    assert near("bus", {"cat": 1, "dog": 2}) == ""
    assert near("bus", {"cat": 1, "dog": 2}, or_all=True) == " (there are: cat, dog)"
    assert near("bus", (), or_all=True) == " (there are: none)"
