"""Cat, dog and sheep of the generated scenes.

Cat and dog share one body: pose, coat, colours and tail are drawn from the same distributions, and only the small head
with the dog's collar tells them apart. That is the sparse coverage of class activation maps in one drawing. Edges are
furry.
"""

from dataclasses import dataclass

import numpy as np

from weakseg.data._scene_paint import (
    Colour,
    Field,
    Sketch,
    blend,
    capsule,
    chain,
    ellipse,
    mix,
    polygon,
    smoothstep,
)

FURS = (
    (0.62, 0.58, 0.54),
    (0.78, 0.50, 0.26),
    (0.45, 0.32, 0.22),
    (0.22, 0.20, 0.20),
    (0.86, 0.78, 0.64),
    (0.90, 0.88, 0.85),
)
COLLARS = ((0.80, 0.12, 0.12), (0.15, 0.30, 0.75), (0.90, 0.70, 0.10))
POSES = ("stand", "sit", "lie")
REACH = (-1.15, 1.15, -0.12, 1.25)
Head = tuple[float, float, float]
"""Place (x, y) and radius of a head in its sketch's units."""


@dataclass
class Coat:
    """Fur of one animal over its sketch: `paint` (H, W, 3) for body and head, `plain` and `pale` single colours."""

    paint: np.ndarray
    plain: np.ndarray
    pale: np.ndarray
    rough: Field


def coat_of(s: Sketch, hide: Colour | None) -> Coat:
    """A coat: plain, tabby, patched or pale below; drawn towards `hide`, a colour of the ground, if given."""
    rng = s.rng
    plain = np.asarray(FURS[rng.integers(len(FURS))]) * rng.uniform(0.85, 1.1)
    if hide is not None:
        plain = mix(plain, hide, rng.uniform(0.3, 0.6))
    pale = mix(plain, (0.93, 0.90, 0.85), 0.65)
    hair = s.noise("fur", 0.7)
    paint = np.broadcast_to(plain, (*s.x.shape, 3)).astype(np.float32)
    pattern = rng.integers(4)
    if pattern == 1:  # tabby
        bands = np.sin(s.x * 30 + 2.5 * s.noise("cloud", 0.35) + 6 * s.y)
        paint = mix(paint, plain * 0.55, smoothstep(bands, 0.1, 0.9) * 0.8)
    elif pattern == 2:  # patched
        other = np.asarray(FURS[rng.integers(len(FURS))])
        paint = mix(paint, other, smoothstep(s.noise("cloud", 0.4), 0.2, 0.4))
    elif pattern == 3:  # pale below
        paint = mix(pale, paint, smoothstep(s.y + 0.05 * s.noise("mid"), 0.32, 0.5))
    paint = np.clip(paint * (1 + 0.09 * hair + 0.04 * s.noise("fine"))[..., None], 0, 1)
    return Coat(paint, plain, pale, hair + 0.6 * s.noise("fine"))


def cat(s: Sketch, hide: Colour | None = None) -> Head:
    """A cat: the shared body, pointed ears, short muzzle, green eyes."""
    coat = coat_of(s, hide)
    x, y, radius, front = _body(s, coat)
    _cat_head(s, coat, x, y, radius, front)
    return x, y, radius


def dog(s: Sketch, hide: Colour | None = None) -> Head:
    """A dog: the shared body, hanging ears, long snout, dark nose, a collar."""
    coat = coat_of(s, hide)
    x, y, radius, front = _body(s, coat)
    _dog_head(s, coat, x, y, radius, front)
    return x, y, radius


def _body(s: Sketch, coat: Coat) -> tuple[float, float, float, bool]:
    """Paint a body in a random pose and return the head's place, radius and whether it looks at us."""
    pose = POSES[s.rng.integers(3)]
    tail = s.rng.uniform(-0.2, 0.3)
    scale = s.rng.uniform(0.92, 1.1)
    return {"stand": _stand, "sit": _sit, "lie": _lie}[pose](s, coat, tail, scale)


def _fur(s: Sketch, coat: Coat, d: Field, shade: float = 1.0, depth: float = 0.16) -> None:
    """One furry part."""
    s.add(d, coat.paint * shade, rough=0.010 * coat.rough, depth=depth, soft=1.8)


def _stand(s: Sketch, coat: Coat, tail: float, scale: float) -> tuple[float, float, float, bool]:
    x, y, rng = s.x, s.y, s.rng
    s.shadow(0.62)
    step = rng.uniform(-0.08, 0.08)
    for hip, foot, shade in (
        (-0.34, -0.40 - step, 0.6),
        (0.26, 0.30 + step, 0.6),
        (-0.40, -0.42 + step, 1),
        (0.22, 0.20 - step, 1),
    ):
        if shade == 1 and hip < 0:
            _torso(s, coat, tail, scale)
        knee = (hip + foot) / 2 - (0.05 if hip < 0 else -0.01)
        _fur(s, coat, chain(x, y, [(hip, 0.48), (knee, 0.25), (foot, 0.05)], 0.105, 0.05), shade, 0.07)
        _fur(s, coat, ellipse(x, y, foot + 0.03, 0.035, 0.07, 0.04), shade * 1.05, 0.05)
    return 0.56, 0.87 + rng.uniform(-0.06, 0.05), 0.215, bool(rng.integers(2))


def _torso(s: Sketch, coat: Coat, tail: float, scale: float) -> None:
    x, y = s.x, s.y
    _fur(s, coat, chain(x, y, [(-0.52, 0.60), (-0.74, 0.62 + tail), (-0.86, 0.80 + tail)], 0.055, 0.035), 0.9, 0.05)
    body = blend(
        ellipse(x, y, -0.33, 0.53, 0.25 * scale, 0.215 * scale), ellipse(x, y, 0.20, 0.55, 0.25, 0.22 * scale), 0.22
    )
    body = blend(body, capsule(x, y, (-0.3, 0.55), (0.2, 0.56), 0.18 * scale), 0.1)
    neck = capsule(x, y, (0.28, 0.62), (0.50, 0.82), 0.15, 0.11)
    _fur(s, coat, blend(body, neck, 0.12), 1.0, 0.2)


def _sit(s: Sketch, coat: Coat, tail: float, scale: float) -> tuple[float, float, float, bool]:
    x, y, rng = s.x, s.y, s.rng
    s.shadow(0.5)
    _fur(s, coat, chain(x, y, [(-0.22, 0.08), (-0.46, 0.07), (-0.62, 0.20 + tail * 0.6)], 0.06, 0.04), 0.9, 0.05)
    body = blend(ellipse(x, y, 0, 0.26, 0.30 * scale, 0.27), ellipse(x, y, 0.02, 0.56, 0.18 * scale, 0.2), 0.25)
    _fur(s, coat, body, 1.0, 0.22)
    for side in (-1, 1):
        _fur(s, coat, ellipse(x, y, side * 0.23, 0.13, 0.12, 0.14), 0.92, 0.12)
        _fur(s, coat, capsule(x, y, (side * 0.09, 0.42), (side * 0.10, 0.07), 0.075, 0.055), 1.04, 0.07)
        _fur(s, coat, ellipse(x, y, side * 0.11, 0.04, 0.075, 0.045), 1.08, 0.05)
    return rng.uniform(-0.03, 0.06), 0.90, 0.24, True


def _lie(s: Sketch, coat: Coat, tail: float, scale: float) -> tuple[float, float, float, bool]:
    x, y, rng = s.x, s.y, s.rng
    s.shadow(0.9, thick=0.1)
    _fur(s, coat, chain(x, y, [(-0.66, 0.10), (-0.9, 0.05), (-1.02, 0.1 + 0.3 * abs(tail))], 0.055, 0.035), 0.9, 0.05)
    body = blend(
        ellipse(x, y, -0.38, 0.25 * scale, 0.34, 0.25 * scale),
        ellipse(x, y, 0.20, 0.27 * scale, 0.32, 0.24 * scale),
        0.25,
    )
    neck = capsule(x, y, (0.32, 0.32), (0.50, 0.52), 0.16, 0.12)
    _fur(s, coat, np.maximum(blend(body, neck, 0.14), -0.02 - y), 1.0, 0.22)
    _fur(s, coat, ellipse(x, y, -0.45, 0.16, 0.24, 0.17), 1.03, 0.14)
    for reach, shade in ((0.80, 0.8), (0.70, 1.05)):
        _fur(s, coat, capsule(x, y, (0.34, 0.10), (reach, 0.05), 0.075, 0.05), shade, 0.06)
    return 0.58, 0.60 + rng.uniform(-0.08, 0.03), 0.225, bool(rng.integers(2))


def _cat_head(s: Sketch, coat: Coat, hx: float, hy: float, r: float, front: bool) -> None:
    x, y = (s.x - hx) / r, (s.y - hy) / r

    def part(d: Field, colour: Colour, depth: float = 0.0, soft: float = 1.0) -> None:
        s.add(d * r, colour, rough=0.045 * r * coat.rough if soft > 1 else None, depth=depth * r, soft=soft)

    away = 0.0 if front else 0.22
    for side in (-1, 1):
        root = side * 0.55 + away
        part(
            polygon(x, y, [(root - 0.42, 0.35), (root + 0.42, 0.35), (root + 0.20 * side, 1.55)]), coat.paint * 0.8, 0.2
        )
        part(polygon(x, y, [(root - 0.2, 0.5), (root + 0.2, 0.5), (root + 0.14 * side, 1.22)]), (0.80, 0.54, 0.50))
    part(ellipse(x, y, 0, 0, 1.05, 0.9), coat.paint, 0.8, 1.6)
    part(ellipse(x, y, away * 1.6, -0.38, 0.48, 0.34), coat.pale, 0.4)
    iris = np.array([(0.62, 0.72, 0.20), (0.85, 0.68, 0.16), (0.35, 0.66, 0.55)][s.rng.integers(3)])
    for side in (-1, 1):
        ex = side * 0.42 + away * 1.3
        part(ellipse(x, y, ex, 0.10, 0.25, 0.24), iris * 1.15)
        part(ellipse(x, y, ex, 0.10, 0.09, 0.22), (0.05, 0.05, 0.05))
    part(polygon(x, y, [(away * 1.8 - 0.15, -0.2), (away * 1.8 + 0.15, -0.2), (away * 1.8, -0.38)]), (0.75, 0.40, 0.40))
    for k in (-0.16, 0.04):
        whisker = np.minimum(
            capsule(x, y, (-0.35, -0.4), (-1.25, -0.4 + k), 0.03), capsule(x, y, (0.5, -0.4), (1.3, -0.4 + k), 0.03)
        )
        s.add(whisker * r, (0.95, 0.95, 0.92), opacity=0.5, inside=True)


def _dog_head(s: Sketch, coat: Coat, hx: float, hy: float, r: float, front: bool) -> None:
    x, y = (s.x - hx) / r, (s.y - hy) / r
    dark = coat.paint * s.rng.uniform(0.5, 0.75)

    def part(d: Field, colour: Colour, depth: float = 0.0, soft: float = 1.0) -> None:
        s.add(d * r, colour, rough=0.045 * r * coat.rough if soft > 1 else None, depth=depth * r, soft=soft)

    collar = np.array(COLLARS[s.rng.integers(len(COLLARS))])
    neck = ((-0.95, -0.98), (0.95, -0.98)) if abs(hx) < 0.2 else ((-1.35, -0.15), (0.05, -1.3))
    s.add(capsule(x, y, *neck, 0.19) * r, collar, depth=0.15 * r, inside=True)
    skull = ellipse(x, y, 0, 0.05, 0.92, 0.88)
    black = (0.06, 0.05, 0.05)
    if front:
        part(skull, coat.paint, 0.7, 1.6)
        for side in (-1, 1):
            part(capsule(x, y, (side * 0.72, 0.62), (side * 1.12, -0.55), 0.26, 0.36), dark, 0.4, 1.6)
            part(ellipse(x, y, side * 0.36, 0.15, 0.15, 0.16), black)
        part(capsule(x, y, (0, 0.0), (0, -0.55), 0.30, 0.46), coat.pale, 0.45)
        part(capsule(x, y, (0, -0.92), (0.05, -1.05), 0.17), (0.82, 0.38, 0.40), 0.2)
        part(ellipse(x, y, 0, -0.35, 0.26, 0.19), black, 0.2)
    else:
        part(capsule(x, y, (0.35, -0.15), (1.25, -0.38), 0.52, 0.32), coat.pale, 0.4)
        part(skull, coat.paint, 0.7, 1.6)
        part(capsule(x, y, (0.8, -0.62), (1.3, -0.66), 0.06), (0.25, 0.12, 0.12))
        part(ellipse(x, y, 1.50, -0.22, 0.21, 0.19), black, 0.2)
        part(ellipse(x, y, 0.42, 0.22, 0.14, 0.15), black)
        part(capsule(x, y, (-0.35, 0.6), (-0.62, -0.75), 0.26, 0.38), dark, 0.4, 1.6)


def sheep(s: Sketch, hide: Colour | None = None) -> Head:
    """A sheep: a ball of wool on thin legs; the small head is up or grazing."""
    x, y, rng = s.x, s.y, s.rng
    s.shadow(0.62)
    tone = np.array(
        [(0.90, 0.87, 0.80), (0.84, 0.80, 0.72), (0.70, 0.66, 0.60), (0.40, 0.33, 0.27)][
            rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])
        ]
    )
    face = np.array([(0.16, 0.14, 0.14), (0.80, 0.74, 0.66), (0.34, 0.27, 0.22)][rng.integers(3)])
    if hide is not None:
        tone = mix(tone, hide, rng.uniform(0.2, 0.4))
    for hip, shade in ((-0.26, 0.6), (0.24, 0.6), (-0.34, 1.0), (0.30, 1.0)):
        s.add(capsule(x, y, (hip, 0.35), (hip + rng.uniform(-0.04, 0.04), 0.03), 0.055, 0.04), face * shade, depth=0.05)
    curls, frizz = s.noise("curl", 1.1), s.noise("fine")
    lumps = s.noise("curl", 2.6)
    wool = tone * (1 + 0.10 * curls + 0.06 * lumps + 0.04 * frizz)[..., None]
    body = blend(ellipse(x, y, -0.16, 0.58, 0.42, 0.32), ellipse(x, y, 0.20, 0.60, 0.32, 0.30), 0.15)
    s.add(body + 0.010 * lumps, wool, rough=0.014 * curls + 0.012 * lumps + 0.008 * frizz, depth=0.28, soft=2.2)
    low = rng.random() < 0.45
    hx, hy, angle = (0.66, 0.30, -1.0) if low else (0.60, 0.80, -0.45)
    s.add(capsule(x, y, (0.36, 0.62), (hx, hy), 0.17, 0.12), wool * 0.95, rough=0.02 * curls, depth=0.14, soft=2.2)
    nx, ny = hx + 0.2 * float(np.cos(angle)), hy + 0.2 * float(np.sin(angle))
    for side in (-1, 1):
        s.add(
            ellipse(x, y, hx - 0.05 + 0.05 * side, hy + 0.08, 0.12, 0.045, 0.35 * side + 2.6), face * 0.85, depth=0.05
        )
    s.add(capsule(x, y, (hx, hy), (nx, ny), 0.11, 0.075), face, depth=0.1)
    s.add(ellipse(x, y, hx - 0.01, hy + 0.10, 0.10, 0.06), wool, rough=0.02 * curls, depth=0.06, soft=2.0)
    s.add(ellipse(x, y, hx + 0.05, hy + 0.02, 0.02, 0.02), (0.9, 0.8, 0.4))
    s.add(ellipse(x, y, hx + 0.05, hy + 0.02, 0.013, 0.013), (0.03, 0.03, 0.03))
    return hx, hy, 0.1
