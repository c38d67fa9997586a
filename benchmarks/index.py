"""Opening a data set of 100,000 listed photographs: seconds, and the memory of its index.

    python benchmarks/index.py

The files are empty, for opening a data set reads no pixels. Each repeat is a process of its own, so that its peak of
memory is that of the index.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import PeakMemory, arguments, check, row, save, timed

KINDS = {"JPEGImages": ".jpg", "SegmentationClass": ".png", "Saliency": ".png"}


def make(folder: Path, count: int) -> None:
    """Photographs, masks and saliency maps by name, a table of tags and two lists."""
    stems = [f"2007_{k:06d}" for k in range(count)]
    for name, suffix in KINDS.items():
        (folder / name).mkdir()
        for stem in stems:
            (folder / name / (stem + suffix)).touch()
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(stems[: count * 9 // 10]) + "\n")
    (lists / "val.txt").write_text("\n".join(stems[count * 9 // 10 :]) + "\n")
    names = ("cat", "cow", "dog", "horse", "person", "sheep")
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    rows = [f"{stem}.jpg,{names[k % 6]};{names[(k + 1 + k % 5) % 6]}" for k, stem in enumerate(stems)]
    (folder / "tags.csv").write_text("\n".join(["image,tags", *rows]) + "\n")


def open_it(folder: Path) -> int:
    """What a run does before its first step: open, look up the lists, ask for every photograph's tags."""
    from weakseg.data.dataset import open_dataset

    dataset = open_dataset(folder)
    ids = (*dataset.list("train"), *dataset.list("val"))
    kept.append(dataset)
    return sum(int(dataset.tags(id).sum()) for id in ids)


kept: list[object] = []


def child(folder: Path) -> None:
    """One repeat: print seconds, bytes and the count of tags."""
    import weakseg.data.dataset  # noqa: F401  its own import is no part of the index

    with PeakMemory() as memory:
        seconds, tags = timed(open_it, folder)
    print(json.dumps([seconds, memory.bytes, tags]))


def main() -> None:
    """Measure and write ``index.json``."""
    parser = arguments(__doc__ or "", repeats=3)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--child", type=Path, help="used by the benchmark itself")
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.count)
        command = [sys.executable, __file__, "--child", folder]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(options.repeats)]
    check("the tags", max(abs(tags - 2 * options.count) for _, _, tags in runs), 0)
    work = f"{options.count:,} listed photographs"
    rows = [
        row(work, "megabytes of the index, at its peak", 300, [b / 1e6 for _, b, _ in runs], at_least=False),
        row(work, "seconds to open", 10, [s for s, _, _ in runs], at_least=False),
    ]
    save("index", rows, options.out)


if __name__ == "__main__":
    main()
