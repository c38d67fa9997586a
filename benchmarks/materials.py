"""What the benchmarks work on: photographs, masks and whole data sets at the size of PASCAL VOC's photographs."""

import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from measuring import SIZE
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg.data.scenes import make_scenes
from weakseg.types import Backbone, ScoreMap

WEIGHTS = Path("../shared/weights/mobilenetv2_100.safetensors")


@cache
def voc_folder(photos: Path, count: int = 16) -> Path:
    """`photos` if it is a folder in VOC layout, else one of generated scenes that vanishes with the process."""
    if (photos / "JPEGImages").is_dir():
        return photos
    folder = tempfile.TemporaryDirectory(prefix="weakseg-bench-")
    _kept.append(folder)
    make_scenes(Path(folder.name), count=count, size=max(SIZE))
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def photographs(photos: Path, count: int) -> list[Tensor]:
    """uint8 (3, 375, 500) each, evenly chosen from the folder and resized."""
    files = sorted((voc_folder(photos) / "JPEGImages").glob("*.jpg"))
    chosen = (files * count)[:: max(1, len(files) // count)][:count]
    return [torch.from_numpy(_resized(path, Image.Resampling.BICUBIC)).permute(2, 0, 1).contiguous() for path in chosen]


def masks(photos: Path, count: int) -> list[Tensor]:
    """uint8 (375, 500) each, the first true masks of the folder, resized; again from the first if there are fewer."""
    files = sorted((voc_folder(photos) / "SegmentationClass").glob("*.png"))
    return [torch.from_numpy(_resized(path, Image.Resampling.NEAREST)) for path in (files * count)[:count]]


def score_maps(truth: Tensor, classes: tuple[int, ...], seed: int) -> ScoreMap:
    """Maps 0-1 as smooth as those of a network at stride 16, high where `truth` holds their class."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.stack([(truth == k).float() for k in classes])
    coarse = interpolate(inside[None], (24, 32), mode="area") + 0.4 * torch.rand(
        (1, len(classes), 24, 32), generator=generator
    )
    maps = interpolate(coarse, tuple(truth.shape), mode="bilinear", align_corners=False)[0]
    size = (int(truth.shape[0]), int(truth.shape[1]))
    return ScoreMap(torch.tensor(classes, dtype=torch.uint8), maps / maps.amax((1, 2), keepdim=True), size)


def enlarged(photos: Path, out: Path, count: int) -> Path:
    """`count` photographs in VOC layout with a long side of 500 pixels: masks, saliency, boxes and tags go along."""
    folder = voc_folder(photos)
    stems = sorted(path.stem for path in (folder / "JPEGImages").glob("*.jpg"))[:count]
    places = ("JPEGImages", "jpg", Image.Resampling.BICUBIC), ("SegmentationClass", "png", Image.Resampling.NEAREST)
    for name, suffix, filter_ in (*places, ("Saliency", "png", Image.Resampling.BICUBIC)):
        (out / name).mkdir(parents=True)
        for stem in stems:
            with Image.open(folder / name / f"{stem}.{suffix}") as image:
                scale = 500 / max(image.size)
                size = round(scale * image.width), round(scale * image.height)
                image.resize(size, filter_).save(out / name / f"{stem}.{suffix}", quality=92)
    (out / "Annotations").mkdir()
    for stem in stems:
        with Image.open(folder / "JPEGImages" / f"{stem}.jpg") as image:
            scale = 500 / max(image.size)
        text = (folder / "Annotations" / f"{stem}.xml").read_text()
        (out / "Annotations" / f"{stem}.xml").write_text(_scaled_boxes(text, scale))
    kept = [line for line in (folder / "tags.csv").read_text().splitlines() if Path(line.split(",")[0]).stem in stems]
    (out / "tags.csv").write_text("\n".join(["image,tags", *kept]) + "\n")
    (out / "classes.txt").write_text((folder / "classes.txt").read_text())
    return out


def mobile_backbone(stride: int = 16) -> Backbone:
    """MobileNetV2 with ImageNet's weights where they are at hand, else with random ones."""
    from weakseg.models.weights import backbone_from_file

    if WEIGHTS.is_file():
        return backbone_from_file(WEIGHTS, stride)
    return Backbone("mobilenetv2_100", None, stride, create={"pad_type": "same"})


def _scaled_boxes(annotation: str, scale: float) -> str:
    corner = r"(<(?:[xy]m(?:in|ax)|width|height)>)(\d+)"
    return re.sub(corner, lambda found: f"{found[1]}{max(1, round(scale * int(found[2])))}", annotation)


def _resized(path: Path, filter_: Image.Resampling) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.resize(SIZE[::-1], filter_))
