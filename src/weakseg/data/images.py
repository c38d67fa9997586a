"""Pixels of photographs, masks and saliency maps, whatever a camera, a scanner or an old tool made of them.

Everything is returned in the frame a viewer displays (EXIF orientation applied): boxes and masks are drawn there.
A file that cannot be read whole is an error with its name: half a photograph must not train a network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import tv_tensors

from weakseg.data.store import colour
from weakseg.types import LabelMap, WeaksegError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
"""File name endings of photographs, lower case."""
MAX_PIXELS = 89_478_485
"""Pixels beyond which a file counts as a decompression bomb (Pillow's own limit for a warning)."""
_ORIENTATION = 0x0112
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_image(path: str | Path) -> tv_tensors.Image:
    """The photograph as RGB, uint8 (3, H, W), 0-255.

    EXIF orientation is applied, grey and palette images become RGB, transparency is laid over white, 16 bits are scaled
    to 8. The first frame of an animation counts.

    Raises:
        WeaksegError: the file is missing, truncated, no image, larger than `MAX_PIXELS`, or holds floats.
    """
    with _opened(path) as image:
        pixels = np.array(_rgb(_upright(image), path))
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of the photograph as displayed, pixels; reads the header only. Raises WeaksegError as `read_image`."""
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> LabelMap:
    """The ids of a mask, uint8 (H, W): palette and grey files hold them, RGB files are decoded by VOC's palette.

    Args:
        path: the mask.
        size: (H, W) that it must have, pixels.

    Raises:
        WeaksegError: the file is missing, damaged or of another size, an id is above 255, or a colour is not VOC's.
    """
    with _opened(path) as image:
        mask = _ids(image, path)
    _same_size("mask", path, tuple(mask.shape), size)
    return torch.from_numpy(mask)


def read_saliency(path: str | Path, size: tuple[int, int] | None = None) -> tv_tensors.Mask:
    """The saliency map of an 8-bit or 16-bit image, float32 (1, H, W), 0-1.

    Args:
        path: the map; colour files are converted to grey.
        size: (H, W) that it must have, pixels.

    Raises:
        WeaksegError: the file is missing, damaged or of another size.
    """
    with _opened(path) as image:
        if image.mode in _DEEP:
            values = np.array(image).astype(np.float32) / 65535
        elif image.mode == "F":
            raise WeaksegError(f"{path} holds floating point values; save the saliency map as an 8-bit or 16-bit PNG")
        else:
            values = np.array(image.convert("L")).astype(np.float32) / 255
    _same_size("saliency map", path, tuple(values.shape), size)
    return tv_tensors.Mask(torch.from_numpy(values.clip(0, 1))[None])


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The opened image; whatever Pillow raises while it is read becomes a WeaksegError that names the file."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise WeaksegError(
                    f"{path} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; shrink it"
                )
            yield image
    except WeaksegError:
        raise
    except FileNotFoundError as error:
        raise WeaksegError(f"{path} does not exist") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError ...
        detail = str(error) if str(path) not in str(error) else "no image format that is known"
        raise WeaksegError(f"{path} cannot be read as an image ({detail}); replace or remove it") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. A damaged EXIF block counts as none, as in viewers: the pixels are still good."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # outside of any lenience: a truncated file fails here
    return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def _rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode == "F":
        raise WeaksegError(f"{path} holds floating point values, whose range is unknown; save it with 8 or 16 bits")
    if image.mode in _DEEP:
        values = np.array(image).astype(np.float64).clip(0, 65535) / 257  # 65535 -> 255
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _ids(image: Image.Image, path: str | Path) -> np.ndarray:
    if image.mode in ("P", "L", "1"):
        return np.array(image).astype(np.uint8)
    if image.mode in ("LA", "PA"):
        first: np.ndarray = np.array(image)[..., 0]
        return first
    if image.mode in _DEEP:
        deep = np.array(image)
        if deep.max(initial=0) > 255 or deep.min(initial=0) < 0:
            raise WeaksegError(f"{path} holds id {int(deep.max())}; a mask holds 0 background, 1.. classes, 255 ignore")
        return deep.astype(np.uint8)
    if image.mode in ("RGB", "RGBA"):
        return _decoded(np.array(image.convert("RGB")), path)
    raise WeaksegError(f"{path} is a {image.mode} image; a mask is a palette or grey PNG of class ids")


@cache
def _voc_colours() -> np.ndarray:
    """int16 (2^24,): the id of each RGB value in VOC's palette, -1 for every other colour."""
    ids = np.full(1 << 24, -1, np.int16)
    for k in range(256):
        red, green, blue = colour(k)
        ids[red << 16 | green << 8 | blue] = k
    return ids


def _decoded(rgb: np.ndarray, path: str | Path) -> np.ndarray:
    """The ids of a mask saved in colours. JPEG blurs colours, so any colour that is not VOC's is an error."""
    wide = rgb.astype(np.int32)
    ids = _voc_colours()[wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]]
    if (ids < 0).any():
        strange = tuple(int(v) for v in rgb[ids < 0][0])
        raise WeaksegError(
            f"{path} is a colour mask with {strange}, which is no colour of VOC's palette; "
            "save class ids as a palette or grey PNG (0 background, 1.. classes, 255 ignore)"
        )
    decoded: np.ndarray = ids.astype(np.uint8)
    return decoded


def _same_size(what: str, path: str | Path, got: tuple[int, ...], wanted: tuple[int, int] | None) -> None:
    if wanted is not None and got != tuple(wanted):
        turned = "; it seems not to be turned as the photograph's EXIF asks" if got == tuple(wanted)[::-1] else ""
        raise WeaksegError(
            f"{what} {path} is {got[0]} x {got[1]}, its photograph {wanted[0]} x {wanted[1]} (height x width){turned}"
        )
