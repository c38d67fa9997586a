"""Small segmentation networks with random weights that say something, for the tests of export."""

import torch

from weakseg import methods
from weakseg.models.backbones import batch_norms
from weakseg.pipeline.networks import About, Network
from weakseg.pipeline.recipe import configure
from weakseg.types import Backbone

SMALL = Backbone("resnet10t", None, 16, create={"channels": [8, 16, 16, 32]})
CLASSES = ("cat", "dög", "cow")


def images(*shape):
    """uint8 (B, 3, H, W): coarse colours under noise."""
    draw = torch.Generator().manual_seed(sum(shape))
    coarse = torch.rand(shape[0], 3, 5, 5, generator=draw) * 200
    smooth = torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")
    return (smooth + torch.rand(shape, generator=draw) * 55).to(torch.uint8)


def network(name, backbone, settings, seed=0):
    """A `Network` of method `name` whose classes differ from pixel to pixel."""
    method = configure(methods.load(name), {"freeze_bn": False, "freeze_affine": False, **settings}, name)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = method.build(len(CLASSES), backbone).eval()
        for norm in batch_norms(model):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
        _sharpen(model)
    about = About(name, backbone, CLASSES, "tiny", "segment", seed, f"fingerprint-{seed}", "ab" * 32, {"torch": "1"})
    return Network(about, method, model)


@torch.no_grad()
def _sharpen(model):
    """Larger weights in the head: its own say the same of every pixel, and rounding would decide."""
    for parameter in model.new_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
