"""DenseCRF on one photograph: a rough mask in, edges of the photograph out. No data set, no recipe, no training.

python examples/refine_one_photograph.py                        # generated scenes and their true masks, made rough
python examples/refine_one_photograph.py photo.jpg mask.png     # your own
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from weakseg.data.images import read_image, read_mask
from weakseg.data.scenes import make_scenes
from weakseg.data.store import write_label_map
from weakseg.ops.crf import crf_from_labels, recipe
from weakseg.ops.metrics import confusion_matrix, iou_table


def refine(image: Tensor, labels: Tensor) -> Tensor:
    """uint8 (H, W): `labels` moved to the edges of `image`, with the numbers that BANA uses."""
    ids = torch.unique(torch.cat([labels.new_zeros(1), labels[labels != 255]]))
    return crf_from_labels(image.as_subclass(Tensor), labels, ids, recipe("bana_stage2"), confidence=0.7)


def blocks(labels: Tensor, side: int = 16) -> Tensor:
    """A rough mask: every block of `side` pixels takes the label of its corner."""
    height, width = labels.shape
    return labels[::side, ::side].repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width].contiguous()


def compare(folder: Path) -> None:
    """Generated scenes: how good the rough masks are and what the CRF makes of them, over all scenes together."""
    make_scenes(folder, count=8, size=192)
    matrices = {"rough": torch.zeros(8, 9, dtype=torch.int64), "after CRF": torch.zeros(8, 9, dtype=torch.int64)}
    for photo in sorted(folder.glob("JPEGImages/*")):
        image, truth = read_image(photo), read_mask(folder / "SegmentationClass" / f"{photo.stem}.png")
        rough = blocks(torch.where(truth == 255, 0, truth).to(torch.uint8))
        for name, labels in (("rough", rough), ("after CRF", refine(image, rough))):
            matrices[name] += confusion_matrix(labels, truth, 8)
    for name, matrix in matrices.items():
        print(f"{name:10} {100 * iou_table(matrix).mean:.1f} mIoU")


def main(arguments: list[str]) -> None:
    """Refine a mask into refined.png, or compare."""
    if arguments:
        write_label_map(Path("refined.png"), refine(read_image(arguments[0]), read_mask(arguments[1])))
        print("refined.png")
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
