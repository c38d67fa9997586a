"""Stages of backbones and changes to their outputs: by name, by thread, and gone afterwards."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from weakseg.models.backbones import build_backbone
from weakseg.models.stages import changes, make_changeable, stage_modules
from weakseg.types import Backbone, WeaksegError


def net():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    make_changeable(model[0], "first")
    make_changeable(model[1], "second")
    return model


def test_a_change_lasts_as_long_as_its_block():
    model, x = net(), torch.tensor([1.0])
    with changes({"second": lambda x: 10 * x}):
        assert model(x).tolist() == [10.0]
        with changes({"first": lambda x: x + 1}):  # the inner block's alone
            assert model(x).tolist() == [2.0]
        assert model(x).tolist() == [10.0]
    assert model(x).tolist() == [1.0]
    with pytest.raises(RuntimeError), changes({"first": lambda x: x + 1}):
        raise RuntimeError
    assert model(x).tolist() == [1.0]


def test_threads_have_changes_of_their_own():
    model = net()

    def work(k):
        with changes({"first": lambda x: x + k}):
            return [float(model(torch.zeros(1))) for _ in range(50)]

    with ThreadPoolExecutor(8) as pool:
        for k, found in enumerate(pool.map(work, range(64))):
            assert found == [float(k)] * 50
    with changes({"first": lambda x: x + 1}), ThreadPoolExecutor(1) as pool:
        assert float(pool.submit(model, torch.zeros(1)).result()) == 0.0  # another thread hears nothing of it


def test_gradients_flow_through_a_change():
    model, x = net(), torch.ones(2, requires_grad=True)
    with changes({"first": lambda x: 3 * x, "second": lambda x: x * x}):
        loss = model(x).sum()
    loss.backward()
    assert x.grad.tolist() == [18.0, 18.0]


def test_a_copy_can_be_changed_too():
    model, x = net(), torch.ones(1)
    twin = copy.deepcopy(model)
    with changes({"first": lambda x: x + 1}):
        assert float(twin(x)) == float(model(x)) == 2.0


@pytest.mark.parametrize("name", ["irn_resnet50", "resnet10t", "mobilenetv2_100"])
def test_the_module_of_each_stage_makes_its_map(name):
    backbone = build_backbone(Backbone(name, None)).eval()
    stages = stage_modules(backbone)
    made = {}
    hooks = [m.register_forward_hook(lambda m, _, out: made.update({m: out})) for m in stages]
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert len(stages) == len(maps) == len(backbone.channels)
    assert all(made[stage] is feature for stage, feature in zip(stages, maps, strict=True))


def test_a_map_that_no_module_returns_is_told():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return [self.conv(x) + 1]

    backbone = build_backbone(Backbone("resnet10t", None))
    backbone.net = Loose()
    with pytest.raises(WeaksegError, match="feature map 0"):
        stage_modules(backbone)
