"""The places of the generated scenes: sky, hills, trees, ground, water, railway, road, room.

Each function paints one piece of background on a `Canvas` and writes what it is into the context map. Ground is seen
in perspective: its texture is looked up by depth below the horizon.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from weakseg.data._scene_paint import (
    Canvas,
    Colour,
    Field,
    Light,
    Sketch,
    blend,
    box,
    capsule,
    ellipse,
    line,
    mix,
    polygon,
    sample,
    smoothstep,
)


@dataclass(frozen=True)
class Mood:
    """Weather and hour: colours RGB 0-1 of sky (top, bottom), light and grass (far, near)."""

    zenith: Colour
    haze: Colour
    sun: Colour
    shade: Colour
    grass: tuple[Colour, Colour]
    clouds: float


MOODS = (
    Mood(
        (0.27, 0.50, 0.80),
        (0.76, 0.86, 0.93),
        (0.72, 0.68, 0.60),
        (0.44, 0.46, 0.52),
        ((0.52, 0.62, 0.30), (0.27, 0.43, 0.15)),
        0.6,
    ),  # noon
    Mood(
        (0.33, 0.36, 0.58),
        (0.96, 0.72, 0.50),
        (0.80, 0.58, 0.40),
        (0.38, 0.36, 0.44),
        ((0.58, 0.52, 0.28), (0.30, 0.32, 0.14)),
        0.8,
    ),  # dusk
    Mood(
        (0.62, 0.66, 0.70),
        (0.82, 0.84, 0.84),
        (0.42, 0.42, 0.41),
        (0.55, 0.56, 0.58),
        ((0.48, 0.55, 0.33), (0.29, 0.38, 0.20)),
        1.3,
    ),  # grey
    Mood(
        (0.45, 0.62, 0.80),
        (0.95, 0.87, 0.80),
        (0.74, 0.64, 0.54),
        (0.42, 0.43, 0.48),
        ((0.60, 0.64, 0.38), (0.36, 0.46, 0.20)),
        0.3,
    ),  # morning
    Mood(
        (0.36, 0.55, 0.74),
        (0.87, 0.86, 0.78),
        (0.74, 0.66, 0.50),
        (0.42, 0.42, 0.44),
        ((0.70, 0.62, 0.32), (0.46, 0.40, 0.18)),
        0.5,
    ),  # autumn
)


def light_of(rng: Generator, mood: Mood) -> Light:
    """The scene's light: from above, left or right, in the mood's colours."""
    direction = np.array([rng.uniform(-0.75, 0.75), rng.uniform(0.45, 0.8), rng.uniform(0.45, 0.7)])
    direction /= np.linalg.norm(direction)
    strength = rng.uniform(0.9, 1.12)
    return Light(
        (float(direction[0]), float(direction[1]), float(direction[2])),
        np.asarray(mood.sun, np.float32) * np.float32(strength),
        np.asarray(mood.shade, np.float32) * np.float32(strength),
    )


# --- outdoors, far to near ---


def sky(c: Canvas, mood: Mood, horizon: float) -> None:
    """A graded sky with clouds, over the whole picture."""
    down = np.clip(c.y / max(horizon, 0.2), 0, 1) ** 0.8
    c.fill(np.ones((1, 1), np.float32), mix(mood.zenith, mood.haze, np.broadcast_to(down, (c.size, c.size))), "sky")
    puff = c.noise("cloud", c.rng.uniform(0.5, 1.1)) + 0.25 * c.noise("mid") - 1.2 + mood.clouds
    cover = smoothstep(puff, 0.0, 1.3) * np.clip(1.15 - down, 0, 1)
    bright = mix(mood.haze, (1.0, 0.99, 0.97), 0.55)
    c.rgb += (mix(bright, mood.zenith, np.clip(0.35 - 0.3 * puff, 0, 0.45)) - c.rgb) * (cover * 0.9)[..., None]


def ridge(c: Canvas, level: float, height: float, scale: float, rough: float = 0.0) -> Field:
    """Coverage 0-1 of all below a hilly line around picture height `level`."""
    profile = line(c.rng, c.size, scale * c.size / 128) * height
    if rough:
        profile = profile + line(c.rng, c.size, c.size / 128, "mid") * rough
    return c.edge(level + profile - c.y)


def hills(c: Canvas, mood: Mood, horizon: float) -> None:
    """Two or three ranges that pale with distance."""
    count = int(c.rng.integers(1, 4))
    for k in range(count):
        near = (k + 1) / count
        tone = mix(mix(mood.zenith, mood.haze, 0.5), mood.grass[1], 0.25 + 0.4 * near)
        texture = 0.05 * near * c.noise("mid", 1.2)
        where = ridge(c, horizon - 0.16 * (1 - near) - 0.04, 0.03 + 0.02 * (1 - near), 2.5)
        c.fill(where, np.asarray(tone, np.float32) * (1 + texture[..., None]), "hill")


def leaves(c: Canvas, mood: Mood, tint: float) -> np.ndarray:
    """Foliage over the whole picture, (S, S, 3): lit clumps over dark gaps."""
    clumps = 0.6 * c.noise("mid", 0.9) + 0.5 * c.noise("curl", 1.2) + 0.25 * c.noise("fine")
    base = mix(mix(mood.grass[1], (0.10, 0.24, 0.12), 0.5), (0.50, 0.34, 0.12), tint)
    glow = mix(mood.grass[0], base, 0.35)
    shade = mix(np.asarray(base) * 0.5, base, smoothstep(clumps, -1.4, 0.2))
    return mix(shade, glow, smoothstep(clumps, 0.2, 1.8) * 0.7)


def wood(c: Canvas, mood: Mood, horizon: float) -> None:
    """A line of trees on the horizon."""
    height = c.rng.uniform(0.03, 0.16)
    tint = float(c.rng.choice([0.0, 0.1, 0.5]))
    where = ridge(c, horizon - height, 0.25 * height, 0.7, 0.12 * height)
    picture = mix(leaves(c, mood, tint), mood.haze, 0.18)
    c.fill(where, picture, "tree")


def depth_of(c: Canvas, horizon: float) -> tuple[Field, Field, Field]:
    """Ground coordinates: (distance, across, below); `below` is 0 at the horizon and 1 at the lower edge."""
    below = np.clip((c.y - horizon) / (1 - horizon), 0, 1)
    distance = 1 / (below + 0.07)
    return distance, (c.x - 0.5) * distance, below


def ground(c: Canvas, horizon: float, colours: tuple[Colour, Colour], material: str, *, contrast: float = 1.0) -> None:
    """A field in perspective from `colours[0]` far to `colours[1]` near, patchy and grainy."""
    distance, across, below = depth_of(c, horizon)
    u0, v0 = c.rng.integers(0, 512, 2)
    deep = np.broadcast_to(distance * 55 + v0, (c.size, c.size))
    patchy = sample("cloud", across * 60 + u0, deep)
    tufts = sample("fur", across * 70 + u0, deep * 1.6)
    fine = c.noise("fine")
    near = np.clip(below**0.6 + 0.12 * patchy * contrast, 0, 1)
    paint = mix(colours[0], colours[1], near)
    grain = (0.10 * tufts + 0.06 * fine) * (0.35 + 0.65 * below) * contrast
    where = c.edge(horizon + 0.006 * line(c.rng, c.size, 2.0 * c.size / 128) - c.y)
    c.fill(where, paint * (1 + grain[..., None]), material)


def water(c: Canvas, mood: Mood, horizon: float, shore: float = 2.0) -> None:
    """Rippled water from the horizon down to picture height `shore` (2 = to the lower edge)."""
    distance, across, below = depth_of(c, horizon)
    u0, v0 = c.rng.integers(0, 512, 2)
    wide = np.broadcast_to(distance * 80 + v0, (c.size, c.size))
    ripple = sample("level", across * 40 + u0, wide) + 0.6 * sample("level", across * 110 + v0, wide * 2.3)
    deep = mix(mix(mood.zenith, (0.10, 0.26, 0.32), 0.62), (0.12, 0.30, 0.26), c.rng.uniform(0, 0.6))
    paint = mix(mix(mood.haze, mood.zenith, 0.35), deep, np.broadcast_to(below**0.55, (c.size, c.size)))
    paint = paint * (1 + 0.10 * ripple[..., None])
    glint = smoothstep(ripple, 1.5, 3.0) * 0.5
    paint = mix(paint, mix(mood.haze, (1, 1, 1), 0.5), glint)
    where = np.broadcast_to(c.edge(horizon - c.y), (c.size, c.size))
    if shore < 1:
        beach = c.edge(c.y - shore - 0.03 * line(c.rng, c.size, 1.6 * c.size / 128))
        foam = smoothstep(beach, 0.02, 0.5)
        paint = mix(mix(paint, (0.95, 0.96, 0.96), 0.6), paint, foam)
        where = where * beach
    c.fill(where, paint, "water")


def blades(c: Canvas, mood: Mood, base: float, height: float, *, left: float = 0.0, right: float = 1.0) -> None:
    """Blades of grass standing before everything: rooted around picture height `base`, up to `height` tall."""
    low, high = int(max(left, 0) * c.size), int(min(right, 1) * c.size)
    if high - low < 3:
        return
    columns = slice(low, high)
    x = c.x[:, columns]
    taper = np.clip(np.minimum(x - left, right - x) * 12, 0, 1)
    for k in range(3):
        lean = c.rng.uniform(-0.5, 0.5)
        roots = base + 0.012 * k + 0.004 * float(c.rng.standard_normal())
        up = roots - c.y
        spikes = line(c.rng, c.size * 2, 1.0, "fine")[0]
        index = ((x + lean * np.clip(up, 0, None)) * c.size * 1.0).astype(np.int32) % len(spikes)
        tall = height * np.clip(0.45 + 0.45 * spikes[index], 0, 1.6) * taper
        part = np.clip((tall - up) * c.size * 0.7, 0, 1) * np.clip((up + 0.025) * 40, 0, 1) * (taper > 0)
        where = np.zeros((c.size, c.size), np.float32)
        where[:, columns] = part
        green = mix(mood.grass[1], mood.grass[0], c.rng.uniform(0.1, 0.8))
        paint = np.asarray(green) * (0.75 + 0.25 * k)
        glow = np.broadcast_to(np.clip(up / max(height, 1e-3), 0, 1)[..., None], (c.size, len(x[0]), 1))
        full = np.zeros((c.size, c.size, 3), np.float32)
        full[:, columns] = paint * (0.8 + 0.5 * glow)
        c.cover(where, full, "grass")


def twigs(c: Canvas, mood: Mood) -> None:
    """A leafy branch that hangs into the picture from a corner, before everything."""
    corner = float(c.rng.choice([0.0, 1.0]))
    reach = c.rng.uniform(0.16, 0.34)
    d = np.hypot((c.x - corner) * c.rng.uniform(0.6, 1.0), c.y * c.rng.uniform(0.7, 1.2)) - reach
    d = d + 0.10 * reach * c.noise("mid", 1.1) + 0.16 * reach * c.noise("curl", 1.6)
    c.cover(c.edge(d), leaves(c, mood, float(c.rng.choice([0, 0, 0.5]))) * 0.85, "tree")


# --- things of no class ---


def tree(c: Canvas, mood: Mood, x: float, y: float, height: float) -> None:
    """A leaf tree: trunk, then a crown of clumps."""
    s = Sketch(c, x, y, height, reach=(-0.5, 0.5, -0.05, 1.1))
    s.shadow(0.3, 0.4, thick=0.05)
    s.add(capsule(s.x, s.y, (0, -0.02), (c.rng.uniform(-0.05, 0.05), 0.5), 0.05, 0.03), (0.30, 0.22, 0.16), depth=0.05)
    crown = ellipse(s.x, s.y, 0, 0.70, 0.30, 0.30)
    for _ in range(3):
        cx, cy, r = c.rng.uniform(-0.2, 0.2), c.rng.uniform(0.5, 0.85), c.rng.uniform(0.14, 0.22)
        crown = blend(crown, ellipse(s.x, s.y, cx, cy, r, r), 0.1)
    crown = crown + 0.03 * s.noise("mid") + 0.025 * s.noise("curl")
    picture = leaves(c, mood, float(c.rng.choice([0, 0.1, 0.6])))[s.rows, s.columns]
    s.add(crown, picture * 1.25, depth=0.3)
    s.paste(material="tree", bait=0.25)


def rock(c: Canvas, x: float, y: float, height: float, colour: Colour) -> None:
    """A boulder, as plain and round as an animal's body."""
    s = Sketch(c, x, y, height, reach=(-1.1, 1.1, -0.1, 1.1))
    s.shadow(0.8, 0.5, thick=0.12)
    d = ellipse(s.x, s.y, -0.1, 0.30, 0.62, 0.50, c.rng.uniform(-0.25, 0.25))
    d = blend(d, ellipse(s.x, s.y, 0.35, 0.22, 0.36, 0.36), 0.15) + 0.035 * s.noise("cloud", 0.25)
    d = np.maximum(d, -0.02 - s.y)
    stone = np.asarray(colour) * (1 + 0.13 * s.noise("mid", 0.8) + 0.06 * s.noise("fine"))[..., None]
    s.add(d, stone, depth=0.35)
    s.paste(material="rock", bait=0.8)


def house(c: Canvas, x: float, y: float, height: float) -> None:
    """A small house: front, roof, windows, door."""
    rng = c.rng
    s = Sketch(c, x, y, height, reach=(-0.8, 0.8, -0.05, 1.1))
    plaster = np.array(
        [(0.85, 0.80, 0.70), (0.70, 0.42, 0.32), (0.80, 0.82, 0.82), (0.62, 0.52, 0.42)][rng.integers(4)]
    )
    tiles_ = np.array([(0.52, 0.24, 0.18), (0.33, 0.32, 0.36), (0.42, 0.30, 0.22)][rng.integers(3)])
    tone = c.light.shade + 0.55 * c.light.sun
    half = rng.uniform(0.4, 0.65)
    front = plaster * tone * (1 + 0.03 * s.noise("level"))[..., None]
    s.add(box(s.x, s.y, 0, 0.28, half, 0.30), front)
    s.add(box(s.x, s.y, 0, 0.56, half, 0.03), plaster * tone * 0.75)
    roof = polygon(s.x, s.y, [(-half - 0.06, 0.57), (half + 0.06, 0.57), (half * 0.6, 0.98), (-half * 0.6, 0.98)])
    s.add(roof, tiles_ * tone * (1 + 0.14 * np.sign(np.sin(s.y * 75)) + 0.08 * s.noise("fine"))[..., None])
    for k in np.linspace(-half + 0.14, half - 0.14, int(rng.integers(2, 4))).tolist():
        s.add(box(s.x, s.y, k, 0.36, 0.07, 0.09), (0.92, 0.91, 0.88) * tone)
        s.add(box(s.x, s.y, k, 0.36, 0.05, 0.07), mix((0.16, 0.2, 0.26), (0.55, 0.65, 0.75), np.clip(s.y, 0, 1)))
    s.paste(material="building", bait=0.35)


def bale(c: Canvas, x: float, y: float, height: float) -> None:
    """A round bale of hay, as pale and fluffy as a sheep."""
    s = Sketch(c, x, y, height, reach=(-0.9, 0.9, -0.1, 1.1))
    s.shadow(0.6, 0.5, thick=0.1)
    straw = np.asarray((0.80, 0.70, 0.44)) * (1 + 0.14 * s.noise("fur") + 0.08 * s.noise("fine"))[..., None]
    s.add(box(s.x, s.y, 0.1, 0.46, 0.62, 0.46, 0.4) + 0.02 * s.noise("fine"), straw, depth=0.35)
    spiral = np.sin(np.hypot(s.x + 0.3, s.y - 0.46) * 45)
    s.add(ellipse(s.x, s.y, -0.3, 0.46, 0.34, 0.44), straw * (0.92 + 0.08 * spiral[..., None]), depth=0.1)
    s.paste(material="grass", bait=0.9)


def pole(c: Canvas, x: float, y: float, height: float) -> None:
    """A post with a lamp or a signal, in front or behind."""
    s = Sketch(c, x, y, height, reach=(-0.2, 0.3, -0.03, 1.1))
    s.add(capsule(s.x, s.y, (0, 0), (0, 0.95), 0.014, 0.01), (0.28, 0.29, 0.30), depth=0.014)
    s.add(box(s.x, s.y, 0.05, 0.96, 0.07, 0.022, 0.02), (0.85, 0.82, 0.70))
    s.paste(material="building", bait=0.2)


# --- the ways ---


def street(c: Canvas, mood: Mood, top: float, bottom: float) -> None:
    """A road across the picture between two heights, with kerbs and a dashed line."""
    distance, across, _ = depth_of(c, top - 0.12)
    wave = 0.004 * line(c.rng, c.size, 3.0 * c.size / 128)
    wide = np.broadcast_to(distance * 60, (c.size, c.size))
    asphalt = c.rng.uniform(0.30, 0.46) * np.asarray([1.0, 1.0, 1.04])
    grain = 0.07 * c.noise("fine") + 0.06 * sample("level", across * 30 + 40, wide)
    tone = c.light.shade + 0.5 * c.light.sun
    kerb = c.edge(np.maximum(top - 0.018 - c.y, c.y - bottom - 0.03) + wave)
    c.fill(kerb, np.asarray((0.66, 0.64, 0.60)) * tone * (1 + 0.05 * c.noise("fine"))[..., None], "building")
    c.fill(c.edge(np.maximum(top - c.y, c.y - bottom) + wave), asphalt * tone * (1 + grain)[..., None], "road")
    middle = top + 0.42 * (bottom - top)
    dashes = (np.sin(across * 14 + c.rng.uniform(0, 6)) > 0.1) * c.edge(np.abs(c.y - middle) - 0.007)
    c.fill(dashes * 0.85, np.asarray((0.86, 0.85, 0.80)) * tone, "road")


def front_of_houses(c: Canvas, mood: Mood, horizon: float) -> None:
    """A row of houses along a street."""
    x = float(c.rng.uniform(-0.1, 0.1))
    while x < 1.05:
        height = float(c.rng.uniform(0.22, 0.40))
        if c.rng.random() < 0.78:
            house(c, x, horizon + 0.02, height)
        else:
            tree(c, mood, x, horizon + 0.03, height * 1.1)
        x += height * float(c.rng.uniform(0.9, 1.5))


# --- indoors ---


def room(c: Canvas, horizon: float) -> None:
    """A wall and a floor of boards, a picture or a window, and often a rug."""
    rng = c.rng
    tone = c.light.shade + 0.55 * c.light.sun
    paper = np.array(
        [(0.78, 0.74, 0.64), (0.60, 0.68, 0.70), (0.74, 0.58, 0.50), (0.66, 0.70, 0.58), (0.80, 0.78, 0.76)][
            rng.integers(5)
        ]
    )
    bands = 0.03 * np.sign(np.sin(c.x * rng.uniform(40, 90))) * rng.integers(0, 2) + 0.03 * c.noise("cloud")
    c.fill(np.ones((1, 1), np.float32), paper * tone * (1 + bands + 0.02 * c.noise("fine"))[..., None], "wall")
    _frame(c, rng.uniform(0.15, 0.85), horizon * rng.uniform(0.3, 0.5))
    distance, across, _ = depth_of(c, horizon - 0.25)
    boards = across * 9 + rng.uniform(0, 9)
    tint = np.array([(0.52, 0.36, 0.22), (0.66, 0.50, 0.34), (0.40, 0.28, 0.20), (0.60, 0.56, 0.52)][rng.integers(4)])
    each = sample("fine", np.floor(boards) * 7, np.zeros_like(boards) + 11)
    veins = sample("level", np.broadcast_to(distance * 90, boards.shape), boards * 22)
    seam = smoothstep(np.abs(boards - np.floor(boards) - 0.5), 0.44, 0.5)
    wooden = tint * tone * (1 + 0.10 * each + 0.07 * veins - 0.4 * seam)[..., None]
    c.fill(c.edge(horizon - c.y), wooden, "floor")
    c.fill(c.edge(np.abs(c.y - horizon) - 0.014), np.asarray((0.86, 0.84, 0.80)) * tone, "wall")


def rug(c: Canvas, horizon: float) -> None:
    """A patterned rug on the floor."""
    rng = c.rng
    tone = c.light.shade + 0.55 * c.light.sun
    middle, wide, deep = rng.uniform(0.35, 0.65), rng.uniform(0.36, 0.6), rng.uniform(0.13, 0.2)
    centre = horizon + 0.55 * (1 - horizon)
    slant = (c.x - middle) / (1 + 1.1 * (c.y - centre))
    d = box(slant + 0 * c.y, c.y + 0 * c.x, 0.0, centre, wide, deep, 0.02) + 0.004 * c.noise("fine")
    one, two = rng.uniform(0.25, 0.8, 3), rng.uniform(0.3, 0.85, 3)
    weave = np.sign(np.sin(slant * rng.uniform(30, 60)) * np.sin(c.y * rng.uniform(40, 90)))
    paint = mix(one, two, (0.5 + 0.3 * weave) * (d < -0.03)) * tone * (1 + 0.08 * c.noise("fine"))[..., None]
    c.fill(c.edge(d), paint, "rug")


def cushion(c: Canvas, x: float, y: float, height: float, colour: Colour) -> None:
    """A cushion: soft, plain, in an animal's colour."""
    s = Sketch(c, x, y, height, reach=(-0.9, 0.9, -0.1, 1.1))
    s.shadow(0.7, 0.4, thick=0.12)
    d = box(s.x, s.y, 0, 0.45, 0.68, 0.45, 0.25) + 0.01 * s.noise("cloud", 0.3)
    cloth = np.asarray(colour) * (1 + 0.05 * s.noise("fine") + 0.05 * s.noise("cloud", 0.4))[..., None]
    s.add(d, cloth, depth=0.3)
    s.paste(material="rug", bait=0.8)


def _frame(c: Canvas, x: float, y: float) -> None:
    """A framed picture or a window on the wall."""
    s = Sketch(c, x, y + 0.1, 0.3, reach=(-1, 1, -0.7, 1.3))
    half, tall = c.rng.uniform(0.3, 0.6), c.rng.uniform(0.35, 0.6)
    s.add(
        box(s.x, s.y, 0, 0.3, half + 0.06, tall + 0.06),
        np.array([(0.9, 0.88, 0.85), (0.35, 0.24, 0.16)][c.rng.integers(2)]),
    )
    view = mix(
        c.rng.uniform(0.4, 0.9, 3), c.rng.uniform(0.3, 0.8, 3), smoothstep(s.y + 0.2 * s.noise("cloud"), 0.0, 0.6)
    )
    s.add(box(s.x, s.y, 0, 0.3, half, tall), view)
    s.paste(material="wall", bait=0.3)
