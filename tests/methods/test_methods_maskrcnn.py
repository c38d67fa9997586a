"""Mask R-CNN on pseudo instances: what each box's mask and reliable pixels are, losses, gradients, predictions."""

from dataclasses import replace

import pytest
import torch
from torchvision import tv_tensors

from weakseg.methods.maskrcnn import METHODS
from weakseg.models.maskrcnn import paste_masks
from weakseg.types import Backbone, Batch, Instances, Sample, Step, WeaksegError, deciding_constants

BACKBONE = Backbone("resnet10t", weights=None, output_stride=32, create={"channels": [8, 16, 16, 16]})
TINY = replace(
    METHODS["mobile"], channels=16, hidden=32, anchor=4.0, samples=32, proposals=50, train_long=(64, 64), long_side=64,
    freeze_bn=False, freeze_affine=False, freeze_stem=False, score_threshold=0.0, detections=7,
)  # fmt: skip


def network(method=TINY):
    torch.manual_seed(0)
    return method.build(2, BACKBONE)


def batch(crf, ret, boxes=((8.0, 8.0, 40.0, 40.0),), ids=(1,)):
    torch.manual_seed(1)
    own = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Batch(
        ids=("a", "b"),
        images=torch.randn(2, 3, 64, 64),
        tags=torch.ones(2, 2),
        valid=torch.ones(2, 1, 64, 64, dtype=torch.bool),
        seeds={"crf": crf, "ret": ret},
        boxes=(own, torch.zeros(0, 4)),  # the second photograph shows nothing
        box_labels=(torch.tensor(ids), torch.zeros(0, dtype=torch.int64)),
    )


def maps(fill=0):
    labels = torch.full((2, 64, 64), fill, dtype=torch.uint8)
    labels[0, 8:40, 8:24] = 1
    return labels


def losses(model, given):
    torch.manual_seed(2)  # proposals are sampled
    return TINY.objective(model, given, Step(0, 0, 1))


def values(model, given):
    return {name: loss.item() for name, loss in losses(model, given).items()}


def test_reliable_pixels_of_each_box():
    crf = torch.tensor([[1, 1, 2, 255]], dtype=torch.uint8)
    ret = torch.tensor([[1, 0, 2, 255]], dtype=torch.uint8)
    boxes, ids = torch.tensor([[0.0, 0.0, 3.0, 1.0], [3.0, 0.0, 4.0, 1.0]]), torch.tensor([1, 2])
    masks, reliable = TINY.learnt(crf, ret, boxes, ids)
    assert masks[:, 0].int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert reliable[:, 0].int().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]  # the second box is empty: nothing is known
    _, everywhere = replace(TINY, reliable_only=False).learnt(crf, ret, boxes, ids)
    assert everywhere[:, 0].int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


def test_losses_are_finite_and_every_parameter_gets_a_gradient():
    model = network()
    found = losses(model, batch(maps(), maps()))
    assert set(found) == {"objectness", "rpn_box", "cls", "box", "mask"}
    assert all(loss.dtype == torch.float32 and bool(loss.isfinite()) for loss in found.values())
    assert found["mask"] > 0
    torch.stack(list(found.values())).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [n for n in without if "mask" in n or "rpn" in n or "box_head" in n], without
    assert {id(p) for p in model.new_parameters()} & {id(p) for p in model.backbone.parameters()} == set()


def test_the_mask_loss_sees_reliable_pixels_alone():
    model, crf = network(), maps()
    ret = maps()
    ret[0, 8:40, 24:40] = 2  # the right half of the box is unreliable
    other = crf.clone()
    other[0, 8:40, 24:40] = 1  # and this is what Y_crf says there instead
    one, two = values(model, batch(crf, ret)), values(model, batch(other, ret))
    assert one == pytest.approx(two)
    assert abs(values(model, batch(other, other))["mask"] - one["mask"]) > 1e-6
    assert values(model, batch(crf, torch.where(crf == 1, 0, 1).to(torch.uint8)))["mask"] == 0


def test_a_batch_without_any_object_learns_background():
    found = values(network(), batch(maps(), maps(), boxes=(), ids=()))
    assert found["mask"] == found["box"] == 0
    assert found["objectness"] > 0


def test_a_run_begun_before_the_warm_up_goes_on_where_there_is_none():
    """torchvision's recipe has one; the mobile settings, chosen without, keep their fingerprint."""
    assert (METHODS["resnet50"].optimisation.warmup, METHODS["mobile"].optimisation.warmup) == (1000, 0)
    assert not {"warmup", "optimiser"} & set(deciding_constants(METHODS["mobile"]))
    assert replace(TINY, optimiser="adamw", warmup=7).optimisation.optimiser == "adamw"


def test_what_is_missing_is_told():
    given = batch(maps(), maps())
    with pytest.raises(WeaksegError, match="learns from boxes"):
        losses(network(), replace(given, boxes=None, box_labels=None))
    with pytest.raises(WeaksegError, match=r"got \['a', 'b'\]"):
        losses(network(), replace(given, seeds={"a": maps(), "b": maps()}))


def test_predictions_have_the_photographs_size_and_repeat():
    model = network().eval()
    photo = tv_tensors.Image(torch.randint(0, 255, (3, 30, 50), dtype=torch.uint8))
    sample = Sample("a", photo, torch.tensor([True, False]))
    with torch.inference_mode():
        found, again = TINY.predict(model, sample), TINY.predict(model, sample)
    assert isinstance(found, Instances)
    assert found.masks.shape == (7, 30, 50)
    assert set(found.labels.tolist()) <= {1, 2}
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert (found.boxes[:, 2] <= 50.001).all()
    assert torch.equal(found.masks, again.masks)


def test_pasting_a_mask():
    """A box of 4 x 4 pixels whose upper half is object."""
    cells = torch.zeros(1, 28, 28)
    cells[:, :14] = 1
    pasted = paste_masks(cells, torch.tensor([[2.0, 1.0, 6.0, 5.0]]), (8, 10))
    assert pasted[0, 1:3, 2:6].all()
    assert not pasted[0, 4:].any()
    assert paste_masks(cells[:0], torch.zeros(0, 4), (8, 10)).shape == (0, 8, 10)


@pytest.mark.slow
def test_it_learns_a_square():
    model, given = network(), batch(maps(), maps())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    first = None
    for _ in range(40):
        optimiser.zero_grad()
        found = losses(model, given)
        torch.stack(list(found.values())).sum().backward()
        optimiser.step()
        first = first or {k: v.item() for k, v in found.items()}
    assert found["mask"].item() < 0.6 * first["mask"]
    assert sum(v.item() for v in found.values()) < 0.5 * sum(first.values())
