"""A photograph and a batch whose tags can be seen in it; and the check that threads may share a network."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn.functional import interpolate
from torchvision import tv_tensors

from weakseg.types import Batch, Sample


def sample(tags=(False, True, True), size=(50, 70), seed=0) -> Sample:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 5, 7), generator=g).float()
    image = interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)[0]
    return Sample("a", tv_tensors.Image(image), torch.tensor(tags))


def batch(count=4, classes=3, size=64, seed=0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    tags = torch.eye(classes)[torch.arange(count) % classes]
    images = torch.randn(count, 3, size, size, generator=g) * 0.3 + tags[:, :3, None, None]
    return Batch(tuple(map(str, range(count))), images, tags, torch.ones(count, 1, size, size, dtype=torch.bool))


def assert_threads_may_share(method, model, photos, monkeypatch):
    """Maps of several photographs at once are those of one after another, and nothing is written into the modules."""

    def refuse(*arguments):
        raise AssertionError(f"scoring writes into the network: {arguments[1:]}")

    def score(photo):
        with torch.inference_mode():
            return method.score(model, photo)["full"].scores

    alone = [score(photo) for photo in photos]
    with monkeypatch.context() as patched, ThreadPoolExecutor(4) as pool:
        patched.setattr(torch.nn.Module, "__setattr__", refuse)
        patched.setattr(torch.nn.Module, "register_forward_hook", refuse)
        for one, other in zip(alone, pool.map(score, photos), strict=True):
            torch.testing.assert_close(one, other)
