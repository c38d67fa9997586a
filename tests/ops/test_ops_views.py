"""The views of a photograph against Pillow, and draws that depend on the photograph alone."""

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from weakseg.ops.views import generator_of, scaled_views


def photograph(size=(25, 38)) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, *size), generator=g, dtype=torch.uint8)


def test_views_are_pillows_bicubic_normalised_afterwards_and_mirrored():
    image, scales = photograph(), (1.0, 0.5, 1.5)
    views = list(scaled_views(tv_tensors.Image(image), scales, lambda x: x.float() / 255 - 0.5))
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    for scale, view in zip(scales, views, strict=True):
        wanted = pil.resize((round(38 * scale), round(25 * scale)), Image.Resampling.BICUBIC)  # 12.5 rounds to 12
        wanted = torch.from_numpy(np.array(wanted)).permute(2, 0, 1).float() / 255 - 0.5
        assert type(view) is torch.Tensor
        assert float((view[0] - wanted).abs().max()) <= 1.01 / 255
        assert torch.equal(view[1], view[0].flip(-1))
    assert [tuple(v.shape[2:]) for v in views] == [(25, 38), (12, 19), (38, 57)]


def test_without_mirror_image_and_one_at_a_time():
    seen = []

    def normalise(x):
        seen.append(tuple(x.shape))
        return x.float()

    views = scaled_views(photograph(), (2.0, 1.0), normalise, flip=False)
    assert next(views).shape == (1, 3, 50, 76)
    assert seen == [(3, 50, 76)]  # the next scale is not made before it is asked for
    assert torch.equal(next(views)[0], photograph().float())


def test_draws_depend_on_the_id_alone():
    def draw(id):
        return torch.rand(4, generator=generator_of(id))

    torch.manual_seed(1)
    one = draw("2007_000032")
    torch.manual_seed(2)
    assert torch.equal(draw("2007_000032"), one)
    assert not torch.equal(draw("2007_000033"), one)
