"""A sweep of 256 thresholds over 200 score maps against one full pass a threshold: 8 are timed and count 32 times.

    python benchmarks/sweep.py

Both sides find maps and masks in memory; ours makes all that `weakseg evaluate --scores` reports, the best threshold of
every photograph included.
"""

import materials
import numpy as np
import torch
from measuring import arguments, check, in_turns, row, save

from weakseg.evaluate.sweep import evaluate_scores
from weakseg.ops.thresholds import Sweep, even_thresholds
from weakseg.types import ScoreMap

CLASSES = 21
TIMED = 8


def plain(maps: list[ScoreMap], truths: list[torch.Tensor], thresholds: list[float]) -> np.ndarray:
    """int64 (n, 21, 21): for each threshold the argmax over a constant background channel and the maps, counted."""
    total = np.zeros((len(thresholds), CLASSES, CLASSES), np.int64)
    for i, threshold in enumerate(thresholds):
        for score_map, truth in zip(maps, truths, strict=True):
            scores, ids, t = score_map.scores.numpy(), np.r_[0, score_map.ids.numpy()], truth.numpy()
            padded = np.concatenate([np.full((1, *t.shape), threshold, np.float32), scores])
            labels, counted = ids[padded.argmax(0)], t < 255
            cells = CLASSES * t[counted].astype(np.int64) + labels[counted]
            total[i] += np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    return total


def main() -> None:
    """Measure and write ``sweep.json``."""
    parser = arguments(__doc__ or "", repeats=3)
    parser.add_argument("--maps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    truths, maps = [], []
    for k, truth in enumerate(materials.masks(options.photos, options.maps)):
        classes = tuple(sorted(set(truth.unique().tolist()) - {0, 255})) or (1,)
        truths.append(truth)
        maps.append(materials.score_maps(truth, classes, seed=k))
    ids = [str(k) for k in range(len(maps))]
    levels = even_thresholds(256)
    few = levels[:: 256 // TIMED]

    def ours() -> dict:
        names = [str(k) for k in range(1, CLASSES)]
        return evaluate_scores(
            lambda id: maps[int(id)], lambda id: truths[int(id)], ids, names, fixed=0.0, threads=options.threads
        )

    sweep = Sweep(CLASSES, levels)
    for score_map, truth in zip(maps, truths, strict=True):
        sweep.update(score_map, truth)
    matrices = sweep.matrices()[:: 256 // TIMED, :, :-1].numpy()
    check("the confusion matrices", float(np.abs(matrices - plain(maps, truths, few.tolist())).sum()), 0)
    seconds = in_turns(ours, lambda: plain(maps, truths, few.tolist()), repeats=options.repeats)
    found = row(
        f"256 thresholds over {len(maps)} score maps", "times as fast as a pass a threshold", 100,
        [b * 256 / TIMED / a for a, b in seconds], at_least=True, note=f"{TIMED} passes timed",
        seconds=[[round(s, 4) for s in pair] for pair in seconds],
    )  # fmt: skip
    save("sweep", [found], options.out)


if __name__ == "__main__":
    main()
