"""Label Studio's run lengths: a vector of its own making, a case worked by hand, and what a stranger makes up."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from toy_masks import TINY
from weakseg.data.formats._brush import decode_brush, encode_brush
from weakseg.types import WeaksegError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "label_studio_brush.json").read_text())
ONE = [0, 0, 0, 4, 57, 27, 252, 127, 224]
"""One pixel that is set. 4 values; 8 bits each: 00111; sizes 3, 4, 8, 16: 0010 0011 0111 1111; a run: 1, of size 00, of
length 4: 011, of 255: 11111111; 5 bits to fill up."""


def test_worked_by_hand():
    assert encode_brush(np.array([[True]])) == ONE
    assert decode_brush(bytes(ONE), (1, 1)).tolist() == [[True]]


def test_what_label_studio_wrote():
    mask, alpha = np.array(GOLDEN["mask"]) > 0, np.array(GOLDEN["alpha"])
    assert np.array_equal(decode_brush(bytes(GOLDEN["plain"]), mask.shape), mask)
    assert np.array_equal(decode_brush(bytes(GOLDEN["colour"]), mask.shape), alpha >= 128)
    assert encode_brush(mask) == GOLDEN["plain"]


@given(TINY)
@settings(deadline=None, max_examples=100)
def test_there_and_back(mask):
    assert np.array_equal(decode_brush(bytes(encode_brush(mask > 0)), mask.shape), mask > 0)


@pytest.mark.parametrize("pixels", [16_383, 16_384, 16_385, 32_768, 50_000])
def test_runs_longer_than_one_block(pixels):
    inside = np.ones((1, pixels), bool)
    inside[0, -1] = False
    assert np.array_equal(decode_brush(bytes(encode_brush(inside)), (1, pixels)), inside)
    assert np.array_equal(decode_brush(bytes(encode_brush(~inside)), (1, pixels)), ~inside)


STRANGE = [
    (b"", "end early"),
    (bytes(ONE[:7]), "end early"),
    (bytes([255] * 12), "4294967295 values, a photograph of 1x1 has 4"),
    (bytes([0, 0, 0, 4, 0xF9, 27, 252, 127, 224]), "32-bit values"),
    (bytes([0, 0, 0, 4, 57, 27, 252, 255, 224]), "leave the photograph"),  # a run of 8
    (bytes([0, 0, 0, 4, 57, 27, 0b11111000, 0b01110000]), "end early"),  # four values, of which there are none
]


@pytest.mark.parametrize(("data", "says"), STRANGE)
def test_what_a_stranger_makes_up(data, says):
    with pytest.raises(WeaksegError, match=f"x.json, result 1: .*{says}"):
        decode_brush(data, (1, 1), "x.json, result 1")
