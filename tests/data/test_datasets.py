"""Data sets: the packaged MNIST as published, and folders of IDX files and images."""

import gzip
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers import idx_bytes, model_section, refusal, write_idx_folder
from kilonet.data import listing
from kilonet.data.datasets import DataSet, Images, check_fit, load_data
from kilonet.data.idx import read_idx
from kilonet.data.listing import MNIST_SHA256
from kilonet.models.metadata import Metadata, metadata_of
from kilonet.utils.errors import KilonetError

TRAIN_LABELS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_LABELS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_is_whole(mnist: DataSet) -> None:
    for part, name, counts in ((mnist.train, "Train", TRAIN_LABELS), (mnist.test, "Test", TEST_LABELS)):
        assert part.name == name
        assert len(part) == sum(counts)
        assert part.pixels.shape == (sum(counts), 1, 28, 28)
        assert part.pixels.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert torch.bincount(part.labels).tolist() == counts
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_mnists_mean_and_std_are_the_recipes_defaults(mnist: DataSet) -> None:
    pixels = mnist.train.pixels.double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_the_published_hashes_are_those_of_the_files(mnist: DataSet) -> None:
    content = {
        "train-images.idx3-ubyte": mnist.train.pixels[:, 0],
        "train-labels.idx1-ubyte": mnist.train.labels.to(torch.uint8),
        "t10k-images.idx3-ubyte": mnist.test.pixels[:, 0],
        "t10k-labels.idx1-ubyte": mnist.test.labels.to(torch.uint8),
    }
    assert {name: hashlib.sha256(idx_bytes(a.numpy())).hexdigest() for name, a in content.items()} == MNIST_SHA256


@pytest.mark.parametrize("name", sorted(MNIST_SHA256))
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    packaged = files("kilonet.data") / "mnist" / f"{name}.gz"
    content = bytearray(gzip.decompress(packaged.read_bytes()))
    content[-1] ^= 1
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(KilonetError) as error:
        read_idx(path, 3 if "images" in name else 1, MNIST_SHA256[name])
    refusal(error, path, "SHA-256")


def test_loading_mnist_takes_less_than_a_second() -> None:
    """Of processor time, so that other work on the machine does not count."""

    def once() -> float:
        begin = time.process_time()
        load_data("mnist")
        return time.process_time() - begin

    assert min(once() for _ in range(3)) < 1.0


def hashed(images: Images) -> str:
    digest = hashlib.sha256(images.pixels.numpy().tobytes())
    digest.update(images.labels.numpy().tobytes())
    return digest.hexdigest()


def test_the_holdout_is_always_the_same(mnist: DataSet) -> None:
    data = mnist.hold_out()
    assert (len(data.train), len(data.test), data.test.name) == (50_000, 10_000, "Holdout")
    assert hashed(data.test) == "94242607bf65959bc8380c2d5fdb1ce6091e84d0634b7a06e4c376a002ea0632"
    assert hashed(data.train) == "8df61a520331ed99e278d9f3f76ece850f892532e02c5f33dbc0d01c839ab3da"


def test_the_holdout_and_the_rest_are_the_training_images_once_each(mnist: DataSet) -> None:
    # The pixels of each image hold its number.
    count = len(mnist.train)
    numbers = torch.arange(count, dtype=torch.int32).view(torch.uint8).view(count, 1, 1, 4)
    data = DataSet(Images(numbers, mnist.train.labels, "Train"), mnist.test).hold_out()
    kept, held = (part.pixels.contiguous().view(torch.int32).flatten() for part in (data.train, data.test))
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(count, dtype=torch.int32))
    assert not set(kept.tolist()) & set(held.tolist())
    assert torch.equal(mnist.train.labels[held.long()], data.test.labels)
    assert held.tolist() == np.random.RandomState(0).permutation(count)[50_000:].tolist()


def test_holding_out_leaves_the_test_set_alone(mnist: DataSet) -> None:
    held = {image.numpy().tobytes() for image in mnist.hold_out().test.pixels[:2000]}
    assert not held & {image.numpy().tobytes() for image in mnist.test.pixels}


def test_a_folder_holds_what_was_written(mnist: DataSet, small: DataSet) -> None:
    assert torch.equal(small.train.pixels, mnist.train.pixels[:1200])
    assert torch.equal(small.test.labels, mnist.test.labels[:500])


def zeros(*shape: int) -> NDArray[np.uint8]:
    return np.zeros(shape, np.uint8)


def other_size(folder: Path) -> None:
    write_idx_folder(folder, (zeros(3, 8, 8), zeros(3)), (zeros(3, 8, 9), zeros(3)))


def more_labels(folder: Path) -> None:
    write_idx_folder(folder, (zeros(3, 8, 8), zeros(4)), (zeros(3, 8, 8), zeros(3)))


def fewer_test_labels(folder: Path) -> None:
    write_idx_folder(folder, (zeros(3, 8, 8), zeros(3)), (zeros(3, 8, 8), zeros(2)))


def no_test_labels(folder: Path) -> None:
    write_idx_folder(folder, (zeros(3, 8, 8), zeros(3)), (zeros(3, 8, 8), zeros(3)))
    (folder / "t10k-labels.idx1-ubyte").unlink()


def images_for_labels(folder: Path) -> None:
    write_idx_folder(folder, (zeros(3, 8, 8), zeros(3)), (zeros(3, 8, 8), zeros(3)))
    (folder / "train-labels.idx1-ubyte").write_bytes(idx_bytes(zeros(3, 8, 8)))


def folder_for_a_file(folder: Path) -> None:
    write_idx_folder(folder, (zeros(3, 8, 8), zeros(3)), (zeros(3, 8, 8), zeros(3)))
    (folder / "t10k-labels.idx1-ubyte").unlink()
    (folder / "t10k-labels.idx1-ubyte").mkdir()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "neither images nor IDX"),
        (other_size, "differ in size"),
        (more_labels, "3 train images but 4 labels"),
        (fewer_test_labels, "3 t10k images but 2 labels"),
        (no_test_labels, "t10k-labels.idx1-ubyte"),
        (images_for_labels, "3 dimensions, not 1"),
        (folder_for_a_file, "directory"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    make(tmp_path)
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, tmp_path, words)


@pytest.mark.parametrize("source", ["", "fashion", "MNIST", "no/such/folder"])
def test_data_that_are_not_there_are_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KilonetError) as error:
        load_data(source)
    refusal(error, source)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, dtype=torch.int64)),
    ],
)
def test_images_of_another_shape_or_type_are_refused(pixels: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(KilonetError) as error:
        Images(pixels, labels)
    refusal(error)


def image_set(folder: Path, *names: str, size: tuple[int, ...] = (8, 8), part: str = "train") -> Path:
    for name in names:
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(size, 7, np.uint8)).save(folder / part / name / "image.png")
    return folder


def test_the_other_spelling_of_the_files_is_read_too(small_folder: Path, small: DataSet, tmp_path: Path) -> None:
    for path in small_folder.iterdir():
        (tmp_path / path.name.replace(".idx", "-idx")).write_bytes(path.read_bytes())
    assert torch.equal(load_data(str(tmp_path)).train.pixels, small.train.pixels)


def test_test_images_may_be_named_test(small_folder: Path, small: DataSet, tmp_path: Path) -> None:
    for number, spelling in enumerate((".idx", "-idx")):
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in small_folder.iterdir():
            (folder / path.name.replace("t10k", "test").replace(".idx", spelling)).write_bytes(path.read_bytes())
        assert torch.equal(load_data(str(folder)).test.pixels, small.test.pixels)
    (folder / "t10k-labels-idx1-ubyte").touch()
    with pytest.raises(KilonetError) as error:
        load_data(str(folder))
    refusal(error, folder, "t10k-", "test-")


def test_a_missing_file_is_named_with_its_other_spellings(small_folder: Path, tmp_path: Path) -> None:
    for path in [*small_folder.glob("train*"), *small_folder.glob("t10k-labels*")]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, "t10k-images.idx3-ubyte", "t10k-images-idx3-ubyte", "test-images.idx3-ubyte")


def test_idx_files_without_a_test_part_are_split(small: DataSet, small_folder: Path, tmp_path: Path) -> None:
    for path in small_folder.glob("train*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = load_data(str(tmp_path))
    assert len(data.train) > len(data.test) > 0
    assert len(data.train) + len(data.test) == len(small.train)


def test_fashion_mnist_is_read_where_it_is_or_its_package_is_named(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FASHION", small_folder)
    assert load_data("fashion-mnist").names == listing.FASHION_NAMES
    assert load_data("fashion-mnist").hold_out().names == listing.FASHION_NAMES
    monkeypatch.setattr(listing, "FASHION", tmp_path / "missing")
    with pytest.raises(KilonetError) as error:
        load_data("fashion-mnist")
    refusal(error, "apt install dataset-fashion-mnist", "--data")


def test_class_named_folders_are_a_data_set(tmp_path: Path) -> None:
    image_set(tmp_path, "fox", "cat", "dog")
    image_set(tmp_path, "dog", part="test")
    data = load_data(str(tmp_path))
    assert data.names == ("cat", "dog", "fox")
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == [1]
    assert data.train.pixels.shape == (3, 1, 8, 8)
    assert (data.train.name, data.test.name) == ("Train", "Test")


def test_folders_named_by_numbers_need_no_names(tmp_path: Path) -> None:
    image_set(image_set(tmp_path, "0", "1", "2"), "1", part="test")
    assert load_data(str(tmp_path)).names is None


def a_class_more_in_test(folder: Path) -> None:
    image_set(image_set(folder, "cat"), "cat", "owl", part="test")


def another_size_in_test(folder: Path) -> None:
    image_set(image_set(folder, "cat", "dog"), "cat", size=(8, 9), part="test")


def colour_in_test(folder: Path) -> None:
    image_set(image_set(folder, "cat", "dog"), "cat", size=(8, 8, 3), part="test")


def an_empty_class(folder: Path) -> None:
    image_set(image_set(folder, "cat", "dog"), "cat", part="test")
    (folder / "train" / "dog" / "image.png").unlink()


def an_empty_class_in_test(folder: Path) -> None:
    image_set(image_set(folder, "cat", "dog"), "cat", part="test")
    (folder / "test" / "dog").mkdir()


def tied_classes(folder: Path) -> None:
    image_set(image_set(folder, "1", "01"), "1", part="test")


def nothing_in_test(folder: Path) -> None:
    image_set(folder, "cat")
    (folder / "test").mkdir()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_class_more_in_test, "'owl'"),
        (another_size_in_test, "9x8 grey"),
        (colour_in_test, "colour"),
        (an_empty_class, "'dog' has no images"),
        (an_empty_class_in_test, "'dog' has no images"),
        (tied_classes, "the same number"),
        (nothing_in_test, "no class-named folders"),
    ],
)
def test_image_folders_that_will_not_do_are_refused(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path)
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path))
    refusal(error, tmp_path, words)


def test_a_network_that_does_not_fit_the_data_is_refused_with_the_mend(tmp_path: Path) -> None:
    data = load_data(
        str(image_set(image_set(tmp_path, "cat", "dog", size=(8, 8, 3)), "cat", size=(8, 8, 3), part="test"))
    )
    for layers, shape, words in (
        (("conv 4", "gap", "pointwise 2"), (1, 8, 8), "--input 3 8 8"),
        (("conv 4", "gap", "pointwise 3"), (3, 8, 8), "'pointwise 2'"),
        (("conv 4", "gap", "pointwise 1"), (3, 8, 8), "'pointwise 2'"),
    ):
        with pytest.raises(KilonetError) as error:
            check_fit(model_section(*layers, input=shape), data)
        refusal(error, words)
    check_fit(model_section("conv 4", "gap", "pointwise 2", input=(3, 8, 8)), data)
    nameless = replace(data, names=None)
    with pytest.raises(KilonetError) as error:
        check_fit(model_section("conv 4", "gap", "pointwise 1", input=(3, 8, 8)), nameless)
    refusal(error, "up to 1")
    alone = DataSet(
        Images(data.train.pixels[:2], data.train.labels[:2] * 0), data.test.select(torch.zeros(1).long(), "Test")
    )
    with pytest.raises(KilonetError) as error:
        check_fit(model_section("conv 4", "gap", "pointwise 1", input=(3, 8, 8)), alone)
    refusal(error, "one class")


def test_a_model_knows_what_it_was_trained_on(small: DataSet, mnist: DataSet, tmp_path: Path) -> None:
    assert metadata_of(small) == Metadata()
    moved = DataSet(Images(mnist.train.pixels[:100].roll(5, 3), mnist.train.labels[:100]), mnist.test)
    assert metadata_of(moved) == Metadata(digits=False)
    other = load_data(str(image_set(image_set(tmp_path, "cat", "dog"), "cat", part="test")))
    assert metadata_of(other) == Metadata(names=("cat", "dog"), digits=False)
