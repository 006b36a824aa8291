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
from kilonet.data.image_folders import list_files, read_picture, why_not_read
from kilonet.data.inspection.survey import survey
from kilonet.data.listing import list_data
from kilonet.data.preprocessing import Preprocessing
from kilonet.evaluation.scoring import images_to_score
from kilonet.models.model import load_model
from kilonet.models.prediction import predict_files
from kilonet.utils.errors import KilonetError


def save(path: Path, pixels: NDArray[np.uint8], form: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, form)
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
    for name in [*names, ".git", "__MACOSX"]:
        save(tmp_path / name / "1.png", level(1))
    save(tmp_path / "README", level(1), "png")
    assert list_data(str(tmp_path)).names == tuple(order)


def test_images_have_the_labels_of_their_folders(tmp_path: Path) -> None:
    for name, value in (("cat/1.png", 1), ("cat/below/2.png", 2), ("fox/1.png", 3)):
        save(tmp_path / name, level(value))
    part = list_data(str(tmp_path)).parts["all"]
    assert [part.picture(index)[0, 0, 0] for index in range(3)] == [1, 2, 3]
    assert part.picture(0).shape == (4, 6, 1)
    assert part.labels.tolist() == [0, 0, 1]
    assert [part.name(index) for index in range(3)] == [
        str(tmp_path / name) for name in ("cat/1.png", "cat/below/2.png", "fox/1.png")
    ]


@pytest.mark.parametrize("other", [level(1, 6, 4), level(1, 4, 6, 3)])
def test_images_that_differ_need_a_size(tmp_path: Path, other: NDArray[np.uint8]) -> None:
    two_classes(tmp_path)
    save(tmp_path / "test" / "cat" / "2.png", other)
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, tmp_path / "test" / "cat" / "2.png", "6x4 grey")
    assert load_data(str(tmp_path), Preprocessing((1, 5, 5))).test.pixels.shape == (3, 1, 5, 5)


def two_classes(folder: Path) -> None:
    for part in ("train", "test"):
        for number, name in enumerate(("cat", "fox")):
            save(folder / part / name / "1.png", level(number))


def test_images_far_too_large_need_a_size(tmp_path: Path) -> None:
    two_classes(tmp_path)
    save(tmp_path / "test" / "cat" / "0.png", level(1, 4, 600))
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, "512 pixels")


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "inner" / "photos" / "cat" / "1.png", level(1))
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path / "inner"))
    refusal(error, "only one class in it, 'photos'", f"--data {tmp_path / 'inner' / 'photos'}")
    with pytest.raises(KilonetError) as error:
        survey(str(tmp_path / "inner" / "photos"))
    assert "did you mean" not in refusal(error, "only one class in it, 'cat'")


def test_data_without_training_images_name_the_parts(tmp_path: Path) -> None:
    for part in ("val", "test"):
        save(tmp_path / part / "cat" / "1.png", level(1))
        save(tmp_path / part / "dog" / "1.png", level(2))
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, "no training images", "only 'test' and 'validation'")


def test_runs_that_were_written_into_the_data_are_no_class(tmp_path: Path) -> None:
    two_classes(tmp_path)
    before = load_data(str(tmp_path))
    for run in ("runs/a-seed0", "runs/b/seed1", "train/runs/a-seed0"):
        for name in ("recipe.toml", "metrics.jsonl", "model.safetensors"):
            (tmp_path / run).mkdir(parents=True, exist_ok=True)
            (tmp_path / run / name).touch()
    data = load_data(str(tmp_path))
    assert (data.names, data.skipped, data.fingerprint()) == (before.names, (), before.fingerprint())
    # A folder with something beside the runs is no folder of runs.
    (tmp_path / "train" / "runs" / "b").mkdir()
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, "the class 'runs' has no images")


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
        (["Cat", "cat"], ("'Cat' and 'cat'", "small and capital letters")),
    ],
)
def test_names_that_will_not_do_for_classes_are_refused(
    tmp_path: Path, names: list[str], words: tuple[str, ...]
) -> None:
    for name in names:
        save(tmp_path / name / "1.png", level(1))
    with pytest.raises(KilonetError) as error:
        list_data(str(tmp_path))
    refusal(error, tmp_path, *words)


def test_letters_are_classes_of_their_own(tmp_path: Path) -> None:
    for name in "aA":
        save(tmp_path / name / "1.png", level(1))
    assert list_data(str(tmp_path)).names == ("A", "a")


def test_an_empty_class_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png", level(1))
    (tmp_path / "fox" / ".hidden").mkdir(parents=True)
    (tmp_path / "fox" / "notes.txt").touch()
    with pytest.raises(KilonetError) as error:
        list_data(str(tmp_path))
    refusal(error, tmp_path, "'fox' has no images")


def test_a_class_whose_images_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "train" / "fox" / "1.png").write_bytes(b"junk")
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, "'fox' in the part 'train'", "1.png: not a PNG")


@pytest.mark.parametrize(
    "name", ["cat/IMG_1.HEIC", "cat/below/a.mp4", "cat/raw.dng", "cat/IMG_2", "cat/empty.png", "a.png", "../b.mp4"]
)
def test_files_that_are_not_read_are_listed(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    two_classes(tmp_path)
    path = tmp_path / "train" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    data = load_data(str(tmp_path))
    assert [(skipped.resolve(), reason.count(path.name)) for skipped, reason in data.skipped] == [(path.resolve(), 1)]
    assert len(data.train) == 2
    assert f"1 file of {tmp_path} skipped, " in capsys.readouterr().err


def test_links_to_folders_elsewhere_are_followed_once(tmp_path: Path) -> None:
    two_classes(tmp_path / "real")
    data, elsewhere = tmp_path / "data", tmp_path / "real" / "train"
    (data / "train" / "fox").mkdir(parents=True)
    (data / "train" / "cat").symlink_to(elsewhere / "cat")
    for name in ("more", "again"):
        (data / "train" / "fox" / name).symlink_to(elsewhere / "fox")
    (elsewhere / "fox" / "back").symlink_to(data)
    (data / "test").symlink_to(elsewhere)
    found = load_data(str(data))
    assert found.names == ("cat", "fox")
    assert found.train.labels.tolist() == [0, 1]
    assert found.test.labels.tolist() == [0, 1]
    assert {path.name for path, _ in found.skipped} == {"more", "back"}


def test_links_to_files_are_read_and_links_within_the_data_are_listed(tmp_path: Path) -> None:
    two_classes(tmp_path)
    fox = tmp_path / "train" / "fox"
    (fox / "link.png").symlink_to(tmp_path / "train" / "cat" / "1.png")
    (fox / "loop").symlink_to(fox)
    (fox / "nowhere.png").symlink_to(tmp_path / "missing.png")
    (tmp_path / "train" / "owl").symlink_to(tmp_path / "train" / "cat")
    os.mkfifo(fox / "pipe.png")
    data = load_data(str(tmp_path))
    assert data.train.labels.tolist() == [0, 1, 1]
    reasons = {path.name: reason for path, reason in data.skipped}
    assert reasons.keys() == {"loop", "nowhere.png", "owl", "pipe.png"}
    assert "link to a folder" in reasons["owl"]
    assert "leads nowhere" in reasons["nowhere.png"]


def test_an_image_without_a_suffix_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    two_classes(tmp_path)
    png = tmp_path / "train" / "cat" / "1.png"
    png.rename(png.with_name("1"))
    assert len(load_data(str(tmp_path)).train) == 2


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


def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = save(tmp_path / "a.png", level(1))
    locked = save(tmp_path / "locked" / "b.png", level(1)).parent
    # The administrator may read everything, and tests often run so.
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != locked)
    files = list_files(tmp_path)
    assert (files.images, files.others) == ([wanted], [locked])
    assert "cannot be read" in why_not_read(locked)
