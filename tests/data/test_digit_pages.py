"""All digits of a page are found and read, row by row, and nothing else of it is."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from digit_pages import DigitPage, Digits, form, page_of_rows, sudoku
from kilonet.data.datasets import DataSet
from kilonet.data.decode import decode
from kilonet.data.digits import page
from kilonet.data.digits.page import PAGE_SIDE, TOO_MANY, prepare_page
from kilonet.data.digits.prepare import NO_DIGITS, PreparedImage
from kilonet.models.model import load_model
from kilonet.models.prediction import predictions_of
from surroundings import as_file


@pytest.fixture(scope="module")
def digits(mnist: DataSet) -> Digits:
    part = mnist.hold_out().test
    return Digits(part.pixels[:, 0].numpy(), part.labels.numpy())


def prepared(image: Image.Image) -> list[PreparedImage]:
    return prepare_page(decode(as_file(image), "page", side=PAGE_SIDE))


def numbers_of(drawn: DigitPage, images: list[PreparedImage]) -> list[int | None]:
    boxes = [image.box for image in images]
    return drawn.numbers([(box.left, box.top, box.right, box.bottom) for box in boxes if box])


@pytest.mark.ci
@pytest.mark.parametrize(("kind", "shape", "extra"), [(page_of_rows, {"rows": 5}, 0), (sudoku, {}, 1), (form, {}, 1)])
def test_a_page_is_read(digits: Digits, kind: Callable[..., DigitPage], shape: dict[str, int], extra: int) -> None:
    drawn = kind(digits, np.random.default_rng([61, 0]), **shape)
    images = prepared(drawn.picture)
    said = load_model("best").predict(np.stack([image.pixels for image in images])).classes.tolist()
    numbers = numbers_of(drawn, images)
    found = [number for number in numbers if number is not None]
    right = sum(
        number is not None and said[number] == one.digit for number, one in zip(numbers, drawn.digits, strict=True)
    )
    assert right >= 0.96 * len(drawn.digits)
    assert found == sorted(found)
    assert len(images) - len(found) <= extra


def test_rows_are_told_apart_on_a_slope(digits: Digits) -> None:
    drawn = page_of_rows(digits, np.random.default_rng([61, 3]), rows=3, each=8)
    for picture, order in ((drawn.picture, list(range(24))), (drawn.picture.rotate(-9, expand=True), None)):
        images = prepared(picture)
        rows = [image.row for image in images]
        assert rows == sorted(rows, key=lambda row: row or 0)
        assert [rows.count(row) for row in range(3)] == [8, 8, 8]
        assert order is None or numbers_of(drawn, images) == order


def test_light_digits_are_read_as_dark_ones_are(digits: Digits) -> None:
    drawn = page_of_rows(digits, np.random.default_rng([61, 8]), rows=2, each=5)
    dark, light = (prepared(image) for image in (drawn.picture, Image.eval(drawn.picture, lambda level: 255 - level)))
    assert [image.box for image in dark] == [image.box for image in light]


def test_an_empty_grid_has_no_digits() -> None:
    pixels = np.full((300, 300), 240, np.uint8)
    for line in range(20, 281, 52):
        pixels[line : line + 3, 20:283] = pixels[20:283, line : line + 3] = 40
    assert [image.objection for image in prepared(Image.fromarray(pixels))] == [NO_DIGITS]


def test_more_digits_than_are_read_are_refused(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_DIGITS", 9)
    drawn = page_of_rows(digits, np.random.default_rng([61, 8]), rows=2, each=5)
    assert [image.objection for image in prepared(drawn.picture)] == [TOO_MANY]


def test_a_page_without_a_sure_digit_is_read_and_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SURE", 1.1)
    image = Image.new("L", (900, 200), 255)
    ImageDraw.Draw(image).text((450, 100), "90220", font=ImageFont.load_default(90), fill=0, anchor="mm")
    boxes = prepared(image)
    best = load_model("best")
    pixels = torch.from_numpy(np.stack([one.pixels for one in boxes])).unsqueeze(1)
    said = predictions_of(best.logits(pixels).numpy(), boxes, best.metadata, digits=True)
    assert [one.name for one in said] == list("90220")
    assert all(one.uncertain for one in said)
