"""What a target does not compute is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import command, model_section, refusal
from kilonet.engines.native import codegen
from kilonet.export.folding import fold
from kilonet.export.onnx.float32 import float_graph
from kilonet.models.model import Model
from kilonet.network import support
from kilonet.network.module import initial_network
from kilonet.network.operations import AveragePooling, Dropout, Operation, ReLU
from kilonet.network.section import ModelSection
from kilonet.network.support import support_lines
from kilonet.utils.errors import KilonetError


class Swish(ReLU):
    """An operation that no target knows."""


def native(section: ModelSection) -> object:
    return codegen.source(section, "float32")


def integers(section: ModelSection) -> object:
    # The torch module refuses unknown operations too, so it is made of the layers as they were.
    network = initial_network(ModelSection(**section.model_dump()), 0)
    model: Any = SimpleNamespace(section=section, network=network)
    return fold(model)


def floats(section: ModelSection) -> object:
    before = ModelSection(**section.model_dump())
    model = Model(before, initial_network(before, 0).state())
    model.section = section
    return float_graph(model)


TARGETS = [native, integers, floats]


def changed(number: int, change: Callable[[tuple[Operation, ...]], tuple[Operation, ...]]) -> ModelSection:
    """Return a network of which one layer consists of other operations."""
    section = model_section("conv 4", "maxpool 2", "gap", "pointwise 3", dropout=0.1)
    placed = list(section.placed)
    placed[number] = replace(placed[number], operations=change(placed[number].operations))
    section.__dict__["placed"] = tuple(placed)
    return section


@pytest.mark.parametrize("target", TARGETS)
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


def test_a_summary_names_the_targets_and_what_one_refuses() -> None:
    lines = list(support_lines(changed(1, lambda before: before).placed))
    assert lines == [
        "Computed by torch, the native engine, the integer network (C, page, int8 ONNX), the float32 ONNX graph"
    ]
    refused = list(support_lines(changed(1, lambda _: (Swish(),)).placed))
    assert refused == [
        "Computed by torch",
        *(
            f"layer 2, 'maxpool 2': {target} has no Swish"
            for target in ("the native engine", "the integer network", "the float32 ONNX graph")
        ),
    ]


def test_a_target_that_lacks_an_operation_is_named_in_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "averaging.toml"
    recipe.write_text('[model]\nlayers = ["conv 4 stride 2", "avgpool 2", "gap", "pointwise 10"]\n', encoding="utf-8")
    assert "Computed by torch, the native engine, " in command(capsys, "summary", recipe).out
    monkeypatch.setitem(support._SUPPORTED, "the native engine", support._EVERY_SEQUENCE - {(AveragePooling,)})
    *_, computing, refusing = command(capsys, "summary", recipe).out.splitlines()
    assert computing == "Computed by torch, the integer network (C, page, int8 ONNX), the float32 ONNX graph"
    assert refusing == "layer 2, 'avgpool 2': the native engine has no AveragePooling"
    with pytest.raises(KilonetError) as error:
        native(model_section("conv 4 stride 2", "avgpool 2", "gap", "pointwise 10"))
    refusal(error, refusing)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", [1, 3])
def test_a_known_operation_at_another_place_is_refused(target: Callable[[ModelSection], object], number: int) -> None:
    with pytest.raises(KilonetError) as error:
        target(changed(number, lambda before: (*before, Dropout(0.1))))
    refusal(error, f"layer {number + 1}", "in this order")


@pytest.mark.parametrize("target", TARGETS)
def test_what_every_layer_consists_of_is_known(target: Callable[[ModelSection], object]) -> None:
    layers = ("conv 4", "conv 4 same residual", "again 1", "pointwise 4", "maxpool 2", "conv 4 stride 2", "avgpool 2")
    target(model_section(*layers, "gap", "pointwise 3"))
