"""Spaces of layer lists: lines in the text form of layers, with repetitions, alternatives and holes.

    1..3 * conv {4..16} {|same} | conv = {3x3|5x5} same residual

`N *` or `N..M *` repeats the line, drawing anew each time; `|` separates alternatives of the line; a hole in braces is
a whole number, `{4..16}` or `{4..16 by 4}`, or one of several texts, of which one may be empty; `=` in the place of a
layer's channels stands for as many as its input has.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from kilonet.network.layers import LayerEntry, parse_layer
from kilonet.utils.errors import KilonetError

MAXIMUM_REPEATS = 50

_REPEATS = re.compile(r"\s*(?P<low>\d{1,4})(?:\.\.(?P<high>\d{1,4}))?\s*\*\s*(?P<rest>.*)")
_RANGE = re.compile(r"(?P<low>\d{1,6})\.\.(?P<high>\d{1,6})(?:\s+by\s+(?P<step>[1-9]\d{0,5}))?")
_HOLE = re.compile(r"\{([^{}]*)\}")
_BAR_OUTSIDE_BRACES = re.compile(r"\|(?![^{]*\})")


class Draws(Protocol):
    """Whatever decides: the interface of Optuna's trials."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Decide on a whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Decide on a number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Decide on one of the choices."""


@dataclass(frozen=True)
class Numbers:
    """A hole for a whole number."""

    low: int
    high: int
    step: int

    @property
    def examples(self) -> tuple[str, ...]:
        """The texts at the ends."""
        return str(self.low), str(self.high)

    def draw(self, draws: Draws, name: str) -> str:
        """Fill the hole."""
        return str(draws.suggest_int(name, self.low, self.high, step=self.step))


@dataclass(frozen=True)
class Texts:
    """A hole for one of several texts."""

    examples: tuple[str, ...]

    def draw(self, draws: Draws, name: str) -> str:
        """Fill the hole."""
        return str(draws.suggest_categorical(name, self.examples))


@dataclass(frozen=True)
class Option:
    """One alternative of a line: literal pieces with a hole between each two."""

    pieces: tuple[str, ...]
    holes: tuple[Numbers | Texts, ...]

    def filled(self, fillings: Sequence[str], channels: int) -> str:
        """Return the text of a layer, given what goes into the holes and the channels of its input."""
        text = self.pieces[0] + "".join(f"{fill}{piece}" for fill, piece in zip(fillings, self.pieces[1:], strict=True))
        kind, *words = text.split() or [""]
        if words and words[0] == "=":
            words[0] = str(channels)
        return " ".join([kind, *words])

    def check(self) -> None:
        """Make sure that each filling of each hole makes a layer, the others being filled with their first.

        Raises:
            KilonetError: one does not.
        """
        first = [hole.examples[0] for hole in self.holes]
        parse_layer(self.filled(first, 1))
        for place, hole in enumerate(self.holes):
            for example in hole.examples[1:]:
                parse_layer(self.filled([*first[:place], example, *first[place + 1 :]], 1))


@dataclass(frozen=True)
class Line:
    """A line of the space."""

    text: str
    low: int
    high: int
    options: tuple[Option, ...]

    def draw(self, draws: Draws, name: str, channels: int) -> Iterator[LayerEntry]:
        """Yield the layers of one draw, after an input of so many channels; `name` tells this line's draws apart.

        Raises:
            KilonetError: a combination of fillings that is no layer.
        """
        times = self.low if self.low == self.high else draws.suggest_int(f"{name} times", self.low, self.high)
        for turn in range(1, times + 1):
            chosen = 0
            if len(self.options) > 1:
                chosen = self._texts.index(draws.suggest_categorical(f"{name}.{turn} option", self._texts))
            here = f"{name}.{turn}.{chosen + 1}"
            option = self.options[chosen]
            fillings = [hole.draw(draws, f"{here} hole {place}") for place, hole in enumerate(option.holes, 1)]
            layer = parse_layer(option.filled(fillings, channels))
            channels = getattr(layer, "channels", channels)
            yield layer

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(1, len(self.options) + 1))


def parse_line(text: str) -> Line:
    """Read a line of the space.

    Raises:
        KilonetError: it is none, or a filling of it is no layer; names the line.
    """
    match = _REPEATS.fullmatch(text)
    low, high = (int(match["low"]), int(match["high"] or match["low"])) if match else (1, 1)
    try:
        if not 0 <= low <= high <= MAXIMUM_REPEATS or high == 0:
            raise KilonetError(f"a line is repeated 1 to {MAXIMUM_REPEATS} times, from few to many")
        options = tuple(map(_parse_option, _BAR_OUTSIDE_BRACES.split(match["rest"] if match else text)))
        for option in options:
            option.check()
    except KilonetError as error:
        raise KilonetError(f"line '{text}': {error}") from None
    return Line(text, low, high, options)


def _parse_option(text: str) -> Option:
    pieces = _HOLE.split(text)
    if any(brace in piece for piece in pieces[::2] for brace in "{}"):
        raise KilonetError("a brace without its other half")
    return Option(tuple(pieces[::2]), tuple(map(_parse_hole, pieces[1::2])))


def _parse_hole(text: str) -> Numbers | Texts:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        return Texts(tuple(dict.fromkeys(choice.strip() for choice in text.split("|"))))
    low, high, step = int(match["low"]), int(match["high"]), int(match["step"] or 1)
    if low > high:
        raise KilonetError(f"the range {text} runs backwards")
    # Optuna leaves out, with a warning, what the last step does not reach.
    return Numbers(low, high - (high - low) % step, step)


def draw_layers(lines: Sequence[Line], draws: Draws, channels: int) -> tuple[str, ...]:
    """Draw a list of layers for images of so many channels.

    Raises:
        KilonetError: a combination of fillings that is no layer.
    """
    layers: list[str] = []
    for number, line in enumerate(lines, 1):
        for layer in line.draw(draws, f"line {number}", channels):
            layers.append(str(layer))
            channels = getattr(layer, "channels", channels)
    return tuple(layers)
