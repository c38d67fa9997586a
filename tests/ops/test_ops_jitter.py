"""Hue against torchvision's, to the bit."""

import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from weakseg.ops.jitter import adjust_hue


@pytest.mark.parametrize("shift", [0.1, -0.1, 0.0371, -0.02, 0.5, -0.5, 0.0])
def test_every_kind_of_colour(shift):
    levels = torch.tensor([*range(0, 256, 15), 1, 2, 127, 128, 254], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(3, -1, 1).contiguous()
    before = colours.clone()
    assert torch.equal(adjust_hue(colours, shift), TF.adjust_hue(colours, shift))
    assert torch.equal(colours, before)


def test_random_photographs_of_odd_sizes():
    generator = torch.Generator().manual_seed(0)
    for height, width in ((1, 1), (3, 5), (37, 41)):
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        for shift in torch.empty(20).uniform_(-0.5, 0.5, generator=generator).tolist():
            assert torch.equal(adjust_hue(image, shift), TF.adjust_hue(image, shift))


def test_a_view_of_other_memory():
    image = torch.randint(0, 256, (8, 9, 3), dtype=torch.uint8).permute(2, 0, 1)
    assert torch.equal(adjust_hue(image, 0.07), TF.adjust_hue(image, 0.07))


def test_what_is_no_photograph():
    with pytest.raises(ValueError, match="uint8"):
        adjust_hue(torch.zeros(3, 2, 2), 0.1)
    with pytest.raises(ValueError, match="circle"):
        adjust_hue(torch.zeros(3, 2, 2, dtype=torch.uint8), 0.6)
