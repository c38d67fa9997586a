"""Background-aware pooling: Eqs. (1)-(4) against loops in numpy, hand-worked cases, guards and gradients."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from weakseg.ops.bap import (
    align_box,
    attention,
    attention_map,
    background_queries,
    bap_vectors,
    cell_masks,
    grid_cells,
    nearest_box,
    pool_box,
    resample_box,
    weighted_pool,
)
from weakseg.ops.boxes import box_masks, definite_background


def features(d=5, h=6, w=7, seed=0, dtype=torch.float32):
    return torch.randn(d, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("length", "n", "cells"),
    [
        (41, 4, [0] * 11 + [1] * 11 + [2] * 11 + [3] * 8),  # 3 of padding: all at the end
        (6, 4, [0, 1, 1, 2, 2, 3]),  # 2 of padding: one at either end
        (8, 4, [0, 0, 1, 1, 2, 2, 3, 3]),
        (3, 4, [0, 1, 2]),
        (5, 1, [0] * 5),
    ],
)
def test_cells_of_a_padded_side(length, n, cells):
    assert (grid_cells((1, length), n)[0] % n).tolist() == cells
    assert (grid_cells((length, 1), n)[:, 0] // n).tolist() == cells


def test_a_grid_is_numbered_row_by_row_and_covers_everything_once():
    masks = cell_masks(torch.ones(10, 13), 3)
    assert masks.shape == (9, 10, 13)
    torch.testing.assert_close(masks.sum(0), torch.ones(10, 13))
    assert masks[1, 0].nonzero().flatten().tolist() == [4, 5, 6, 7, 8]  # 13 + 2 = 15, one before


def test_queries_are_means_over_the_background_of_a_cell():
    f, m = features(h=6, w=8), torch.zeros(6, 8)
    m[:2, :3], m[5, 7] = 1, 1
    found = background_queries(f, m, n=2)
    expected = [f[:, :2, :3].mean(dim=(1, 2)), f[:, 5, 7]]
    torch.testing.assert_close(found, torch.stack(expected))
    assert background_queries(f, torch.zeros(6, 8), 4).shape == (0, 5)
    torch.testing.assert_close(background_queries(f, torch.ones(6, 8, dtype=torch.bool), 1)[0], f.mean(dim=(1, 2)))


def test_attention_is_the_mean_of_truncated_cosines():
    f = torch.tensor([[[3.0, -1.0, 0.0]], [[4.0, 0.0, 0.0]]])
    q = torch.tensor([[10.0, 0.0], [0.0, 2.0]])
    a = attention(f, q)[0].tolist()
    assert a == pytest.approx([(0.6 + 0.8) / 2, 0.0, 0.0])  # a cosine of -1 counts 0, a zero feature too
    m = torch.tensor([[0, 1, 0]])
    assert attention_map(f, q, m)[0].tolist() == pytest.approx([0.7, 1.0, 0.0])
    assert attention(f, q[:0])[0].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(attention(7 * f, q), attention(f, 0.1 * q))


def test_a_box_is_read_where_its_pixels_lie():
    """With align_corners a feature map of an image of stride s + 1 pixels is read at pixel / s."""
    ramp = torch.stack([torch.arange(5.0).expand(5, 5), torch.arange(5.0)[:, None].expand(5, 5)])
    found = resample_box(ramp, torch.tensor([8.0, 4.0, 28.0, 32.0]), (33, 33), align_corners=True)
    assert found.shape == (2, 4, 3)  # y 0.5..4 -> cells 0..4, x 1..3.5 -> cells 1..4
    torch.testing.assert_close(found[0, 0], torch.tensor([1.0, 2.25, 3.5]))
    torch.testing.assert_close(found[1, :, 0], torch.linspace(0.5, 4, 4))


def test_the_published_reading_is_half_a_cell_wider_on_either_side():
    ramp = 10 + torch.arange(5.0).expand(1, 5, 5)
    box = torch.tensor([0.0, 0.0, 32.0, 32.0])
    meant = resample_box(ramp, box, (33, 33), align_corners=True)[0, 2]
    read = resample_box(ramp, box, (33, 33))[0, 2]
    assert meant.tolist() == pytest.approx([10, 11 + 1 / 3, 12 + 2 / 3, 14])
    # positions -0.5, 1.17, 2.83, 4.5: beyond the edge half of the weight falls on zeros
    assert read.tolist() == pytest.approx([5, 11 + 1 / 6, 12 + 5 / 6, 7])


@pytest.mark.parametrize("box", [[5.0, 6.0, 6.0, 7.0], [16.0, 16.0, 16.0, 16.0], [31.9, 31.9, 32.0, 32.0]])
def test_a_box_of_one_pixel_has_a_cell(box):
    found = resample_box(features(h=5, w=5), torch.tensor(box), (33, 33))
    assert min(found.shape[1:]) >= 1
    assert pool_box(features(h=5, w=5), None, torch.tensor(box), (33, 33)).shape == (4, 5)


def test_roi_align_reads_each_bin_at_its_middle():
    """methods.md 7.7, row 3. Columns 0.5 to 3.5 of cells that lie at 0.5, 1.5 ...: four bins of 0.75."""
    ramp = torch.stack([torch.arange(5.0).expand(5, 5), torch.arange(5.0)[:, None].expand(5, 5)])
    found = align_box(ramp, torch.tensor([4.0, 8.0, 28.0, 32.0]), (40, 40))
    assert found.shape == (2, 3, 4)
    assert found[0, 1].tolist() == pytest.approx([0.375, 1.125, 1.875, 2.625])
    assert found[1, :, 2].tolist() == pytest.approx([1, 2, 3])
    assert align_box(ramp, torch.tensor([16.0, 16.0, 16.0, 16.0]), (40, 40)).shape == (2, 1, 1)


@pytest.mark.parametrize("box", [[7.0, 9.0, 99.0, 64.0], [0.0, 0.0, 321.0, 321.0], [150.0, 3.0, 159.0, 321.0]])
def test_a_box_on_whole_cells_is_its_mask_resized_by_nearest(box):
    """methods.md 7.7, row 5."""
    mask = box_masks(torch.tensor([box]), (321, 321))[0]
    small = interpolate(mask[None, None].float(), (41, 41), mode="nearest")[0, 0].bool()
    left, top, right, bottom = (nearest_box(torch.tensor(box), (41, 41), (321, 321)) * 41 / 321).round().int().tolist()
    expected = torch.zeros(41, 41, dtype=torch.bool)
    expected[top:bottom, left:right] = True
    assert torch.equal(small, expected)


def test_the_papers_box_is_a_mean_over_its_own_cells():
    """Eq. (4) to the letter: RoIAlign of whole cells returns them as they are."""
    f, queries, size = features(h=5, w=5), features(h=1, w=2, seed=1).flatten(1).T, (40, 40)
    found = pool_box(
        f, queries, torch.tensor([7.0, 14.0, 30.0, 40.0]), size, windows=1, sampling="roi_align", nearest=True
    )
    inside = f[:, 2:, 1:4]  # rows 16, 24, 32 and columns 8, 16, 24
    foreground = 1 - attention(f, queries)[2:, 1:4]
    torch.testing.assert_close(found[0], (foreground * inside).sum(dim=(1, 2)) / foreground.sum())
    tiny = pool_box(
        f, None, torch.tensor([17.0, 25.0, 18.0, 26.0]), size, windows=1, sampling="roi_align", nearest=True
    )
    torch.testing.assert_close(tiny[0], f[:, 3, 2])  # no cell of its own: the one around its middle


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 3), (5, 4), (7, 9)])
@pytest.mark.parametrize("windows", [1, 2, 3])
def test_windows_overlap_where_a_side_does_not_divide(a, b, windows):
    f, weight = features(3, a, b).double().numpy(), np.random.default_rng(0).uniform(0.1, 1, (a, b))
    found = weighted_pool(torch.from_numpy(f), torch.from_numpy(weight), windows).numpy()
    f, weight = (np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, max(0, windows - a)), (0, max(0, windows - b))], "edge")
                 for x in (f, weight))  # fmt: skip
    expected = []
    for i in range(windows):
        for j in range(windows):
            (y, ky), (x, kx) = ((k * (n // windows), n - (windows - 1) * (n // windows)) for k, n in
                                ((i, weight.shape[0]), (j, weight.shape[1])))  # fmt: skip
            w = weight[y : y + ky, x : x + kx]
            expected.append((f[:, y : y + ky, x : x + kx] * w).sum((1, 2)) / w.sum())
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-9)


def test_eq_4_and_gap():
    f, queries = features(h=5, w=5), features(h=1, w=2, seed=1).flatten(1).T
    box, size = torch.tensor([8.0, 8.0, 24.0, 24.0]), (33, 33)
    inside = resample_box(f, box, size)
    a = attention(inside, queries)
    expected = ((1 - a) * inside).sum(dim=(1, 2)) / (1 - a).sum()
    torch.testing.assert_close(pool_box(f, queries, box, size, windows=1)[0], expected)
    torch.testing.assert_close(pool_box(f, None, box, size, windows=1)[0], inside.mean(dim=(1, 2)))


def test_a_box_that_is_all_background_pools_to_nothing_instead_of_nan():
    f = torch.ones(3, 5, 5)
    pooled = pool_box(f, torch.ones(1, 3), torch.tensor([8.0, 8.0, 24.0, 24.0]), (33, 33), align_corners=True)
    assert bool(pooled.isfinite().all())


def written_out(f, boxes, valid, n):
    """7.2 in numpy, one position at a time."""
    d, h, w = f.shape
    height, width = valid.shape
    m = np.ones((height, width)) * valid
    for x0, y0, x1, y1 in boxes.round().astype(int):
        m[y0:y1, x0:x1] = 0
    small = np.array([[m[int(i * height / h), int(j * width / w)] for j in range(w)] for i in range(h)])
    cell_h, cell_w = -(-h // n), -(-w // n)
    pad_h, pad_w = cell_h * n - h, cell_w * n - w
    top, left = pad_h // 2 if pad_h % 2 == 0 else 0, pad_w // 2 if pad_w % 2 == 0 else 0
    queries = []
    for ci in range(n):
        for cj in range(n):
            places = [
                (i, j) for i in range(h) for j in range(w) if (i + top) // cell_h == ci and (j + left) // cell_w == cj
            ]
            total = sum(small[p] for p in places)
            if total > 0:
                queries.append(sum(small[p] * f[(slice(None), *p)] for p in places) / total)
    pooled = []
    for x0, y0, x1, y1 in boxes:
        scale_x, scale_y = (w - 1) / (width - 1), (h - 1) / (height - 1)
        count_x = max(1, math.ceil(x1 * scale_x) - math.floor(x0 * scale_x))
        count_y = max(1, math.ceil(y1 * scale_y) - math.floor(y0 * scale_y))
        top_sum, weight_sum = np.zeros(d), 0.0
        for y in np.linspace(y0, y1, count_y):
            for x in np.linspace(x0, x1, count_x):
                gy, gx = y / (height - 1) * h - 0.5, x / (width - 1) * w - 0.5
                v = np.zeros(d)
                for i in (math.floor(gy), math.floor(gy) + 1):
                    for j in (math.floor(gx), math.floor(gx) + 1):
                        if 0 <= i < h and 0 <= j < w:
                            v += (1 - abs(gy - i)) * (1 - abs(gx - j)) * f[:, i, j]
                a = np.mean([max(0, v @ q / np.linalg.norm(v) / np.linalg.norm(q)) for q in queries])
                top_sum, weight_sum = top_sum + (1 - a) * v, weight_sum + 1 - a
        pooled.append(top_sum / weight_sum)
    return np.array(queries), np.array(pooled)


def test_a_crop_equals_the_equations_written_out():
    f = features(4, 6, 5, dtype=torch.float64)
    boxes = torch.tensor([[4.0, 6.0, 20.0, 30.0], [15.0, 2.0, 33.0, 16.0]], dtype=torch.float64)
    valid = torch.ones(41, 33, dtype=torch.bool)
    valid[:, 30:] = False
    q, r = bap_vectors(f, boxes, valid, n=3, windows=1)
    expected_q, expected_r = written_out(f.numpy(), boxes.numpy(), valid.numpy(), 3)
    np.testing.assert_allclose(q.numpy(), expected_q, atol=1e-9)
    np.testing.assert_allclose(r.numpy(), expected_r, atol=1e-6)


def test_little_background_means_global_averages():
    f, size = features(), (24, 28)
    valid = torch.ones(size, dtype=torch.bool)
    box = torch.tensor([[0.0, 3.0, 28.0, 24.0]])  # an eighth is left
    share = float(definite_background(box, size).float().mean())
    assert share == 0.125
    plain = pool_box(f, None, box[0], size)
    q, r = bap_vectors(f, box, valid)
    assert len(q) > 0  # they still teach the classifier what background is
    torch.testing.assert_close(r, plain)
    assert not torch.allclose(bap_vectors(f, box, valid, min_background=0.12)[1], plain)
    everything = torch.tensor([[0.0, 0.0, 28.0, 24.0]])
    q, r = bap_vectors(f, everything, valid, min_background=0.0)
    assert q.shape == (0, 5)
    torch.testing.assert_close(r, pool_box(f, None, everything[0], size))


def test_no_box_and_no_padding_among_the_background():
    f, valid = features(), torch.zeros(24, 28, dtype=torch.bool)
    valid[:12, :14] = True
    q, r = bap_vectors(f, torch.zeros(0, 4), valid, n=1)
    assert r.shape == (0, 5)
    mask = interpolate(valid[None, None].float(), (6, 7), mode="nearest")[0, 0].bool()
    torch.testing.assert_close(q[0], f[:, mask].mean(dim=1))


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_agrees_with_finite_differences(detach):
    f = (1 + features(2, 3, 4, dtype=torch.float64)).requires_grad_()
    boxes, valid = torch.tensor([[3.0, 5.0, 14.0, 20.0]], dtype=torch.float64), torch.ones(25, 25, dtype=torch.bool)

    def pooled(x):
        return torch.cat(bap_vectors(x, boxes, valid, n=2, windows=1, detach=detach))

    if not detach:
        assert torch.autograd.gradcheck(pooled, (f,), atol=1e-5, fast_mode=True)
    else:
        full = torch.autograd.grad(torch.cat(bap_vectors(f, boxes, valid, n=2, windows=1)).sum(), f)[0]
        constant = torch.autograd.grad(pooled(f).sum(), f)[0]
        assert not torch.allclose(full, constant)
