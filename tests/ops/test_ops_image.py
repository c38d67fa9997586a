"""Resizing against Pillow itself, normalising against torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from weakseg.ops.image import normalise, resize_image, resize_labels, resize_saliency

PIL_MODE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SIDE = st.integers(1, 70)


def noise(*shape, seed=0, high=256):
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pillow(image, size, mode):
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size[::-1], PIL_MODE[mode])
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(480, 640), (192, 256), (300, 400), (374, 499), (376, 501), (375, 500), (8, 11)])
def test_a_photograph_is_resized_as_by_pillow(size, mode):
    image = noise(3, 375, 500)
    assert torch.equal(resize_image(image, size, mode), pillow(image, size, mode))


@settings(deadline=None, max_examples=60)
@given(h=SIDE, w=SIDE, height=SIDE, width=SIDE, mode=st.sampled_from(["bicubic", "bilinear"]), seed=st.integers(0, 99))
def test_any_size_equals_pillow_rows_first(h, w, height, width, mode, seed):
    image = noise(3, h, w, seed=seed)
    want = pillow(pillow(image, (h, width), mode), (height, width), mode)  # one axis each: no Pillow differs on those
    assert torch.equal(resize_image(image, (height, width), mode), want)


@settings(deadline=None, max_examples=150)
@given(h=SIDE, w=SIDE, height=st.integers(1, 150), width=st.integers(1, 150))
def test_labels_are_resized_as_by_pillows_nearest(h, w, height, width):
    labels = noise(h, w)
    want = np.array(Image.fromarray(labels.numpy()).resize((width, height), Image.Resampling.NEAREST))
    assert torch.equal(resize_labels(labels, (height, width)), torch.from_numpy(want))


def test_labels_at_the_sizes_of_photographs():
    for n in range(300, 520, 7):
        for m in range(100, 700, 13):
            line = torch.arange(n, dtype=torch.int32)[None]
            want = np.array(Image.fromarray(line.numpy()).resize((m, 1), Image.Resampling.NEAREST))
            assert torch.equal(resize_labels(line, (1, m)), torch.from_numpy(want)), (n, m)


def test_saliency_is_resized_on_256_levels_and_stays_in_range():
    levels = noise(1, 40, 60, high=2) * 255  # hard edges make bicubic overshoot
    want = Image.fromarray(levels[0].numpy()).resize((90, 60), Image.Resampling.BICUBIC)
    got = resize_saliency(levels.float() / 255, (60, 90))
    assert got.dtype == torch.float32
    assert torch.equal((got * 255).round().to(torch.uint8)[0], torch.from_numpy(np.array(want)))
    assert got.min() == 0
    assert got.max() == 1


def test_leading_axes_are_images_of_their_own():
    images = noise(2, 4, 3, 20, 30)
    got = resize_image(images, (33, 17))
    assert got.shape == (2, 4, 3, 33, 17)
    assert torch.equal(got[1, 2], resize_image(images[1, 2], (33, 17)))


def test_non_contiguous_images_and_untouched_inputs():
    image = noise(20, 30, 3).permute(2, 0, 1)
    before = image.clone()
    assert torch.equal(resize_image(image, (40, 60)), resize_image(image.contiguous(), (40, 60)))
    same = resize_image(image, (20, 30))
    same.zero_()
    assert torch.equal(image, before)


def test_what_cannot_be_resized_is_told():
    with pytest.raises(ValueError, match="before normalising"):
        resize_image(torch.zeros(3, 4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        resize_image(noise(3, 4, 4), (0, 2))
    with pytest.raises(ValueError, match="cannot resize"):
        resize_labels(noise(4, 0), (2, 2))


def test_normalise_equals_torchvision_for_every_kind_of_input():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = noise(2, 3, 9, 7)
    want = tvf.normalize(tvf.to_dtype(image, torch.float32, scale=True), list(mean), list(std))
    torch.testing.assert_close(normalise(image, mean, std), want)
    floats = image.double()
    torch.testing.assert_close(normalise(floats, mean, std), want)
    assert torch.equal(floats, image.double())
