"""Random crops against the loops that methods.md 1.6 and 10 describe."""

from collections import Counter

import pytest
import torch

from weakseg.ops.crops import pad_crop, padded_crop

SIZE, DRAWS = 4, 2000


def every_padded(image):
    """All equally likely crops of methods.md 1.6, pixel by pixel."""
    height, width = image.shape
    for slack_y in range(abs(height - SIZE) + 1):
        for slack_x in range(abs(width - SIZE) + 1):
            out = torch.zeros(SIZE, SIZE)
            for y in range(SIZE):
                for x in range(SIZE):
                    v = y + slack_y if height > SIZE else y - slack_y
                    u = x + slack_x if width > SIZE else x - slack_x
                    if 0 <= v < height and 0 <= u < width:
                        out[y, x] = image[v, u]
            yield out


def every_pad(image):
    """All equally likely crops of the image padded at the right and at the bottom."""
    height, width = image.shape
    padded = torch.zeros(max(height, SIZE), max(width, SIZE))
    padded[:height, :width] = image
    for top in range(padded.shape[0] - SIZE + 1):
        for left in range(padded.shape[1] - SIZE + 1):
            yield padded[top : top + SIZE, left : left + SIZE]


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (7, 2), (5, 5), (1, 1)])
@pytest.mark.parametrize(("crop", "every"), [(padded_crop, every_padded), (pad_crop, every_pad)])
def test_every_crop_is_equally_likely(crop, every, shape):
    image = torch.arange(1.0, shape[0] * shape[1] + 1).reshape(shape)
    wanted = [tuple(c.flatten().tolist()) for c in every(image)]
    generator = torch.Generator().manual_seed(0)
    seen = Counter(tuple(crop(image, SIZE, generator).flatten().tolist()) for _ in range(DRAWS))
    assert set(seen) == set(wanted)
    share = DRAWS / len(wanted)
    assert all(abs(count - share) < 5 * share**0.5 for count in seen.values())


@pytest.mark.parametrize("crop", [padded_crop, pad_crop])
def test_planes_move_together_and_keep_their_type(crop):
    labels = torch.randint(1, 20, (2, 3, 9), dtype=torch.uint8)
    both = crop(labels, SIZE, torch.Generator().manual_seed(5), fill=255)
    assert both.dtype == torch.uint8
    one = crop(labels[1], SIZE, torch.Generator().manual_seed(5), fill=255)
    assert torch.equal(both[1], one)
    assert int((one == 255).sum()) == SIZE  # the row that the photograph lacks
