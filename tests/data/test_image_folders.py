"""Folders of images: what is listed, what is labelled, what does not belong together."""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from helpers import refusal
from kilonet.data.datasets import load_data
from kilonet.data.image_folders import class_folders, list_files, read_labelled, read_picture, unchanged_pixels
from kilonet.evaluation.scoring import images_to_score
from kilonet.models.model import load_model
from kilonet.models.prediction import predict_files
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


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["01", "1", "2"], ("'01' and '1'", "the same number")),
        (["001", "01", "3"], ("'001' and '01'",)),
        (["1", "\uff11"], ("the same number",)),
        (["a" * 101], ("'aaaaaaaaaaaaaaaaaaaa...'", "over 100 characters")),
        ([os.fsdecode(b"caf\xe9"), "tea"], ("'caf\\udce9'", "not UTF-8")),
    ],
)
def test_names_that_will_not_do_for_classes_are_refused(
    tmp_path: Path, names: list[str], words: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(KilonetError) as error:
        class_folders(tmp_path)
    refusal(error, tmp_path, *words)


def test_an_empty_class_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png", level(1))
    (tmp_path / "fox" / ".hidden").mkdir(parents=True)
    (tmp_path / "fox" / "notes.txt").touch()
    with pytest.raises(KilonetError) as error:
        read_labelled(tmp_path, {"cat": 0, "fox": 1}, unchanged_pixels)
    refusal(error, tmp_path, "'fox' has no images")


@pytest.mark.parametrize("name", ["cat/IMG_1.HEIC", "cat/below/a.gif", "cat/b.tif", "cat/raw.dng", "cat/IMG_2"])
def test_a_class_with_files_that_are_not_read_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "cat" / "1.png", level(1))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(KilonetError) as error:
        read_labelled(tmp_path, {"cat": 0}, unchanged_pixels)
    refusal(error, tmp_path, f"1 file ({Path(name).name}) is not read")


def test_an_image_beside_the_classes_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png", level(1))
    for number in range(4):
        save(tmp_path / f"{number}.png", level(1))
    with pytest.raises(KilonetError) as error:
        read_labelled(tmp_path, {"cat": 0}, unchanged_pixels)
    refusal(error, "4 files (0.png, 1.png, 2.png, ...) are in no class")


# Names as they come from other systems, and files of all kinds.
NAMES = st.one_of(
    st.sampled_from(["train", "test", "cat", "0", "1", "01", "a.png", "b.JPG", "c.heic", "d.txt", ".e.png", "f.bmp"]),
    st.binary(min_size=1, max_size=12)
    .filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))
    .map(os.fsdecode),
)
PNG = save(Path(tempfile.mkdtemp()) / "a.png", level(1)).read_bytes()


@pytest.mark.parametrize("examples", [100, pytest.param(5_000, marks=pytest.mark.slow)])
def test_a_random_tree_of_files_is_read_or_refused(examples: int) -> None:
    trees = st.lists(
        st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from([PNG, b"", b"junk", None])), max_size=8
    )

    @settings(max_examples=examples)
    @given(trees)
    def run(tree: list[tuple[list[str], bytes | None]]) -> None:
        with tempfile.TemporaryDirectory() as name:
            home = Path(name) / "data"
            home.mkdir()
            for parts, content in tree:
                with contextlib.suppress(OSError):
                    path = home.joinpath(*parts)
                    (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
                    if content is not None:
                        path.write_bytes(content)
            check_tree(home)

    run()


def check_tree(home: Path) -> None:
    model = load_model("best")
    for attempt in (
        lambda: load_data(str(home)),
        lambda: images_to_score(model, str(home)),
        lambda: predict_files(model, [home]),
    ):
        try:
            attempt()
        except KilonetError as error:
            refusal(error)
