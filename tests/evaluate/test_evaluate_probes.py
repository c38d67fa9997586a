"""Probes of a network's label conditioning: each is the sweep of the maps that the method itself makes."""

from dataclasses import replace

import pytest
import torch
from torchvision import tv_tensors

from weakseg.evaluate.probes import KEPT, evaluate_probes
from weakseg.evaluate.sweep import evaluate_scores
from weakseg.methods.amn import METHODS
from weakseg.pipeline.evaluations import EVALUATIONS
from weakseg.pipeline.look import Look
from weakseg.types import Backbone, Sample, WeaksegError

AMN = replace(METHODS["amn"], freeze_bn=False, freeze_stem=False, rates=(1, 2), scales=(1.0,))
CLASSES = ("cat", "dog", "cow")


@pytest.fixture(scope="module")
def world():
    """A network, four photographs with tags and refined seeds, three of them with truth."""
    torch.manual_seed(0)
    model = AMN.build(3, Backbone("resnet10t", None, create={"channels": [16, 16, 24, 32]})).eval()
    g, samples, truths = torch.Generator().manual_seed(1), {}, {}
    for k in range(4):
        image = torch.randint(0, 256, (3, 40, 48), generator=g, dtype=torch.uint8)
        truth = torch.zeros(40, 48, dtype=torch.uint8)
        truth[10:30, 10:30] = k % 3 + 1
        tags = torch.tensor([j == k % 3 or j == 2 for j in range(3)])
        seeds = {"refined": tv_tensors.Mask(truth.roll(4, 1))}
        samples[f"p{k}"] = Sample(f"p{k}", tv_tensors.Image(image), tags, seeds=seeds)
        truths[f"p{k}"] = truth if k else None
    return model, samples, truths


def test_each_probe_is_the_sweep_of_the_methods_own_maps(world):
    model, samples, truths = world
    found = evaluate_probes(
        AMN, model, samples.get, truths.get, list(samples), CLASSES, thresholds=16, fixed=0.3, threads=2
    )
    assert list(found["probes"]) == ["label", "ones", "noise", "zeros"]
    assert (found["images"], found["without_truth"], found["classes"][0]) == (3, 1, "background")
    for probe, told in found["probes"].items():
        with torch.inference_mode():
            maps = {id: replace(AMN, probe=probe).score(model, s)["full"] for id, s in samples.items()}
        wanted = evaluate_scores(maps.get, truths.get, list(samples), CLASSES, thresholds=16, fixed=0.3)
        assert told == {key: wanted[key] for key in KEPT}
    areas = [told["area"] for told in found["probes"].values()]
    assert len(set(areas)) == 4  # what is fed matters


def test_the_step_wants_a_fitted_amn():
    look = Look(view=None, source=None, model=None, lender=None, device=torch.device("cpu"))
    with pytest.raises(WeaksegError, match="a step of amn"):
        EVALUATIONS["probes"].evaluate(look)
    with pytest.raises(WeaksegError, match="a step of eps"):
        EVALUATIONS["selection"].evaluate(look)
