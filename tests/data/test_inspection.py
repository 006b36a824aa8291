"""What an inspection finds: sizes, colours, duplicates, small classes, unread files, background, mirrored pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers import refusal, write_idx_folder
from kilonet.data.datasets import DataSet, Images, load_data
from kilonet.data.inspection.contact_sheet import contact_sheet, shown_classes
from kilonet.data.inspection.inspection import Inspection, inspect, kind_of
from kilonet.data.inspection.pixels import as_good_mirrored, has_empty_frame, mean_and_std_of, pixel_notes
from kilonet.data.inspection.survey import Survey, survey
from kilonet.data.preprocessing import Preprocessing
from kilonet.utils.errors import KilonetError


def picture(seed: int, columns: int = 12, rows: int = 10, *, grey: bool = False) -> NDArray[np.uint8]:
    """Return a picture of large random blocks, which no other seed has."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (5, 6, 1 if grey else 3), dtype=np.uint8)
    scaled = Image.fromarray(blocks[:, :, 0] if grey else blocks).resize((columns, rows), Image.Resampling.NEAREST)
    return np.asarray(scaled)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photos(folder: Path, counts: dict[str, int], part: str = "train", start: int = 0) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save(folder / part / name / f"{number}.png", picture(start + 1000 * label + number))
    return folder


def inspected(source: Path, shape: tuple[int, int, int] = (3, 10, 12)) -> Inspection:
    return inspect(survey(str(source)), Preprocessing(shape))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos(tmp_path, {"cat": 70, "dog": 22, "owl": 5})
    return photos(tmp_path, {"cat": 6, "dog": 4, "owl": 2}, "test", 500)


def test_images_are_counted_by_class_and_small_and_uneven_classes_are_told(folder: Path) -> None:
    found = inspected(folder)
    assert found.classes == ("cat", "dog", "owl")
    assert found.train_counts == (70, 22, 5)
    assert found.test_counts == (6, 4, 2)
    assert found.warnings() == [
        "1 class with under 20 training images: 'owl' (5)",
        "the largest class has 70 training images, the smallest 5",
    ]
    assert (found.smallest, found.median, found.largest) == ((12, 10),) * 3
    assert found.kind == "photos"
    assert found.colour
    text = str(found)
    assert "97 training and 12 test images in 3 classes" in text
    assert "owl           5     2" in text


def test_copies_are_found_across_parts_and_classes_the_worst_first(folder: Path) -> None:
    cat, dog = (folder / "train" / name / "0.png" for name in ("cat", "dog"))
    (folder / "train" / "cat" / "copy.png").write_bytes(cat.read_bytes())
    (folder / "test" / "cat" / "leak.png").write_bytes(cat.read_bytes())
    (folder / "train" / "owl" / "wrong.png").write_bytes(dog.read_bytes())
    found = inspected(folder)
    copies = found.duplicates
    assert (copies.copies, copies.across, copies.conflicting) == (3, 1, 1)
    assert [Path(copy).name for _, copy in copies.examples] == ["wrong.png", "leak.png", "copy.png"]
    told = "\n".join(found.warnings())
    assert (
        "3 pictures are equal to an earlier one: 1 of the test to a training picture, 1 to one of another class" in told
    )
    assert found.near_duplicates == 3


def test_a_picture_saved_again_is_a_near_duplicate(folder: Path) -> None:
    again = Image.fromarray(picture(1))
    again.save(folder / "test" / "cat" / "again.jpg", quality=95, subsampling=0)
    found = inspected(folder)
    assert found.duplicates.copies == 0
    assert (found.near_duplicates, found.near_across) == (1, 1)
    assert "1 more picture looks like an earlier one: 1 of the test" in "\n".join(found.warnings())


def test_files_that_are_not_read_are_each_listed(folder: Path) -> None:
    broken = folder / "train" / "cat" / "broken.png"
    broken.write_bytes((folder / "train" / "cat" / "0.png").read_bytes()[:60])
    found = inspected(folder)
    assert [Path(path).name for path, _ in found.skipped] == ["broken.png"]
    assert "1 file is not read:" in str(found)
    assert "broken.png" in str(found)
    assert sum(found.train_counts) == 97


def test_files_that_are_not_read_are_no_pictures_that_are_equal(folder: Path) -> None:
    for name in ("zero.png", "nothing.png"):
        (folder / "train" / "cat" / name).touch()
    found = inspected(folder)
    assert len(found.skipped) == 2
    assert found.duplicates.copies == 0


def test_a_class_of_two_lines_is_shown_in_one(folder: Path) -> None:
    (folder / "train" / "cat").rename(folder / "train" / "ca\nt")
    (folder / "test" / "cat").rename(folder / "test" / "ca\nt")
    assert any(line.startswith("ca\\nt ") for line in str(inspected(folder)).splitlines())


def test_sizes_are_told_and_shapes_compared(tmp_path: Path) -> None:
    for name in ("a-class", "b-class"):
        for number, size in enumerate([(10, 20), (20, 20), (60, 20), (20, 21), (20, 22)]):
            save(tmp_path / name / f"{number}.png", picture(number, *size))
    found = survey(str(tmp_path))
    assert (found.smallest, found.median, found.largest) == ((10, 20), (20, 20), (60, 20))
    assert not found.uniform
    assert found.distortion((20, 20)) == pytest.approx(3.0)


def test_grey_pictures_saved_in_colour_are_grey(tmp_path: Path) -> None:
    for name in ("a-class", "b-class"):
        for number in range(5):
            grey = picture(number, grey=True)
            save(tmp_path / name / f"{number}.png", np.stack([grey] * 3, 2))
    assert survey(str(tmp_path)).channels == 1
    save(tmp_path / "a-class" / "red.png", picture(7))
    assert survey(str(tmp_path)).channels == 3


def test_a_folder_of_which_nothing_can_be_decoded_is_refused(tmp_path: Path) -> None:
    for name in ("a-class", "b-class"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"no picture")
    with pytest.raises(KilonetError) as error:
        survey(str(tmp_path))
    refusal(error, "0.png")


def test_mean_and_deviation_are_those_of_numpy() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5000, 3, 4, 5), dtype=np.uint8))
    mean, std = mean_and_std_of(pixels)
    values = pixels.numpy() / 255
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), atol=6e-5)
    np.testing.assert_allclose(std, values.std((0, 2, 3)), atol=6e-5)
    blank = torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)
    assert mean_and_std_of(blank) == ((0.9999,), (0.0001,))


@pytest.mark.parametrize(
    ("names", "grey", "even", "named", "kind"),
    [
        (["0", "1", "7"], False, False, True, "characters"),
        (["A", "b", "ж"], False, False, True, "characters"),
        (["one", "Two"], True, True, True, "characters"),
        (["0.0", "0.1", "0.2", "5.5", "9.9"], False, False, True, "readings"),
        (["0", "10", "20", "30", "40", "50"], False, False, True, "readings"),
        (["0", "1", "2"], False, False, False, "photos"),
        (["0", "1", "2"], True, True, False, "drawings"),
        (["cat", "dog"], True, True, True, "drawings"),
        (["cat", "dog"], True, False, True, "photos"),
        (["cat", "dog"], False, True, True, "photos"),
    ],
)
def test_the_kind_follows_names_and_background(
    names: list[str], grey: bool, even: bool, named: bool, kind: str
) -> None:
    assert kind_of(names, grey=grey, even=even, named=named) == kind


def test_mirrored_pictures_are_told_from_the_images_themselves() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 60, (400, 1, 12, 12), dtype=np.uint8)
    labels = torch.arange(400) % 2
    sided, symmetric = noise.copy(), noise.copy()
    # One class is bright on the left, the other on the right; or at the top, and at the bottom.
    sided[0::2, :, :, :6] += 20
    sided[1::2, :, :, 6:] += 20
    symmetric[0::2, :, :6] += 1
    symmetric[1::2, :, 6:] += 1
    assert as_good_mirrored(Images(torch.from_numpy(sided), labels), 2) is False
    assert as_good_mirrored(Images(torch.from_numpy(symmetric), labels), 2) is True
    assert as_good_mirrored(Images(torch.from_numpy(sided[:20]), labels[:20]), 2) is None
    # A class without an image is nobody's nearest.
    assert as_good_mirrored(Images(torch.from_numpy(sided), labels), 3) is False


def test_mnist_is_worse_mirrored(small_folder: Path) -> None:
    assert as_good_mirrored(load_data(str(small_folder)).train, 10) is False


def test_digits_have_a_frame_and_pictures_that_reach_the_edge_have_none(small_folder: Path) -> None:
    digits = load_data(str(small_folder)).train
    assert has_empty_frame(digits, 0)
    assert not has_empty_frame(Images(digits.pixels[:, :, 4:-4, 4:-4], digits.labels), 0)


def images(levels: NDArray[np.uint8], name: str = "Train") -> Images:
    return Images(torch.from_numpy(levels), torch.zeros(len(levels), dtype=torch.int64), name)


def test_odd_pixels_are_told() -> None:
    random = np.random.default_rng(0)
    usual = random.integers(0, 200, (40, 1, 8, 8), dtype=np.uint8)
    light = np.where(usual < 60, usual, 255).astype(np.uint8)
    assert pixel_notes(DataSet(images(usual), images(usual, "Test")), 0, 0.1) == []
    assert "0 to 1 only" in pixel_notes(DataSet(images(usual % 2), images(usual % 2)), 0, 0.5)[0]
    assert "dark on light" in pixel_notes(DataSet(images(light), images(light)), 255, 0.7)[0]
    assert "lighter" in pixel_notes(DataSet(images(usual), images(usual + 50)), 0, 0.1)[0]
    blank = np.concatenate([usual, np.full((2, 1, 8, 8), 3, np.uint8)])
    assert pixel_notes(DataSet(images(blank), images(usual)), 0, 0.1) == ["blank training images: 2"]


def test_idx_files_are_inspected_like_folders(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60, 9, 8), dtype=np.uint8)
    labels = (np.arange(60) % 3).astype(np.uint8)
    found = inspected(write_idx_folder(tmp_path, (pixels[:40], labels[:40]), (pixels[30:], labels[30:])), (1, 9, 8))
    assert found.classes == ("0", "1", "2")
    assert found.duplicates.across == 10
    assert not found.mirrored, "labels without names say nothing, and 40 images too little"


@pytest.mark.parametrize(("classes", "size"), [(2, 8), (10, 28), (100, 32), (1000, 128)])
def test_a_contact_sheet_is_bounded(classes: int, size: int) -> None:
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (3 * classes, 3, size, size // 2), dtype=np.uint8))
    names = tuple(f"class {number} \x1b[1m ж" for number in range(classes))
    png = contact_sheet(Images(pixels, torch.arange(3 * classes) % classes), names)
    assert len(png) < 400_000
    sheet = Image.open(io.BytesIO(png))
    assert len(shown_classes(classes)) == min(classes, 112)
    assert sheet.width < 1200
    assert sheet.height < 4200


def test_a_survey_looks_at_images_spread_over_all(tmp_path: Path) -> None:
    photos(tmp_path, {"cat": 300, "dog": 300})
    photos(tmp_path, {"cat": 5, "dog": 5}, "test", 500)
    found: Survey = survey(str(tmp_path))
    assert len(found.sizes) == 400
