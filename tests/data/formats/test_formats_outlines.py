"""Polygons along the edges of pixels: pycocotools and OpenCV fill them again."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from toy_masks import MASKS, TINY, drawn
from weakseg.data.formats._outlines import outline, polygon_mask
from weakseg.data.formats._pieces import pieces
from weakseg.types import WeaksegError


def by_pycocotools(corners, size):
    flat = [float(v) for corner in corners for v in corner]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([flat], *size))) > 0


def by_opencv(corners, size):
    canvas = np.zeros((size[0] + 1, size[1] + 1), np.uint8)
    return cv2.fillPoly(canvas, [np.array(corners, np.int32)], 1) > 0


def corners_of(inside):
    """Every corner of every pixel: what OpenCV fills, which takes corners for pixels and draws the outline too."""
    height, width = inside.shape
    found = np.zeros((height + 1, width + 1), bool)
    for down in (0, 1):
        for right in (0, 1):
            found[down : down + height, right : right + width] |= inside
    return found


def check(mask):
    for piece in pieces(mask):
        corners = [(x + piece.left, y + piece.top) for x, y in outline(piece.inside)]
        inside = piece.filled(mask.shape)
        assert np.array_equal(by_pycocotools(corners, mask.shape), inside)
        assert np.array_equal(polygon_mask([(float(x), float(y)) for x, y in corners], mask.shape, ""), inside)
        assert np.array_equal(by_opencv(corners, mask.shape), corners_of(inside))
        assert sum(x * v - u * y for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True)) == (
            2 * inside.sum()
        )  # the area that a signed sum gives: holes are walked the other way round


@pytest.mark.parametrize("name", MASKS)
def test_others_fill_the_polygon_of_each_region(name):
    check(MASKS[name])


@given(TINY)
@settings(deadline=None, max_examples=150)
def test_others_fill_the_polygon_of_any_region(mask):
    check(mask)


def test_corners_by_hand():
    assert outline(drawn("1.", "11") > 0) == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (0, 2)]
    assert outline(drawn("11111", "1.1.1", "11111") > 0) == [  # the second bridge ends at the first hole
        (0, 0), (5, 0), (5, 3), (0, 3), (0, 1),
        (1, 1), (1, 2), (2, 2), (2, 1), (3, 1), (3, 2), (4, 2), (4, 1), (0, 1),
    ]  # fmt: skip


def test_where_pixels_touch_by_a_corner_the_walk_stays_with_its_own():
    assert outline(drawn("1111", "1.11", "11.1", "1111") > 0) == [  # one hole of two pixels: (2, 2) is passed twice
        (0, 0), (4, 0), (4, 4), (0, 4), (0, 1),
        (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 2), (2, 2), (2, 1), (0, 1),
    ]  # fmt: skip


def test_pieces_by_hand():
    found = [(p.value, p.top, p.left, p.inside.tolist()) for p in pieces(drawn("11.", "..1", "#.2"))]
    assert found == [
        (1, 0, 0, [[True, True]]),
        (1, 1, 2, [[True]]),
        (2, 2, 2, [[True]]),
        (255, 2, 0, [[True]]),
    ]
    whole = [(p.value, p.inside.tolist()) for p in pieces(drawn("11.", "..1"), "class")]
    assert whole == [(1, [[True, True, False], [False, False, True]])]


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre():
    triangle = [(0.0, 0.0), (4.0, 0.0), (0.0, 4.0)]  # centres (x + 1/2, y + 1/2) with x + y + 1 < 4
    got = polygon_mask(triangle, (4, 4), "")
    sure = np.add.outer(np.arange(4), np.arange(4)) != 3  # those on the diagonal lie on the edge itself
    assert np.array_equal(got[sure], (np.add.outer(np.arange(4), np.arange(4)) < 3)[sure])
    assert not polygon_mask([(0.0, 0.0), (4.0, 4.0)], (4, 4), "").any()


@pytest.mark.parametrize(
    ("corners", "says"),
    [
        ([(0.0, 0.0), (100.0, 0.0), (0.0, 4.0)], "x.txt, line 1: a polygon lies far outside"),
        ([(-4.0, 0.0), (8.0, 0.0)] * 400_000, "x.txt, line 1: a polygon is longer than"),
    ],
)
def test_a_polygon_that_is_made_up(corners, says, monkeypatch):
    monkeypatch.setattr(coco_mask, "frPyObjects", lambda *_: pytest.fail("the C code was called"))
    with pytest.raises(WeaksegError, match=says):
        polygon_mask(corners, (4, 4), "x.txt, line 1")
