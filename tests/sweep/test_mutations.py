"""The moves of the evolution: each makes networks, each direction of each, and never other classes."""

import contextlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import refusal
from kilonet.network.graph import place
from kilonet.network.layers import parse_layer
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe, packaged_recipes
from kilonet.sweep.mutations import MOVES, channel_groups, mutate
from kilonet.utils.errors import KilonetError

RECIPES = [name for name in packaged_recipes() if len(load_recipe(name).model.layers) > 2]


def section_of(layers: tuple[str, ...], like: ModelSection) -> ModelSection:
    return ModelSection.model_validate({"input": like.input, "layers": layers})


@pytest.mark.parametrize("name", RECIPES)
def test_every_move_makes_other_networks_of_the_same_classes(name: str) -> None:
    base = load_recipe(name).model
    entries = [parse_layer(text) for text in base.layers]
    for move, make in MOVES.items():
        good = 0
        for seed in range(40):
            try:
                moved = tuple(map(str, make(list(entries), base.input_shape, np.random.default_rng(seed))))
                section = section_of(moved, base)
            except KilonetError as error:
                refusal(error)
                continue
            good += moved != base.layers
            assert section.classes == base.classes
            if move == "widen":
                assert section.parameters > base.parameters
            if move == "narrow":
                assert section.parameters < base.parameters
            if move == "insert":
                assert len(moved) == len(base.layers) + 1
            if move == "delete":
                assert len(moved) == len(base.layers) - 1
        # Whatever is deleted from or swapped in some networks is needed there.
        assert good > (20 if move in ("widen", "narrow") else 3), move


@given(seed=st.integers(0, 10_000), name=st.sampled_from(RECIPES))
def test_many_moves_end_in_a_network_or_a_refusal(seed: int, name: str) -> None:
    base = load_recipe(name).model
    generator, layers = np.random.default_rng(seed), base.layers
    for _ in range(12):
        try:
            moved = mutate(layers, base.input_shape, generator)
            section = section_of(moved, base)
        except KilonetError as error:
            refusal(error)
            continue
        assert section.classes == base.classes
        assert [str(parse_layer(text)) for text in moved] == list(moved)
        layers = moved


@pytest.mark.parametrize("classifier", [("gap", "pointwise 10"), ("conv 10 1x1", "gap")])
def test_a_swap_gives_a_network_the_other_classifier(classifier: tuple[str, ...]) -> None:
    layers = ("conv 4", "pointwise 6", "maxpool 2")
    (other,) = {("gap", "pointwise 10"), ("conv 10 1x1", "gap")} - {classifier}
    entries = [parse_layer(text) for text in (*layers, *classifier)]
    made = set[tuple[str, ...]]()
    for seed in range(60):
        with contextlib.suppress(KilonetError):
            made.add(tuple(map(str, MOVES["swap"](list(entries), (1, 28, 28), np.random.default_rng(seed)))))
    assert (*layers, *other) in made


def test_the_same_seed_makes_the_same_move() -> None:
    base = load_recipe("best").model

    def moved(seed: int) -> tuple[str, ...]:
        try:
            return mutate(base.layers, base.input_shape, np.random.default_rng(seed))
        except KilonetError:
            return ()

    first, second = ([moved(seed) for seed in range(40)] for _ in range(2))
    assert first == second
    assert len(Counter(first)) > 20


def test_groups_hold_what_must_stay_alike() -> None:
    texts = ["conv 4", "pointwise 6", "conv 6 3x3 depthwise", "maxpool 2", "pointwise 6", "conv 6 same residual"]
    placed = place([parse_layer(text) for text in [*texts, "again 1", "gap", "pointwise 10"]], (1, 28, 28))
    # Before the first layer, after it, and so on: the third group holds the layers from a pointwise one to the pool.
    assert channel_groups(placed) == [0, 1, 2, 2, 2, 5, 5, 5, 5, 9]
    placed = place(
        [parse_layer(text) for text in ["conv 6", "pointwise 6", "conv 6 depthwise", "again 2", "gap"]], (1, 28, 28)
    )
    assert channel_groups(placed) == [0, 1, 1, 1, 1, 1, 1], "what is repeated takes what it gives"


def test_a_network_of_one_layer_cannot_be_moved() -> None:
    for layers in (["gap", "pointwise 10"], ["conv 10 28x28"]):
        for seed in range(30):
            generator = np.random.default_rng(seed)
            try:
                mutate(layers, (1, 28, 28), generator)
            except KilonetError as error:
                refusal(error)
