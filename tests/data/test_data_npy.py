"""Label files of the field are read without unpickling; anything that could execute is refused."""

import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from weakseg.data.npy import read_label_dict, voc_id
from weakseg.types import WeaksegError

LABELS = {"2007_000032": np.array([1, 0, 1], np.float32), "2007_000039": np.array([0, 0, 1], np.float32)}


def write(path: Path, value: object, protocol: int = 4) -> Path:
    """As np.save writes an object array, with a chosen pickle protocol."""
    array = np.empty((), object)
    array[()] = value
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickle.dumps(array, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, bool])
def test_every_protocol_and_number_type(tmp_path: Path, protocol: int, dtype: type) -> None:
    labels = {name: vector.astype(dtype) for name, vector in LABELS.items()}
    found = read_label_dict(write(tmp_path / "l.npy", labels, protocol))
    assert list(found) == list(labels)
    assert all(found[k].dtype == dtype and np.array_equal(found[k], v) for k, v in labels.items())


def test_the_file_np_save_writes(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.array(LABELS))
    assert np.array_equal(read_label_dict(tmp_path / "l.npy")["2007_000032"], LABELS["2007_000032"])


def test_names_of_numpy_1_are_known(tmp_path: Path) -> None:
    path = write(tmp_path / "l.npy", LABELS, 2)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy._core" not in old
    path.write_bytes(old)
    assert list(read_label_dict(path)) == list(LABELS)


@pytest.mark.parametrize("key", [2007000032, np.int64(2007000032)])
def test_int_keys(tmp_path: Path, key: int) -> None:
    found = read_label_dict(write(tmp_path / "l.npy", {key: np.ones(20)}))
    assert [voc_id(k) for k in found] == ["2007_000032"]


class Evil:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_the_file_is_executed(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    path = write(tmp_path / "evil.npy", {"a": Evil(trap)}, protocol)
    with pytest.raises(WeaksegError, match="mkdir"):
        read_label_dict(path)
    assert not trap.exists()
    np.load(path, allow_pickle=True)  # the trap itself works
    assert trap.exists()


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {"a": "b"},
        {"a": [1, 0]},
        {"a": np.array(["x"])},
        {"a": np.array([None])},
        {"a": np.ones((2, 2))},
        {1.5: np.ones(2)},
        {("a", 1): np.ones(2)},
    ],
)
def test_other_contents_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(WeaksegError, match=r"l\.npy"):
        read_label_dict(write(tmp_path / "l.npy", value))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "l.npy", LABELS).read_bytes()
    for cut in range(0, len(whole) - 1, 7):
        (tmp_path / "cut.npy").write_bytes(whole[:cut])
        with pytest.raises(WeaksegError, match=r"cut\.npy"):
            read_label_dict(tmp_path / "cut.npy")
    rng = np.random.default_rng(0)
    for _ in range(300):  # any flipped byte is either harmless or a sentence, never another exception
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "flip.npy").write_bytes(bytes(data))
        with contextlib.suppress(WeaksegError):
            read_label_dict(tmp_path / "flip.npy")
    with pytest.raises(WeaksegError, match="gone"):
        read_label_dict(tmp_path / "gone.npy")
    np.save(tmp_path / "numbers.npy", np.ones(3))
    with pytest.raises(WeaksegError, match="wanted one dict"):
        read_label_dict(tmp_path / "numbers.npy")
