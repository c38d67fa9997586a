"""weakseg: cheap labels (image tags, boxes, saliency maps) in, segmentation models out.

``weakseg.api`` holds the verbs: ``run``, ``label``, ``predict``, ``evaluate``, ``report`` ..., one function for each
verb of the command line, with the same argument names. The record (`Sample`, `ScoreMap` ...) is in ``weakseg.types``,
the papers' equations on plain tensors are in ``weakseg.ops``. Everything is imported on first use.
"""

import os
from importlib import import_module
from typing import Any

# Before torch is loaded: OpenMP threads that spin while they wait stop each other on a machine whose cores are all in
# use. With two loader workers on two cores a training step took 12 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
