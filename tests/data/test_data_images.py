"""Whatever a camera, a scanner or an old tool saved becomes RGB, ids or saliency; what is broken is named."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weakseg.data.images import image_size, read_image, read_mask, read_saliency
from weakseg.data.store import palette
from weakseg.types import WeaksegError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.png", Image.fromarray(RGB)))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # the definition of the EXIF tag, by where row 0 and column 0 are displayed
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(RGB), exif=exif)
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), upright)
    assert image_size(path) == upright.shape[:2]


def test_grey_palette_and_one_bit_become_rgb(tmp_path: Path) -> None:
    grey = RGB[..., 0]
    image = read_image(save(tmp_path / "l.png", Image.fromarray(grey)))
    assert all(np.array_equal(channel.numpy(), grey) for channel in image)
    indexed = Image.fromarray(grey % 4, "L").convert("L")
    indexed = Image.frombytes("P", indexed.size, (grey % 4).tobytes())
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    read = read_image(save(tmp_path / "p.png", indexed)).permute(1, 2, 0).numpy()
    assert np.array_equal(read, np.arange(10, 130, 10, dtype=np.uint8).reshape(4, 3)[grey % 4])
    bits = Image.fromarray(grey > 127)
    assert set(read_image(save(tmp_path / "1.png", bits)).unique().tolist()) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(tmp_path: Path, mode: str) -> None:
    alpha = np.zeros((6, 9), np.uint8)
    alpha[:3] = 255
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    read = read_image(save(tmp_path / "a.png", image)).permute(1, 2, 0).numpy()
    opaque = np.array(Image.fromarray(RGB).convert(mode[:-1]).convert("RGB"))
    assert np.array_equal(read[:3], opaque[:3])
    assert (read[3:] == 255).all()


def test_16_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for suffix in ("png", "tif"):
        image = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(deep)))
        assert image[0].tolist() == [[0, 1, 128, 255]]


def test_cmyk_jpeg_is_close_to_its_rgb(tmp_path: Path) -> None:
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    read = read_image(save(tmp_path / "a.jpg", flat.convert("CMYK"), quality=100))
    assert (read.float().mean((1, 2)) - torch.tensor([200.0, 40, 90])).abs().max() < 3


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    big = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"half.{suffix}", Image.fromarray(big))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeaksegError, match="half"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(WeaksegError, match=r"odd\.jpg"):
        read_image(path)
    with pytest.raises(WeaksegError, match=r"gone\.jpg does not exist"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    path = save(tmp_path / "bomb.png", Image.new("1", (64, 64)))
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2  # the header's width and height
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    with pytest.raises(WeaksegError, match=r"bomb\.png"):
        read_image(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_lose_the_photograph(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(RGB), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\xff\xff")
    assert read_image(path).shape == (3, 6, 9)


IDS = np.array([[0, 1, 2], [20, 254, 255]], np.uint8)


def test_ids_come_from_palette_grey_16_bit_and_voc_colours(tmp_path: Path) -> None:
    indexed = Image.frombytes("P", (3, 2), IDS.tobytes())
    indexed.putpalette(palette())
    for name, image in (
        ("p", indexed),
        ("l", Image.fromarray(IDS)),
        ("deep", Image.fromarray(IDS.astype(np.uint16))),
        ("rgb", indexed.convert("RGB")),
        ("rgba", indexed.convert("RGBA")),
    ):
        mask = read_mask(save(tmp_path / f"{name}.png", image), (2, 3))
        assert mask.dtype == torch.uint8
        assert np.array_equal(mask.numpy(), IDS), name


def test_strange_masks_are_refused(tmp_path: Path) -> None:
    coloured = save(tmp_path / "c.png", Image.new("RGB", (3, 2), (1, 2, 3)))
    with pytest.raises(WeaksegError, match=r"\(1, 2, 3\).*VOC"):
        read_mask(coloured)
    with pytest.raises(WeaksegError, match="holds id 300"):
        read_mask(save(tmp_path / "d.png", Image.fromarray(np.full((2, 3), 300, np.uint16))))
    with pytest.raises(WeaksegError, match=r"2 x 3, its photograph 3 x 2.*EXIF"):
        read_mask(save(tmp_path / "l.png", Image.fromarray(IDS)), (3, 2))
    with pytest.raises(WeaksegError, match=r"2 x 3, its photograph 5 x 5"):
        read_mask(tmp_path / "l.png", (5, 5))


def test_saliency_is_0_to_1_from_8_and_16_bits(tmp_path: Path) -> None:
    eight = save(tmp_path / "a.png", Image.fromarray(np.array([[0, 51, 255]], np.uint8)))
    deep = save(tmp_path / "b.png", Image.fromarray(np.array([[0, 13107, 65535]], np.uint16)))
    for path in (eight, deep):
        saliency = read_saliency(path, (1, 3))
        assert saliency.dtype == torch.float32
        assert torch.allclose(saliency, torch.tensor([[[0, 0.2, 1]]]))
    with pytest.raises(WeaksegError, match=r"saliency map .* 1 x 3"):
        read_saliency(eight, (3, 3))
