"""DeepLab: the segmentation networks that learn from pseudo-masks.

Chen et al., V1 (ICLR 2015, https://arxiv.org/abs/1412.7062), V2 (TPAMI 2018, https://arxiv.org/abs/1606.00915) and V3+
(ECCV 2018, https://arxiv.org/abs/1802.02611), on any backbone; training as methods.md 10 collects it.
Supervision: label maps of an earlier step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weakseg.models.backbones import build_backbone
from weakseg.models.deeplab import DeepLab, HeadName, build_head
from weakseg.ops.crf import dense_crf, recipe, unary_from_probabilities
from weakseg.ops.image import resize_image, resize_labels
from weakseg.ops.losses import balanced_cross_entropy, cross_entropy
from weakseg.types import (
    SEEDS,
    Augmentation,
    Backbone,
    Batch,
    Flip,
    LabelMap,
    Normalise,
    Optimisation,
    PadCrop,
    Rescale,
    Sample,
    Step,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A DeepLab network, its training on ``seeds`` and its multi-scale prediction (methods.md 10).

    The loss is taken at the logits' resolution with labels resized by nearest, as deeplab-pytorch does, or with
    `loss_at` = ``crop`` at the crop's, with logits enlarged bilinearly, as V3+ does.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    head: HeadName = "aspp"
    rates: tuple[int, ...] = (6, 12, 18, 24)
    width: int = 256  # of V3+
    freeze_bn: bool = True
    freeze_affine: bool = False
    # training, sec. 10
    crop: int = 321
    scale_choices: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    epochs: int = 20
    iterations: int | None = None
    batch_size: int = 10
    accumulate: int = 1
    lr: float = 2.5e-4
    new_factor: float = 10.0
    bias_factor: float | None = 2.0  # and no weight decay on biases
    weight_decay: float = 5e-4
    momentum: float = 0.9
    interval: int = 10  # the poly rate changes every 10 iterations
    loss: Literal["ce", "balanced"] = "ce"
    loss_at: Literal["logits", "crop"] = "logits"
    msc: tuple[float, ...] = ()  # deeplab-pytorch: (0.75, 0.5)
    # prediction
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crf: str | None = None  # a recipe of ops.crf, such as deeplab_v2_res101

    @property
    def augmentation(self) -> Augmentation:
        """Scale from the list, pad right and bottom with mean colour and 255, crop, mirror."""
        return Augmentation((Rescale(choices=self.scale_choices), Normalise(), PadCrop(self.crop), Flip()))

    @property
    def optimisation(self) -> Optimisation:
        """SGD with poly decay; the head at 10 times the rate, its biases at 20 times."""
        return Optimisation(
            epochs=self.epochs,
            iterations=self.iterations,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            lr=self.lr,
            new_factor=self.new_factor,
            bias_factor=self.bias_factor,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            interval=self.interval,
        )

    def build(self, num_classes: int, backbone: Backbone) -> DeepLab:
        """The network for `num_classes` foreground classes and background."""
        features = build_backbone(backbone, freeze_bn=self.freeze_bn, freeze_affine=self.freeze_affine)
        return DeepLab(features, build_head(self.head, features, num_classes + 1, rates=self.rates, width=self.width))

    def objective(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Cross-entropy with the label maps; with `msc` summed over the scales and their maximum."""
        logits = [model(batch.images).logits]
        for scale in self.msc:
            smaller = F.interpolate(batch.images, scale_factor=scale, mode="bilinear", align_corners=False)
            logits.append(_enlarged(model(smaller).logits, logits[0].shape[-2:]))
        if self.msc:
            logits.append(torch.stack(logits).amax(dim=0))
        return {"seg": torch.stack([self._loss(x, batch.seeds[SEEDS]) for x in logits]).sum()}

    def predict(self, model: DeepLab, sample: Sample) -> LabelMap:
        """uint8 (H, W), the class of the largest mean probability over scales and mirror images."""
        probabilities = self.probabilities(model, sample)
        if self.crf is not None:
            image = sample.image.as_subclass(Tensor)
            probabilities = dense_crf(image, unary_from_probabilities(probabilities), recipe(self.crf))
        return probabilities.argmax(dim=0).to(torch.uint8)

    def probabilities(self, model: DeepLab, sample: Sample) -> Tensor:
        """float32 (C + 1, H, W), softmax at the photograph's size, averaged over scales and mirror images."""
        height, width = sample.size
        total: Tensor | None = None
        for scale in self.scales:
            image = sample.image.as_subclass(Tensor)
            if scale != 1:
                image = resize_image(image, (max(1, round(scale * height)), max(1, round(scale * width))))
            images = model.normalise(image)[None]
            if self.flip:
                images = torch.cat([images, images.flip(-1)])
            made = _enlarged(model(images).logits.float(), sample.size).softmax(dim=1)
            made = made[0] + made[1].flip(-1) if self.flip else made[0]
            total = made if total is None else total + made
        assert total is not None
        return total / (len(self.scales) * (2 if self.flip else 1))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.loss_at == "crop":
            logits = _enlarged(logits, labels.shape[-2:])
        else:
            labels = resize_labels(labels, (logits.shape[-2], logits.shape[-1]))
        return (
            balanced_cross_entropy(logits, labels, half=False)
            if self.loss == "balanced"
            else cross_entropy(logits, labels)
        )


def _enlarged(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


METHODS: Mapping[str, Segment] = {
    "v1": Segment(head="conv1x1"),
    "v2": Segment(head="aspp"),
    "v3plus": Segment(head="v3plus", rates=(6, 12, 18), loss_at="crop"),
}
