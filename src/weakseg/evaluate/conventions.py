"""What every number says beside itself: how the open questions of counting were answered (methods.md 1.5)."""

import math
from collections.abc import Mapping

from torch import Tensor

from weakseg.ops.metrics import TOOL_RULES, AbsentClass, IgnoredPrediction

IGNORED_PREDICTION: Mapping[IgnoredPrediction, str] = {
    "miss": "a miss for the true class, a false positive of none",
    "drop": "the pixel is left out",
    "background": "counts as predicted background",
    "class": "a miss for the true class; 255 itself is one class more in the mean, with IoU 0",
}
ABSENT: Mapping[AbsentClass, str] = {
    "irn": "skipped if absent from truth and prediction, IoU 0 if only predicted",
    "zero": "IoU 0",
    "skip_truthless": "skipped if absent from the truth, even if predicted",
}

CONVENTIONS: Mapping[str, str] = {
    "mIoU": "mean over classes, background included, of TP / (TP + FP + FN) from one confusion matrix over all pixels "
    "of the list",
    "true 255": "not counted",
    "predicted 255": IGNORED_PREDICTION["miss"],
    "class without pixels": ABSENT["irn"],
    "background threshold": "a constant channel before the score maps, argmax, background wins ties. The fixed "
    "threshold is the recipe's; the best one of the sweep was chosen on the truth and is an upper bound",
    "spread": "sample standard deviation over seeds",
}
"""The defaults; an evaluation that departs from them says so in its own `conventions`."""


def conventions(ignored_prediction: IgnoredPrediction = "miss", absent: AbsentClass = "irn") -> dict[str, str]:
    """The two switches in words, and the tools whose published numbers follow the same pair.

    >>> conventions("drop")["as in"]
    'EPS'
    """
    tools = [name for name, rule in TOOL_RULES.items() if rule == (ignored_prediction, absent)]
    return {
        "predicted 255": f"{ignored_prediction}: {IGNORED_PREDICTION[ignored_prediction]}",
        "class without pixels": f"{absent}: {ABSENT[absent]}",
        "true 255": CONVENTIONS["true 255"],
        "as in": ", ".join(tools) or "no tool we know",
    }


def plain(values: Tensor) -> list[float | None]:
    """A row of numbers for JSON, which has no nan: None where a class is skipped."""
    return [None if math.isnan(v) else v for v in values.tolist()]


def names(classes: tuple[str, ...] | list[str]) -> list[str]:
    """Foreground names with background before them: entry k names class id k."""
    return ["background", *classes]
