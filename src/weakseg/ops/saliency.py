"""Saliency without training: how hard it is to reach a pixel from the photograph's border, and how unlike it is.

Zhang, Sclaroff, Lin, Shen, Price and Mech, "Minimum Barrier Salient Object Detection at 80 FPS", ICCV 2015 (MB+), on
the minimum barrier distance of Strand, Ciesielski, Malmberg and Saha, "The Minimum Barrier Distance", CVIU 117, 2013.
What cannot be reached from the border without crossing a wide range of colours is an object, if the photographer did
not cut it off. No learning, no data: the map errs more than a network's, and runs say that they used it.

Also here: a saliency map at feature resolution, and as a `ScoreMap` among the outputs of a step.
"""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.ops.image import resize_image
from weakseg.types import BACKGROUND, Sample, ScoreMap, WeaksegError

Plane = NDArray[np.float32]

_LAB_MATRIX = np.array(  # linear sRGB -> XYZ over the white of D65
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])


# --- maps ---


def nearest_saliency(saliency: Tensor, size: tuple[int, int]) -> Tensor:
    """A saliency map at feature resolution: feature (i, j) takes the pixel (floor(i H/h), floor(j W/w)).

    Upper left, not centre: torch's ``nearest``, with which EPS was trained (methods.md 6.3).

    Args:
        saliency: float (B, 1, H, W), 0-1.
        size: (h, w), feature pixels.

    Returns:
        float (B, 1, h, w).

    >>> nearest_saliency(torch.tensor([[[[0.0, 0.2, 0.4, 0.6]]]]), (1, 2))[0, 0]
    tensor([[0.0000, 0.4000]])
    """
    return interpolate(saliency, size, mode="nearest")


def given_saliency(sample: Sample) -> Tensor:
    """The saliency map that came with a photograph: float32 (1, H, W), 0-1.

    Raises:
        WeaksegError: it has none.
    """
    if sample.saliency is None:
        raise WeaksegError(
            f"{sample.id} has no saliency map to compare with; give --saliency FOLDER or --saliency builtin, "
            "or leave estimated = false"
        )
    return sample.saliency.as_subclass(Tensor)


def saliency_score_map(saliency: Tensor) -> ScoreMap:
    """A saliency map as the output of a step: a `ScoreMap` of one map under the id 0, which holds the saliency itself.

    It belongs to no class, so it bears the one id that none has. Under its key (``saliency``) the map of id 0 is how
    much of a pixel is object; elsewhere a map of id 0 is the score of background.

    Args:
        saliency: float32 (1, H, W), 0-1.

    >>> saliency_score_map(torch.ones(1, 2, 3)).ids.tolist()
    [0]
    """
    ids = torch.full((1,), BACKGROUND, dtype=torch.uint8, device=saliency.device)
    return ScoreMap(ids, saliency, (int(saliency.shape[1]), int(saliency.shape[2])))


def saliency_of(maps: ScoreMap) -> Tensor:
    """The saliency map that `saliency_score_map` put away: float32 (1, H, W), 0-1.

    Raises:
        ValueError: `maps` holds anything but one map of id 0 at the photograph's size.

    >>> saliency_of(saliency_score_map(torch.ones(1, 1, 2)))
    tensor([[[1., 1.]]])
    """
    if maps.ids.tolist() != [BACKGROUND] or tuple(maps.scores.shape[1:]) != tuple(maps.size):
        raise ValueError(
            f"a saliency map is one map of id 0 at the photograph's size {maps.size}; "
            f"got ids {maps.ids.tolist()} at {tuple(maps.scores.shape[1:])}"
        )
    return maps.scores.clamp(0, 1)


# --- the estimate ---


def barrier_saliency(
    image: Tensor,
    *,
    long_side: int = 300,
    sweeps: int = 3,
    border: float = 0.1,
    smoothing: float = 20.0,
    centre: float = 1.0,
    contrast: float = 10.0,
) -> Tensor:
    """MB+ saliency: barrier distance plus border contrast, smoothed, drawn to the centre, contrast enhanced.

    Args:
        image: uint8 (3, H, W), RGB.
        long_side: pixels at which the map is computed; a larger photograph is shrunk, bicubically.
        sweeps: of `barrier_distance`.
        border: width of each border strip, as a share of the image's side.
        smoothing: radius of the smoothing in pixels, for a mean saliency of one; 0 = none.
        centre: weight of the centre prior; 0 = none, 1 = the corners count nothing.
        contrast: slope of the sigmoid about 0.5; 0 = none.

    Returns:
        float32 (1, H, W), 0-1.

    References:
        Zhang et al., ICCV 2015, sections 3.2 (FastMBD), 4.1 (backgroundness) and 4.2 (post-processing).

    >>> image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    >>> image[:, 12:28, 20:40] = 200
    >>> saliency = barrier_saliency(image)[0]
    >>> bool(saliency[20, 30] > 0.9), bool(saliency[2, 2] < 0.1)
    (True, True)
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    shrink = min(1.0, long_side / max(height, width))
    size = max(1, round(shrink * height)), max(1, round(shrink * width))
    colours = lab(resize_image(image.cpu(), size).numpy())
    barriers = _unit(np.sum([barrier_distance(channel, sweeps) for channel in colours], axis=0))
    combined = _unit(barriers + _unit(border_contrast(colours, border)))
    combined = _smooth(combined, smoothing) if smoothing else combined
    combined = _unit(combined * _centre_prior(size, centre))
    combined = 1 / (1 + np.exp(-contrast * (combined - 0.5))) if contrast else combined
    found = torch.from_numpy(np.ascontiguousarray(_unit(combined), dtype=np.float32))[None]
    if size != (height, width):
        found = interpolate(found[None], (height, width), mode="bilinear", align_corners=False)[0]
    return found


def lab(image: NDArray[np.uint8]) -> Plane:
    """CIE Lab (D65) of an sRGB image: float32 (3, H, W), L 0-100, a and b about -100 to 100.

    Args:
        image: uint8 (3, H, W).

    >>> (lab(np.full((3, 1, 1), 255, np.uint8)).round(1) + 0).flatten().tolist()  # white
    [100.0, 0.0, 0.0]
    """
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)
    xyz = np.tensordot(_LAB_MATRIX.astype(np.float32), linear[image], 1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * np.float32((29 / 6) ** 2 / 3) + np.float32(4 / 29))
    planes: Plane = np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    return planes


def barrier_distance(plane: Plane, sweeps: int = 3) -> Plane:
    """Minimum barrier distance to the image's border: the least range of values on any path there, 4-connected.

    Approximate, as published: raster scans in alternating directions carry each pixel's best path so far; real
    photographs hardly change after three.

    Args:
        plane: float32 (H, W).
        sweeps: raster scans, forward first.

    Returns:
        float32 (H, W), >= 0, in units of `plane`; 0 on the border.

    References:
        Zhang et al., ICCV 2015, Algorithm 1.

    >>> barrier_distance(np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32))[1].tolist()
    [0.0, 4.0, 0.0]
    """
    distance = np.full(plane.shape, np.inf, np.float32)
    distance[0] = distance[-1] = distance[:, 0] = distance[:, -1] = 0
    upper, lower = plane.copy(), plane.copy()
    for sweep in range(sweeps):
        if sweep % 2 == 0:
            _scan(plane, distance, upper, lower)
        else:  # the same scan on the planes turned by half a circle: views, so that it writes into them
            _scan(plane[::-1, ::-1], distance[::-1, ::-1], upper[::-1, ::-1], lower[::-1, ::-1])
    return distance


@njit(cache=True, nogil=True)
def _scan(plane: Plane, distance: Plane, upper: Plane, lower: Plane) -> None:  # pragma: no cover - compiled
    """One raster scan: each inner pixel may continue the path of its upper or its left neighbour."""
    height, width = plane.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            value = plane[y, x]
            for k in range(2):
                j, i = (y - 1, x) if k == 0 else (y, x - 1)
                high, low = max(upper[j, i], value), min(lower[j, i], value)
                if distance[j, i] < np.inf and high - low < distance[y, x]:
                    distance[y, x], upper[y, x], lower[y, x] = high - low, high, low


def border_contrast(colours: Plane, border: float = 0.1) -> Plane:
    """How unlike the four border strips a pixel is: sum of the three smallest Mahalanobis distances to them.

    The strip that is most unlike the pixel is left out, for an object may fill it.

    Args:
        colours: float32 (3, H, W), Lab.
        border: width of a strip as a share of the image's side, at least a pixel.

    Returns:
        float32 (H, W), each distance over its own maximum beforehand: 0-3.

    References:
        Zhang et al., ICCV 2015, Eqs. (9) and (10).

    >>> image = np.zeros((3, 20, 20), np.float32)
    >>> image[0, 8:12, 8:12] = 50
    >>> float(border_contrast(image)[10, 10]), float(border_contrast(image)[0, 0])
    (3.0, 0.0)
    """
    height, width = colours.shape[1:]
    rows, columns = max(1, round(border * height)), max(1, round(border * width))
    strips = (colours[:, :rows], colours[:, -rows:], colours[:, :, :columns], colours[:, :, -columns:])
    pixels = colours.reshape(3, -1).astype(np.float64)
    distances = np.stack([_mahalanobis(pixels, strip.reshape(3, -1)) for strip in strips])
    return (distances.sum(0) - distances.max(0)).reshape(height, width).astype(np.float32)


def _mahalanobis(pixels: NDArray[np.float64], strip: Plane) -> NDArray[np.float64]:
    """float64 (N,): of each pixel to the strip's mean, over its own maximum."""
    covariance = np.cov(strip.astype(np.float64), bias=True) + np.eye(3)  # one unit of Lab: a flat strip has none
    away = pixels - strip.mean(1, keepdims=True)
    distance: NDArray[np.float64] = np.sqrt(np.einsum("cn,cn->n", away, np.linalg.solve(covariance, away)))
    return _unit64(distance)


# --- post-processing, sec. 4.2 ---


def _smooth(saliency: Plane, radius: float) -> Plane:
    """Opening then closing by reconstruction: specks and holes below a radius vanish, edges stay where they are."""
    side = 2 * round(radius * float(np.sqrt(saliency.mean()))) + 1
    if side < 3:
        return saliency
    opened = _rebuild(ndimage.grey_erosion(saliency, (side, side), mode="nearest"), saliency)
    closed: Plane = 1 - _rebuild(1 - ndimage.grey_dilation(opened, (side, side), mode="nearest"), 1 - opened)
    return closed


def _rebuild(marker: Plane, mask: Plane) -> Plane:
    """Grey reconstruction of `mask` from `marker` (<= mask) by dilation, 4-connected."""
    rebuilt = np.minimum(marker, mask).astype(np.float32)
    mask = np.ascontiguousarray(mask, dtype=np.float32)
    while _spread(rebuilt, mask) or _spread(rebuilt[::-1, ::-1], mask[::-1, ::-1]):
        pass
    return rebuilt


@njit(cache=True, nogil=True)
def _spread(rebuilt: Plane, mask: Plane) -> bool:  # pragma: no cover - compiled
    """One raster scan: a pixel rises to its upper or left neighbour, at most to `mask`; whether any did."""
    height, width = mask.shape
    rose = False
    for y in range(height):
        for x in range(width):
            value = rebuilt[y, x]
            if y > 0:
                value = max(value, rebuilt[y - 1, x])
            if x > 0:
                value = max(value, rebuilt[y, x - 1])
            value = min(value, mask[y, x])
            if value > rebuilt[y, x]:
                rebuilt[y, x] = value
                rose = True
    return rose


def _centre_prior(size: tuple[int, int], weight: float) -> Plane:
    """1 at the centre, 1 - weight at the corners, falling with the distance."""
    y, x = (np.abs((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1) for n in size)
    away: Plane = np.sqrt((y[:, None] ** 2 + x[None] ** 2) / 2)
    return 1 - weight * away


def _unit(plane: Plane) -> Plane:
    """Over its own maximum; a map of zeros stays one."""
    high = float(plane.max())
    return plane / np.float32(high) if high > 0 else plane


def _unit64(values: NDArray[np.float64]) -> NDArray[np.float64]:
    high = float(values.max())
    return values / high if high > 0 else values
