"""Prepare a picture for a network that reads digits: find its digit, or several in a row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kilonet.data.decode import Picture
from kilonet.data.digits.check import digit_probabilities
from kilonet.data.digits.components import Component, Components, find_components
from kilonet.data.digits.context import whole_probabilities
from kilonet.data.digits.cuts import split_digits
from kilonet.data.digits.foreground import find_foreground
from kilonet.data.digits.frame import BOX, SIDE, is_laid_out
from kilonet.data.digits.layout import lay_out, stroke_width
from kilonet.data.digits.marks import WIDEST, Box, Mark, find_marks, in_grey, reduced, searched_factor
from kilonet.data.digits.row_reader import read_row

SMALLEST = 6
"""The least length of the longer side of a digit, pixels."""
THICKEST_READ = 7.0
"""The greatest mean stroke width of a digit, in twentieths of its longer side; more is a blob."""
SMALL_COMPONENT = 0.4
"""In a row, components below this share of the greatest height are dots or commas, and are left out."""
MOST_PIECES = 40
"""The most connected pieces that digits may have; more of them are a texture."""
WIDE_GAP = 0.3
"""The greatest gap between the components of one digit, as a share of its height."""
LIKELY, LIKELY_ENOUGH, SURE = 0.1, 0.7, 0.95
"""Probabilities, by the check, that a mark is a digit: the least one, and two steps by which marks are preferred."""
LEAST_LIKELY = 0.0002
"""The least probability of the only mark of a picture."""
PART = 0.05
"""A mark less probably whole than this is a part, if another mark is rather whole than not."""
ALIKE = 0.55
"""Digits of a row or page have at least this share of the height of the largest."""
NARROW = 0.9
"""A mark of a row that is narrower than this share of its height, and surely a digit, is not split."""
LONGEST = 12
"""Ink that is wider than this many times its height is a rule, not digits that touch."""
MOST_CHECKED = 24
"""The most marks that are laid out and checked."""

NOTHING = "nothing stands out from the background"
SMALL = f"smaller than {SMALLEST} pixels"
BLOB = "a blob, not strokes"
FLAT = "much wider than high"
SEVERAL = "several separate marks; show one digit, or read a row with kilonet predict --line"
TEXTURE = f"more than {MOST_PIECES} separate pieces"
NO_DIGITS = "no digits on the page"
UNLIKE = "marks, but none like a digit"


@dataclass(frozen=True)
class PreparedImage:
    """An image as the network is shown it."""

    pixels: NDArray[np.uint8]
    """uint8 (28, 28) light on black, or the shape of the network's input."""
    objection: str | None = None
    """The reason why it is no digit, if there is one."""
    as_given: bool = False
    """Whether the pixels are those of the file, which was laid out like MNIST's images already."""
    likely: NDArray[np.float32] | None = None
    """The probability of each digit by the check, float32 (10,); None for an image that was not searched for."""
    in_row: bool = False
    """Whether it was cut out of digits that touch; then `likely` is by the reader of rows, which saw its neighbours."""
    box: Box | None = None
    """Where it was found in the picture, which may have been scaled down when it was decoded; None if nowhere."""
    row: int | None = None
    """The row of a page that it stands in, from 0."""


_NO_COMPONENTS = Components((), None)
EMPTY = PreparedImage(np.zeros((SIDE, SIDE), np.uint8), NOTHING)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mark that may be a digit."""

    mark: Mark
    image: PreparedImage
    score: float
    """The probability that it is one: by the check, and by its surroundings where they were looked at."""
    alone: float
    """The probability by the check, from what it looks like alone."""


def prepare_digit(picture: Picture) -> PreparedImage:
    """Find the one digit of a picture; a picture that is laid out like MNIST's images already is taken as it is."""
    if picture.grey is not None and is_laid_out(picture.grey):
        return PreparedImage(picture.grey, as_given=True)
    values = np.asarray(picture.values, np.float32)
    digits = find_digits(values)
    if len(digits) > 1:
        # Pieces of one digit may look like digits themselves.
        whole = checked(_only_mark(values))
        if whole and whole[0].score >= LEAST_LIKELY:
            return whole[0].image
        return PreparedImage(digits[0].image.pixels, SEVERAL, box=digits[0].mark.box)
    if digits:
        return digits[0].image
    return _no_digit(values)


def find_digits(values: NDArray[np.float32]) -> list[Candidate]:
    """Return the digits of a picture, float32 (rows, columns, channels), the largest first, with those like it."""
    grey = in_grey(values)
    alone = _likely(find_marks(grey))
    likely = _in_context(alone, grey)
    if not any(one.score >= SURE for one in likely):
        likely = _in_context([*alone, *_whole_picture(values)], grey)
    kept: list[Candidate] = []
    for one in sorted(likely, key=_rank):
        rivals = [other for other in kept if _conflict(one.mark, other.mark)]
        if any(not _is_frame_of(other.mark, one.mark) for other in rivals):
            continue
        kept = [other for other in kept if other not in rivals] + [one]
    kept = sorted(kept, key=lambda one: (one.score < SURE, -one.mark.contrast * one.mark.box.height))
    return [one for one in kept if one is kept[0] or _is_like(one, kept[0])]


def likely_marks(values: NDArray[np.float32]) -> list[Candidate]:
    """Return all marks of a picture, float32 (rows, columns, channels), that look like digits by themselves."""
    return [*_likely(find_marks(values)), *_whole_picture(values)]


def _likely(found: Sequence[Mark]) -> list[Candidate]:
    marks = [mark for mark in found if may_be_digit(mark)]
    marks = sorted(marks, key=lambda mark: -mark.contrast * max(mark.box.height, mark.box.width))[:MOST_CHECKED]
    first, rest = checked(marks[:1]), marks[1:]
    if first and first[0].score >= SURE:
        rest = [mark for mark in rest if not _is_paper_of(mark, first[0].mark)]
    likely = [one for one in [*first, *checked(rest)] if one.score >= LIKELY]
    return [one for one in likely if one.score >= LIKELY_ENOUGH or not any(is_part(one.mark, mark) for mark in found)]


def _whole_picture(values: NDArray[np.float32]) -> list[Candidate]:
    return [one for one in checked(_only_mark(values)) if one.score >= LEAST_LIKELY]


def _in_context(likely: Sequence[Candidate], values: NDArray[np.float32]) -> list[Candidate]:
    """Return candidates with the probability that they are whole digits by what is around them, too."""
    shares = whole_probabilities([one.mark for one in likely], values)
    least = PART if (shares >= 0.5).any() else 0.0
    return [
        replace(
            one,
            score=one.score * float(share),
            image=replace(one.image, likely=None if one.image.likely is None else one.image.likely * share),
        )
        for one, share in zip(likely, shares, strict=True)
        if share >= least or one.alone >= SURE
    ]


def _only_mark(values: NDArray[np.float32]) -> list[Mark]:
    """Return all ink of a picture as one mark, if it may be one digit, faint or in pieces, with paper around it."""
    factor = searched_factor(values)
    picture = reduced(values, factor)
    ink = find_foreground(picture)
    components = _NO_COMPONENTS if ink is None else find_components(ink)
    whole = components.whole
    if whole is None or _is_texture(components) or _are_several(components.separate, whole):
        return []
    if _objection(whole):
        return []
    box = Box(whole.top, whole.top + whole.height, whole.left, whole.left + whole.width)
    rows, columns = picture.shape[:2]
    if (box.top == 0) + (box.bottom == rows) + (box.left == 0) + (box.right == columns) > 1:
        return []
    return [Mark(whole.ink, box.scaled(factor), 255.0, True, "", whole.pieces, factor)]


def _rank(one: Candidate) -> tuple[int, int]:
    """Order what may be a digit: the surer, then the larger first."""
    doubts = int(one.score < SURE) + int(one.score < LIKELY_ENOUGH)
    return doubts, -one.mark.box.area


def doubted(one: Candidate) -> Candidate:
    """Return what may be a digit with half its probability, so that its prediction is uncertain."""
    likely = None if one.image.likely is None else one.image.likely / np.float32(2)
    return replace(one, image=replace(one.image, likely=likely))


def checked(marks: Sequence[Mark]) -> list[Candidate]:
    if not marks:
        return []
    pixels = np.stack([lay_out(mark.ink) for mark in marks])
    return [
        Candidate(mark, PreparedImage(image, likely=shares, box=mark.box), float(shares.sum()), float(shares.sum()))
        for mark, image, shares in zip(marks, pixels, digit_probabilities(pixels), strict=True)
    ]


def may_be_digit(mark: Mark) -> bool:
    longer = max(mark.ink.shape)
    return max(mark.box.height, mark.box.width) >= SMALLEST and stroke_width(mark.ink) * BOX / longer <= THICKEST_READ


def _conflict(one: Mark, other: Mark) -> bool:
    """Return whether two marks cannot both be digits: they cover much of one another."""
    return one.box.overlap(other.box) > 0.3 * min(one.box.area, other.box.area)


def _is_paper_of(one: Mark, digit: Mark) -> bool:
    """Return whether a mark is the paper between the strokes of a digit, or beside them, and no larger."""
    return one.is_dark != digit.is_dark and one.box.area <= digit.box.area and _conflict(one, digit)


def is_part(one: Mark, whole: Mark) -> bool:
    """Return whether a mark is a small part of the ink of another."""
    return (
        one.is_dark == whole.is_dark
        and whole.box.holds(one.box)
        and whole.box.area > 4 * one.box.area
        and whole.ink_within(one.box) > 0.5 * one.ink_within(one.box)
    )


def _is_frame_of(outer: Mark, inner: Mark) -> bool:
    """Return whether a mark is a ring or a box around another, which it does not touch."""
    return (
        outer.is_dark == inner.is_dark
        and outer.box.holds(inner.box)
        and inner.box.height > 0.3 * outer.box.height
        and outer.ink_within(inner.box) < 0.1 * inner.ink_within(inner.box)
    )


def _is_like(one: Candidate, first: Candidate) -> bool:
    """Return whether something is a further digit beside the first, not a speck or the paper between strokes."""
    return (
        one.alone >= (SURE if first.score >= SURE else 0.9 * first.score)
        and one.mark.is_dark == first.mark.is_dark
        and one.mark.box.height >= ALIKE * first.mark.box.height
        and one.mark.contrast >= 0.4 * first.mark.contrast
    )


def _no_digit(values: NDArray[np.float32]) -> PreparedImage:
    """Return what stands out of a picture, with the reason why it is no digit."""
    ink = find_foreground(values)
    components = _NO_COMPONENTS if ink is None else find_components(ink)
    if components.whole is None:
        return EMPTY
    if _is_texture(components):
        return PreparedImage(lay_out(components.whole.ink), TEXTURE)
    if _are_several(components.separate, components.whole):
        return PreparedImage(lay_out(components.whole.ink), SEVERAL)
    image = _prepare_component(components.whole)
    return image if image.objection else PreparedImage(image.pixels, UNLIKE)


def prepare_row(picture: Picture) -> list[PreparedImage]:
    """Find the digits of a row, from left to right, without dots and commas; digits that touch are split."""
    values = np.asarray(picture.values, np.float32)
    ink = find_foreground(values)
    components = _NO_COMPONENTS if ink is None else find_components(ink)
    if _is_texture(components):
        return [PreparedImage(np.zeros((SIDE, SIDE), np.uint8), TEXTURE)]
    highest = max((component.height for component in components.separate), default=0)
    row = [component for component in components.separate if component.height >= SMALL_COMPONENT * highest]
    digits = [image for component in row for image in _split_component(component)]
    if any(image.objection for image in digits) or not digits:
        # The picture has surroundings.
        found = sorted(find_digits(values), key=lambda one: one.mark.box.left)
        digits = [one.image for one in found] or digits
    return digits or [EMPTY]


def _split_component(component: Component) -> list[PreparedImage]:
    """Return the digits of connected ink."""
    whole = _prepare_component(component)
    if max(component.height, component.width) < SMALLEST or component.width > LONGEST * component.height:
        return [whole]
    (likely,) = digit_probabilities(whole.pixels[None])
    if likely.sum() >= SURE and component.width < NARROW * component.height:
        return [replace(whole, likely=likely)]
    reading = read_row(component.ink)
    parts = split_digits(component.ink, reading.digits) if len(reading.digits) > 1 else []
    if not parts:
        return [replace(whole, likely=likely)]
    return [
        PreparedImage(lay_out(part), likely=probabilities, in_row=True)
        for part, probabilities in zip(parts, reading.probabilities, strict=True)
    ]


def _are_several(separate: tuple[Component, ...], whole: Component) -> bool:
    """Return whether components are several digits, not one in pieces: of like height, far apart or wide together."""
    like = [component for component in separate if component.height >= 0.6 * whole.height]
    gaps = [after.left - before.left - before.width for before, after in pairwise(like)]
    return bool(gaps) and (whole.width > 1.2 * whole.height or max(gaps) > WIDE_GAP * whole.height)


def _is_texture(components: Components) -> bool:
    return sum(component.pieces for component in components.separate) > MOST_PIECES


def _prepare_component(component: Component) -> PreparedImage:
    return PreparedImage(lay_out(component.ink), _objection(component))


def _objection(component: Component) -> str | None:
    """Return why a component is no digit, if its size or shape says so."""
    longer = max(component.height, component.width)
    if longer < SMALLEST:
        return SMALL
    if component.width > WIDEST * component.height:
        return FLAT
    return BLOB if stroke_width(component.ink) * BOX / longer > THICKEST_READ else None
