"""weakseg: cheap labels (image tags, boxes, saliency maps) in, segmentation models out.

``weakseg.api`` holds the verbs: ``run``, ``label``, ``predict``, ``evaluate``, ``report`` ..., one function for each
verb of the command line, with the same argument names. The record (`Sample`, `ScoreMap` ...) is in ``weakseg.types``,
the papers' equations on plain tensors are in ``weakseg.ops``. Everything is imported on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_TYPES = ("Backbone", "Batch", "Instances", "Sample", "ScoreMap", "WeaksegError")
__all__ = [*_TYPES, "__version__", "api"]


def __getattr__(name: str) -> Any:
    if name == "api":
        return import_module("weakseg.api")
    if name in _TYPES:
        return getattr(import_module("weakseg.types"), name)
    raise AttributeError(f"module 'weakseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
