"""Plain PNG indices against Pillow's; every other file is left to it."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from weakseg.data._png import plain_indices
from weakseg.data.store import palette


def bytes_of(array, mode="P", **options):
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette(palette())
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def labels(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (60, 41)])
def test_equal_to_pillow(height, width):
    array = labels(height, width)
    found = plain_indices(bytes_of(array))
    assert found is not None
    assert np.array_equal(found, array)
    found.flat[0] = 1  # a torch tensor of it may be written to


def test_colour_and_few_bits_are_left_to_pillow():
    assert plain_indices(bytes_of(labels(5, 6), "RGB")) is None
    assert plain_indices(bytes_of(labels(5, 6), "1")) is None
    assert plain_indices(bytes_of(labels(5, 6) % 2, bits=1)) is None


def test_rows_with_a_filter_are_left_to_pillow():
    smooth = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64)
    data = bytes_of(smooth + smooth.T, "L")  # Pillow filters greys
    found = plain_indices(data)
    assert found is None or np.array_equal(found, np.array(Image.open(io.BytesIO(data))))


def test_damage_is_left_to_pillow():
    data = bytes_of(labels(20, 30))
    for k in range(0, len(data), 7):
        assert plain_indices(data[:k]) is None
        broken = bytearray(data)
        broken[k] ^= 0x40
        assert plain_indices(bytes(broken)) is None, k
    assert plain_indices(data + b"more") is None
    assert plain_indices(b"no PNG") is None


def test_more_pixels_than_the_header_says():
    data = bytes_of(np.zeros((4, 4), np.uint8))
    header = data[:16] + (4).to_bytes(4, "big") + (3).to_bytes(4, "big") + data[24:29]
    assert plain_indices(header + zlib.crc32(header[12:]).to_bytes(4, "big") + data[33:]) is None
