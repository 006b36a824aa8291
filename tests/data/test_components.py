"""Components: connected pieces become digits, in reading order, without the specks between them."""

import numpy as np
from numpy.typing import NDArray

from kilonet.data.digits.components import Components, find_components

Floats = NDArray[np.float32]


def ink(*boxes: tuple[int, int, int, int]) -> Floats:
    """Full boxes of (top, bottom, left, right) on 40x100 pixels."""
    sheet = np.zeros((40, 100), np.float32)
    for top, bottom, left, right in boxes:
        sheet[top:bottom, left:right] = 1
    return sheet


def test_separate_marks_come_from_left_to_right() -> None:
    components = find_components(ink((5, 30, 60, 66), (6, 31, 10, 14), (2, 28, 30, 40))).separate
    assert [component.left for component in components] == [9, 29, 59]
    assert [(component.height, component.width) for component in components] == [(27, 6), (28, 12), (27, 8)]


def test_pieces_above_one_another_are_one_component() -> None:
    components = find_components(ink((5, 8, 10, 25), (12, 30, 8, 20), (5, 30, 60, 64))).separate
    assert [(component.top, component.left, component.height, component.width) for component in components] == [
        (4, 7, 27, 19),
        (4, 59, 27, 6),
    ]


def test_pieces_that_nearly_touch_are_one_component() -> None:
    assert len(find_components(ink((5, 30, 10, 20), (5, 30, 21, 24))).separate) == 1
    assert len(find_components(ink((5, 30, 10, 20), (5, 30, 23, 26))).separate) == 2


def test_specks_are_dropped() -> None:
    components = find_components(ink((5, 30, 10, 20), (1, 2, 90, 92))).separate
    assert [component.left for component in components] == [9]


def test_faint_pieces_need_a_sure_pixel() -> None:
    sheet = ink((5, 30, 10, 20))
    sheet[5:30, 60:70] = 0.4
    assert len(find_components(sheet).separate) == 1
    sheet[10, 65] = 0.5
    assert len(find_components(sheet).separate) == 2


def test_a_mark_holds_only_its_own_ink() -> None:
    slanted = ink()
    for row in range(30):
        slanted[5 + row, 10 + row : 14 + row] = 1
        slanted[5 + row, 50 - row // 2 : 54 - row // 2] = 0.8
    together = find_components(slanted)
    assert together.separate == (together.whole,)
    (first,) = find_components(np.where(slanted == 1, slanted, 0).astype(np.float32)).separate
    assert first.ink.sum() == (slanted == 1).sum()


def test_nothing_is_no_component() -> None:
    for sheet in (ink(), ink() + np.float32(0.3)):
        assert find_components(sheet) == Components((), None)


def test_the_whole_is_all_marks() -> None:
    whole = find_components(ink((5, 30, 60, 66), (6, 31, 10, 14))).whole
    assert whole is not None
    assert (whole.top, whole.left, whole.height, whole.width, whole.pieces) == (4, 9, 28, 58, 2)
    assert whole.ink.sum() == 25 * 10
