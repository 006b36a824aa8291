"""The search space: every draw is a list of layers, and a line that can never be a layer is refused."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import refusal
from kilonet.network.layers import parse_layer
from kilonet.sweep.search_space import draw_layers, parse_line
from kilonet.utils.errors import KilonetError


class RandomSuggester:
    """Draws uniformly, and remembers the values by their names."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self.drawn: dict[str, Any] = {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:  # noqa: ARG002
        assert (high - low) % step == 0, "Optuna would warn"
        return int(self._remember(name, self._random.randrange(low, high + 1, step)))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:  # noqa: ARG002
        return float(self._remember(name, self._random.uniform(low, high)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._remember(name, self._random.choice(list(choices)))

    def _remember(self, name: str, value: Any) -> Any:
        assert name not in self.drawn, "Optuna would return the first value of that name again"
        self.drawn[name] = value
        return value


def drawn(*lines: str, seed: int = 0, channels: int = 1) -> tuple[str, ...]:
    return draw_layers([parse_line(line) for line in lines], RandomSuggester(seed), channels)


NUMBERS = st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(1, 9)).map(
    lambda ends: (f"{{{ends[0]}..{ends[0] + ends[1]} by {ends[2]}}}", range(ends[0], ends[0] + ends[1] + 1, ends[2]))
)
WORDS = st.lists(st.sampled_from(["", "same", "same residual", "depthwise"]), min_size=1, max_size=4)


@given(NUMBERS, WORDS, st.integers(0, 4), st.integers(1, 4), st.integers(0, 99))
def test_every_draw_is_a_list_of_layers_within_the_space(
    numbers: tuple[str, range], words: list[str], low: int, more: int, seed: int
) -> None:
    hole, allowed = numbers
    line = (
        f"{low}..{low + more} * conv {hole} {{{'|'.join(words)}}} | pointwise {hole} | conv = {{1x1|5x5}} same residual"
    )
    layers = drawn(line, "maxpool {2..3}", seed=seed, channels=3)
    assert low <= len(layers) - 1 <= low + more
    channels = 3
    for text in layers:
        layer = parse_layer(text)
        assert str(layer) == text
        now = getattr(layer, "channels", channels)
        assert now in allowed or now == channels
        channels = now


def test_each_part_of_the_grammar() -> None:
    assert drawn("conv 8", "gap", "pointwise 10") == ("conv 8", "gap", "pointwise 10")
    assert drawn("2 * conv 8 5x5 same") == ("conv 8 5x5 same", "conv 8 5x5 same")
    assert drawn("conv =", channels=3) == ("conv 3",)
    assert {drawn("conv {4..8 by 3}", seed=seed) for seed in range(20)} == {("conv 4",), ("conv 7",)}
    assert {drawn("gap | pointwise 3", seed=seed) for seed in range(20)} == {("gap",), ("pointwise 3",)}
    assert {drawn("conv 3 {| same }", seed=seed) for seed in range(20)} == {("conv 3",), ("conv 3 same",)}
    assert {drawn("conv 3 {|stride 2} same", seed=seed) for seed in range(20)} == {
        ("conv 3 same",),
        ("conv 3 same stride 2",),
    }
    assert {drawn("conv 3 stride {1..2} | avgpool 2", seed=seed) for seed in range(40)} == {
        ("conv 3",),
        ("conv 3 stride 2",),
        ("avgpool 2",),
    }
    assert {len(drawn("0..2 * gap", seed=seed)) for seed in range(40)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("conv {4..8", "brace"),
        ("conv 4}", "brace"),
        ("conv {8..4}", "backwards"),
        ("conv {0..4}", "'0'"),
        ("convolve 4", "convolve"),
        ("conv {4|x}", "'conv x'"),
        ("conv 4 {same|smae}", "smae"),
        ("conv 4 | ", "empty"),
        ("0 * conv 4", "repeated"),
        ("3..2 * conv 4", "repeated"),
        ("1..99 * conv 4", "repeated"),
        ("", "empty"),
    ],
)
def test_a_line_that_can_never_be_a_layer_is_refused(line: str, words: str) -> None:
    with pytest.raises(KilonetError) as error:
        parse_line(line)
    refusal(error, f"line '{line}'", words)
