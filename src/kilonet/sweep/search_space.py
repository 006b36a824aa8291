"""The search space of architectures: lines in the text form of layers, with repetitions, alternatives and holes.

    1..3 * conv {4..16} {|same} | conv = {3x3|5x5} same residual

`N *` or `N..M *` repeats the line, and each repetition is drawn anew. `|` separates the alternatives of a line. A hole
in braces is filled with an integer, `{4..16}` or `{4..16 by 4}`, or with one of several texts, of which one may be
empty. `=` in place of a layer's channels stands for the number of its input channels.

The names under which values are drawn ("line 1.1.1 hole 1") are stored in the files of a sweep's trials.
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


class Suggester(Protocol):
    """The part of `optuna.Trial` that draws the values of a candidate."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Draw an integer."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Draw a number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of the choices."""


@dataclass(frozen=True)
class IntegerHole:
    """A hole for an integer from `low` to `high`, both included, in steps."""

    low: int
    high: int
    step: int

    @property
    def examples(self) -> tuple[str, ...]:
        """The smallest and the largest integer, as texts."""
        return str(self.low), str(self.high)

    def draw(self, suggester: Suggester, name: str) -> str:
        """Return the text that fills the hole."""
        return str(suggester.suggest_int(name, self.low, self.high, step=self.step))


@dataclass(frozen=True)
class TextHole:
    """A hole for one of several texts."""

    examples: tuple[str, ...]

    def draw(self, suggester: Suggester, name: str) -> str:
        """Return the text that fills the hole."""
        return str(suggester.suggest_categorical(name, self.examples))


@dataclass(frozen=True)
class LayerTemplate:
    """One alternative of a line: literal pieces of text with a hole between each two of them."""

    pieces: tuple[str, ...]
    holes: tuple[IntegerHole | TextHole, ...]

    def filled(self, texts: Sequence[str], channels: int) -> str:
        """Return the text of a layer, given a text for each hole and the number of input channels."""
        text = "".join(piece + filled for piece, filled in zip(self.pieces, [*texts, ""], strict=True))
        kind, *words = text.split() or [""]
        if words and words[0] == "=":
            words[0] = str(channels)
        return " ".join([kind, *words])

    def check(self) -> None:
        """Check that every example of every hole makes a layer, with the first example in all other holes.

        Raises:
            KilonetError: a text is not a layer.
        """
        first = [hole.examples[0] for hole in self.holes]
        parse_layer(self.filled(first, 1))
        for place, hole in enumerate(self.holes):
            for example in hole.examples[1:]:
                parse_layer(self.filled([*first[:place], example, *first[place + 1 :]], 1))


@dataclass(frozen=True)
class SpaceLine:
    """A line of the search space: zero or more layers."""

    text: str
    min_repeats: int
    max_repeats: int
    alternatives: tuple[LayerTemplate, ...]

    def draw(self, suggester: Suggester, name: str, channels: int) -> Iterator[LayerEntry]:
        """Yield the layers of one draw.

        Args:
            suggester: draws the values.
            name: the first part of the names of this line's values.
            channels: the number of channels before the first layer.

        Raises:
            KilonetError: the drawn texts together are not a layer.
        """
        repeats = self.min_repeats
        if self.min_repeats < self.max_repeats:
            repeats = suggester.suggest_int(f"{name} times", self.min_repeats, self.max_repeats)
        for repeat in range(1, repeats + 1):
            chosen = 0
            if len(self.alternatives) > 1:
                chosen = self._numbers.index(suggester.suggest_categorical(f"{name}.{repeat} option", self._numbers))
            prefix = f"{name}.{repeat}.{chosen + 1}"
            template = self.alternatives[chosen]
            texts = [hole.draw(suggester, f"{prefix} hole {place}") for place, hole in enumerate(template.holes, 1)]
            layer = parse_layer(template.filled(texts, channels))
            channels = getattr(layer, "channels", channels)
            yield layer

    @cached_property
    def _numbers(self) -> tuple[str, ...]:
        """The numbers of the alternatives, from 1, as texts: the choices that are stored."""
        return tuple(str(number) for number in range(1, len(self.alternatives) + 1))


def parse_line(text: str) -> SpaceLine:
    """Parse a line of the search space.

    Raises:
        KilonetError: the line is malformed, or a text drawn from it is not a layer; names the line.
    """
    match = _REPEATS.fullmatch(text)
    fewest, most = (int(match["low"]), int(match["high"] or match["low"])) if match else (1, 1)
    try:
        if not 0 <= fewest <= most <= MAXIMUM_REPEATS or most == 0:
            raise KilonetError(f"a line is repeated N or N..M times, with N <= M and M from 1 to {MAXIMUM_REPEATS}")
        alternatives = tuple(map(_parse_template, _BAR_OUTSIDE_BRACES.split(match["rest"] if match else text)))
        for template in alternatives:
            template.check()
    except KilonetError as error:
        raise KilonetError(f"line '{text}': {error}") from None
    return SpaceLine(text, fewest, most, alternatives)


def _parse_template(text: str) -> LayerTemplate:
    pieces = _HOLE.split(text)
    if any(brace in piece for piece in pieces[::2] for brace in "{}"):
        raise KilonetError("a brace is not closed or not opened")
    return LayerTemplate(tuple(pieces[::2]), tuple(map(_parse_hole, pieces[1::2])))


def _parse_hole(text: str) -> IntegerHole | TextHole:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        return TextHole(tuple(dict.fromkeys(choice.strip() for choice in text.split("|"))))
    low, high, step = int(match["low"]), int(match["high"]), int(match["step"] or 1)
    if low > high:
        raise KilonetError(f"the range {text} runs backwards; give the smaller number first")
    # End at the last step within the range: Optuna would do so with a warning.
    return IntegerHole(low, high - (high - low) % step, step)


def draw_layers(lines: Sequence[SpaceLine], suggester: Suggester, channels: int) -> tuple[str, ...]:
    """Return the texts of the layers of one draw, for images of so many channels.

    Raises:
        KilonetError: the drawn texts of a line together are not a layer.
    """
    layers: list[str] = []
    for number, line in enumerate(lines, 1):
        for layer in line.draw(suggester, f"line {number}", channels):
            layers.append(str(layer))
            channels = getattr(layer, "channels", channels)
    return tuple(layers)
