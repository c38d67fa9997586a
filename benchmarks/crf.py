"""DenseCRF against pydensecrf2, one thread each, in turns: the ratio of their times, and how far the two differ.

    python benchmarks/crf.py

Photographs are resized to 375x500, or tiled from four smaller ones (`tiled`: keeps the sharpness of the originals,
hence more lattice points). The unaries are those of a blocky label map with confidence 0.7. Both tools build their
lattices and iterate within the time; compiling and the position kernel's lattice, which does not depend on the
photograph, are warmed up before. One thread each is what one process a core comes to: the ratio is per core.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydensecrf.densecrf as densecrf
import torch
from materials import voc_folder
from measuring import SIZE, arguments, check, row, save, summary
from PIL import Image

from weakseg.ops import crf

HEIGHT, WIDTH = SIZE
TARGETS = {"psa": 4.0}
"""Times as fast as pydensecrf2 by recipe; 3 for those with more lattice points."""


def photographs(folder: Path, count: int, tiled: bool) -> list[np.ndarray]:
    files = sorted((voc_folder(folder) / "JPEGImages").glob("*.jpg"))
    chosen = files[:: max(1, len(files) // (4 * count))]

    def load(path: Path, size: tuple[int, int]) -> np.ndarray:
        return np.array(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC))

    if not tiled:
        return [load(path, (WIDTH, HEIGHT)) for path in chosen[:count]]
    quarters = [load(path, (WIDTH // 2, HEIGHT // 2 + 1)) for path in chosen[: 4 * count]]
    return [
        np.ascontiguousarray(np.block([[[a], [b]], [[c], [d]]])[:HEIGHT, :WIDTH])
        for a, b, c, d in zip(quarters[::4], quarters[1::4], quarters[2::4], quarters[3::4], strict=True)
    ]


def blocky_unary(labels: int, seed: int) -> torch.Tensor:
    blocks = np.random.default_rng(seed).integers(0, labels, (HEIGHT // 40 + 1, WIDTH // 40 + 1), dtype=np.uint8)
    pixels = blocks.repeat(40, 0).repeat(40, 1)[:HEIGHT, :WIDTH]
    return crf.unary_from_labels(torch.from_numpy(np.ascontiguousarray(pixels)), labels, 0.7)


def theirs(image: np.ndarray, unary: np.ndarray, params: crf.CrfParams) -> np.ndarray:
    model = densecrf.DenseCRF2D(WIDTH, HEIGHT, len(unary))
    model.setUnaryEnergy(unary)
    model.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=image, compat=params.bilateral_compat
    )
    return np.array(model.inference(params.iterations)).reshape(len(unary), HEIGHT, WIDTH)


def clocked(function: Callable[..., Any], *arguments: Any) -> tuple[float, float, Any]:
    """Seconds on the clock, seconds of this thread's processor time, and the result."""
    clock, processor_time = time.perf_counter(), time.thread_time()
    result = function(*arguments)
    return time.perf_counter() - clock, time.thread_time() - processor_time, result


def compare(images: list[np.ndarray], kind: str, name: str, labels: int, repeats: int) -> dict[str, Any]:
    params = crf.RECIPES[name]
    ours, peer, mean, same = [], [], [], []
    for k, image in enumerate(images * repeats):
        unary = blocky_unary(labels, k)
        planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        flat = np.ascontiguousarray(unary.numpy().reshape(labels, -1))
        if k == 0:
            crf.dense_crf(planes, unary, params)
        *seconds, p = clocked(crf.dense_crf, planes, unary, params)
        ours.append(seconds)
        *seconds, q = clocked(theirs, image, flat, params)
        peer.append(seconds)
        mean.append(float(np.abs(p.numpy() - q).mean()))
        same.append(float((p.numpy().argmax(0) == q.argmax(0)).mean()))
    work = f"DenseCRF `{name}`, {labels} labels, {kind}"
    check(work, max(mean), 1e-5)
    check(f"{work}: pixels of another class", 1 - min(same), 1e-3)
    pairs = list(zip(ours, peer, strict=True))
    return row(
        work,
        "times as fast as pydensecrf2, processor time",  # which a busy machine disturbs less than the clock's
        TARGETS.get(name, 3.0),
        [b[1] / a[1] for a, b in pairs],
        at_least=True,
        recipe=name,
        labels=labels,
        photos=kind,
        ratio_clock=summary([b[0] / a[0] for a, b in pairs]),
        weakseg_ms=summary([1e3 * a[1] for a in ours]),
        pydensecrf2_ms=summary([1e3 * b[1] for b in peer]),
        mean_abs_difference=max(mean),
        argmax_equal=min(same),
    )


def main() -> None:
    """Measure and write ``crf.json``."""
    parser = arguments(__doc__ or "", repeats=1)
    parser.add_argument("--recipes", nargs="*", default=list(crf.RECIPES))
    parser.add_argument("--labels", nargs="*", type=int, default=[2, 3, 21])
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", choices=["resized", "tiled"], default=["resized", "tiled"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in options.kinds:
        images = photographs(options.photos, options.images, kind == "tiled")
        rows += [
            compare(images, kind, name, labels, options.repeats)
            for name in options.recipes
            for labels in options.labels
        ]
    save("crf", rows, options.out)


if __name__ == "__main__":
    main()
