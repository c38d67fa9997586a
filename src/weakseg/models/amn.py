"""The network of AMN: the image's tags, as a vector, multiply the features before pixels are classified."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from weakseg.models.backbones import FeatureNet
from weakseg.models.deeplab import SummedConvs
from weakseg.models.stages import changes, make_changeable, stage_modules
from weakseg.types import WeaksegError

LAYERS = 4
"""Stages of a residual network; label conditioning after the last one is the paper's."""


def condition(features: Tensor, vector: Tensor) -> Tensor:
    """Eq. (2), f(x) . h(y): each feature channel times the entry of the image's own vector.

    Args:
        features: float (B, D, h, w).
        vector: float (B, D), h(y), a linear map of the image's tags; ones leave the features as they are.
    """
    return features * vector[:, :, None, None]


def drop(features: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Dropout whose draws come from `generator` (on the CPU): entries are zero or over (1 - rate) (8.9, row 6)."""
    kept = torch.rand(features.shape, generator=generator) >= rate
    return features * kept.to(features.device) / (1 - rate)


class AmnNet(nn.Module):
    """Backbone, label conditioning, dropout, four dilated convolutions summed (methods.md 8.2).

    Several threads may run it at once: a forward pass writes nothing into its modules.

    Args:
        backbone: the feature extractor, trained as a whole.
        num_classes: C, foreground classes.
        layers: stages after which the features are conditioned, 4 = the last of the backbone, 3 the one before it;
            none: without label conditioning (h = 1).
        dropout: probability of dropping an entry of the features.
        rates: dilations of the head's 3x3 convolutions, in feature pixels.

    Attributes:
        normalise: uint8 RGB image -> the network's input.

    Raises:
        WeaksegError: a stage that the backbone does not have, or whose map cannot be reached.
    """

    def __init__(
        self,
        backbone: FeatureNet,
        num_classes: int,
        *,
        layers: Iterable[int] = (LAYERS,),
        dropout: float = 0.1,
        rates: Iterable[int] = (6, 12, 18, 24),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalise = backbone.normalise
        maps = {layer: len(backbone.channels) - 1 - LAYERS + layer for layer in sorted(set(layers))}
        first = LAYERS + 1 - min(LAYERS, len(backbone.channels))
        if wrong := [layer for layer in maps if not first <= layer <= LAYERS]:
            raise WeaksegError(f"there is no layer {wrong[0]} to condition; this backbone has {first} to {LAYERS}")
        self.encoders = nn.ModuleDict(
            {f"layer{layer}": nn.Linear(num_classes, backbone.channels[index]) for layer, index in maps.items()}
        )
        # the last map is conditioned in the open, those within the backbone by a change to their stage
        inner = {f"layer{layer}": index for layer, index in maps.items() if layer < LAYERS}
        stages = stage_modules(backbone) if inner else ()
        for name, index in inner.items():
            make_changeable(stages[index], name)
        self.dropout = nn.Dropout(dropout)
        self.head = SummedConvs(backbone.channels[-1], num_classes + 1, tuple(rates))

    def forward(self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """g(f(x) . h(y)): logits (B, C + 1, h, w), background first.

        Args:
            images: float (B, 3, H, W), normalised.
            labels: float (B, C), multi-hot tags y.
            generator: with it, dropout works whatever the mode is, and draws from it.
        """
        features = self.features(images, {name: encode(labels) for name, encode in self.encoders.items()})
        if generator is not None:
            features = drop(features, self.dropout.p, generator)
        logits: Tensor = self.head([self.dropout(features) if generator is None else features])
        return logits

    def features(self, images: Tensor, vectors: Mapping[str, Tensor]) -> Tensor:
        """The backbone's last map (B, D, h, w), conditioned by ``layer1`` ... ``layer4``, float (B, D_layer) each."""
        with changes({name: partial(condition, vector=vector) for name, vector in vectors.items()}):
            features: Tensor = self.backbone(images)[-1]
        last = vectors.get(f"layer{LAYERS}")
        return features if last is None else condition(features, last)

    def new_parameters(self) -> list[nn.Parameter]:
        """Parameters that no pre-training has touched: they learn at a higher rate."""
        return [*self.encoders.parameters(), *self.head.parameters()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.head.parameters()).device
