"""Where an exported network may go."""

from pathlib import Path

from weakseg.types import WeaksegError


def place_of(out: str | Path, suffix: str, run: Path) -> Path:
    """`out` as a path, if a network may be written there.

    Args:
        out: the file that is wanted.
        suffix: what its name must end in, such as ``.onnx``.
        run: folder of the run, whose own weights are not to be replaced.

    Raises:
        WeaksegError: another suffix, a folder, or a place among the run's steps.

    >>> place_of("net.onnx", ".onnx", Path("runs/a")).name
    'net.onnx'
    """
    path = Path(out)
    if path.suffix != suffix or path.is_dir():
        raise WeaksegError(f"{path} is no name of a {suffix} file: give one such as --out net{suffix}")
    inside = [folder.name for folder in path.resolve().parents if folder.parent == run.resolve()]
    if inside and inside[0].startswith("seed-"):
        raise WeaksegError(f"{path} lies among the run's own files, which stay as they are: choose another --out")
    return path
