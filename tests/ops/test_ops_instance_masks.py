"""Instances of boxes from label maps, and the mask loss over reliable pixels: by hand and against torchvision."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.detection.roi_heads import maskrcnn_loss

from weakseg.ops.instance_masks import (
    instance_masks,
    mask_agreement,
    mask_targets,
    reliable_mask_loss,
    with_empty_filled,
)


def labels(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


def boxes(*found):
    return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)


def test_a_pixel_belongs_to_the_boxes_of_its_class():
    y = labels([1, 1, 2, 2, 0, 255], [1, 2, 2, 0, 1, 1])
    got = instance_masks(y, boxes([0, 0, 3, 2], [1, 0, 6, 2], [0, 0, 1, 1]), torch.tensor([1, 2, 2]))
    assert got[0].int().tolist() == [[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert got[1].int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]]
    assert not got[2].any()
    assert instance_masks(y, boxes(), torch.zeros(0, dtype=torch.int64)).shape == (0, 2, 6)


def test_shared_pixels_go_to_the_smallest_box_of_the_class():
    y, found = labels([5] * 6), boxes([0, 0, 6, 1], [0, 0, 2, 1], [1, 0, 4, 1], [0, 0, 1, 1])
    got = instance_masks(y, found, torch.tensor([5, 5, 5, 7]), split=True)[:, 0].int().tolist()
    assert got == [[0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0] * 6]
    shared = instance_masks(y, found, torch.tensor([5, 5, 5, 7]))
    assert torch.equal(shared.any(dim=0), torch.tensor([got]).bool().any(dim=1))  # nothing is lost by splitting


def test_an_empty_mask_becomes_its_box_and_is_told():
    masks = torch.zeros(2, 3, 3, dtype=torch.bool)
    masks[1, 1, 1] = True
    filled, empty = with_empty_filled(masks, boxes([0, 0, 2, 1], [0, 0, 3, 3]))
    assert empty.tolist() == [True, False]
    assert filled[0].int().tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert torch.equal(filled[1], masks[1])
    assert masks.sum() == 1  # the input stays


def test_agreement_of_masks():
    one, other = torch.zeros(3, 1, 4, dtype=torch.bool), torch.zeros(3, 1, 4, dtype=torch.bool)
    one[0, 0, :3], other[0, 0, 1:] = True, True
    one[1, 0, 0] = True
    assert mask_agreement(one, other).tolist() == [0.5, 0.0, 0.0]


def test_with_all_pixels_reliable_the_loss_is_torchvisions():
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(3, 20, 30, generator=generator) > 0.4
    proposals = boxes([0, 0, 20, 20], [3.3, 2.1, 25.7, 18.2], [10, 5, 29, 19.5], [1, 1, 9, 9])
    matched, classes = torch.tensor([0, 2, 1, 0]), torch.tensor([1, 3, 2])
    logits = torch.randn(4, 4, 28, 28, generator=generator)
    targets, weights = mask_targets(masks, torch.ones_like(masks), proposals, matched, 28)
    got = reliable_mask_loss(logits[torch.arange(4), classes[matched]], targets, weights)
    want = maskrcnn_loss(logits, [proposals], [masks.float()], [classes], [matched])
    torch.testing.assert_close(got, want)


def test_unreliable_pixels_have_no_say():
    """8 x 8 pixels in 4 x 4 cells: the loss is the mean over the cells of S, whatever the mask says elsewhere."""
    generator = torch.Generator().manual_seed(2)
    masks = torch.rand(1, 8, 8, generator=generator) > 0.5
    reliable = torch.zeros(1, 8, 8, dtype=torch.bool)
    reliable[:, :, :4] = True
    # RoIAlign has pixel centres at whole numbers: these cells of 2 x 2 pixels take their samples there
    proposal, matched = boxes([-0.5, -0.5, 7.5, 7.5]), torch.tensor([0])
    logits = torch.randn(1, 4, 4, generator=generator, requires_grad=True)
    targets, weights = mask_targets(masks, reliable, proposal, matched, 4)
    assert weights[0, :, :2].eq(1).all()
    assert weights[0, :, 2:].eq(0).all()
    loss = reliable_mask_loss(logits, targets, weights)
    by_hand = masks[0, :, :4].float().reshape(4, 2, 2, 2).mean(dim=(1, 3))
    torch.testing.assert_close(targets[0, :, :2], by_hand)
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(logits[0, :, :2], by_hand))
    loss.backward()
    assert logits.grad[0, :, 2:].eq(0).all()
    assert logits.grad[0, :, :2].ne(0).all()
    changed = masks ^ ~reliable  # the opposite of every unreliable pixel
    again, _ = mask_targets(changed, reliable, proposal, matched, 4)
    torch.testing.assert_close(again, targets)


def test_nothing_reliable_is_zero_with_a_gradient():
    logits = torch.randn(2, 3, 3, requires_grad=True)
    loss = reliable_mask_loss(logits, torch.ones(2, 3, 3), torch.zeros(2, 3, 3))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()
    targets, weights = mask_targets(
        torch.zeros(0, 5, 5).bool(), torch.zeros(0, 5, 5).bool(), boxes(), torch.zeros(0), 7
    )
    assert targets.shape == weights.shape == (0, 7, 7)
    assert reliable_mask_loss(logits[:0], targets[:, :3, :3], weights[:, :3, :3]).item() == 0
