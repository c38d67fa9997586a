"""DenseCRF against pydensecrf2, one thread each, in turns: the ratio of their times, and how far the two differ.

    python benchmarks/crf.py --photos FOLDER --out benchmarks/results/crf.json

Photographs are resized to 375x500, or tiled from four smaller ones (`tiled`: keeps the sharpness of the originals,
hence more lattice points). The unaries are those of a blocky label map with confidence 0.7. Both tools build their
lattices and iterate within the time; compiling and the position kernel's lattice, which does not depend on the
photograph, are warmed up before.
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path

import numba
import numpy as np
import pydensecrf.densecrf as densecrf
import torch
from PIL import Image

from weakseg.ops import crf

HEIGHT, WIDTH = 375, 500


def photographs(folder: Path, count: int, tiled: bool) -> list[np.ndarray]:
    files = sorted(folder.glob("*.jpg"))
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


def timed(function, *arguments):
    """Seconds on the clock, seconds of this thread's processor time, and the result."""
    clock, processor_time = time.perf_counter(), time.thread_time()
    result = function(*arguments)
    return time.perf_counter() - clock, time.thread_time() - processor_time, result


def compare(images: list[np.ndarray], name: str, labels: int, repeats: int) -> dict:
    params = crf.RECIPES[name]
    ours, theirs_, mean, same = [], [], [], []
    for k, image in enumerate(images * repeats):
        unary = blocky_unary(labels, k)
        planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        flat = np.ascontiguousarray(unary.numpy().reshape(labels, -1))
        if k == 0:
            crf.dense_crf(planes, unary, params)
        *seconds, p = timed(crf.dense_crf, planes, unary, params)
        ours.append(seconds)
        *seconds, q = timed(theirs, image, flat, params)
        theirs_.append(seconds)
        mean.append(float(np.abs(p.numpy() - q).mean()))
        same.append(float((p.numpy().argmax(0) == q.argmax(0)).mean()))
    pairs = list(zip(ours, theirs_, strict=True))
    return {
        "recipe": name,
        "labels": labels,
        "ratio": summary([b[1] / a[1] for a, b in pairs]),  # of processor time: a busy machine disturbs it less
        "ratio_clock": summary([b[0] / a[0] for a, b in pairs]),
        "weakseg_ms": summary([1e3 * a[1] for a in ours]),
        "pydensecrf2_ms": summary([1e3 * b[1] for b in theirs_]),
        "mean_abs_difference": max(mean),
        "argmax_equal": min(same),
        "runs": len(pairs),
    }


def summary(values: list[float]) -> dict[str, float]:
    return {key: round(f(values), 3) for key, f in (("median", statistics.median), ("min", min), ("max", max))}


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/voc-animals/JPEGImages"))
    parser.add_argument("--recipes", nargs="*", default=list(crf.RECIPES))
    parser.add_argument("--labels", nargs="*", type=int, default=[2, 3, 21])
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=["resized", "tiled"])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in options.kinds:
        images = photographs(options.photos, options.images, kind == "tiled")
        for name in options.recipes:
            for labels in options.labels:
                row = {"photos": kind, **compare(images, name, labels, options.repeats)}
                rows.append(row)
                print(
                    f"{kind:8} {name:18} {labels:3} labels  {row['weakseg_ms']['median']:8.1f} ms  "
                    f"{row['pydensecrf2_ms']['median']:8.1f} ms  x{row['ratio']['median']:.2f} "
                    f"({row['ratio']['min']:.2f}-{row['ratio']['max']:.2f})  |dp| {row['mean_abs_difference']:.1e}  "
                    f"argmax {row['argmax_equal']:.5f}",
                    flush=True,
                )
    if options.out is not None:
        head = {"size": [HEIGHT, WIDTH], "processor": processor(), "numba": numba.__version__, "commit": commit()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
