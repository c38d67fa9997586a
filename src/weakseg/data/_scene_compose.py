"""Compose one generated scene: a place, its actors from far to near, the camera, a saliency map that errs.

A scene is a function of (seed, index, size) alone. The kind of place follows a shuffled deck, so that every run of
`len(DECK)` consecutive scenes holds each kind in its share.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from weakseg.data import _scene_animals as animals
from weakseg.data import _scene_places as places
from weakseg.data import _scene_vehicles as vehicles
from weakseg.data._scene_paint import Canvas, Sketch, mix, smoothstep
from weakseg.data._scene_places import MOODS, Mood

CLASSES = ("balloon", "boat", "car", "cat", "dog", "sheep", "train")
"""Class k has id k + 1."""
DECK = 7 * ("meadow",) + 3 * ("lake",) + 4 * ("railway",) + 4 * ("street",) + 2 * ("room",) + 2 * ("beach",)
SMALLEST, LARGEST = 0.012, 0.48
"""Shares of the picture; an object that shows less, or more, is not accepted: the scene is drawn anew."""
MOST = 3
"""Objects in a scene, at most."""
ANIMALS = {"cat": animals.cat, "dog": animals.dog, "sheep": animals.sheep}


@dataclass(frozen=True)
class Scene:
    """One finished scene.

    Attributes:
        image: uint8 (S, S, 3) RGB.
        mask: uint8 (S, S), 0 background, 1..C, 255 on the thin outer seam of fur.
        instances: uint8 (S, S), the number of the object (1-based), 255 as in `mask`.
        names: class name of each object.
        boxes: (x0, y0, x1, y1) of each object's pixels in `instances`, half-open.
        saliency: uint8 (S, S).
        context: uint8 (S, S), 1-based ids of `CONTEXT`, 0 on objects.
        place: the kind of scene.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    names: tuple[str, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    saliency: np.ndarray
    context: np.ndarray
    place: str


def compose(seed: int, index: int, size: int) -> Scene:
    """Scene number `index` of the data set `seed`, `size` pixels wide and high."""
    deck, card = divmod(index, len(DECK))
    place = DECK[np.random.default_rng([seed, 1, deck]).permutation(len(DECK))[card]]
    for attempt in range(100):
        stage = _Stage(np.random.default_rng([seed, 2, index, attempt]), size)
        PLACES[place](stage)
        scene = _finish(stage, place)
        if scene is not None:
            return scene
    raise AssertionError(
        f"scene {index} of seed {seed} shows no object"
    )  # never seen: about one scene in six is drawn twice


class _Stage:
    """The canvas of one scene with its weather and its actors."""

    def __init__(self, rng: Generator, size: int) -> None:
        self.rng = rng
        self.mood: Mood = MOODS[rng.integers(len(MOODS))]
        self.canvas = Canvas(size, places.light_of(rng, self.mood), rng)
        self.names: list[str] = []
        self.heads: list[tuple[int, float, float, float]] = []  # object number, x, y, radius in picture widths

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def number(self, name: str) -> int:
        self.names.append(name)
        return len(self.names)

    def animal(self, name: str, x: float, y: float, height: float) -> None:
        """Paint a cat, dog or sheep with its foot at (x, y); one in three takes on the ground's colour."""
        c = self.canvas
        row, column = (np.clip(int(v * c.size), 0, c.size - 1) for v in (y, x))
        hide = (
            c.rgb[max(row - 3, 0) : row + 1, max(column - 3, 0) : column + 4].mean(axis=(0, 1))
            if self.chance(0.35)
            else None
        )
        mirrored = self.chance(0.5 + 0.9 * float(np.clip(x - 0.5, -0.5, 0.5)))  # mostly looking into the picture
        sketch = Sketch(c, x, y, height, reach=animals.REACH, mirrored=mirrored)
        head_x, head_y, radius = ANIMALS[name](sketch, hide)
        sketch.paste(instance=self.number(name), fringe=True)
        self.heads.append(
            (len(self.names), x + height * (-head_x if mirrored else head_x), y - height * head_y, height * radius)
        )

    def car(self, x: float, y: float, height: float) -> None:
        sketch = Sketch(self.canvas, x, y, height, reach=(-1.25, 1.25, -0.15, 1.2), mirrored=self.chance(0.5))
        vehicles.car(sketch)
        sketch.paste(instance=self.number("car"))

    def boat(self, x: float, y: float, height: float) -> None:
        turn = self.rng.uniform(-0.05, 0.05)
        sketch = Sketch(self.canvas, x, y, height, reach=(-1.0, 1.0, -0.1, 1.1), mirrored=self.chance(0.5), turn=turn)
        vehicles.boat(sketch)
        vehicles.mirror(sketch)
        sketch.paste(instance=self.number("boat"))

    def balloon(self, x: float, y: float, height: float) -> None:
        turn = self.rng.uniform(-0.08, 0.08)
        sketch = Sketch(self.canvas, x, y, height, reach=(-0.45, 0.45, -0.05, 1.1), turn=turn)
        vehicles.balloon(sketch)
        sketch.paste(instance=self.number("balloon"))

    def crowd(self, options: tuple[str, ...], count: int, horizon: float, largest: float) -> None:
        """`count` animals on the ground, far to near; the nearest is `largest` high."""
        rng = self.rng
        shares = np.sort(rng.uniform(0.55, 1.0, count))
        shares[-1] = 1.0
        slots = rng.permutation((np.arange(count) + rng.uniform(0.3, 0.7, count)) / count)
        foot = min(horizon + 0.28 + 0.62 * largest, 1.0) + rng.uniform(-0.05, 0.03)
        for share, slot in zip(shares, slots, strict=True):
            height, y = largest * share, horizon + (foot - horizon) * share
            x = 0.5 + (slot - 0.5) * (1.15 if count > 1 else 0.9)
            name = options[rng.integers(len(options))]
            self.animal(name, float(x), float(y), float(height))
            if (
                self.chance(0.55)
                and self.canvas.material[
                    min(int(y * self.canvas.size), self.canvas.size - 1), int(np.clip(x, 0, 0.99) * self.canvas.size)
                ]
                == 4
            ):
                wide = 0.7 * height
                places.blades(
                    self.canvas,
                    self.mood,
                    float(y) + 0.015,
                    float(height * rng.uniform(0.12, 0.34)),
                    left=float(x) - wide,
                    right=float(x) + wide,
                )


# --- the places ---


def _open_land(s: _Stage, horizon: float, *, far: float = 0.8, trees: float = 0.7) -> None:
    places.sky(s.canvas, s.mood, horizon)
    if s.chance(far):
        places.hills(s.canvas, s.mood, horizon)
    if s.chance(trees):
        places.wood(s.canvas, s.mood, horizon)


def _clutter(s: _Stage, horizon: float, count: int) -> None:
    """Things of no class on the meadow: trees, boulders, bales, houses."""
    rng, c = s.rng, s.canvas
    for y in np.sort(rng.uniform(0.03, 0.5, count)):
        x, foot = rng.uniform(0.02, 0.98), horizon + y * (1 - horizon)
        kind = rng.integers(4)
        if kind == 0:
            places.tree(c, s.mood, x, foot, rng.uniform(0.25, 0.6))
        elif kind == 1:
            fur = np.asarray(animals.FURS[rng.integers(len(animals.FURS))])
            places.rock(c, x, foot, 0.06 + 0.35 * y, mix((0.52, 0.50, 0.47), fur, rng.uniform(0, 0.8)))
        elif kind == 2:
            places.bale(c, x, foot, 0.05 + 0.30 * y)
        else:
            places.house(c, x, horizon + 0.08, rng.uniform(0.16, 0.3))


def _sky_balloon(s: _Stage, horizon: float, share: float) -> None:
    if s.chance(share):
        height = s.rng.uniform(0.18, max(0.2, min(0.5, horizon * 0.95)))
        s.balloon(s.rng.uniform(0.12, 0.88), s.rng.uniform(height * 0.9, max(height * 0.95, horizon - 0.05)), height)


def _meadow(s: _Stage) -> None:
    rng = s.rng
    airy = s.chance(0.28)
    horizon = rng.uniform(0.6, 0.8) if airy else rng.uniform(0.25, 0.48)
    _open_land(s, horizon)
    places.ground(s.canvas, horizon, s.mood.grass, "grass")
    if airy:
        height = rng.uniform(0.4, 0.85)
        s.balloon(rng.uniform(0.2, 0.8), rng.uniform(height * 0.9, max(height * 0.95, 0.75)), height)
        if s.chance(0.4):
            s.balloon(rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.3))
        _clutter(s, horizon, int(rng.integers(0, 3)))
        if s.chance(0.75):
            s.crowd(("sheep", "sheep", "sheep", "dog", "cat"), 1, horizon, rng.uniform(0.2, 0.34))
    else:
        _clutter(s, horizon, int(rng.integers(0, 4)))
        count = int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))
        mixed = ("sheep", "sheep", "sheep", "dog", "cat") if s.chance(0.85) else ("dog", "cat")
        s.crowd(mixed, count, horizon, rng.uniform(0.32, 0.78 if count < 3 else 0.5))
        if count < 3:
            _sky_balloon(s, horizon, 0.25)
    if s.chance(0.35):
        places.twigs(s.canvas, s.mood)
    if s.chance(0.4):
        places.blades(s.canvas, s.mood, 1.03, rng.uniform(0.08, 0.2))


def _lake(s: _Stage) -> None:
    rng = s.rng
    horizon = rng.uniform(0.35, 0.62)
    _open_land(s, horizon)
    places.water(s.canvas, s.mood, horizon)
    if s.chance(0.3):
        places.rock(s.canvas, rng.uniform(0.05, 0.95), horizon + 0.08, rng.uniform(0.06, 0.14), (0.40, 0.38, 0.36))
    count = int(rng.choice([1, 2], p=[0.6, 0.4]))
    shares = (1.0,) if count == 1 else (rng.uniform(0.45, 0.7), 1.0)
    largest, middle = rng.uniform(0.35, 0.85), rng.uniform(0.25, 0.75)
    for k, share in enumerate(shares):
        x = middle if k == count - 1 else (middle + rng.uniform(0.3, 0.6)) % 1.0
        s.boat(x, horizon + (0.10 + 0.38 * largest) * share, largest * share)
    if count < 3:
        _sky_balloon(s, horizon, 0.25)
    if s.chance(0.3):
        places.blades(
            s.canvas, s.mood, 1.03, rng.uniform(0.1, 0.28), left=rng.uniform(-0.2, 0.4), right=rng.uniform(0.6, 1.2)
        )


def _railway(s: _Stage) -> None:
    rng, c = s.rng, s.canvas
    horizon = rng.uniform(0.35, 0.58)
    track = vehicles.track_of(rng, horizon)
    _open_land(s, horizon, trees=0.85)
    places.ground(c, horizon, s.mood.grass, "grass")
    if s.chance(0.5):
        places.house(c, rng.uniform(0, 1), horizon + 0.04, rng.uniform(0.15, 0.3))
    vehicles.rails(c, track)
    _sky_balloon(s, horizon, 0.25)
    vehicles.train(c, track, s.number("train"))
    if s.chance(0.4):
        places.pole(c, rng.uniform(0.05, 0.95), rng.uniform(0.85, 1.0), rng.uniform(0.5, 0.9))
    if s.chance(0.3):
        s.crowd(("dog", "cat", "sheep", "sheep"), 1, max(horizon, 0.5), rng.uniform(0.27, 0.42))
    if s.chance(0.5):
        places.blades(c, s.mood, rng.uniform(0.98, 1.05), rng.uniform(0.08, 0.22))
    if s.chance(0.2):
        places.twigs(c, s.mood)


def _street(s: _Stage) -> None:
    rng, c = s.rng, s.canvas
    horizon = rng.uniform(0.38, 0.5)
    _open_land(s, horizon, trees=0.5)
    places.ground(c, horizon, s.mood.grass, "grass")
    if s.chance(0.75):
        places.front_of_houses(c, s.mood, horizon)
    top = horizon + rng.uniform(0.06, 0.13)
    bottom = rng.uniform(0.86, 1.15)
    places.street(c, s.mood, top, bottom)
    count = int(rng.choice([1, 2], p=[0.6, 0.4]))
    if count == 2:
        s.car(rng.uniform(0.1, 0.9), top + 0.09, rng.uniform(0.12, 0.18))
    height = rng.uniform(0.2, 0.5)
    foot = min(top + 0.12 + 0.55 * height, bottom - 0.02)
    x = rng.uniform(0.25, 0.75)
    if s.chance(0.4):
        s.animal(
            ("cat", "dog")[rng.integers(2)], (x + rng.uniform(0.35, 0.65)) % 1.0, top + 0.08, rng.uniform(0.24, 0.36)
        )
    s.car(x, foot, height)
    if s.chance(0.25):
        s.animal(("cat", "dog")[rng.integers(2)], rng.uniform(0.1, 0.9), 0.99, rng.uniform(0.25, 0.45))
    if s.chance(0.35):
        places.pole(c, rng.uniform(0.05, 0.95), rng.uniform(0.88, 1.0), rng.uniform(0.6, 0.9))
    if s.chance(0.25):
        places.twigs(c, s.mood)


def _room(s: _Stage) -> None:
    rng, c = s.rng, s.canvas
    horizon = rng.uniform(0.35, 0.55)
    places.room(c, horizon)
    cats = s.chance(0.5)
    if cats or s.chance(0.3):  # the rug is the cat's
        places.rug(c, horizon)
    for _ in range(int(rng.integers(0, 3))):
        fur = animals.FURS[rng.integers(len(animals.FURS))]
        places.cushion(
            c,
            rng.uniform(0, 1),
            horizon + rng.uniform(0.12, 0.3),
            rng.uniform(0.15, 0.3),
            mix(fur, rng.uniform(0.2, 0.8, 3), rng.uniform(0, 0.6)),
        )
    count = int(rng.choice([1, 2], p=[0.7, 0.3]))
    s.crowd(
        ("cat",) if cats and count == 1 else ("cat", "dog") if cats else ("dog",), count, horizon, rng.uniform(0.4, 0.9)
    )


def _beach(s: _Stage) -> None:
    rng, c = s.rng, s.canvas
    horizon = rng.uniform(0.28, 0.42)
    _open_land(s, horizon, far=0.3, trees=0.0)
    places.ground(c, horizon, ((0.86, 0.78, 0.60), (0.78, 0.66, 0.46)), "sand", contrast=0.7)
    shore = horizon + rng.uniform(0.18, 0.3)
    places.water(c, s.mood, horizon, shore)
    if s.chance(0.6):
        s.boat(rng.uniform(0.15, 0.85), horizon + 0.08, rng.uniform(0.25, 0.36))
    if s.chance(0.5):
        places.rock(c, rng.uniform(0.05, 0.95), shore + 0.12, rng.uniform(0.1, 0.2), (0.55, 0.48, 0.40))
    s.crowd(("cat", "dog"), int(rng.choice([1, 2], p=[0.7, 0.3])), shore - 0.1, rng.uniform(0.3, 0.65))


PLACES: dict[str, Callable[[_Stage], None]] = {
    "meadow": _meadow,
    "lake": _lake,
    "railway": _railway,
    "street": _street,
    "room": _room,
    "beach": _beach,
}


# --- the camera, the labels, the saliency map ---


def _finish(s: _Stage, place: str) -> Scene | None:
    """Labels and photograph of a painted stage, or None if there are too many objects or one hardly shows."""
    if len(s.names) > MOST:
        return None
    c = s.canvas
    instances = np.where(c.fringe, np.uint8(255), c.instance)
    boxes = []
    for number in range(1, len(s.names) + 1):
        rows, columns = np.nonzero(instances == number)
        if not SMALLEST <= len(rows) / c.size**2 <= LARGEST:
            return None
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    if any(not _shows(c, *head) for head in s.heads):
        return None
    ids = np.zeros(256, np.uint8)
    ids[1 : len(s.names) + 1] = [CLASSES.index(name) + 1 for name in s.names]
    ids[255] = 255
    return Scene(
        image=_photograph(c),
        mask=ids[instances],
        instances=instances,
        names=tuple(s.names),
        boxes=tuple(boxes),
        saliency=_saliency(c),
        context=np.where(c.instance > 0, np.uint8(0), c.material),
        place=place,
    )


def _shows(c: Canvas, number: int, x: float, y: float, radius: float) -> bool:
    """Whether most of a head lies in the picture and before everything else; without it nobody could tell the class."""
    whole = np.pi * (radius * c.size) ** 2
    return bool(((np.hypot(c.x - x, c.y - y) < radius) & (c.instance == number)).sum() > 0.6 * whole)


def _photograph(c: Canvas) -> np.ndarray:
    """uint8 RGB: uneven light, colour cast, vignette, a touch of blur, grain."""
    rng = c.rng
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    x, y = c.x - 0.5, c.y - 0.5
    light = (
        1 + slope * (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32) - rng.uniform(0.1, 0.5) * (x * x + y * y)
    )
    light = light * (1 - 0.16 * smoothstep(c.noise("cloud", 0.8), 0.2, 1.2))
    cast = rng.uniform(0.93, 1.07, 3).astype(np.float32)
    picture = np.clip(c.rgb, 0, 1) ** 0.85 * (light[..., None] * cast)
    blur = rng.uniform(0.3, 0.62) * c.size / 128
    picture = ndimage.gaussian_filter(picture, (blur, blur, 0), truncate=2.5)
    picture += rng.uniform(0.004, 0.018) * c.noise("fine")[..., None] + 0.006 * c.noise("mid")[..., None]
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + (picture - grey) * np.float32(rng.uniform(0.8, 1.12))
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _saliency(c: Canvas) -> np.ndarray:
    """uint8 (S, S): the foreground as an off-the-shelf model would guess it.

    Its outline is bent, parts of an object or a whole small one are missed, distractors and patches of ground shine.
    """
    rng, size = c.rng, c.size
    solid = (c.instance > 0).astype(np.float32)
    for number in range(1, int(c.instance.max(initial=0)) + 1):
        if rng.random() < 0.10 and number > 1:
            solid[c.instance == number] *= rng.uniform(0.2, 0.5)
    guess = np.maximum(solid, c.bait * (rng.random() < 0.5) * rng.uniform(0.4, 0.9))
    bend = 2.2 * size / 128
    at = np.arange(size, dtype=np.float32)
    rows = np.clip(at[:, None] + bend * c.noise("cloud", 0.35), 0, size - 1).astype(np.int32)
    columns = np.clip(at[None, :] + bend * c.noise("cloud", 0.35), 0, size - 1).astype(np.int32)
    guess = guess[rows, columns]
    guess = ndimage.gaussian_filter(guess, rng.uniform(1.6, 2.8) * size / 128, truncate=2.5)
    missed = smoothstep(c.noise("cloud", 0.6), 0.9, 1.6) * rng.uniform(0.3, 1.0)
    stray = smoothstep(c.noise("cloud", 0.45), 1.1, 1.9) * rng.uniform(0.2, 0.8) * (rng.random() < 0.5)
    guess = np.maximum(guess * (1 - missed), stray * 0.9)
    guess = smoothstep(guess + 0.03 * c.noise("mid"), 0.08, 0.85)
    return np.rint(np.clip(guess, 0, 1) * 255).astype(np.uint8)
