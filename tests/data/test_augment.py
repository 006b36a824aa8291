"""Augmentation, compared with an independent float64 reference and with exact cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from helpers import some_pixels
from kilonet.data.augment import Batch, apply_changes, apply_transforms, draw_changes, draw_transforms
from kilonet.data.section import AugmentSection

MOVED = AugmentSection(rotation=180, shift=10, scale=0.5, shear=1)
ANY = MOVED.model_copy(update={"flip": True, "flip_vertical": True})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transform(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def resampled(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read an image, (rows, columns), at the positions that a transform gives, in plain loops and float64."""
    rows, columns = image.shape

    def pixel(row: int, column: int) -> float:
        return float(image[row, column]) if 0 <= row < rows and 0 <= column < columns else 0.0

    result = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            place = np.array([column - (columns - 1) / 2, row - (rows - 1) / 2, 1.0])
            x, y = matrix @ place + [(columns - 1) / 2, (rows - 1) / 2]
            left, top = math.floor(x), math.floor(y)
            across, down = x - left, y - top
            result[row, column] = (
                pixel(top, left) * (1 - across) * (1 - down)
                + pixel(top, left + 1) * across * (1 - down)
                + pixel(top + 1, left) * (1 - across) * down
                + pixel(top + 1, left + 1) * across * down
            )
    return result


@pytest.mark.parametrize("shape", [(28, 28), (9, 14), (14, 9), (1, 5)])
def test_random_transforms_are_what_the_reference_makes_of_them(shape: tuple[int, int]) -> None:
    pixels = some_pixels(8, (1, *shape))
    transforms = draw_transforms(ANY, 8, generator())
    expected = np.stack(
        [resampled(image[0].numpy(), matrix.double().numpy()) for image, matrix in zip(pixels, transforms, strict=True)]
    )
    np.testing.assert_allclose(apply_transforms(pixels, transforms)[:, 0].numpy(), expected, atol=0.02)


def test_channels_are_moved_alike() -> None:
    pixels = some_pixels(4, (3, 12, 10))
    transforms = draw_transforms(ANY, 4, generator())
    moved = apply_transforms(pixels, transforms)
    for channel in range(3):
        alone = apply_transforms(pixels[:, channel : channel + 1], transforms)
        torch.testing.assert_close(moved[:, channel : channel + 1], alone)


@pytest.mark.parametrize("shape", [(28, 28), (9, 14)])
def test_the_identity_changes_nothing(shape: tuple[int, int]) -> None:
    pixels = some_pixels(5, (1, *shape))
    moved = apply_transforms(pixels, transform((1, 0, 0), (0, 1, 0)).expand(5, 2, 3))
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, pixels.float(), atol=1e-3, rtol=0)


def test_without_augmentation_every_transform_is_the_identity() -> None:
    transforms = draw_transforms(AugmentSection(), 100, generator())
    assert torch.equal(transforms, transform((1, 0, 0), (0, 1, 0)).expand(100, 2, 3))


@given(right=st.integers(-5, 5), down=st.integers(-5, 5))
def test_whole_shifts_are_exact_and_bring_in_black(right: int, down: int) -> None:
    pixels = some_pixels(1, (1, 10, 12))
    # A transform gives the position that is read: to shift an image right is to read further left.
    moved = apply_transforms(pixels, transform((1, 0, -right), (0, 1, -down)))
    expected = torch.zeros(1, 1, 10, 12)
    rows, columns = slice(max(0, down), 10 + min(0, down)), slice(max(0, right), 12 + min(0, right))
    sources = slice(max(0, -down), 10 + min(0, -down)), slice(max(0, -right), 12 + min(0, -right))
    expected[:, :, rows, columns] = pixels[:, :, sources[0], sources[1]].float()
    torch.testing.assert_close(moved, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("cosine", "sine", "quarters"), [(0, 1, 1), (-1, 0, 2), (0, -1, 3)])
def test_quarter_turns_are_exact(cosine: float, sine: float, quarters: int) -> None:
    pixels = some_pixels(2)
    moved = apply_transforms(pixels, transform((cosine, -sine, 0), (sine, cosine, 0)).expand(2, 2, 3))
    torch.testing.assert_close(moved, torch.rot90(pixels, quarters, (2, 3)).float(), atol=1e-2, rtol=0)


def test_a_scale_of_two_shows_the_middle_half() -> None:
    pixels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    pixels[:, :, 2:6, 2:6] = 200
    moved = apply_transforms(pixels, transform((0.5, 0, 0), (0, 0.5, 0)))
    assert moved[0, 0].min() > 100
    assert moved[0, 0, 1:7, 1:7].min() == pytest.approx(200, abs=1e-2)


def dials(transforms: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Recover angle (degrees), size, shear and shift from A = rotation @ [[1, shear], [0, 1]] / size."""
    matrix = transforms[:, :, :2].double()
    size = 1 / matrix[:, :, 0].norm(dim=1)
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    unit = matrix[:, :, 0] * size[:, None]
    shear = (unit * matrix[:, :, 1]).sum(1) * size
    return torch.rad2deg(angle), size, shear, transforms[:, :, 2]


@pytest.mark.parametrize(
    "section",
    [
        AugmentSection(rotation=10, shift=2, scale=0.1, shear=0.1),
        AugmentSection(rotation=90),
        AugmentSection(shift=3),
        AugmentSection(scale=0.9),
        AugmentSection(shear=1),
    ],
    ids=str,
)
def test_every_dial_is_drawn_evenly_from_its_range(section: AugmentSection) -> None:
    angle, size, shear, shift = dials(draw_transforms(section, 20_000, generator()))
    ranges = ((angle, section.rotation, 0), (size, section.scale, 1), (shear, section.shear, 0))
    for drawn, half, middle in (*ranges, (shift[:, 0], section.shift, 0), (shift[:, 1], section.shift, 0)):
        away = (drawn - middle).abs()
        assert away.max() <= half + 1e-4
        if half:
            assert away.max() > 0.99 * half
            assert (drawn - middle).mean() / half == pytest.approx(0, abs=0.02)
            assert away.mean() / half == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("key", "axis"), [("flip", 3), ("flip_vertical", 2)])
def test_a_flip_mirrors_one_image_in_two(key: str, axis: int) -> None:
    pixels = some_pixels(1, (3, 9, 14)).expand(400, -1, -1, -1)
    moved = apply_transforms(pixels, draw_transforms(AugmentSection.model_validate({key: True}), 400, generator()))
    mirrored = (moved - pixels.flip(axis)).abs().amax((1, 2, 3)) < 0.01
    # A binomial count of 400 draws: the deviation is 10.
    assert 160 < int(mirrored.sum()) < 240
    torch.testing.assert_close(moved[~mirrored], pixels[~mirrored].float(), atol=0.01, rtol=0)


def test_the_flips_are_independent() -> None:
    transforms = draw_transforms(AugmentSection(flip=True, flip_vertical=True), 20_000, generator())
    table = torch.stack([transforms[:, 0, 0], transforms[:, 1, 1]])
    assert abs(float(torch.corrcoef(table)[0, 1])) < 0.03


def test_a_flip_mirrors_the_image_and_leaves_the_other_dials_alone() -> None:
    """A recipe without flips keeps the transforms that it had before there were flips."""
    plain = draw_transforms(MOVED, 100, generator())
    pixels = some_pixels(100, (1, 9, 14))
    for section, axes in (({"flip": True}, [3]), ({"flip_vertical": True}, [2])):
        flipped = draw_transforms(MOVED.model_copy(update=section), 100, generator())
        changed = (flipped != plain).any(2).any(1)
        assert 30 < int(changed.sum()) < 70
        expected = apply_transforms(pixels.flip(axes), plain)
        torch.testing.assert_close(apply_transforms(pixels, flipped)[changed], expected[changed], atol=0.05, rtol=0)


def test_dials_are_independent() -> None:
    angle, size, shear, shift = dials(
        draw_transforms(AugmentSection(rotation=10, shift=2, scale=0.1, shear=0.1), 20_000, generator())
    )
    table = torch.stack([angle, size, shear, *shift.double().unbind(1)])
    assert (torch.corrcoef(table) - torch.eye(5)).abs().max() < 0.03


def test_the_same_generator_gives_the_same_transforms() -> None:
    first, second, other = (draw_transforms(ANY, 10, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.shape == (10, 2, 3)
    assert first.dtype == torch.float32


SHAPE = (3, 11, 8)
MEANS = (0.5, 0.4, 0.3)
CHANGES: dict[str, dict[str, object]] = {
    "crop": {"crop": 3},
    "edge": {"rotation": 90, "shift": 5, "crop": 4, "outside": "edge"},
    "blur": {"blur": 1},
    "colours": {"brightness": 0.3, "contrast": 0.5, "saturation": 0.7, "white_balance": 0.2},
    "noise": {"noise": 0.2},
    "cutout": {"cutout": 5},
    "mixup": {"mixup": 0.5},
}
CHANGES["all"] = {key: value for changes in CHANGES.values() for key, value in changes.items()} | {"flip": True}


def edge_resampled(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Do as `resampled` does, with the nearest pixel beyond the border: a wide frame of repeated pixels."""
    frame = 40
    wide = resampled(np.pad(image, frame, mode="edge"), matrix)
    return wide[frame:-frame, frame:-frame]


def changed_by_loops(pixels: NDArray[np.uint8], batch: Batch, edge: bool) -> NDArray[np.float64]:
    """Apply all changes of a batch in plain loops and float64, as the module's docstring lists them."""
    move = edge_resampled if edge else resampled
    given = {name: tensor.double().numpy() for name, tensor in batch.tensors().items()}
    mean = 255 * np.array(MEANS)
    found = np.zeros(pixels.shape)
    for number, image in enumerate(found):
        image[:] = [move(channel, given["transforms"][number]) for channel in pixels[number]]
        if "blurs" in given:
            frame = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
            weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
            for c, y, x in np.ndindex(image.shape):
                blurred = (weights * frame[c, y : y + 3, x : x + 3]).sum()
                image[c, y, x] += given["blurs"][number] * (blurred - image[c, y, x])
        if "colours" in given:
            matrix = given["colours"][number]
            for y, x in np.ndindex(image.shape[1:]):
                image[:, y, x] = matrix[:, :3] @ image[:, y, x] + matrix[:, 3]
        if "noise_levels" in given:
            start = int(given["noise_starts"][number])
            values = given["noise_values"][start : start + image.size].reshape(image.shape)
            image[:] += given["noise_levels"][number] * values
        if "colours" in given or "noise_levels" in given:
            image[:] = image.clip(0, 255)
        if "cutouts" in given:
            top, bottom, left, right = given["cutouts"][number].astype(int)
            image[:, top:bottom, left:right] = mean[:, None, None]
    if "shares" in given:
        share = given["shares"][:, None, None, None]
        found = share * found + (1 - share) * np.concatenate([found[1:], found[:1]])
    return found


def drawn(section: AugmentSection, count: int, mixed: float = 0.7) -> Batch:
    return draw_changes(section, torch.arange(count), SHAPE, MEANS, generator(), mixed=mixed)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_what_the_reference_makes_of_it(name: str) -> None:
    section, pixels = AugmentSection.model_validate(CHANGES[name]), some_pixels(6, SHAPE)
    batch = drawn(section, 6)
    found = apply_changes(pixels, batch, MEANS, section.outside)
    expected = changed_by_loops(pixels.numpy(), batch, section.outside == "edge")
    np.testing.assert_allclose(found.numpy(), expected, atol=0.05)
    unchanged = apply_transforms(pixels, transform((1, 0, 0), (0, 1, 0)).expand(6, 2, 3))
    assert (found - unchanged).abs().max() > 10, "the change does nothing"


def test_colours_change_as_their_formulas_say() -> None:
    """Each of the four alone, on one pixel, in their order."""
    section = AugmentSection(brightness=0.3, contrast=0.5, saturation=0.7, white_balance=0.2)
    maps = drawn(section, 1000).colours
    assert maps is not None
    numbers = (torch.rand(1000, 6, generator=after_transforms()) * 2 - 1).double().numpy()
    pixel = np.array([200.0, 90, 30])
    for matrix, number in zip(maps.double().numpy()[:50], numbers, strict=False):
        brightness, contrast, saturation, gains = 0.3 * number[0], 0.5 * number[1], 0.7 * number[2], 0.2 * number[3:]
        grey = pixel @ [0.299, 0.587, 0.114]
        expected = (1 + gains) * (grey + (1 + saturation) * (pixel - grey))
        mean = 255 * np.array(MEANS)
        expected = mean + (1 + contrast) * (expected - mean) + 255 * brightness
        np.testing.assert_allclose(matrix[:, :3] @ pixel + matrix[:, 3], expected, atol=1e-3)


def after_transforms() -> torch.Generator:
    """Return the generator of `drawn` behind the numbers of 1,000 transforms."""
    numbers = generator()
    torch.rand(1000, 5, generator=numbers)
    return numbers


def test_sizes_of_changes_are_within_their_ranges() -> None:
    section = AugmentSection(crop=3, blur=0.5, noise=0.1, cutout=5, mixup=0.5)
    batch = drawn(section, 20_000)
    given = batch.tensors()
    assert sorted(given["transforms"][:, 0, 2].unique().tolist()) == [-3, -2, -1, 0, 1, 2, 3]
    assert 0 <= given["blurs"].min() < 0.01
    assert 0.49 < given["blurs"].max() <= 0.5
    assert 25 < given["noise_levels"].max() <= 25.5
    values = given["noise_values"]
    assert values.mean().abs() < 0.02
    assert values.std() == pytest.approx(1, abs=0.01)
    top, bottom, left, right = given["cutouts"].unbind(1)
    assert ((bottom - top).unique().tolist(), (right - left).unique().tolist()) == ([3, 4, 5], [3, 4, 5])
    assert (int(top.min()), int(bottom.max()), int(left.min()), int(right.max())) == (0, 11, 0, 8)
    # Seven of ten images are mixed.
    assert (given["shares"] < 1).float().mean() == pytest.approx(0.7, abs=0.02)
    assert given["shares"].min() >= 0.5


def test_without_a_share_of_mixed_images_none_is_mixed() -> None:
    shares = drawn(AugmentSection(mixup=0.5), 100, mixed=0.0).shares
    assert shares is not None
    assert torch.equal(shares, torch.ones(100))


def test_changes_that_are_not_asked_for_leave_the_others_random_numbers_alone() -> None:
    plain = drawn(MOVED, 50)
    more = drawn(MOVED.model_copy(update={"blur": 0.5, "noise": 0.1, "cutout": 3}), 50)
    assert set(plain.tensors()) == {"indices", "transforms"}
    assert torch.equal(plain.transforms, more.transforms)


def test_a_batch_is_split_with_all_that_belongs_to_its_images() -> None:
    batch = drawn(AugmentSection.model_validate(CHANGES["all"]), 20)
    parts = list(batch.split(8))
    assert [len(part) for part in parts] == [8, 8, 4]
    for name, tensor in batch.tensors().items():
        own = [part.tensors()[name] for part in parts]
        assert torch.equal(own[1], tensor) if name == "noise_values" else torch.equal(torch.cat(own), tensor)
