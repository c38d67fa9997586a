"""Balloon, boat, car and train of the generated scenes, each with the ground it always comes with.

A train stands on rails and nothing else does; a boat floats, and mirrors in the water. The train is drawn in true
perspective: for every pixel the ray meets the plane of its side and of its front.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from weakseg.data._scene_paint import (
    MATERIAL,
    Canvas,
    Field,
    Sketch,
    blend,
    box,
    capsule,
    ellipse,
    mix,
    patch,
    polygon,
    sample,
    smoothstep,
)

LIVERIES = (
    (0.70, 0.16, 0.14),
    (0.16, 0.34, 0.58),
    (0.14, 0.42, 0.34),
    (0.86, 0.66, 0.20),
    (0.82, 0.82, 0.80),
    (0.34, 0.35, 0.38),
    (0.62, 0.40, 0.24),
)
GLASS = (0.14, 0.18, 0.23)


def livery(rng: Generator) -> np.ndarray:
    """A coat of paint for anything with an engine: shared by boats, cars and trains."""
    colour = np.asarray(LIVERIES[rng.integers(len(LIVERIES))], np.float32)
    return np.clip(colour * rng.uniform(0.8, 1.15), 0, 0.95)


# --- balloon ---


def balloon(s: Sketch) -> None:
    """A hot-air balloon: striped or plain envelope, ropes and a small basket."""
    x, y, rng = s.x, s.y, s.rng
    one, two = livery(rng), (livery(rng) if rng.random() < 0.7 else np.array((0.92, 0.88, 0.78)))
    for side in (-1, 1):
        s.add(capsule(x, y, (side * 0.055, 0.08), (side * 0.13, 0.34), 0.006), (0.25, 0.2, 0.18))
    s.add(
        box(x, y, 0, 0.055, 0.075, 0.055, 0.015),
        np.asarray((0.50, 0.33, 0.18)) * (1 + 0.2 * np.sign(np.sin(y * 130)))[..., None],
        depth=0.04,
    )
    ball = ellipse(x, y, 0, 0.66, 0.38, 0.36)
    cone = polygon(x, y, [(-0.30, 0.47), (0.30, 0.47), (0.085, 0.22), (-0.085, 0.22)])
    envelope = blend(ball, cone, 0.06)
    width = np.maximum(0.38 * np.sqrt(np.clip(1 - ((y - 0.66) / 0.37) ** 2, 0.02, 1)), 0.02)
    gore = np.arcsin(np.clip(x / width, -1, 1)) * 6 / np.pi
    kind = rng.integers(3)
    if kind == 0:
        paint = mix(one, two, (np.floor(gore + 0.5) % 2 == 0).astype(np.float32))
    elif kind == 1:
        paint = mix(one, two, smoothstep(np.abs(y - 0.64 - 0.05 * np.cos(gore * np.pi)), 0.08, 0.1))
    else:
        paint = np.broadcast_to(one, (*x.shape, 3))
    seam = 0.12 * smoothstep(np.abs(gore - np.round(gore)), 0.35, 0.5)
    s.add(envelope, paint * (1 - seam)[..., None], depth=0.36, gloss=0.12)
    s.add(ellipse(x, y, 0, 0.235, 0.085, 0.02), (0.25, 0.16, 0.12))


# --- boat ---


def boat(s: Sketch) -> None:
    """A boat: a plain hull, and above it sails or a cabin."""
    x, y, rng = s.x, s.y, s.rng
    hull, tone = livery(rng), s.canvas.light.shade + 0.6 * s.canvas.light.sun
    if rng.random() < 0.55:
        _sails(s, tone)
        length, deck = 0.42, 0.13
    else:
        _cabin(s, tone)
        length, deck = 0.78, 0.26
    swell = 0.012 * s.noise("level")
    bottom = -0.005 + swell - y
    sheer = deck * (1 + 0.25 * (x / length) ** 2)
    side = np.maximum.reduce(
        [
            y - sheer,
            bottom,
            polygon(
                x, y, [(-length, deck * 1.3), (length * 1.12, deck * 1.5), (length * 0.78, -0.1), (-length * 0.9, -0.1)]
            ),
        ]
    )
    planks = 1 + 0.05 * np.sin(y * 110) + 0.05 * s.noise("level")
    s.add(side, hull * planks[..., None], depth=0.1)
    s.add(np.maximum(side, np.abs(y - sheer + 0.02) - 0.018), (0.90, 0.88, 0.82) * tone, inside=True)
    s.add(np.maximum(side, y - 0.03), hull * 0.45, inside=True)


def _sails(s: Sketch, tone: np.ndarray) -> None:
    x, y, rng = s.x, s.y, s.rng
    cloth = np.array([(0.94, 0.92, 0.86), (0.90, 0.84, 0.70), (0.72, 0.36, 0.26), (0.92, 0.92, 0.95)][rng.integers(4)])
    belly = 0.05 * np.sin(np.clip((y - 0.15) / 0.8, 0, 1) * np.pi)
    folds = (1 + 0.04 * np.sin(y * 26) + 0.03 * s.noise("cloud", 0.4))[..., None]
    s.add(capsule(x, y, (0.04, 0.1), (0.04, 1.0), 0.012), (0.36, 0.26, 0.18))
    s.add(polygon(x + belly, y, [(0.02, 0.97), (0.02, 0.18), (-0.40, 0.18)]), cloth * folds, depth=0.25)
    if rng.random() < 0.75:
        s.add(polygon(x - belly, y, [(0.06, 0.85), (0.06, 0.20), (0.42, 0.18)]), cloth * 0.92 * folds, depth=0.25)


def _cabin(s: Sketch, tone: np.ndarray) -> None:
    x, y, rng = s.x, s.y, s.rng
    at = rng.uniform(-0.35, 0.1)
    s.add(capsule(x, y, (at + 0.1, 0.5), (at + 0.1, 0.98), 0.012), (0.3, 0.28, 0.26))
    s.add(capsule(x, y, (at + 0.1, 0.9), (-0.65, 0.35), 0.005), (0.3, 0.28, 0.26))
    s.add(box(x, y, at, 0.42, 0.26, 0.21, 0.03), np.asarray((0.90, 0.88, 0.82)), depth=0.1)
    s.add(box(x, y, at, 0.64, 0.30, 0.03, 0.02), livery(rng) * tone)
    for k in (-0.14, 0.0, 0.14):
        s.add(box(x, y, at + k, 0.48, 0.045, 0.06, 0.01), mix(GLASS, (0.6, 0.7, 0.78), np.clip((y - 0.42) * 4, 0, 1)))


def mirror(s: Sketch) -> None:
    """Lay the sketch upside down on the water below it, darker and rippled; call before `paste`."""
    c, rows = s.canvas, s.rows
    foot = int(np.argmin(np.abs(s.y[:, 0]))) if s.y.size else 0
    source, alpha = s.rgb[:foot][::-1], s.alpha[:foot][::-1]
    start = rows.start + foot
    count = min(len(alpha), c.size - start)
    if count <= 0:
        return
    depth = np.arange(count)
    pick = np.minimum((depth * 1.25).astype(int), len(alpha) - 1)
    ripple = patch(s.rng, "level", (count, alpha.shape[1])) * (0.6 + 0.06 * depth[:, None])
    across = np.clip(
        np.arange(alpha.shape[1])[None, :] + np.round(ripple * c.size / 128).astype(int), 0, alpha.shape[1] - 1
    )
    part = (slice(start, start + count), s.columns)
    weight = alpha[pick[:, None], across] * (0.5 * np.exp(-depth / (0.5 * s.unit)))[:, None]
    weight = weight * (c.material[part] == MATERIAL["water"])
    c.rgb[part] += (source[pick[:, None], across] * 0.8 - c.rgb[part]) * weight[..., None]


# --- car ---


def car(s: Sketch) -> None:
    """A car from its side: plain doors, glass, wheels, lamps. Kinds: saloon, estate, van."""
    x, y, rng = s.x, s.y, s.rng
    paint, tone = livery(rng), s.canvas.light.shade + 0.6 * s.canvas.light.sun
    s.shadow(1.05, 0.6, thick=0.1)
    kind = rng.integers(3)
    roof = (0.95, 0.95, 1.12)[kind]
    cabin = (
        [(-0.72, 0.55), (0.48, 0.55), (0.18, roof), (-0.42, roof)],
        [(-0.98, 0.55), (0.48, 0.55), (0.18, roof), (-0.88, roof)],
        [(-1.02, 0.50), (0.72, 0.50), (0.42, roof), (-1.0, roof)],
    )[kind]
    nose = (1.06, 1.06, 1.02)[kind]
    shiny = paint * (1 + 0.25 * smoothstep(y, 0.5, 0.62) - 0.35 * smoothstep(-y, -0.34, -0.2))[..., None]
    s.add(polygon(x, y, cabin) - 0.03, shiny, depth=0.12, gloss=0.2)
    s.add(box(x, y, 0.0, 0.40, nose, 0.21, 0.13), shiny, depth=0.16, gloss=0.25)
    glass = polygon(x, y, cabin) + 0.055
    pillars = np.minimum(np.abs(x + 0.12), np.abs(x + 0.70)) - 0.025
    sky_in_glass = mix(GLASS, (0.62, 0.70, 0.76), smoothstep(y + 0.35 * x, 0.45, 1.1) * 0.8)
    s.add(np.maximum.reduce([glass, -pillars, 0.60 - y]), sky_in_glass, inside=True)
    for k in (-0.62, -0.10, 0.42):
        s.add(np.maximum(np.abs(x - k) - 0.006, np.abs(y - 0.40) - 0.17), paint * 0.5, opacity=0.7, inside=True)
    for wheel in (-0.62, 0.62):
        s.add(ellipse(x, y, wheel, 0.20, 0.235, 0.235), paint * 0.2, inside=True)
        s.add(ellipse(x, y, wheel, 0.18, 0.185, 0.185), (0.09, 0.09, 0.10))
        spokes = 0.5 + 0.25 * np.sign(np.sin(np.arctan2(y - 0.18, x - wheel) * 5))
        s.add(ellipse(x, y, wheel, 0.18, 0.105, 0.105), np.asarray((0.85, 0.86, 0.88)) * spokes[..., None] * tone)
    s.add(ellipse(x, y, nose - 0.07, 0.47, 0.075, 0.055), (0.98, 0.96, 0.84), inside=True)
    s.add(ellipse(x, y, -nose + 0.05, 0.47, 0.05, 0.06), (0.75, 0.08, 0.06), inside=True)
    s.add(box(x, y, 0.0, 0.215, nose + 0.01, 0.03, 0.02), (0.16, 0.16, 0.17), inside=True)


# --- railway ---


@dataclass(frozen=True)
class Track:
    """A straight track in front of a camera: metres, x right, z forward, the camera above (0, 0).

    Attributes:
        horizon: picture height of the horizon, 0 top to 1 bottom.
        eye: height of the camera.
        x, z: the point of the track where the train's front stands.
        yaw: angle of the track's direction from the camera's, radians, positive to the right.
    """

    horizon: float
    eye: float
    x: float
    z: float
    yaw: float

    @property
    def along(self) -> tuple[float, float]:
        """Direction of the track, away from the camera: (x, z)."""
        return float(np.sin(self.yaw)), float(np.cos(self.yaw))

    @property
    def aside(self) -> tuple[float, float]:
        """Direction to the right of the track: (x, z)."""
        return float(np.cos(self.yaw)), -float(np.sin(self.yaw))


def track_of(rng: Generator, horizon: float) -> Track:
    """A track seen from beside it, near or far, running left or right."""
    yaw = rng.uniform(0.45, 1.15) * rng.choice([-1.0, 1.0])
    z = float(np.exp(rng.uniform(np.log(5.5), np.log(15))))
    x = -np.sign(yaw) * z * rng.uniform(0.05, 0.30)
    return Track(horizon, rng.uniform(1.7, 2.7), float(x), z, float(yaw))


def rails(c: Canvas, track: Track) -> None:
    """Ballast, sleepers and two rails, through the whole picture."""
    below = np.maximum(c.y - track.horizon, 1e-3)
    z = track.eye / below
    x = (c.x - 0.5) * z
    (ax, az), (nx, nz) = track.along, track.aside
    a, b = (x - track.x) * ax + (z - track.z) * az, (x - track.x) * nx + (z - track.z) * nz
    blur = np.maximum(z / c.size * 1.2, 0.02)

    def bar(d: Field) -> Field:
        return np.clip(0.5 - d / blur, 0, 1) * (c.y > track.horizon)

    tone = c.light.shade + 0.5 * c.light.sun
    far = np.clip(z / 60, 0, 0.7)
    stones = 1 + 0.16 * c.noise("fine") * (1 - far) + 0.08 * sample("mid", a * 12, b * 12)
    gravel = np.asarray((0.50, 0.47, 0.44)) * tone * stones[..., None]
    c.fill(bar(np.abs(b) - 2.3 + 0.15 * sample("mid", a * 8, b * 8)), gravel, "rail")
    period = a / 0.75
    sleepers = np.maximum(np.abs(b) - 1.25, (np.abs(period - np.round(period)) - 0.2) * 0.75)
    c.fill(bar(sleepers) * (1 - far), np.asarray((0.32, 0.25, 0.20)) * tone, "rail")
    for side in (-0.74, 0.74):
        c.fill(bar(np.abs(b - side) - 0.09), np.asarray((0.30, 0.27, 0.26)) * tone, "rail")
        c.fill(bar(np.abs(b - side) - 0.035), np.asarray((0.80, 0.80, 0.82)) * tone, "rail")


def train(c: Canvas, track: Track, instance: int) -> None:
    """A train whose front stands at the track's point: plain coaches or wagons behind a small, telling front.

    Painted at twice the size and averaged: at a slant, windows and ribs are narrower than a pixel.
    """
    rng, n = c.rng, c.size * 2
    at = ((np.arange(n) + 0.5) / n).astype(np.float32)
    x, up = at[None, :] - 0.5, track.horizon - at[:, None]
    (ax, az), (nx, nz) = track.along, track.aside
    start, off = track.x * ax + track.z * az, track.x * nx + track.z * nz
    body = Carriage(rng.uniform(3.5, 4.1), rng.uniform(11, 16), int(rng.integers(1, 4)))
    side = 1.0 if off < 0 else -1.0
    t_side, t_front = (side * HALF + off) / (x * nx + nz), start / (x * ax + az)
    lx, _, lz = c.light.direction
    rgb, alpha = np.zeros((n, n, 3), np.float32), np.zeros((n, n), np.float32)
    _coaches(
        c, rgb, alpha, t_side * (x * ax + az) - start, _height(track, t_side, up), body, side * (nx * lx - nz * lz)
    )
    _front(c, rgb, alpha, t_front * (x * nx + nz) - off, _height(track, t_front, up), body, az * lz - ax * lx)
    fold = alpha.reshape(c.size, 2, c.size, 2).mean(axis=(1, 3))
    mean = rgb.reshape(c.size, 2, c.size, 2, 3).mean(axis=(1, 3)) / np.maximum(fold, 1e-3)[..., None]
    under = np.roll(fold, max(1, c.size // 40), axis=0) * (1 - fold) * (c.material == MATERIAL["rail"])
    c.rgb *= 1 - 0.5 * under[..., None]
    c.rgb += (mean - c.rgb) * fold[..., None]
    c.instance[fold >= 0.5] = instance


HALF, FLOOR = 1.45, 0.55
"""Half the width of a carriage and the height of its lower edge, metres."""


@dataclass(frozen=True)
class Carriage:
    """Metres: height of the roof, length of one carriage; and how many there are."""

    height: float
    length: float
    count: int


def _height(track: Track, t: Field, up: Field) -> Field:
    """Height above the rails where the rays meet a plane at distance `t`; far below them behind the camera."""
    return np.where(t > 0, track.eye + t * up, -1e3).astype(np.float32)


def _coaches(c: Canvas, rgb: np.ndarray, alpha: Field, a: Field, h: Field, body: Carriage, facing: float) -> None:
    """Paint the side plane; `a` is the way along the train and `h` the height of each pixel, metres."""
    rng, length = c.rng, body.length
    colour, stripe = livery(rng), livery(rng)
    kind = rng.integers(3)
    hit = (a > 0) & (a < length * body.count) & (h > 0.05) & (h < body.height)
    a, h = np.broadcast_to(a, h.shape)[hit], h[hit]  # from here on one entry a pixel
    within = a % length
    gap = np.minimum(within, length - within)
    paint = colour * (0.82 + 0.30 * smoothstep(h, FLOOR, body.height))[:, None]
    shine = mix(GLASS, (0.50, 0.58, 0.64), smoothstep(h, 2.2, 3.1) * 0.7)
    if kind == 0:  # coaches: a band of windows
        panes, band = (np.abs(h - 2.55) < 0.45) & ((a - 0.6) % 1.55 < 1.05) & (gap > 0.8), np.abs(h - 1.65) < 0.14
    elif kind == 1:  # goods wagons behind an engine: ribs
        panes, band = (a < length * 0.9) & (np.abs(h - 2.9) < 0.3) & (a % 1.7 < 1.1), np.zeros(len(a), bool)
        paint *= 1 - 0.22 * (a % 0.9 < 0.14)[:, None]
    else:  # plain sides
        panes, band = (np.abs(within - 1.6) < 0.45) & (np.abs(h - 2.6) < 0.45), np.abs(h - 1.3) < 0.25
    paint[band] = stripe
    paint[panes] = shine[panes]
    dirt = 1 + 0.07 * sample("level", a * 20, h * 26) + 0.05 * sample("fine", a * 30, h * 30)
    roof = 1 - 0.35 * smoothstep(h, body.height - 0.4, body.height - 0.05)
    tone = c.light.shade + np.clip(0.25 + 0.75 * facing, 0.1, 1) * c.light.sun
    paint *= tone * 1.05 * (dirt * roof)[:, None]
    bogie = np.abs((a + length / 2) % length - length / 2) < 3.4
    wheel = np.hypot(a % 1.9 - 0.95, h - 0.48) < 0.46
    low = h < 1.0
    paint[low] = np.asarray((0.13, 0.12, 0.12)) * (0.7 + 0.6 * wheel[low])[:, None]
    whole = ((h > FLOOR) & ((gap > 0.25) | (h < 1.3) | (a < 0.3))) | (low & bogie & (wheel | (h > 0.45)))
    hit[hit] = whole
    rgb[hit], alpha[hit] = paint[whole], 1


def _front(c: Canvas, rgb: np.ndarray, alpha: Field, b: Field, g: Field, body: Carriage, facing: float) -> None:
    """Paint the front plane; `b` is the way across and `g` the height of each pixel, metres."""
    rng, top = c.rng, body.height
    face = np.asarray([(0.88, 0.70, 0.16), (0.80, 0.18, 0.14), (0.86, 0.86, 0.84), (0.20, 0.30, 0.50)][rng.integers(4)])
    hit = (np.abs(b) < HALF) & (g > 0.3) & (g < top)
    b, g = np.broadcast_to(b, g.shape)[hit], g[hit]  # from here on one entry a pixel
    paint = face * (0.85 + 0.2 * smoothstep(g, FLOOR, top))[:, None]
    panes = box(np.abs(b), g, 0.62, top - 1.1, 0.52, 0.42, 0.12) < 0
    paint[panes] = mix(GLASS, (0.55, 0.62, 0.68), smoothstep(g - 0.5 * b, top - 1.6, top - 0.4) * 0.7)[panes]
    paint[np.abs(g - 1.45) < 0.12] = (0.15, 0.15, 0.16)
    paint *= c.light.shade + np.clip(0.3 + 0.7 * facing, 0.1, 1) * c.light.sun
    lamp, buffer = np.hypot(np.abs(b) - 0.85, g - 1.85), np.hypot(np.abs(b) - 0.85, g - 0.95)
    for disc, colour in (
        (lamp < 0.27, (0.12, 0.12, 0.12)),
        (lamp < 0.2, (1.0, 0.97, 0.82)),
        (buffer < 0.2, (0.35, 0.35, 0.37)),
    ):
        paint[disc] = colour
    solid = box(b, g, 0, (top + FLOOR) / 2, HALF, (top - FLOOR) / 2, 0.45) < 0
    paint[~solid] = (0.12, 0.12, 0.13)
    whole = solid | (box(b, g, 0, 0.75, 1.25, 0.45, 0.1) < 0)
    hit[hit] = whole
    rgb[hit], alpha[hit] = paint[whole], 1
