"""The embedded data set: generated scenes in VOC layout, for the demo, the tests and a first look.

Small painted photographs of balloons, boats, cars, cats, dogs, sheep and trains, with what the field's papers struggle
with and exact truth to measure it by:

- *a small telling part on a large plain body*: cat and dog share body, coat and tail, only the head differs; a train is
  known by its front, its coaches are painted like cars and boats;
- *soft and cluttered edges*: fur and wool, grass and leaves before the objects, coats in the colour of the ground,
  shadows, mirror images;
- *objects that come with their own background*: the train stands on rails and rails are nowhere without a train, boats
  float, cars keep to the road, most cats to the rug. `ContextClass` holds that background for every pixel.

Boulders, bales, cushions and houses belong to no class. The saliency maps err as an off-the-shelf model does. Scene k
depends on (seed, k, size) alone: the first hundred of two hundred are the same files.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from weakseg.data._scene_compose import CLASSES, Scene, compose
from weakseg.data._scene_paint import CONTEXT
from weakseg.data.boxes import read_voc_xml
from weakseg.data.store import read_json, write_bytes, write_json, write_label_map, write_text
from weakseg.types import WeaksegError

CONTEXT_CLASSES = CONTEXT
"""Names of the background materials; name k has id k + 1 in ``ContextClass/*.png``, 0 is an object of the classes."""
VERSION = 1
"""Goes up whenever the same seed gives other files."""
THREADS = 2  # one paints while the other waits for the disk; more get into each other's way

_PLANES = ("Saliency", "SegmentationClass", "SegmentationObject", "ContextClass")

__all__ = ["CLASSES", "CONTEXT_CLASSES", "VERSION", "make_scenes", "split"]


def make_scenes(
    out: Path,
    count: int = 240,
    seed: int = 0,
    size: int = 128,
    val_share: float = 0.25,
    tick: Callable[[int, int], None] | None = None,
) -> None:
    """Write `count` generated scenes to the folder `out`, in VOC layout.

    Written: ``JPEGImages``, ``SegmentationClass`` and ``SegmentationObject`` (exact palette masks, 255 = thin outer
    seam of fur), ``Annotations`` (VOC boxes, 1-based inclusive), ``tags.csv``, ``classes.txt``, ``Saliency`` (8-bit,
    imperfect), ``ContextClass`` with ``context_classes.txt``, the lists train, val and train_small (a third of train),
    and ``scenes.json`` with these arguments. Called again it makes what is missing, and more with a larger `count`.

    Args:
        out: a new or empty folder, or one that this function filled with the same seed, size and share.
        count: number of scenes, at least 2.
        seed: 0 or more; another seed, other scenes.
        size: width and height in pixels, 64 to 1024.
        val_share: share of the scenes in val, between 0 and 1; every list has at least one scene.
        tick: called with (scenes done, count) after each.

    Raises:
        WeaksegError: an argument is out of range, or `out` holds something else.
    """
    settings = {"version": VERSION, "seed": seed, "size": size, "val_share": val_share}
    lists = split(count, val_share)
    _check(seed, size)
    out = _prepare(Path(out), settings, count)
    names = [scene_id(k) for k in range(count)]

    def paint(index: int) -> str:
        shown = _shown(out, names[index])
        if shown is None:
            scene = compose(seed, index, size)
            _write(out, names[index], scene)
            shown = set(scene.names)
        return f"{names[index]}.jpg,{';'.join(c for c in CLASSES if c in shown)}"

    rows = []
    with ThreadPoolExecutor(THREADS) as pool:
        for row in pool.map(paint, range(count)):
            rows.append(row)
            if tick is not None:
                tick(len(rows), count)
    _write_index(out, rows, {name: [names[k] for k in chosen] for name, chosen in lists.items()})


def split(count: int, val_share: float) -> dict[str, list[int]]:
    """Indices of the lists ``train``, ``val`` and ``train_small`` (every third of train); prefixes stay prefixes.

    Raises:
        WeaksegError: a list would be empty.

    >>> split(8, 0.25)
    {'train': [0, 2, 3, 4, 6, 7], 'val': [1, 5], 'train_small': [0, 4]}
    """
    val = [k for k in range(count) if int((k + 1) * val_share + 0.5) > int(k * val_share + 0.5)]
    train = sorted(set(range(count)) - set(val))
    if not val or not train:
        raise WeaksegError(
            f"{count} scenes with a val share of {val_share} leave an empty list; "
            "ask for more scenes, or for a share between 0 and 1"
        )
    return {"train": train, "val": val, "train_small": train[::3]}


def scene_id(index: int) -> str:
    """File stem of scene `index`.

    >>> scene_id(7)
    'scene_00007'
    """
    return f"scene_{index:05d}"


def _check(seed: int, size: int) -> None:
    if seed < 0:
        raise WeaksegError(f"the seed is {seed}; choose 0 or more")
    if not 64 <= size <= 1024:
        raise WeaksegError(f"scenes of {size} pixels cannot be painted; choose a size from 64 to 1024")


def _prepare(out: Path, settings: Mapping[str, object], count: int) -> Path:
    """Make `out`, or make sure that what it holds is the same data set and no larger."""
    note = out / "scenes.json"
    if note.exists():
        found = read_json(note)
        other = [key for key, value in settings.items() if found.get(key) != value]
        if other or found.get("count", 0) > count:
            raise WeaksegError(
                f"{out} holds scenes made with {found}, asked for are { ({**settings, 'count': count}) }; "
                "choose another folder or remove this one"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeaksegError(f"{out} is not an empty folder; choose another place for the scenes")
    write_json(note, {**settings, "count": count})
    return out


def _shown(out: Path, name: str) -> set[str] | None:
    """Classes of a scene all of whose files are there, else None; the annotation is written last."""
    annotation = out / "Annotations" / f"{name}.xml"
    others = [out / "JPEGImages" / f"{name}.jpg", *(out / folder / f"{name}.png" for folder in _PLANES)]
    if not all(file.is_file() for file in (annotation, *others)):
        return None
    return set(read_voc_xml(annotation).names)


def _write(out: Path, name: str, scene: Scene) -> None:
    """All files of one scene."""
    write_bytes(out / "JPEGImages" / f"{name}.jpg", _encode(Image.fromarray(scene.image), "JPEG", quality=92))
    write_bytes(out / "Saliency" / f"{name}.png", _encode(Image.fromarray(scene.saliency), "PNG"))
    for folder, labels in (
        ("SegmentationClass", scene.mask),
        ("SegmentationObject", scene.instances),
        ("ContextClass", scene.context),
    ):
        write_label_map(out / folder / f"{name}.png", torch.from_numpy(labels))
    write_text(out / "Annotations" / f"{name}.xml", _annotation(name, scene))


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _annotation(name: str, scene: Scene) -> str:
    """VOC XML: boxes 1-based, both ends inclusive."""
    height, width = scene.mask.shape
    objects = []
    for label, (x0, y0, x1, y1) in zip(scene.names, scene.boxes, strict=True):
        truncated = int(x0 == 0 or y0 == 0 or x1 == width or y1 == height)
        objects.append(
            f"  <object><name>{label}</name><pose>Unspecified</pose><truncated>{truncated}</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>\n"
        )
    return (
        f"<annotation>\n  <folder>scenes</folder><filename>{name}.jpg</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <segmented>1</segmented>\n{''.join(objects)}</annotation>\n"
    )


def _write_index(out: Path, rows: Sequence[str], lists: Mapping[str, Sequence[str]]) -> None:
    """Tags, class names and lists."""
    write_text(out / "tags.csv", "\n".join(["image,tags", *rows]) + "\n")
    write_text(out / "classes.txt", "\n".join(CLASSES) + "\n")
    write_text(out / "context_classes.txt", "\n".join(CONTEXT_CLASSES) + "\n")
    for name, ids in lists.items():
        write_text(out / "ImageSets" / "Segmentation" / f"{name}.txt", "\n".join(ids) + "\n")
