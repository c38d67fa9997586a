"""Networks that a training kept: judged by hand, and the best told apart from the final one."""

import pytest
import torch
from torch import nn

from weakseg.evaluate.checkpoints import Judged, evaluate_checkpoints, judge_masks, judge_scores
from weakseg.pipeline.evaluations import EVALUATIONS
from weakseg.pipeline.look import Look
from weakseg.types import ScoreMap, WeaksegError

TRUTH = torch.tensor([[0, 0, 1, 1, 255]], dtype=torch.uint8)
SCORES = torch.tensor([[[0.12, 0.15, 0.2, 0.9, 0.9]]])


def test_score_maps_are_judged_at_the_best_threshold():
    """Above 0.15 and up to 0.2 all is right; at 0.1 the mIoU is (0 + 2/4) / 2, at 0.25 (2/3 + 1/2) / 2."""
    maps = {"a": ScoreMap(torch.tensor([1], dtype=torch.uint8), SCORES, (1, 5))}
    truth = {"a": TRUTH}

    def judge(*levels):
        return judge_scores(maps.get, truth.get, ["a", "without truth"], 2, torch.tensor(levels), threads=2)

    assert judge(0.1, 0.17, 0.25) == Judged(1.0, 0.17)
    assert judge(0.1, 0.25) == (pytest.approx(7 / 12), 0.25)
    assert judge(0.1) == (pytest.approx(1 / 4), pytest.approx(0.1))
    with pytest.raises(WeaksegError, match="no photograph"):
        judge_scores(maps.get, truth.get, ["without truth"], 2, torch.tensor([0.1]))


def test_label_maps_are_judged_as_they_are():
    pred = {"a": torch.tensor([[0, 0, 0, 1, 1]], dtype=torch.uint8)}
    assert judge_masks(pred.get, {"a": TRUTH}.get, ["a"], 2) == (pytest.approx(7 / 12), None)
    assert judge_masks(pred.get, {"a": TRUTH}.get, ["a"], 3, absent="zero").miou == pytest.approx(7 / 18)


def test_the_best_kept_network_and_the_final_one_are_told_apart():
    """The final one may be better than any kept: the published run would not have had it."""
    scores = {"epoch-1": 0.3, "epoch-2": 0.5, "epoch-10": 0.5, "end": 0.6}
    nets = {name: nn.Identity() for name in scores}
    by_net = {id(net): Judged(scores[name], 0.2) for name, net in nets.items()}
    final = nets.pop("end")
    loads = {name: lambda net=net: net for name, net in nets.items()}
    found = evaluate_checkpoints(lambda net: by_net[id(net)], loads, final)
    assert [row["name"] for row in found["checkpoints"]] == ["epoch-1", "epoch-2", "epoch-10", "final"]
    assert found["best"] == {"name": "epoch-2", "miou": 0.5, "threshold": 0.2}
    assert found["final"] == {"name": "final", "miou": 0.6, "threshold": 0.2}
    assert evaluate_checkpoints(lambda net: by_net[id(net)], {}, final)["best"]["name"] == "final"


def test_the_step_wants_a_network():
    look = Look(view=None, source=None, model=None, lender=None, device=torch.device("cpu"))
    with pytest.raises(WeaksegError, match="wants `model`"):
        EVALUATIONS["checkpoints"].evaluate(look)
