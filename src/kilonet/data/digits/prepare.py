"""Prepare a picture for a network that reads digits: find its digit, or several in a row."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kilonet.data.decode import Picture
from kilonet.data.digits.components import Component, Components, find_components
from kilonet.data.digits.foreground import find_foreground
from kilonet.data.digits.frame import BOX, SIDE, is_laid_out
from kilonet.data.digits.layout import lay_out, stroke_width

SMALLEST = 6
"""The least length of the longer side of a digit, pixels."""
THICKEST_READ = 7.0
"""The greatest mean stroke width of a digit, in twentieths of its longer side; more is a blob."""
WIDEST = 2.0
"""The greatest ratio of width to height of a digit."""
SMALL_COMPONENT = 0.4
"""In a row, components below this share of the greatest height are dots or commas, and are left out."""
MOST_PIECES = 40
"""The most connected pieces that digits may have; more of them are a texture."""
WIDE_GAP = 0.3
"""The greatest gap between the components of one digit, as a share of its height."""

NOTHING = "nothing stands out from the background"
SMALL = f"smaller than {SMALLEST} pixels"
BLOB = "a blob, not strokes"
FLAT = "much wider than high"
SEVERAL = "several separate marks; show one digit, or read a row with kilonet predict --line"
TEXTURE = f"more than {MOST_PIECES} separate pieces"


@dataclass(frozen=True)
class PreparedImage:
    """An image as the network is shown it."""

    pixels: NDArray[np.uint8]
    """uint8 (28, 28) light on black, or the shape of the network's input."""
    objection: str | None = None
    """The reason why it is no digit, if there is one."""
    as_given: bool = False
    """Whether the pixels are those of the file, which was laid out like MNIST's images already."""


_NO_COMPONENTS = Components((), None)
_EMPTY = PreparedImage(np.zeros((SIDE, SIDE), np.uint8), NOTHING)


def prepare_digit(picture: Picture) -> PreparedImage:
    """Find the one digit of a picture; a picture that is laid out like MNIST's images already is taken as it is."""
    if picture.grey is not None and is_laid_out(picture.grey):
        return PreparedImage(picture.grey, as_given=True)
    ink = find_foreground(np.asarray(picture.values, np.float32))
    components = _NO_COMPONENTS if ink is None else find_components(ink)
    if components.whole is None:
        return _EMPTY
    if _is_texture(components):
        return PreparedImage(lay_out(components.whole.ink), TEXTURE)
    if _are_several(components.separate, components.whole):
        return PreparedImage(lay_out(components.whole.ink), SEVERAL)
    return _prepare_component(components.whole)


def prepare_row(picture: Picture) -> list[PreparedImage]:
    """Find the separate digits of a row, from left to right, without dots and commas."""
    ink = find_foreground(np.asarray(picture.values, np.float32))
    components = _NO_COMPONENTS if ink is None else find_components(ink)
    if _is_texture(components):
        return [PreparedImage(np.zeros((SIDE, SIDE), np.uint8), TEXTURE)]
    highest = max((component.height for component in components.separate), default=0)
    digits = [component for component in components.separate if component.height >= SMALL_COMPONENT * highest]
    return [_prepare_component(digit) for digit in digits] or [_EMPTY]


def _are_several(separate: tuple[Component, ...], whole: Component) -> bool:
    """Return whether components are several digits, not one in pieces: of like height, far apart or wide together."""
    like = [component for component in separate if component.height >= 0.6 * whole.height]
    gaps = [after.left - before.left - before.width for before, after in pairwise(like)]
    return bool(gaps) and (whole.width > 1.2 * whole.height or max(gaps) > WIDE_GAP * whole.height)


def _is_texture(components: Components) -> bool:
    return sum(component.pieces for component in components.separate) > MOST_PIECES


def _prepare_component(component: Component) -> PreparedImage:
    longer = max(component.height, component.width)
    if longer < SMALLEST:
        return PreparedImage(lay_out(component.ink), SMALL)
    if component.width > WIDEST * component.height:
        return PreparedImage(lay_out(component.ink), FLAT)
    if stroke_width(component.ink) * BOX / longer > THICKEST_READ:
        return PreparedImage(lay_out(component.ink), BLOB)
    return PreparedImage(lay_out(component.ink))
