"""What an evaluation may look at, and what it finds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from weakseg.data.store import Store
from weakseg.data.view import View
from weakseg.evaluate.health import Finding
from weakseg.types import LABELS, SEEDS, Sample, WeaksegError


@dataclass(frozen=True)
class Look:
    """What an evaluation may look at.

    Attributes:
        view: the photographs of its list, with truth if it needs `mask`.
        source: (store, key) of the maps or masks it judges, or None.
        model, lender: the fitted network that the step's `model` lends, and its method; or None.
        device: where the network stands.
        threads: for counting pixels.
        kept: the networks that the training of `model`'s step kept, by the names of their files, each to be loaded.
    """

    view: View
    source: tuple[Store, str] | None
    model: nn.Module | None
    lender: Any
    device: torch.device
    threads: int = 1
    kept: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)

    def read(self, id: str) -> Any:
        """The map or mask under judgement."""
        if self.source is None:
            raise WeaksegError("this evaluation wants `scores` or `seeds` in its step")
        store, key = self.source
        return store.read(id, key)

    def readers(self) -> dict[str, Callable[[str], Any]]:
        """A reader of each of the step's `seeds`, under the name that the recipe gives it."""
        return {
            LABELS if name == SEEDS else name: lambda id, store=store, key=key: store.read(id, key)  # type: ignore[misc]
            for name, (store, key) in self.view.seeds.items()
        }

    def truth(self, id: str) -> Any:
        """The true mask of `id`, or None."""
        return self.view.dataset.truth(id)

    def samples(self) -> Callable[[str], Sample]:
        """A reader of photographs by id, for several threads; their images lie where the network stands."""
        place = {id: k for k, id in enumerate(self.view.ids)}

        def read(id: str) -> Sample:
            sample = self.view[place[id]]
            return replace(sample, image=sample.image.to(self.device))

        return read

    def instances(self, id: str) -> Any:
        """The true instances of `id` and which are crowds, or None."""
        return self.view.dataset.instances(id)


@dataclass(frozen=True)
class Outcome:
    """Numbers of an evaluation: rows (name, value, unit) of the headline table, the whole result, and findings."""

    kind: str
    headline: tuple[tuple[str, float, str], ...]
    result: Mapping[str, Any]
    findings: tuple[Finding, ...] = ()
