"""A tiny method, network and data set for the tests of the loop; as a script, one training run in its own process."""

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import tv_tensors

from weakseg.data.view import View
from weakseg.types import Augmentation, Batch, Flip, Normalise, Optimisation, Sample, WeaksegError


def normalise(image, scale):
    return image.float() / scale - 0.5


class ToyData:
    """Photographs made from their ids: 3 classes, each the brightest channel of the image."""

    classes = ("red", "green", "blue")

    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    def sample(self, id, *, truth=False, need_tags=True, saliency=True):
        if id == self.broken:
            raise WeaksegError(f"{id}: the photograph is truncated")
        number = int(id.removeprefix("p"))
        generator = torch.Generator().manual_seed(number)
        image = torch.randint(0, 200, (3, 12, 12), generator=generator, dtype=torch.uint8)
        image[number % 3] += 55
        tags = torch.arange(3) == number % 3
        return Sample(id, tv_tensors.Image(image), tags)


def view(count=10, broken=""):
    return View(dataset=ToyData(broken), ids=tuple(f"p{k}" for k in range(count)))


class ToyNet(nn.Module):
    def __init__(self, dropout=0.0, norm=False):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, 3, 1)
        self.unused = nn.Parameter(torch.ones(2))
        self.normalise = partial(normalise, scale=255.0)
        self.dtypes = set()

    def new_parameters(self):
        return list(self.head.parameters())

    def forward(self, images):
        features = self.dropout(F.relu(self.norm(self.body(images))))
        logits = self.head(features)
        self.dtypes.add(logits.dtype)
        return logits.mean((2, 3))


def network(**options):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return ToyNet(**options)


@dataclass(frozen=True)
class Toy:
    """Tags from the mean of a map. The environment can kill it (TOY_KILL_AT) or spoil a loss (TOY_NAN_AT)."""

    needs: ClassVar[frozenset[str]] = frozenset({"tags"})
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(epochs=3, batch_size=4, lr=0.1))
    augmentation: Augmentation = field(default_factory=lambda: Augmentation((Flip(), Normalise())))

    def build(self, num_classes, backbone):
        return network()

    def objective(self, model, batch: Batch, step):
        if step.index == int(os.environ.get("TOY_KILL_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        logits = model(batch.images)
        cls = F.binary_cross_entropy_with_logits(logits, batch.tags)
        if step.index == int(os.environ.get("TOY_NAN_AT", -1)):
            cls = cls * float("nan")
        return {"cls": cls, "size": 1e-3 * logits.square().mean()}


def main(out, text):
    from weakseg.train import fit

    options = json.loads(text)
    model = network(**options.pop("network", {}))
    optimisation = Optimisation(**options.pop("optimisation", {}))
    count = options.pop("count", 10)
    fit(Toy(optimisation=optimisation), model, view(count), Path(out), device="cpu", progress=False, **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
