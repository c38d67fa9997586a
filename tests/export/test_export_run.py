"""An ended run leaves as a file: the verbs on a whole chain, and what they say to runs that cannot."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from weakseg import api
from weakseg.data.images import read_image
from weakseg.data.scenes import make_scenes
from weakseg.data.store import TEMPORARY, read_label_map
from weakseg.export.bundle import load_bundle
from weakseg.models.weights import file_hash
from weakseg.types import WeaksegError

RECIPE = """
backbone: {name: resnet10t, weights: null, output_stride: 16, create: {channels: [8, 16, 32, 32]}}
labels: truth
predictions: segment
steps:
- {name: truth, method: labels.truth, list: train}
- name: segment
  method: deeplab.v3plus
  seeds: truth
  list: val
  set: {crop: 64, channels: 32, iterations: null, epochs: 4, batch_size: 4, lr: 0.01, new_factor: 1, optimiser: adamw,
        scales: [1.0], flip: false, freeze_bn: false, freeze_affine: false}
"""


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    make_scenes(place / "scenes", count=12, seed=3, size=64)
    (place / "tiny.yaml").write_text(RECIPE)
    return place


def go(place, out, **more):
    api.run(
        place / "tiny.yaml", place / "scenes", place / out, device="cpu", workers=0, progress=False, say=quiet, **more
    )
    return place / out


@pytest.fixture(scope="module")
def run(place):
    return go(place, "run")


@pytest.fixture(scope="module")
def photos(place):
    """Photographs of several sizes."""
    folder = place / "photos"
    folder.mkdir()
    for index, path in enumerate(sorted((place / "scenes" / "JPEGImages").iterdir())[:4]):
        with Image.open(path) as image:
            image.resize((64 + 7 * index, 50 + 9 * index)).save(folder / f"{path.stem}.png")
    return folder


def predicted(source, photos, out):
    api.predict(source, photos, out, device="cpu", workers=0, progress=False, say=quiet)
    return {f.stem: f.read_bytes() for f in out.glob("*.png")}


@pytest.mark.slow
def test_onnx_gives_the_labels_of_predict(run, photos, tmp_path):
    told = []
    assert api.export_network(run, tmp_path / "net.onnx", say=told.append) == tmp_path / "net.onnx"
    assert "its labels are those of `weakseg predict`" in told[0]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    predicted(run, photos, tmp_path / "masks")
    for photo in sorted(photos.iterdir()):
        (labels,) = session.run(["labels"], {"image": read_image(photo)[None].numpy()})
        ours = read_label_map(tmp_path / "masks" / f"{photo.stem}.png").numpy()
        assert (labels[0] != ours).mean() <= 1e-3
    about = session.get_modelmeta().custom_metadata_map
    weights = next((run / "seed-0" / "steps").glob("*-segment/fit/model.safetensors"))
    assert about["weights_sha256"] == file_hash(weights)
    manifest = json.loads((run / "seed-0" / "manifest.json").read_text())
    assert json.loads(about["classes"]) == ["background", *manifest["classes"]]
    assert (about["recipe"], about["step"]) == ("tiny", "segment")


@pytest.mark.slow
def test_a_bundle_gives_the_bytes_of_predict_at_all_scales_without_the_run(place, run, photos, tmp_path):
    moved = go(place, "scales", set=["segment.scales=[1.0, 0.75]", "segment.flip=true", "segment.crf=psa"])
    api.export_network(moved, tmp_path / "net.safetensors", say=quiet)
    told = []
    expected = predicted(moved, photos, tmp_path / "a")
    shutil.move(moved, tmp_path / "gone")
    assert predicted(tmp_path / "net.safetensors", photos, tmp_path / "b") == expected
    assert predicted(tmp_path / "net.safetensors", photos, tmp_path / "a") == expected  # the same network goes on there
    assert (tmp_path / "a" / "classes.txt").read_text() == (tmp_path / "b" / "classes.txt").read_text()
    loaded = load_bundle(tmp_path / "net.safetensors")
    for photo in sorted(photos.iterdir()):
        ours = read_label_map(tmp_path / "a" / f"{photo.stem}.png").numpy()
        np.testing.assert_array_equal(loaded.predict(read_image(photo)).numpy(), ours)
    api.export_network(tmp_path / "gone", tmp_path / "net.onnx", say=told.append)
    assert told[0].endswith(
        "`weakseg predict` also looks at scales 1, 0.75, looks at mirror images, ends with the CRF psa, so its labels differ"
    )


@pytest.mark.slow
def test_what_cannot_leave_is_one_sentence(place, run, tmp_path):
    def refused(sentence, source=run, out="net.onnx", **more):
        with pytest.raises(WeaksegError, match=sentence):
            api.export_network(source, tmp_path / out, say=quiet, **more)

    refused("not as 'pt'", out="net.pt")
    refused("not as 'net'", out="net")
    refused(r"no name of a \.onnx file", out="net.safetensors", to="onnx")
    refused("is no run folder", source=tmp_path)
    refused("has the run ended", seed=1)
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "seed-0" / "manifest.json").unlink()
    for out in ("net.onnx", "net.safetensors"):
        refused("has the run ended", source=unfinished, out=out)
        (tmp_path / "file").write_text("")
        refused("cannot be written", out=f"file/{out}")
    masks = shutil.copytree(run, tmp_path / "masks")
    manifest = json.loads((masks / "seed-0" / "manifest.json").read_text())
    manifest["recipe"]["predictions"] = None
    (masks / "seed-0" / "manifest.json").write_text(json.dumps(manifest))
    refused("trained no segmentation network", source=masks)
    assert not [f for f in tmp_path.iterdir() if f.suffix in (".onnx", ".safetensors") or f.name.startswith(TEMPORARY)]


@pytest.mark.slow
def test_the_verb_for_masks_takes_networks_too_and_replaces_nothing_unasked(run, tmp_path):
    made = api.export(run, tmp_path / "net.safetensors", to="safetensors", say=quiet)
    before = made.read_bytes()
    with pytest.raises(WeaksegError, match="exists; nothing was written"):
        api.export(run, made, to="safetensors", say=quiet)
    assert api.export(run, made, to="safetensors", overwrite=True, say=quiet).read_bytes() == before
    assert load_bundle(made).about.step == "segment"
    with pytest.raises(WeaksegError, match="did you mean 'onnx'"):
        api.export(run, tmp_path / "o", to="onx", say=quiet)
    assert api.export(run, tmp_path / "cvat.zip", to="cvat", progress=False, say=quiet).is_file()
