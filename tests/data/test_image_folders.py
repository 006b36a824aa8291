"""Folders of images: what is listed, what is labelled, what does not belong together."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers import refusal
from kilonet.data.image_folders import class_folders, list_files, read_labelled, read_picture, unchanged_pixels
from kilonet.utils.errors import KilonetError


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def level(value: int, *shape: int) -> NDArray[np.uint8]:
    return np.full(shape or (4, 6), value, np.uint8)


def test_images_are_listed_in_order_and_hidden_ones_left_out(tmp_path: Path) -> None:
    wanted = [save(tmp_path / name, level(1)) for name in ("a.png", "b/c.JPG", "b/d.jpeg")]
    save(tmp_path / ".hidden" / "e.png", level(1))
    save(tmp_path / ".f.png", level(1))
    (tmp_path / "letter.txt").touch()
    (tmp_path / "folder.png").mkdir()
    heic = tmp_path / "b" / "IMG_0001.HEIC"
    heic.touch()
    files = list_files(tmp_path)
    assert files.images == wanted
    assert files.others == [heic]


@pytest.mark.parametrize(
    ("names", "order"), [(["10", "9", "0"], ["0", "9", "10"]), (["b", "a", "10"], ["10", "a", "b"])]
)
def test_classes_are_in_order(tmp_path: Path, names: list[str], order: list[str]) -> None:
    for name in [*names, ".git"]:
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert class_folders(tmp_path) == order


def test_images_have_the_labels_of_their_folders(tmp_path: Path) -> None:
    files = [
        save(tmp_path / name, level(value)) for name, value in (("cat/1.png", 1), ("cat/2.png", 2), ("fox/1.png", 3))
    ]
    pixels, labels, found = read_labelled(tmp_path, {"cat": 0, "fox": 4}, unchanged_pixels)
    assert pixels.shape == (3, 1, 4, 6)
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert labels.tolist() == [0, 0, 4]
    assert found == files


@pytest.mark.parametrize("other", [level(1, 6, 4), level(1, 4, 6, 3)])
def test_images_that_differ_are_refused(tmp_path: Path, other: NDArray[np.uint8]) -> None:
    save(tmp_path / "cat" / "1.png", level(1))
    save(tmp_path / "cat" / "2.png", other)
    with pytest.raises(KilonetError) as error:
        read_labelled(tmp_path, {"cat": 0}, unchanged_pixels)
    refusal(error, tmp_path / "cat" / "2.png", "6x4 grey")


def test_empty_unreadable_and_far_too_large_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for content, words in ((None, "no images"), (b"junk", "1.png"), (level(1, 4, 600), "512 pixels")):
        if isinstance(content, bytes):
            (tmp_path / "cat" / "1.png").write_bytes(content)
        elif content is not None:
            save(tmp_path / "cat" / "1.png", content)
        with pytest.raises(KilonetError) as error:
            read_labelled(tmp_path, {"cat": 0}, unchanged_pixels)
        refusal(error, words)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "missing.png", "No such file"), (tmp_path, "directory")):
        with pytest.raises(KilonetError) as error:
            read_picture(path)
        refusal(error, path, words)
