"""The figures and tables of the page, and how it words numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Row = tuple[str, ...]

NARROW = "\N{NO-BREAK SPACE}"
"""Stands between a number and its unit, so that no line ends there."""

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers; `total`, if there is one, is the last row."""

    caption: str
    heads: Row
    rows: Sequence[Row]
    total: Row | None = None
    words: int = 1
    """The first so many columns hold words and are set to the left; the others are set to the right."""


@dataclass(frozen=True)
class PageFigure:
    """A picture with its caption, its text alternative and its numbers."""

    key: str
    picture: Markup
    """A chart with its text alternative, or images that have one each."""
    caption: str
    table: Table


def percent(share: float | None, digits: int = 2) -> str:
    """Return a fraction in per cent; a dash for None."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.{digits}f}{NARROW}%"


def span(interval: tuple[float, float], digits: int = 2) -> str:
    """Return an interval of two fractions in per cent."""
    low, high = interval
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}{NARROW}%"


def count(number: int, thing: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {thing if number == 1 else thing + 's'}"
