"""Score maps of boxes and the two label maps: Eqs. (5)-(9) by hand and against upsampled features, and the guards."""

import pytest
import torch
from torch.nn.functional import interpolate, normalize

from weakseg.ops.box_labels import (
    box_unary,
    correlation_maps,
    cosines,
    crf_labels,
    labels_in_boxes,
    prototypes,
    retrieved_labels,
)
from weakseg.ops.box_maps import (
    activations,
    background_activation,
    background_map,
    box_activation,
    photograph_attention,
)
from weakseg.ops.boxes import box_masks, class_masks, definite_background
from weakseg.ops.crf import recipe


def features(d=6, h=5, w=7, seed=0):
    return torch.randn(d, h, w, generator=torch.Generator().manual_seed(seed))


def big(f, size):
    return interpolate(f[None], size, mode="bilinear", align_corners=True)[0]


BOXES = torch.tensor([[3.0, 2.0, 15.0, 12.0], [10.0, 6.0, 24.0, 18.0]])
SIZE = (20, 28)


def test_attention_of_a_photograph_is_that_of_its_upsampled_features():
    f, m = features(), definite_background(BOXES, SIZE)
    up = big(f, SIZE)
    q = up[:, m].mean(dim=1)
    expected = torch.einsum("dhw,d->hw", normalize(up, dim=0), normalize(q, dim=0)).relu()
    torch.testing.assert_close(photograph_attention(f, m), expected, atol=1e-5, rtol=1e-5)
    corner = torch.zeros(SIZE, dtype=torch.bool)
    corner[:10, :14] = True  # of a 2 x 2 grid one cell alone is valid
    q = up[:, corner].mean(dim=1)
    expected = torch.einsum("dhw,d->hw", normalize(up, dim=0), normalize(q, dim=0)).relu()
    torch.testing.assert_close(photograph_attention(f, corner, n=2), expected, atol=1e-5, rtol=1e-5)


def test_without_definite_background_there_is_no_attention():
    none = torch.zeros(SIZE, dtype=torch.bool)
    for first in (True, False):
        assert float(photograph_attention(features(), none, upsample_first=first).abs().max()) == 0
    assert float(background_map(torch.rand(SIZE), none).max()) == 0


def test_activations_are_relus_of_upsampled_features():
    f, w = features(), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.einsum("dhw,kd->khw", big(f, SIZE), w).relu()
    torch.testing.assert_close(activations(f, w, SIZE), expected, atol=1e-5, rtol=1e-5)
    coarse = big(torch.einsum("dhw,kd->khw", f, w).relu(), SIZE)
    torch.testing.assert_close(activations(f, w, SIZE, upsample_first=False), coarse)
    assert (activations(f, w, SIZE) <= coarse + 1e-5).all()  # ReLU is convex
    assert activations(f, w[:0], SIZE).shape == (0, *SIZE)


def test_the_background_map_is_thresholded_relative_to_the_photographs_maximum():
    a = torch.tensor([[0.80, 0.795, 0.70, 0.10]])
    m = torch.tensor([[True, False, False, False]])
    assert background_map(a, m)[0].tolist() == pytest.approx([1, 0.795, 0, 0])  # 0.99 x 0.80 = 0.792
    assert background_map(a, m, relative=False)[0].tolist() == [1, 0, 0, 0]  # 0.99 itself
    assert background_map(a, m, threshold=0)[0].tolist() == pytest.approx([1, 0.795, 0.70, 0.10])
    assert background_activation(2 * a, m)[0].tolist() == pytest.approx([1, 0.99375, 0.875, 0.125])


def test_activations_are_normalised_in_each_box_or_over_the_class():
    cams = torch.tensor([[[4.0, 2.0, 0.0, 8.0, 1.0]]]).repeat(2, 1, 1)
    inside = torch.tensor([[[1, 1, 1, 0, 0]], [[0, 0, 0, 1, 1]]]).bool()
    own = box_activation(cams, inside)
    assert own[0, 0].tolist() == pytest.approx([1, 0.5, 0, 0, 0])
    assert own[1, 0].tolist() == pytest.approx([0, 0, 0, 1, 0.125])
    both = inside.any(0, keepdim=True).expand(2, -1, -1)
    assert box_activation(cams, inside, both)[0, 0].tolist() == pytest.approx([0.5, 0.25, 0, 0, 0])
    assert float(box_activation(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)).max()) == 0


def test_two_classes_span_what_the_softmax_leaves():
    maps, m = torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(0)), torch.zeros(30, 30, dtype=torch.bool)
    m[:5] = True
    p = box_unary(maps, m)
    assert float(p[:, 5:].min()) > 0.268
    assert float(p[:, 5:].max()) < 0.732
    assert (p[0, :5] == 1).all()
    assert (p[1, :5] == 0).all()
    torch.testing.assert_close(p.sum(0), torch.ones(30, 30))
    assert torch.equal(box_unary(maps, m, softmax=False)[:, 5:], maps[:, 5:])


def test_y_crf_stays_in_the_boxes_of_its_class():
    ids = torch.tensor([0, 3, 8], dtype=torch.uint8)
    p = torch.tensor([[0.2, 0.2, 0.2], [0.5, 0.5, 0.1], [0.3, 0.3, 0.7]])[:, None]
    possible = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()[:, None]
    assert labels_in_boxes(p, possible, ids).tolist() == [[3, 8, 0]]
    everywhere = torch.ones_like(possible)
    sure = torch.tensor([[0.9, 0.9, 0.9], [0.08, 0.02, 0.08], [0.02, 0.08, 0.02]])[:, None]
    assert labels_in_boxes(sure, everywhere, ids).tolist() == [[0, 0, 0]]
    assert labels_in_boxes(sure, everywhere, ids, told=False).tolist() == [[3, 8, 3]]


def test_without_definite_background_boxes_are_filled_or_as_published_lost():
    """methods.md 7.7, row 16: a query of nothing is 0 / 0, and an argmax over nan says background."""
    size, box, ids = (8, 8), torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0, 5], dtype=torch.uint8)
    image, u = torch.zeros(3, *size, dtype=torch.uint8), torch.rand(1, *size)
    nothing = torch.cat([torch.zeros(1, *size), u])
    args = image, nothing, box, torch.tensor([5]), ids, recipe("bana_stage2")
    assert crf_labels(*args).unique().tolist() == [5]
    assert crf_labels(*args, guard=False).unique().tolist() == [0]
    assert int(torch.stack([torch.full(size, torch.nan)] * 2).argmax(dim=0).max()) == 0
    told = torch.cat([torch.ones(1, *size), 0.1 * u])  # the activation of class 0, "w/o u_0"
    for guard in (True, False):  # it needs no query, so that it decides
        assert crf_labels(image, told, *args[2:], guard=guard).unique().tolist() == [0]


def test_prototypes_are_means_of_upsampled_features_or_the_weights():
    f, weights = features(), torch.arange(18.0).reshape(3, 6)
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[3:9, 4:20] = 5
    found = prototypes(f, labels, torch.tensor([0, 5, 6], dtype=torch.uint8), weights)
    torch.testing.assert_close(found[1], big(f, SIZE)[:, labels == 5].mean(dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0], big(f, SIZE)[:, labels == 0].mean(dim=1), atol=1e-5, rtol=1e-5)
    assert torch.equal(found[2], weights[2])


@pytest.mark.parametrize("restrict", [True, False])
def test_retrieval_is_an_argmax_of_cosines(restrict):
    f, labels, ids = features(), torch.tensor([2, 9]), torch.tensor([0, 2, 9], dtype=torch.uint8)
    queries = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    c = torch.einsum("dhw,nd->nhw", normalize(big(f, SIZE), dim=0), normalize(queries, dim=1))
    if restrict:
        c = c.relu()
        inside = box_masks(BOXES, SIZE)
        c[1:][~inside] = 0
        c[0][~inside.any(0)] = 1
    maps = correlation_maps(f, queries, ids, BOXES, labels, SIZE, restrict=restrict)
    torch.testing.assert_close(maps, c, atol=1e-5, rtol=1e-5)
    expected = ids[c.argmax(0)]
    found = retrieved_labels(f, queries, ids, BOXES, labels, SIZE, restrict=restrict)
    assert (found == expected).float().mean() > 0.998  # ties of rounding apart
    if restrict:
        possible = class_masks(BOXES, labels, ids, SIZE)
        assert not bool((found == 2)[~possible[1]].any())
        assert not bool((found == 9)[~possible[2]].any())


def test_cosines_have_no_length():
    f, w = features()[None], torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    found = cosines(f, w)
    expected = torch.nn.functional.cosine_similarity(f[:, None], w[None, :, :, None, None], dim=2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(cosines(3 * f, 0.1 * w), found)
