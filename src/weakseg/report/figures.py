"""Pictures for people: label maps and score maps over their photograph."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from weakseg.data.store import colour
from weakseg.types import BACKGROUND, IGNORE, MAX_CLASSES, Instances, LabelMap, ScoreMap, WeaksegError

STRENGTH = 0.62  # of a label's colour over its photograph
DIM = 0.75  # brightness of what is background
LONG_SIDE = 640  # pixels of a picture for people
LINE = 20  # height of a legend's line, pixels
SHOWN = 0.5  # least score of an instance in a picture


def overlay(image: Tensor, labels: LabelMap, strength: float = STRENGTH) -> np.ndarray:
    """Labels in their palette colours over the photograph; background stays, dimmed; 255 is chequered.

    Args:
        image: uint8 (3, H, W), RGB.
        labels: uint8 (H, W), or smaller: resized by nearest neighbour.
        strength: 0 shows the photograph alone, 1 the colours alone.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    photo = _photo(image)
    labels = _resized(labels, photo.shape[:2])
    flat = labels.numpy()
    mixed = (1 - strength) * photo + strength * colour_mask(labels)
    mixed[flat == BACKGROUND] = DIM * photo[flat == BACKGROUND]
    y, x = np.nonzero(flat == IGNORE)
    mixed[y, x] = 0.5 * photo[y, x] + np.where((y // 4 + x // 4) % 2, 127, 60)[:, None]
    mixed[_borders(flat)] = 255
    return _bytes(mixed)


def instance_overlay(
    image: Tensor, instances: Instances, classes: Sequence[str], *, least: float = SHOWN, long_side: int = LONG_SIDE
) -> np.ndarray:
    """Each instance in a colour of its own over the photograph, with its class and score; of two the better is on top.

    Args:
        image: uint8 (3, H, W), RGB; made smaller where its long side is above `long_side` pixels.
        instances: of masks (H, W).
        classes: the C foreground names.
        least: instances with a lower score are left out.

    Returns:
        uint8 (h, w, 3), RGB.
    """
    best = instances.scores.argsort(descending=True, stable=True)[:MAX_CLASSES].tolist()
    shown = [k for k in best if instances.scores[k] >= least]
    numbers = torch.zeros(image.shape[1:], dtype=torch.uint8)
    for n, k in reversed([*enumerate(shown, start=1)]):
        numbers[instances.masks[k]] = n
    photo = torch.from_numpy(shrunk(_bytes(_photo(image)), long_side).copy()).permute(2, 0, 1)
    picture = Image.fromarray(overlay(photo, numbers))
    ratio = picture.width / image.shape[2]
    for k in reversed(shown):
        name = f"{classes[int(instances.labels[k]) - 1]} {float(instances.scores[k]):.2f}"
        _write_at(picture, ratio * instances.boxes[k, 0].item(), ratio * instances.boxes[k, 1].item(), name)
    return np.asarray(picture)


def heatmap(image: Tensor, score_map: ScoreMap) -> np.ndarray:
    """The highest foreground score of each pixel as heat over the greyed photograph: dark 0, bright yellow 1.

    Args:
        image: uint8 (3, H, W), RGB.
        score_map: at any resolution; scores beyond 0..1 are clipped.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    photo = _photo(image)
    foreground = score_map.scores[score_map.ids != BACKGROUND].detach().cpu()
    if not len(foreground):
        foreground = torch.zeros(1, 1, 1)
    scores = functional.interpolate(
        foreground.amax(0)[None, None], size=photo.shape[:2], mode="bilinear", align_corners=False
    )[0, 0]
    heat = scores.clamp(0, 1).numpy()
    grey = photo.mean(2, keepdims=True).repeat(3, 2)
    weight = 0.45 + 0.4 * heat[..., None]
    mixed = (1 - weight) * grey + weight * _heat_colours()[(255 * heat).round().astype(int)]
    return _bytes(mixed)


def colour_mask(labels: LabelMap) -> np.ndarray:
    """uint8 (H, W, 3): the labels in VOC's palette alone.

    >>> colour_mask(torch.tensor([[0, 1]], dtype=torch.uint8)).tolist()
    [[[0, 0, 0], [128, 0, 0]]]
    """
    return _bytes(_palette()[labels.cpu().numpy()])


def jpeg(image: Tensor | np.ndarray, long_side: int | None = LONG_SIDE, quality: int = 85) -> bytes:
    """A JPEG file of uint8 (3, H, W) or (H, W, 3), made smaller where its long side is above `long_side` pixels."""
    array = _photo(image).astype(np.uint8) if isinstance(image, Tensor) else image
    array = array if long_side is None else shrunk(array, long_side)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(out, format="JPEG", quality=quality)
    return out.getvalue()


def shrunk(image: np.ndarray, long_side: int = LONG_SIDE) -> np.ndarray:
    """uint8 (h, w, 3): the picture (H, W, 3), made smaller where its long side is above `long_side` pixels."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((long_side, long_side))
    return np.asarray(picture)


def with_legend(image: np.ndarray, labels: LabelMap, classes: Sequence[str]) -> np.ndarray:
    """The picture (h, w, 3) above the colours and names of the classes in `labels`, as many lines as they need.

    A picture narrower than the longest name is set on white, so that no name is cut.
    """
    present = [k for k in labels.unique().tolist() if k not in (BACKGROUND, IGNORE) and k <= len(classes)]
    entries = [(colour(k), classes[k - 1]) for k in present] or [(colour(BACKGROUND), "background only")]
    widths = [round(LINE + _font().getlength(name) + LINE) for _, name in entries]
    height, width = image.shape[:2]
    full = max(width, *widths)
    places, x, y = [], 0, 0
    for entry in widths:
        if x and x + entry > full:
            x, y = 0, y + LINE
        places.append((x, y))
        x += entry
    picture = Image.new("RGB", (full, height + y + LINE), "white")
    picture.paste(Image.fromarray(np.ascontiguousarray(image)), ((full - width) // 2, 0))
    draw = ImageDraw.Draw(picture)
    for (rgb, name), (x, y) in zip(entries, places, strict=True):
        top = height + y
        draw.rectangle((x + 4, top + 5, x + LINE - 6, top + LINE - 5), fill=rgb, outline="black")
        draw.text((x + LINE - 1, top + LINE // 2), name, fill="black", font=_font(), anchor="lm")
    return np.asarray(picture)


def _write_at(picture: Image.Image, x: float, y: float, text: str) -> None:
    """White letters with a black rim whose upper left corner is at (x, y), or as near as the picture allows."""
    draw = ImageDraw.Draw(picture)
    _, _, width, height = draw.textbbox((0, 0), text, font=_font(), stroke_width=2)
    place = (max(2, min(x, picture.width - width)), max(2, min(y, picture.height - height)))
    draw.text(place, text, fill="white", font=_font(), stroke_width=2, stroke_fill="black")


def _photo(image: Tensor) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] != 3:
        raise WeaksegError(f"a photograph is uint8 (3, H, W); got {image.dtype} {tuple(image.shape)}")
    return image.detach().cpu().permute(1, 2, 0).numpy().astype(np.float32)


def _bytes(colours: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = colours.round().clip(0, 255).astype(np.uint8)
    return rounded


def _resized(labels: LabelMap, size: tuple[int, ...]) -> Tensor:
    labels = labels.detach().cpu()
    if tuple(labels.shape) == tuple(size):
        return labels
    return functional.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].to(torch.uint8)


def _borders(labels: np.ndarray) -> np.ndarray:
    """bool (H, W): pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge


@cache
def _font() -> ImageFont.FreeTypeFont:
    """matplotlib's own font: it knows most alphabets, and lies on every machine that has matplotlib."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), 13)


@cache
def _palette() -> np.ndarray:
    return np.array([colour(k) for k in range(256)], np.uint8)


@cache
def _heat_colours() -> np.ndarray:
    """float (256, 3), 0-255: matplotlib's inferno, even in brightness and readable in grey."""
    return matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255
