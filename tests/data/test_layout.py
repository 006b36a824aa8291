"""MNIST's layout: 20 pixels long, centre of mass in the middle, strokes neither too thin nor too thick."""

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from kilonet.data.datasets import DataSet
from kilonet.data.digits.frame import centred, is_laid_out
from kilonet.data.digits.layout import grown, lay_out, stroke_width


def test_mnists_own_images_are_laid_out(mnist: DataSet) -> None:
    for part in (mnist.train, mnist.test):
        assert sum(is_laid_out(image) for image in part.pixels[:5000, 0].numpy()) == 5000


def test_moved_inverted_and_other_images_are_not(mnist: DataSet) -> None:
    image = mnist.test.pixels[0, 0].numpy()
    assert not is_laid_out(255 - image)
    assert not is_laid_out(np.roll(image, 3, 1))
    assert not is_laid_out(np.roll(image, 3, 0))
    assert not is_laid_out(image[2:26, 2:26])
    assert not is_laid_out(np.zeros((28, 28), np.uint8))
    small = np.zeros((28, 28), np.uint8)
    small[7:21, 7:21] = image[::2, ::2]
    assert not is_laid_out(small)


def test_laying_out_a_laid_out_digit_changes_little(mnist: DataSet) -> None:
    images = mnist.test.pixels[:200, 0].numpy()
    again = np.stack([lay_out(image.astype(np.float32) / 255) for image in images])
    assert np.abs(again.astype(float) - images).mean() < 3


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), share=st.floats(0.05, 1), seed=st.integers(0, 2**32 - 1))
def test_whatever_is_laid_out_is_in_the_box_and_in_the_middle(rows: int, columns: int, share: float, seed: int) -> None:
    ink = (np.random.default_rng(seed).random((rows, columns)) < share).astype(np.float32)
    ink[rows // 2, columns // 2] = 1
    image = lay_out(ink)
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    assert image.max() > 100
    ys, xs = np.nonzero(image)
    assert np.ptp(ys) < 20
    assert np.ptp(xs) < 20


def test_the_centre_of_mass_comes_to_the_middle() -> None:
    ink = np.zeros((20, 14), np.float32)
    ink[:, :3] = 1
    ys, xs = np.nonzero(centred(ink))
    assert (ys.mean(), xs.mean()) == (13.5, pytest.approx(14, abs=0.5))


@pytest.mark.parametrize("width", [3, 8, 16])
def test_a_stroke_is_as_wide_as_it_is(width: int) -> None:
    ink = np.zeros((200, 60), np.float32)
    ink[:, 10 : 10 + width] = 1
    assert stroke_width(ink) == pytest.approx(width * 200 / (200 + width), rel=0.03)


@pytest.mark.parametrize("pen", [1, 2, 8, 60, 80])
def test_thin_and_thick_pens_come_to_widths_that_occur(pen: int) -> None:
    ring = np.hypot(*(np.mgrid[:400, :400] - 199.5))
    ink = ((ring < 180) & (ring > 180 - pen)).astype(np.float32)
    image = lay_out(ink)
    assert 1.1 < stroke_width((image / 255).astype(np.float32)) < 5.5
    assert image.max() > 200
    assert image[14, 14] == 0


@given(arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_a_mask_grows_as_by_a_dilation(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(grown(mask), scipy.ndimage.binary_dilation(mask, np.ones((3, 3))))
