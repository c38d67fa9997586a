"""Context labels of 8 and 16 bits, of PNGs and of PASCAL-Context's own files."""

import numpy as np
import pytest
from PIL import Image
from scipy import io

from weakseg.data.context import context_names, read_context
from weakseg.types import WeaksegError


def test_context_labels_of_png_and_of_pascal_context(tmp_path):
    labels = np.array([[0, 300], [459, 1]], np.uint16)
    Image.fromarray(labels).save(tmp_path / "a.png")
    io.savemat(tmp_path / "b.mat", {"LabelMap": labels})
    for name in ("a.png", "b.mat"):
        assert read_context(tmp_path / name, (2, 2)).tolist() == labels.tolist()
    with pytest.raises(WeaksegError, match="height, width"):
        read_context(tmp_path / "a.png", (3, 2))
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(WeaksegError, match=r"c\.png holds no context labels"):
        read_context(tmp_path / "c.png")


def test_names_of_context_labels(tmp_path):
    assert context_names(tmp_path) is None
    (tmp_path / "labels.txt").write_text("1: accordion\n2: aeroplane\n")
    assert context_names(tmp_path) == ["accordion", "aeroplane"]
    (tmp_path / "context_classes.txt").write_text("sky\nwater\n")
    assert context_names(tmp_path) == ["sky", "water"]
    (tmp_path / "context_classes.txt").write_text("1: sky\n3: water\n")
    with pytest.raises(WeaksegError, match="gaps"):
        context_names(tmp_path)
