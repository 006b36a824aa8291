"""What a target does not compute is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import model_section, refusal
from kilonet.engines.native import codegen
from kilonet.export.folding import fold
from kilonet.network.module import initial_network
from kilonet.network.operations import Dropout, Operation, ReLU
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError


class Swish(ReLU):
    """An operation that no target knows."""


def native(section: ModelSection) -> object:
    return codegen.source(section)


def integers(section: ModelSection) -> object:
    # The torch module refuses unknown operations too, so it is made of the layers as they were.
    network = initial_network(ModelSection(**section.model_dump()), 0)
    model: Any = SimpleNamespace(section=section, network=network)
    return fold(model)


def changed(number: int, change: Callable[[tuple[Operation, ...]], tuple[Operation, ...]]) -> ModelSection:
    """Return a network of which one layer consists of other operations."""
    section = model_section("conv 4", "maxpool 2", "gap", "pointwise 3", dropout=0.1)
    placed = list(section.placed)
    placed[number] = replace(placed[number], operations=change(placed[number].operations))
    section.__dict__["placed"] = tuple(placed)
    return section


@pytest.mark.parametrize("target", [native, integers])
@pytest.mark.parametrize(
    ("number", "change", "words"),
    [
        (0, lambda before: (*before, Swish()), "layer 1, 'conv 4'"),
        (1, lambda _: (Swish(),), "layer 2, 'maxpool 2'"),
        (2, lambda before: (*before, Swish()), "layer 3, 'gap'"),
        (3, lambda before: (*before, Swish()), "layer 4, 'pointwise 3'"),
    ],
)
def test_an_unknown_operation_is_refused_by_name(
    target: Callable[[ModelSection], object],
    number: int,
    change: Callable[[tuple[Operation, ...]], tuple[Operation, ...]],
    words: str,
) -> None:
    with pytest.raises(KilonetError) as error:
        target(changed(number, change))
    refusal(error, words, "has no Swish")


@pytest.mark.parametrize("target", [native, integers])
@pytest.mark.parametrize("number", [1, 3])
def test_a_known_operation_at_another_place_is_refused(target: Callable[[ModelSection], object], number: int) -> None:
    with pytest.raises(KilonetError) as error:
        target(changed(number, lambda before: (*before, Dropout(0.1))))
    refusal(error, f"layer {number + 1}", "in this order")


@pytest.mark.parametrize("target", [native, integers])
def test_what_every_layer_consists_of_is_known(target: Callable[[ModelSection], object]) -> None:
    target(model_section("conv 4", "conv 4 same residual", "again 1", "pointwise 4", "maxpool 2", "gap", "pointwise 3"))
