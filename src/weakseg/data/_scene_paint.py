"""The paint box of the generated scenes: noise, signed distances, a canvas and the sketch of one object.

Shapes are signed distance fields (negative inside), so that one number gives the anti-aliased edge, the distance from
it for a rounded shading, and, with a little noise, fur. Pictures are float32 RGB 0-1. All randomness comes from the
`numpy.random.Generator` that is handed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy import ndimage

Field = np.ndarray
"""float32 (H, W)."""
Colour = Sequence[float] | np.ndarray
"""RGB 0-1, (3,) or (H, W, 3)."""

TILE = 512
CONTEXT = ("sky", "hill", "tree", "grass", "sand", "rock", "water", "rail", "road", "building", "wall", "floor", "rug")
"""What a pixel outside all objects shows; name k has id k + 1 in ContextClass, 0 is an object of the classes."""
MATERIAL = {name: k + 1 for k, name in enumerate(CONTEXT)}


# --- noise: tiles made once, cut out at random places ---


@lru_cache(maxsize=1)
def tiles() -> dict[str, Field]:
    """Periodic float32 (512, 512) noise tiles of mean 0 and deviation 1, the same in every process.

    ``cloud`` is smooth and large, ``mid`` leafy, ``fine`` a grain of about a pixel, ``curl`` woolly lumps of about
    three pixels, ``level`` long horizontal and ``fur`` short steep strokes.
    """
    rng = np.random.default_rng(2021)
    white = rng.standard_normal((5, TILE, TILE)).astype(np.float32)
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE), np.fft.rfftfreq(TILE), indexing="ij")
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1.0

    def fractal(noise: Field, slope: float, low: float) -> Field:
        spectrum = np.fft.rfft2(noise) * radius**-slope * (radius > low)
        return np.fft.irfft2(spectrum, s=noise.shape)

    def strokes(noise: Field, sigma: tuple[float, float]) -> Field:
        return ndimage.gaussian_filter(noise, sigma, mode="wrap")

    found = {
        "cloud": fractal(white[0], 1.9, 1.5 / TILE),
        "mid": fractal(white[1], 1.1, 8 / TILE),
        "fine": strokes(white[2], (0.55, 0.55)),
        "curl": strokes(white[3], (1.3, 1.3)) - strokes(white[3], (2.6, 2.6)),
        "level": strokes(white[4], (0.7, 5.0)),
        "fur": strokes(white[2], (2.2, 0.6)),
    }
    return {name: ((x - x.mean()) / x.std()).astype(np.float32) for name, x in found.items()}


def sample(name: str, u: Field, v: Field) -> Field:
    """Noise tile `name` at tile coordinates (`u` right, `v` down), nearest, wrapped."""
    return tiles()[name][v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)]


def patch(rng: Generator, name: str, shape: tuple[int, int], scale: float = 1.0) -> Field:
    """A random (H, W) cut of a tile; `scale` > 1 enlarges the pattern."""
    tile = tiles()[name]
    start = rng.integers(0, TILE, 2)
    if scale <= 1:
        rows, columns = (
            (at + np.arange(n) / scale).astype(np.int64) & (TILE - 1) for at, n in zip(start, shape, strict=True)
        )
        return tile[rows[:, None], columns[None, :]]
    # enlarged: bilinear, one axis after the other, or the tile's pixels would show
    (top, below, y), (left, right, x) = (_between(at, n, scale) for at, n in zip(start, shape, strict=True))
    band = tile[top] * (1 - y)[:, None] + tile[below] * y[:, None]
    return band[:, left] * (1 - x) + band[:, right] * x


def _between(start: int, count: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring tile rows of `count` enlarged rows, and float32 weights of the second."""
    at = start + np.arange(count) / scale
    low = np.floor(at).astype(np.int64)
    return low & (TILE - 1), (low + 1) & (TILE - 1), (at - low).astype(np.float32)


def line(rng: Generator, width: int, scale: float = 1.0, name: str = "cloud") -> Field:
    """One row of noise, float32 (1, width), for horizons and ridges."""
    return patch(rng, name, (1, width), scale)


# --- signed distances in an object's own coordinates ---


def ellipse(x: Field, y: Field, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> Field:
    """Distance to an ellipse turned by `angle` radians, exact at the short axis, a little too short elsewhere."""
    c, s = float(np.cos(angle)), float(np.sin(angle))
    px, py = x - cx, y - cy
    return (np.hypot((c * px + s * py) * (1 / rx), (c * py - s * px) * (1 / ry)) - 1) * min(rx, ry)


def capsule(x: Field, y: Field, a: Sequence[float], b: Sequence[float], ra: float, rb: float | None = None) -> Field:
    """Distance to a limb from `a` to `b`, of radius `ra` at `a` and `rb` at `b`."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) * (1 / (dx * dx + dy * dy + 1e-9)), 0, 1)
    return np.hypot(x - a[0] - t * dx, y - a[1] - t * dy) - (ra + ((ra if rb is None else rb) - ra) * t)


def chain(x: Field, y: Field, points: Sequence[Sequence[float]], ra: float, rb: float) -> Field:
    """Distance to a limb through `points` (tails, bent legs), its radius going from `ra` to `rb`."""
    radii = np.linspace(ra, rb, len(points)).tolist()
    pieces = zip(points, points[1:], radii, radii[1:], strict=False)
    return np.minimum.reduce([capsule(x, y, *piece) for piece in pieces])


def polygon(x: Field, y: Field, points: Sequence[tuple[float, float]]) -> Field:
    """Distance to a convex polygon, its corners in either order."""
    corners = np.asarray(points, dtype=np.float64)
    area = np.sum(corners[:, 0] * np.roll(corners[:, 1], -1) - np.roll(corners[:, 0], -1) * corners[:, 1])
    if area < 0:
        corners = corners[::-1]
    sides = []
    for (ax, ay), (bx, by) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        length = float(np.hypot(bx - ax, by - ay))
        sides.append((x - ax) * ((by - ay) / length) - (y - ay) * ((bx - ax) / length))
    return np.maximum.reduce(sides)


def box(x: Field, y: Field, cx: float, cy: float, half_width: float, half_height: float, corner: float = 0.0) -> Field:
    """Distance to a rectangle with rounded corners."""
    qx, qy = np.abs(x - cx) - (half_width - corner), np.abs(y - cy) - (half_height - corner)
    return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner


def blend(a: Field, b: Field, width: float) -> Field:
    """Union of two shapes with a soft joint of about `width`."""
    h = np.maximum(width - np.abs(a - b), 0) * (1 / width)
    return np.minimum(a, b) - h * h * (width / 4)


def smoothstep(x: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) * (1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Colour, b: Colour, t: float | Field) -> np.ndarray:
    """`a` at t = 0, `b` at t = 1; a field `t` (H, W) gives a picture (H, W, 3)."""
    weight = t[..., None] if isinstance(t, np.ndarray) and t.ndim else t
    start = np.asarray(a, np.float32)
    return start + (np.asarray(b, np.float32) - start) * weight


# --- the canvas ---


@dataclass(frozen=True)
class Light:
    """Where the light comes from (x right, y up, z to the viewer; of length 1) and its colours, RGB about 0-1."""

    direction: tuple[float, float, float]
    sun: np.ndarray
    shade: np.ndarray


@dataclass
class Canvas:
    """The picture in work, all of (S, S).

    Attributes:
        rgb: float32 (S, S, 3), 0-1.
        material: uint8, ids of `CONTEXT` (1-based); what stands behind the objects and in front of them.
        instance: uint8, the object that is seen (1-based), 0 for none.
        fringe: bool, the thin outer seam of a soft edge.
        bait: float32 0-1, what may fool a saliency model: distractors.
        x, y: float32 (1, S) and (S, 1), pixel centres in picture widths, y down.
    """

    size: int
    light: Light
    rng: Generator

    def __post_init__(self) -> None:
        s = self.size
        self.rgb = np.zeros((s, s, 3), np.float32)
        self.material = np.zeros((s, s), np.uint8)
        self.instance = np.zeros((s, s), np.uint8)
        self.fringe = np.zeros((s, s), bool)
        self.bait = np.zeros((s, s), np.float32)
        at = ((np.arange(s) + 0.5) / s).astype(np.float32)
        self.x, self.y = at[None, :], at[:, None]

    def noise(self, name: str, scale: float = 1.0) -> Field:
        """Noise over the whole picture; the pattern keeps its share of the picture at every size."""
        return patch(self.rng, name, (self.size, self.size), scale * self.size / 128)

    def fill(self, where: Field, colour: Colour, material: str) -> None:
        """Paint a background material with coverage `where` 0-1, (S, S)."""
        where = np.broadcast_to(where, (self.size, self.size))
        self.rgb += (np.asarray(colour, np.float32) - self.rgb) * where[..., None]
        self.material[where >= 0.5] = MATERIAL[material]

    def cover(self, where: Field, colour: Colour, material: str) -> None:
        """Paint a material over objects too, which it hides (grass, leaves)."""
        self.fill(where, colour, material)
        self.instance[where >= 0.5] = 0
        self.fringe[where >= 0.5] = False

    def edge(self, distance: Field) -> Field:
        """Coverage 0-1 of a shape from its distance in picture widths, one pixel wide at the edge."""
        return np.clip(0.5 - distance * self.size, 0, 1)


class Sketch:
    """One object painted back to front in its own coordinates, on its own part of the canvas.

    The foot of the object lies at picture place (`at_x`, `at_y`), `x` runs forward, `y` up, and 1 is `height`
    picture widths. `reach` is the part to keep: left, right, bottom, top in these units.
    """

    def __init__(
        self,
        canvas: Canvas,
        at_x: float,
        at_y: float,
        height: float,
        *,
        reach: tuple[float, float, float, float] = (-1.2, 1.2, -0.15, 1.25),
        mirrored: bool = False,
        turn: float = 0.0,
    ) -> None:
        left, right = (-reach[1], -reach[0]) if mirrored else reach[:2]
        size = canvas.size
        self.canvas, self.rng, self.unit = canvas, canvas.rng, height * size
        columns = np.clip([np.floor((at_x + left * height) * size), np.ceil((at_x + right * height) * size)], 0, size)
        rows = np.clip(
            [np.floor((at_y - reach[3] * height) * size), np.ceil((at_y - reach[2] * height) * size)], 0, size
        )
        self.rows, self.columns = slice(*rows.astype(int).tolist()), slice(*columns.astype(int).tolist())
        x = (canvas.x[:, self.columns] - at_x) * ((-1 if mirrored else 1) / height)
        y = (at_y - canvas.y[self.rows]) * (1 / height)
        x, y = np.broadcast_arrays(x, y)
        c, s = float(np.cos(turn)), float(np.sin(turn))
        self.x, self.y = (c * x + s * y).astype(np.float32), (c * y - s * x).astype(np.float32)
        lx, ly, lz = canvas.light.direction
        self.light = (-lx if mirrored else lx, ly, lz)
        self.mirrored = mirrored
        self.rgb = np.zeros((*self.x.shape, 3), np.float32)
        self.alpha = np.zeros(self.x.shape, np.float32)

    @property
    def pixel(self) -> float:
        """Side of a pixel in the object's units."""
        return 1 / self.unit

    def noise(self, name: str, scale: float = 1.0) -> Field:
        """Noise over the sketch, its pattern tied to the object's height (1 for an object of 64 pixels)."""
        return patch(self.rng, name, (self.x.shape[0], self.x.shape[1]), scale * max(self.unit / 64, 0.5))

    def add(
        self,
        distance: Field,
        colour: Colour,
        *,
        rough: Field | None = None,
        depth: float = 0.0,
        soft: float = 1.0,
        gloss: float = 0.0,
        opacity: float = 1.0,
        inside: bool = False,
    ) -> None:
        """Paint one shape over what is there.

        Args:
            distance: of the shape, in the object's units.
            colour: (3,) or (H, W, 3).
            rough: added to the distance where the edge is drawn, not where the light falls: fur, wool.
            depth: width of the rounded rim in the object's units; 0 paints it flat.
            soft: width of the edge in pixels.
            gloss: strength of a highlight, 0-1.
            opacity: 0-1.
            inside: keep to what is painted already (stripes, windows, eyes).
        """
        outline = distance if rough is None else distance + rough
        alpha = np.clip(0.5 - outline * (self.unit / soft), 0, 1) * opacity
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        if not len(rows):
            return
        part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        alpha = alpha[part]
        paint = np.asarray(colour, np.float32)
        paint = paint[part] if paint.ndim == 3 else np.broadcast_to(paint, (*alpha.shape, 3))
        if depth:
            paint = self._lit(distance[part], paint, depth, gloss)
        self.rgb[part] += (paint - self.rgb[part]) * alpha[..., None]
        if not inside:
            self.alpha[part] += (1 - self.alpha[part]) * alpha

    def _lit(self, distance: Field, paint: np.ndarray, depth: float, gloss: float) -> np.ndarray:
        """Lambert's law on a rim that curves away over `depth`, from the slope of the distance."""
        slope_y, slope_x = np.gradient(distance) if min(distance.shape) > 1 else (distance * 0, distance * 0)
        if self.mirrored:
            slope_x = -slope_x
        tilt = np.clip(1 + distance * (1 / depth), 0, 1) ** 1.5 * 0.95
        length = np.maximum(np.hypot(slope_x, slope_y), 1e-6)
        scale = tilt / length
        # rows run down, the object's y up: the normal points out of the shape
        normal_z = np.sqrt(1 - tilt * tilt)
        lx, ly, lz = self.light
        facing = np.clip(slope_x * scale * lx - slope_y * scale * ly + normal_z * lz, 0, 1)
        light = self.canvas.light
        lit = paint * (light.shade + facing[..., None] * light.sun)
        return lit + gloss * facing[..., None] ** 12 if gloss else lit

    def paste(self, *, instance: int = 0, material: str = "", fringe: bool = False, bait: float = 0.0) -> None:
        """Lay the sketch on the canvas, as object number `instance` or as a piece of background `material`."""
        canvas, part = self.canvas, (self.rows, self.columns)
        canvas.rgb[part] += (self.rgb - canvas.rgb[part]) * self.alpha[..., None]
        solid = self.alpha >= 0.5
        canvas.instance[part][solid] = instance
        canvas.fringe[part][solid] = False
        if material:
            canvas.material[part][solid] = MATERIAL[material]
            canvas.bait[part] = np.maximum(canvas.bait[part], bait * self.alpha)
        if fringe:
            canvas.fringe[part] |= (self.alpha >= 0.2) & ~solid
        elif not instance:
            canvas.bait[part] = np.maximum(canvas.bait[part], bait * self.alpha)

    def shadow(self, width: float, strength: float = 0.45, *, thick: float = 0.07, shift: float = 0.0) -> None:
        """Darken the ground under the object: a soft flat ellipse `width` wide (half, in the object's units)."""
        lx = self.light[0]
        d = ellipse(self.x, self.y, shift - 0.15 * lx, 0.0, width, thick)
        dark = strength * smoothstep(-d, -0.06, 0.05)
        part = (self.rows, self.columns)
        self.canvas.rgb[part] *= 1 - dark[..., None] * (1 - 0.35 * self.canvas.light.shade)
