"""Pictures are prepared for the network, or have a reason why they are no digit."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.datasets import DataSet
from kilonet.data.decode import Picture, decode
from kilonet.data.digits import prepare
from kilonet.data.digits.layout import lay_out
from kilonet.data.digits.page import prepare_page
from kilonet.data.digits.prepare import prepare_digit, prepare_row
from kilonet.models.model import load_model

Bytes = NDArray[np.uint8]
Y, X = np.mgrid[:100, :100]


def picture(pixels: Bytes) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return decode(stream.getvalue(), "photo")


def sheet(black: NDArray[np.bool_]) -> Bytes:
    return np.where(black, 0, 255).astype(np.uint8)


def row_of(digits: Bytes, gap: int = 0) -> Bytes:
    return np.asarray(255 - np.pad(np.concatenate([np.pad(one, ((0, 0), (0, gap))) for one in digits], 1), 8), np.uint8)


def test_mnists_test_images_written_as_files_are_seen_as_they_are(mnist: DataSet) -> None:
    for image in mnist.test.pixels[::10, 0].numpy():
        seen = prepare_digit(picture(image))
        assert seen.objection is None
        np.testing.assert_array_equal(seen.pixels, image)


@pytest.mark.ci
def test_inverted_test_images_are_recognised_as_well(mnist: DataSet) -> None:
    images, labels = mnist.test.pixels[:250, 0].numpy(), mnist.test.labels[:250].numpy()
    prepared = [prepare_digit(picture(255 - image)) for image in images]
    assert [image.objection for image in prepared] == [None] * 250
    right = (load_model("best").predict(np.stack([image.pixels for image in prepared])).classes == labels).sum()
    assert right >= (load_model("best").predict(images).classes == labels).sum() - 2


def noise() -> Bytes:
    return np.random.default_rng(0).integers(0, 256, (100, 100)).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "objection"),
    [
        (sheet(X < 0), prepare.NOTHING),
        (sheet(X >= 0), prepare.NOTHING),
        (noise(), prepare.NOTHING),
        ((X * 2).astype(np.uint8), prepare.NOTHING),
        (sheet((np.abs(X - 50) < 20) & (np.abs(Y - 50) < 20)), prepare.BLOB),
        (sheet(np.hypot(X - 50, Y - 50) < 20), prepare.BLOB),
        (sheet((np.abs(X - 50) < 30) & (np.abs(Y - 50) < 2)), prepare.FLAT),
        (sheet((np.abs(X - 50) < 2) & (np.abs(Y - 50) < 2)), prepare.SMALL),
        (
            sheet((np.abs(X - 20) < 3) & (np.abs(Y - 50) < 30) | (np.abs(X - 80) < 3) & (np.abs(Y - 50) < 30)),
            prepare.SEVERAL,
        ),
        (sheet((X % 13 < 5) & (Y % 11 < 5)), prepare.TEXTURE),
    ],
    ids=["white", "black", "noise", "slope", "square", "disc", "dash", "dot", "two", "dots"],
)
def test_what_is_no_digit_is_objected_to(pixels: Bytes, objection: str | None) -> None:
    seen = prepare_digit(picture(pixels))
    assert seen.objection == objection
    assert seen.pixels.shape == (28, 28)
    assert seen.pixels.dtype == np.uint8


def test_a_row_without_line_is_objected_to(mnist: DataSet) -> None:
    assert prepare_digit(picture(row_of(mnist.test.pixels[:4, 0].numpy()))).objection == prepare.SEVERAL


@pytest.mark.parametrize("gap", [0, 40])
def test_a_row_is_read_in_order(mnist: DataSet, gap: int) -> None:
    images = mnist.test.pixels[:12, 0].numpy()
    prepared = prepare_row(picture(row_of(images, gap)))
    assert [image.objection for image in prepared] == [None] * 12
    said = load_model("best").predict(np.stack([image.pixels for image in prepared])).classes
    assert said.tolist() == mnist.test.labels[:12].tolist()


def test_dots_between_the_digits_of_a_row_are_left_out(mnist: DataSet) -> None:
    row = row_of(mnist.test.pixels[:3, 0].numpy(), gap=12)
    row[30:33, 40:43] = 0
    assert len(prepare_row(picture(row))) == 3


def test_a_row_of_nothing_is_one_objection() -> None:
    assert [image.objection for image in prepare_row(picture(sheet(X < 0)))] == [prepare.NOTHING]


def test_a_digit_in_a_ring_is_read_and_the_ring_is_not(mnist: DataSet) -> None:
    """The ring itself is a sure 0."""
    ring = sheet(np.abs(np.hypot((X - 50) * 1.4, Y - 50) - 42) < 5)
    assert (whole := prepare_digit(picture(ring))).box
    assert whole.box.height > 80
    for number in range(4):
        page = ring.copy()
        digit = np.asarray(Image.fromarray(mnist.test.pixels[number, 0].numpy()).resize((40, 40))) > 128
        page[30:70, 30:70][digit] = 0
        seen = prepare_digit(picture(page))
        assert seen.box
        assert seen.box.height < 60
        assert load_model("best").predict(seen.pixels[None]).classes.tolist() == [int(mnist.test.labels[number])]


def test_a_long_rule_is_not_taken_for_digits_that_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splitting it took 16 s."""
    monkeypatch.setattr(prepare, "split_digits", lambda _: pytest.fail("a rule was split"))
    pixels = np.full((60, 2000, 1), 255, np.float32)
    pixels[20:40, 50:1950] = 0
    pixels[25:35, 60:1940:3] = 255
    assert all(image.objection for image in prepare_row(Picture(pixels, None)))


def test_the_paper_between_the_strokes_of_a_digit_is_not_looked_at(
    mnist: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Bytes] = []

    def laid_out(ink: NDArray[np.float32]) -> Bytes:
        looked_at.append(lay_out(ink))
        return looked_at[-1]

    monkeypatch.setattr(prepare, "lay_out", laid_out)
    eight = mnist.test.pixels[int((mnist.test.labels == 8).nonzero()[0, 0]), 0].numpy()
    large = np.asarray(Image.fromarray(np.pad(eight, 14)).resize((560, 560), Image.Resampling.BICUBIC))
    assert prepare_digit(picture(255 - large)).objection is None
    assert len(looked_at) == 1


@pytest.mark.ci
@given(st.integers(1, 12), st.integers(1, 1200), st.booleans(), st.sampled_from([1, 3]), st.integers(0, 99))
def test_a_picture_may_be_of_any_shape(thin: int, long: int, upright: bool, channels: int, seed: int) -> None:
    rows, columns = (long, thin) if upright else (thin, long)
    values = np.random.default_rng(seed).integers(0, 256, (rows, columns, channels)).astype(np.float32)
    for find in (prepare_digit, prepare_row, prepare_page):
        find(Picture(values, None))
        find(Picture(np.full_like(values, 200), None))
