"""weakseg: cheap labels (image tags, boxes, saliency maps) in, segmentation models out.

The names below are the public Python API; each verb of the command line calls one of them with the same argument
names. They are imported on first use, so that ``import weakseg`` stays quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MENU = {
    "run": "weakseg.api",
    "label": "weakseg.api",
    "predict": "weakseg.api",
    "evaluate": "weakseg.api",
    "report": "weakseg.api",
    "demo": "weakseg.api",
    "methods": "weakseg.api",
    "doctor": "weakseg.api",
    "data_check": "weakseg.api",
    "data_scenes": "weakseg.api",
    "data_convert": "weakseg.api",
    "load": "weakseg.methods",
    "Sample": "weakseg.types",
    "Batch": "weakseg.types",
    "ScoreMap": "weakseg.types",
    "Instances": "weakseg.types",
    "Backbone": "weakseg.types",
}
__all__ = [*sorted(_MENU), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MENU:
        return getattr(import_module(_MENU[name]), name)
    raise AttributeError(f"module 'weakseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
