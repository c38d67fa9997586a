"""What fingerprints, checkpoints and methods share: the constants that decide, and optimisers made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from weakseg.types import Optimisation, deciding_constants, optimisation_of


@dataclass(frozen=True)
class Old:
    lr: float = 0.5
    momentum: float | None = None
    weight_decay: float = 1e-3
    tau: float = 0.4


@dataclass(frozen=True)
class New(Old):
    guard: bool = True
    added: ClassVar[Mapping[str, Any]] = {"guard": True}


def test_a_constant_added_later_decides_only_where_it_departs():
    assert deciding_constants(New()) == deciding_constants(Old())
    assert deciding_constants(New(guard=False)) == {**deciding_constants(Old()), "guard": False}
    assert deciding_constants(New(tau=0.5))["tau"] == 0.5
    assert deciding_constants("no dataclass") == deciding_constants(Old) == {}


def test_an_optimisation_from_constants_of_the_same_names():
    assert optimisation_of(Old(), power=0.9) == Optimisation(lr=0.5, momentum=1e-3, weight_decay=1e-3, power=0.9)
    assert optimisation_of(Old(momentum=0.9), lr=0.1).lr == 0.1
    assert optimisation_of(Old(momentum=0.0)).momentum == 0.0
