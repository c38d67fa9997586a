"""Multi-scale CAM of ResNet50 at stride 16, written to disk, against its bare forward passes and the plain loop.

    python benchmarks/maps.py

Photographs of 375x500, scales 0.5, 1, 1.5 and 2 with their mirror images. Ours reads JPEG, makes the views, scores
`full` and `strided` and writes them. The bare passes find all views in memory, one after the other with all threads.
The plain loop resizes every view's maps to the photograph, a map a class, and saves float32 ``.npy`` of both kinds.
The weights are random (a download would be needed); the size on disk is also measured on maps of a network that has
ImageNet's weights, where they are at hand.
"""

import dataclasses
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import materials
import numpy as np
import torch
from measuring import arguments, check, in_turns, row, save
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from weakseg._devices import keep_freed_memory
from weakseg.data.dataset import open_dataset
from weakseg.data.images import read_image
from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.infer import map_samples
from weakseg.methods.cam import METHODS, Cam
from weakseg.models.classifier import CamNet
from weakseg.types import Backbone

METHOD: Cam = dataclasses.replace(METHODS["resnet50"], freeze_bn=False)
KEYS = ("full", "strided")
CLASSES = 20


def views_of(model: CamNet, path: Path) -> list[Tensor]:
    """The four scales, each with its mirror image in a batch of two."""
    image = Image.fromarray(read_image(path).permute(1, 2, 0).numpy())
    views = []
    for scale in METHOD.scales:
        size = round(scale * image.width), round(scale * image.height)
        pixels = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1)
        view = model.normalise(pixels)[None]
        views.append(torch.cat([view, view.flip(-1)]))
    return views


def plain(model: CamNet, path: Path, tags: Tensor, out: Path) -> dict[str, np.ndarray]:
    """The loop of the published tools, IRN's merge: every map of every view at full size, then npy."""
    height, width = read_image(path).shape[1:]
    large = -(-height // 16) * 16, -(-width // 16) * 16
    small = -(-height // 4), -(-width // 4)
    weight = model.classifier.weight
    full, strided = torch.zeros(len(weight), *large), torch.zeros(len(weight), *small)
    for view in views_of(model, path):
        for k, image in enumerate(view):  # one view at a time
            features = model.backbone(image[None])[-1]
            maps = torch.nn.functional.conv2d(features, weight).relu()
            maps = maps.flip(-1) if k else maps
            full += interpolate(maps, large, mode="bilinear", align_corners=False)[0]
            strided += interpolate(maps, small, mode="bilinear", align_corners=False)[0]
    made = {"full": full[tags][:, :height, :width], "strided": strided[tags]}
    arrays = {key: (m / (m.amax((1, 2), keepdim=True) + 1e-5)).numpy() for key, m in made.items()}
    for key, array in arrays.items():
        np.save(out / f"{path.stem}.{key}.npy", array)
    return arrays


def npy_bytes(arrays: Sequence[np.ndarray]) -> int:
    """What the arrays take as npy files."""
    total = 0
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array)
        total += buffer.tell()
    return total


def compression(view: View, backbone: Backbone, photographs: int) -> list[float]:
    """Bytes of npy over bytes of ours, of each photograph."""
    method = dataclasses.replace(METHOD, freeze_bn=backbone.weights is not None, scales=(1.0,))
    torch.manual_seed(0)
    model = method.build(len(view.dataset.classes), backbone).eval()
    ratios = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        store = Store(Path(folder), KEYS)
        for sample in view[:photographs]:
            maps = method.score(model, sample)
            store.write(sample.id, maps)
            bytes_ = store.path(sample.id, "full").stat().st_size
            ratios.append(npy_bytes([m.scores.numpy() for m in maps.values()]) / bytes_)
    return ratios


def main() -> None:
    """Measure and write ``maps.json``."""
    parser = arguments(__doc__ or "", repeats=3)
    parser.add_argument("--group", type=int, default=2, help="photographs a repeat")
    parser.add_argument("--plain-repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    model = METHOD.build(CLASSES, Backbone("irn_resnet50", None)).eval()
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        out = Path(place)
        dataset = open_dataset(materials.enlarged(options.photos, out / "data", 8))
        ids = [id for id in dataset.ids if dataset.image_path(id).exists()][: options.group]
        view = View(dataset, tuple(ids))
        prepared = {id: views_of(model, dataset.image_path(id)) for id in ids}
        (out / "npy").mkdir()
        runs = 0

        def ours() -> None:
            nonlocal runs
            runs += 1
            store = Store(out / f"maps-{runs}", KEYS)
            map_samples(
                lambda sample: METHOD.score(model, sample), view, store,
                threads=options.threads, device="cpu", progress=False,
            )  # fmt: skip

        def bare() -> None:
            for views in prepared.values():
                for images in views:
                    model.backbone(images)

        def loop() -> None:
            for id in ids:
                plain(model, dataset.image_path(id), dataset.tags(id).nonzero().flatten(), out / "npy")

        bare()  # warms up
        ours()
        seconds = in_turns(ours, bare, repeats=options.repeats, warm_up=False)
        slow = in_turns(ours, loop, repeats=options.plain_repeats, warm_up=False)
        store, differences, sizes = Store(out / "maps-1", KEYS), [], []
        for id in ids:
            arrays = [np.load(out / "npy" / f"{id}.{key}.npy") for key in KEYS]
            differences += [
                float(np.abs(store.read(id, key).scores.numpy() - a).max()) for key, a in zip(KEYS, arrays, strict=True)
            ]
            sizes.append(npy_bytes(arrays) / store.path(id, "full").stat().st_size)
        difference = check("the maps read back", max(differences), 5e-4)
    work = "multi-scale CAM of ResNet50, written to disk"
    note = "random weights" if materials.WEIGHTS.is_file() else ""
    rows = [
        row(work, "times the bare forward passes' duration", 1.15, [a / b for a, b in seconds], at_least=False,
            difference=difference, seconds=[[round(s, 3) for s in pair] for pair in seconds]),
        row(work, "times as fast as the plain loop", 1, [b / a for a, b in slow], at_least=True,
            seconds=[[round(s, 3) for s in pair] for pair in slow]),
        row(work, "times fewer bytes than float32 npy", 8, sizes, at_least=True, note=note),
    ]  # fmt: skip
    if materials.WEIGHTS.is_file():
        with tempfile.TemporaryDirectory() as place:
            dataset = open_dataset(materials.enlarged(options.photos, Path(place, "data"), 8))
            ratios = compression(View(dataset, dataset.ids), materials.mobile_backbone(), 8)
        note = "ImageNet's weights"
        rows.append(
            row(
                "CAM of MobileNetV2, written to disk",
                "times fewer bytes than float32 npy",
                8,
                ratios,
                at_least=True,
                note=note,
            )
        )
    save("maps", rows, options.out)


if __name__ == "__main__":
    main()
