"""Find all digits of a page or form, in reading order.

Every mark of a page is laid out and checked, as for a picture of one digit. What is a digit then follows from the page
too: digits have like heights, do not overlap, and are of one polarity; a bar that goes on above or below is a rule.
Where nearly all marks are sure digits, the others most probably are digits that are badly written.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kilonet.data.decode import Picture
from kilonet.data.digits.marks import WIDEST, Box, Mark, areas_of, find_page_marks, kept_in_turn, overlaps
from kilonet.data.digits.prepare import (
    EMPTY,
    LIKELY_ENOUGH,
    NO_DIGITS,
    SURE,
    Candidate,
    PreparedImage,
    checked,
    doubted,
    is_part,
    may_be_digit,
)

PAGE_SIDE = 2048
"""The longest side of a page, pixels; a longer one is scaled down when it is decoded."""
MOST_DIGITS = 1000
TOO_MANY = f"more than {MOST_DIGITS:,} digits; cut the page into parts"
LEAST_ON_PAGE = 0.05
"""The least probability, by the check, of a digit on a page where nearly all marks are sure digits."""
LEAST_BAR = 0.3
"""The least probability of a bar, which may be a piece of a rule."""
LOWEST, HIGHEST = 0.5, 2.0
"""The range of the heights of a page's digits, as shares of the median height of the sure ones."""

_USUAL = 1.5
"""Digits are usually this much higher or lower than the median at most."""
_LARGE = 1.5
"""Marks longer than this many times the height of the digits are lines or drawings."""
_OVERLAP = 0.3
"""Marks that share more of the smaller one's box than this cannot both be digits."""
_FEW = 0.1
"""Light digits on a page of dark ones, or the reverse, are no fewer than this share of them."""
_NEXT = 0.3
"""A bar goes on in another that is nearer than this share of its height."""
_HOLLOW = 0.05
"""The greatest share of the ink of a frame in the three fifths of its width and height in the middle."""
_LEVEL = 0.6
"""Digits of a row lie above and below one another by less than this share of their height."""
_THIN = 0.5
"""The least stroke width of a bar, as a share of that of the sure digits."""


def prepare_page(picture: Picture) -> list[PreparedImage]:
    """Find the digits of a picture, row by row; one image with an objection if there are none."""
    digits = [replace(one.image, row=row) for row, found in enumerate(_rows(_find_digits(picture))) for one in found]
    if len(digits) > MOST_DIGITS:
        return [replace(EMPTY, objection=TOO_MANY)]
    return digits or [replace(EMPTY, objection=NO_DIGITS)]


def _find_digits(picture: Picture) -> list[Candidate]:
    marks = find_page_marks(np.asarray(picture.values, np.float32))
    candidates = checked([mark for mark in marks if _may_be_digit(mark)])
    # A page of few digits, or in an unusual type, may have none that is sure; letters look likely then, too.
    certain = SURE if any(one.score >= SURE for one in candidates) else LIKELY_ENOUGH
    heights = [one.mark.box.height for one in candidates if one.score >= certain]
    if not heights:
        return []
    usual = float(np.median(heights))
    like = [one for one in candidates if LOWEST * usual <= one.mark.box.height <= HIGHEST * usual]
    written = _of_one_polarity(_without_rules(like, marks, usual, certain), certain)
    found = _digits(_without_overlaps(written, usual))
    return found if certain == SURE else [doubted(one) for one in found]


def _rows(digits: Sequence[Candidate]) -> list[list[Candidate]]:
    """Return digits row by row.

    A digit follows, in its row, the one to its left that it is level with, along the slope that most neighbours have.
    """
    slope = _slope([one.mark.box for one in digits])
    rows: list[list[Candidate]] = []
    for one in sorted(digits, key=lambda one: one.mark.box.left):
        box = one.mark.box
        ends = [(abs(_below(row[-1].mark.box, box, slope)), row[-1].mark.box.height, row) for row in rows]
        near = [(apart, row) for apart, height, row in ends if apart < _LEVEL * min(box.height, height)]
        if near:
            min(near, key=lambda end: end[0])[1].append(one)
        else:
            rows.append([one])
    return sorted(rows, key=lambda row: float(np.median([one.mark.box.y - slope * one.mark.box.x for one in row])))


def _slope(boxes: Sequence[Box]) -> float:
    """Return the median slope from each box to the nearest one to its right that is about level with it."""
    slopes: list[float] = []
    for one in boxes:
        right = [
            other
            for other in boxes
            if other.x > one.x and abs(_below(one, other, 0)) < min(other.x - one.x, _LEVEL * one.height)
        ]
        if right:
            nearest = min(right, key=lambda other: other.x)
            slopes.append((nearest.y - one.y) / (nearest.x - one.x))
    return float(np.median(slopes)) if slopes else 0.0


def _below(one: Box, other: Box, slope: float) -> float:
    """Return how many pixels the middle of another box lies below one, along a slope."""
    return other.y - one.y - slope * (other.x - one.x)


def _may_be_digit(mark: Mark) -> bool:
    return mark.box.width <= WIDEST * mark.box.height and len(mark.edges) < 2 and may_be_digit(mark)


def _without_rules(
    candidates: Sequence[Candidate], marks: Sequence[Mark], usual: float, certain: float
) -> list[Candidate]:
    """Return the candidates without what is rather a piece of a line, of a grid or of a drawing.

    Those of a score of `certain` are digits.
    """
    large = [mark for mark in marks if mark.pieces == 1 and max(mark.box.height, mark.box.width) > _LARGE * usual]
    bars = [one for one in candidates if one.mark.is_bar]
    thinnest = _THIN * float(np.median([one.mark.stroke_width for one in candidates if one.score >= certain]))
    return [
        one
        for one in candidates
        if not (
            one.mark.is_bar
            and (
                one.score < LEAST_BAR
                or one.mark.stroke_width < thinnest
                or any(_goes_on(one.mark, other.mark) for other in bars)
            )
        )
        and not (
            (one.mark.is_bar or one.score < certain)
            and any(whole.factor <= one.mark.factor and is_part(one.mark, whole) for whole in large)
        )
    ]


def _goes_on(one: Mark, other: Mark) -> bool:
    """Return whether a bar goes on in another, above or below."""
    across = min(one.box.right, other.box.right) - max(one.box.left, other.box.left)
    between = max(one.box.top, other.box.top) - min(one.box.bottom, other.box.bottom)
    return one.is_dark == other.is_dark and across > 0 and 0 <= between < _NEXT * one.box.height


def _of_one_polarity(candidates: Sequence[Candidate], certain: float) -> list[Candidate]:
    """Return the candidates without those of the other polarity than most, if they are few or not sure."""
    sure = {dark: sum(one.mark.is_dark == dark for one in candidates if one.score >= certain) for dark in (True, False)}
    most = sure[True] >= sure[False]
    few = sure[not most] < _FEW * sure[most]
    return [
        one for one in candidates if one.mark.is_dark == most or not (few or one.mark.is_bar or one.score < certain)
    ]


def _rank(one: Candidate, usual: float) -> tuple[int, int, int]:
    """Order what may be a digit: the likely ones and those of the usual height, then the sharper and the larger."""
    box = one.mark.box
    unusual = not 1 / _USUAL <= box.height / usual <= _USUAL
    return int(one.score < LIKELY_ENOUGH) + int(unusual), one.mark.factor, -box.area


def _without_overlaps(candidates: Sequence[Candidate], usual: float) -> list[Candidate]:
    ranked = sorted(candidates, key=lambda one: _rank(one, usual))
    boxes = [one.mark.box for one in ranked]
    return [ranked[number] for number in kept_in_turn(boxes, _overlap)]


def _overlap(box: Box, others: NDArray[np.int32]) -> NDArray[np.bool_]:
    return np.asarray(overlaps(box, others) > _OVERLAP * np.minimum(areas_of(others), box.area))


def _digits(apart: Sequence[Candidate]) -> list[Candidate]:
    """Return the digits among marks that do not overlap: of a page of digits, a mark is a digit rather than none."""
    likely = sum(one.score >= LIKELY_ENOUGH for one in apart)
    unlikely = sum(one.score < LEAST_ON_PAGE and not _is_frame(one.mark) for one in apart)
    # By Bayes' rule, if the check was trained on as many digits as others.
    least = unlikely / (likely + unlikely) if likely else 1.0
    found = [one for one in apart if one.score >= min(max(least, LEAST_ON_PAGE), LIKELY_ENOUGH)]
    return [doubted(one) if one.mark.is_bar and one.score < SURE else one for one in found]


def _is_frame(mark: Mark) -> bool:
    """Return whether there is hardly any ink in the middle of a mark, as in a box to write in."""
    rows, columns = (slice(side // 5, -(-4 * side // 5)) for side in mark.ink.shape)
    return float(mark.ink[rows, columns].sum()) < _HOLLOW * float(mark.ink.sum())
