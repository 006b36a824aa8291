"""The corruptions of MNIST-C follow their definitions and are reproducible."""

import numpy as np
import pytest
import torch

from helpers import refusal, some_pixels
from kilonet.data.datasets import DataSet, Images
from kilonet.evaluation.corruptions import CORRUPTIONS, corrupted, evaluate_corrupted
from kilonet.models.model import load_model
from kilonet.utils.errors import KilonetError

NAMES = [
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "shear",
    "scale",
    "rotate",
    "brightness",
    "translate",
    "stripe",
    "fog",
    "spatter",
    "dotted_line",
    "zigzag",
    "canny_edges",
]


@pytest.fixture
def some(mnist: DataSet) -> Images:
    return mnist.test.select(torch.arange(60), "Test")


def change(images: Images, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images before and after a corruption, 0 to 1."""
    return images.pixels[:, 0].numpy() / 255, corrupted(images, name).pixels[:, 0].numpy() / 255


def test_there_are_the_fifteen_of_the_paper() -> None:
    assert list(CORRUPTIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_is_always_the_same_and_changes_the_images(some: Images, name: str) -> None:
    first, again = corrupted(some, name), corrupted(some, name)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, some.labels)
    assert first.pixels.shape == some.pixels.shape
    assert not torch.equal(first.pixels, some.pixels)


def test_shot_noise_keeps_the_mean_and_counts_in_thirds(some: Images) -> None:
    before, after = change(some, "shot_noise")
    assert set(np.unique((after * 255).round())) == {0, 85, 170, 255}
    assert (after[before == 0] == 0).all()
    assert after[(before > 0.3) & (before < 0.4)].mean() == pytest.approx(0.34, abs=0.06)


def test_impulse_noise_hits_its_share(some: Images) -> None:
    before, after = change(some, "impulse_noise")
    black = before == 0
    assert (after[black] == 1).mean() == pytest.approx(0.085, abs=0.01)
    assert (after[before == 1] == 0).mean() == pytest.approx(0.085, abs=0.045)


@pytest.mark.parametrize("name", ["glass_blur", "motion_blur"])
def test_blurs_keep_the_ink_and_soften_it(some: Images, name: str) -> None:
    before, after = change(some, name)
    assert after.sum() == pytest.approx(before.sum(), rel=0.06)
    assert np.abs(np.diff(after, axis=2)).sum() < 0.8 * np.abs(np.diff(before, axis=2)).sum()


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row and column of each image's centre, and its ink."""
    ink = images.sum((1, 2))
    rows, columns = np.arange(28), np.arange(28)
    return (images.sum(2) @ rows) / ink, (images.sum(1) @ columns) / ink, ink


def test_translate_moves_by_three_in_both_directions(some: Images) -> None:
    before, after = change(some, "translate")
    for was, now in list(zip(moments(before), moments(after), strict=True))[:2]:
        # Some images lose a little ink at the border.
        assert (np.abs(np.abs(now - was) - 3) < 0.01).mean() > 0.8
        assert {*np.sign(now - was)} == {-1, 1}


def test_scale_leaves_half_of_the_ink(some: Images) -> None:
    before, after = change(some, "scale")
    np.testing.assert_allclose(moments(after)[2] / moments(before)[2], 0.49, atol=0.06)


def test_rotate_keeps_the_ink_and_turns_either_way() -> None:
    line = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    line[:, :, 4:24, 13:15] = 255
    after = corrupted(Images(line, torch.zeros(40, dtype=torch.int64)), "rotate").pixels[:, 0].numpy()
    tops = after[:, 5].argmax(1) - 13.5
    np.testing.assert_allclose(np.abs(tops), 8.5 * np.tan(0.4), atol=1)
    assert {*np.sign(tops)} == {-1, 1}


def test_shear_moves_rows_against_each_other() -> None:
    line = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    line[:, :, :, 13:15] = 255
    after = corrupted(Images(line, torch.zeros(40, dtype=torch.int64)), "shear").pixels[:, 0].numpy()
    slant = after[:, 24].argmax(1) - after[:, 3].argmax(1)
    assert {*np.sign(slant)} == {-1, 1}
    np.testing.assert_allclose(np.abs(slant), 21 * np.sin(0.4), atol=1)


def test_brightness_adds_half(some: Images) -> None:
    before, after = change(some, "brightness")
    np.testing.assert_allclose(after, np.minimum(before + 0.5, 1), atol=1 / 255)


def test_stripe_inverts_either_side(some: Images) -> None:
    before, after = change(some, "stripe")
    np.testing.assert_allclose(after[:, :, :7], 1 - before[:, :, :7], atol=1 / 255)
    np.testing.assert_allclose(after[:, :, 21:], 1 - before[:, :, 21:], atol=1 / 255)
    np.testing.assert_allclose(after[:, :, 7:21], before[:, :, 7:21], atol=1 / 255)


def test_fog_lightens_smoothly(some: Images) -> None:
    before, after = change(some, "fog")
    assert after[before == 0].mean() > 0.15
    edges = np.abs(np.diff(after, axis=2))[(before[:, :, 1:] == 0) & (before[:, :, :-1] == 0)]
    assert edges.mean() < 0.03


def test_spatter_is_a_quarter_bright_and_hides_ink(some: Images) -> None:
    before, after = change(some, "spatter")
    mud = after[before == 0]
    assert mud.max() <= 63 / 255 + 1e-6
    assert 0.02 < (mud > 0.19).mean() < 0.4
    assert after.max((1, 2)).min() > 0.5


@pytest.mark.parametrize("name", ["dotted_line", "zigzag"])
def test_lines_are_only_added(some: Images, name: str) -> None:
    before, after = change(some, name)
    assert (after >= before - 1 / 255).all()
    added = (after - before > 0.5).sum((1, 2))
    assert added.min() >= 3
    assert added.max() < 150
    columns = (after - before > 0.1).any((0, 1))
    if name == "dotted_line":
        np.testing.assert_array_equal(columns[:26].reshape(13, 2).all(1), np.arange(13) % 2 == 1)
    else:
        assert not columns[:2].any()
        assert columns[3:24].all()


def test_canny_leaves_edges_alone(some: Images) -> None:
    before, after = change(some, "canny_edges")
    assert set(np.unique(after)) == {0, 1}
    assert after[before > 0.99].mean() < after[(before > 0.2) & (before < 0.8)].mean()


def test_only_images_of_its_size_are_corrupted() -> None:
    images = Images(some_pixels(2, (3, 28, 28)), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(KilonetError) as error:
        evaluate_corrupted(load_model("best"), images)
    refusal(error, "28x28 grey")
