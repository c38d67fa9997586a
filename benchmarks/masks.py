"""mIoU of 400 mask pairs from PNG files against a plain loop of Pillow and numpy's bincount in one process.

python benchmarks/masks.py
"""

import tempfile
from pathlib import Path

import materials
import numpy as np
import torch
from measuring import arguments, check, in_turns, row, save
from PIL import Image

from weakseg.data.store import read_label_map, write_label_map
from weakseg.evaluate.masks import count_masks

CLASSES = 21


def plain(pred: Path, truth: Path, stems: list[str]) -> np.ndarray:
    """int64 (21, 21), the matrix that every repository of the field builds."""
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for stem in stems:
        p, t = (np.array(Image.open(folder / f"{stem}.png")) for folder in (pred, truth))
        counted = (t < 255) & (p < 255)
        cells = CLASSES * t[counted].astype(np.int64) + p[counted]
        total += np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    return total


def main() -> None:
    """Measure and write ``masks.json``."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pred, truth = Path(folder, "pred"), Path(folder, "truth")
        for k, mask in enumerate(materials.masks(options.photos, options.pairs)):
            write_label_map(truth / f"{k:04d}.png", mask)
            moved = mask.roll((5, -8), (0, 1))
            write_label_map(pred / f"{k:04d}.png", torch.where(moved == 255, 0, moved))
        stems = [path.stem for path in sorted(truth.iterdir())]

        def ours() -> np.ndarray:
            reader = [lambda id, f=f: read_label_map(f / f"{id}.png") for f in (pred, truth)]
            return count_masks(*reader, stems, CLASSES, threads=options.threads).matrix.numpy()

        check("the confusion matrix", float(np.abs(ours()[:, :-1] - plain(pred, truth, stems)).sum()), 0)
        seconds = in_turns(ours, lambda: plain(pred, truth, stems), repeats=options.repeats)
    found = row(
        f"mIoU of {len(stems)} pairs of masks from PNG", "times as fast as Pillow + bincount", 3,
        [b / a for a, b in seconds], at_least=True, seconds=[[round(s, 4) for s in pair] for pair in seconds],
    )  # fmt: skip
    save("masks", [found], options.out)


if __name__ == "__main__":
    main()
