"""HSV on OpenCV's 8-bit scales, against OpenCV."""

import numpy as np
import pytest
import torch

from weakseg.ops.hsv import hsv_to_rgb, rgb_to_hsv, shift_hsv

LEVELS = torch.tensor([*range(0, 256, 17), 1, 2, 100, 127, 128, 254], dtype=torch.uint8)


def colours():
    return torch.cartesian_prod(LEVELS, LEVELS, LEVELS).T.reshape(3, -1, 1).contiguous()


def pixels(planes):
    return np.ascontiguousarray(planes.permute(1, 2, 0).numpy().astype(np.uint8))


def test_equals_opencv():
    cv2 = pytest.importorskip("cv2")
    image = colours()
    assert np.array_equal(pixels(rgb_to_hsv(image)), cv2.cvtColor(pixels(image), cv2.COLOR_RGB2HSV))
    hues = torch.arange(180, dtype=torch.uint8)
    hsv = torch.cartesian_prod(hues, LEVELS, LEVELS).T.reshape(3, -1, 1)
    want = cv2.cvtColor(pixels(hsv), cv2.COLOR_HSV2RGB).astype(int)
    difference = np.abs(pixels(hsv_to_rgb(hsv)).astype(int) - want)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("shift", [(0, 0, 0), (7, -10, 9), (-10, 9, -10), (100, 0, 300), (0, -300, 0)])
def test_shift_written_out(shift):
    cv2 = pytest.importorskip("cv2")
    image = colours()
    h, s, v = (x.astype(int) for x in np.moveaxis(cv2.cvtColor(pixels(image), cv2.COLOR_RGB2HSV), -1, 0))
    moved = np.stack([(h + shift[0]) % 180, np.clip(s + shift[1], 0, 255), np.clip(v + shift[2], 0, 255)], -1)
    want = cv2.cvtColor(moved.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(int)
    assert np.abs(pixels(shift_hsv(image, *shift)).astype(int) - want).max() <= 1


def test_a_black_photograph_becomes_grey():
    black = torch.zeros(3, 2, 5, dtype=torch.uint8)
    assert torch.equal(shift_hsv(black, 5, 0, 9), torch.full_like(black, 9))
