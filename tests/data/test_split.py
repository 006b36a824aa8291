"""The split by content: the same for ever, whatever files are called, near duplicates together."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

from helpers import refusal
from kilonet.data.datasets import DataSet, load_data
from kilonet.data.listing import list_data
from kilonet.data.preprocessing import Preprocessing
from kilonet.data.split import near_duplicates, thumbnail
from kilonet.utils.errors import KilonetError

INPUT = Preprocessing((1, 12, 12))


def photo(number: int) -> NDArray[np.uint8]:
    """Return a smooth picture of 24x30 pixels in colour."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((30, 24), Image.Resampling.BICUBIC))


def write_photos(folder: Path, names: str = "photo{}", first: int = 0) -> Path:
    for number in range(first, first + 60):
        path = folder / ("cat" if number % 2 else "dog") / f"{names.format(number)}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(number)).save(path)
    return folder


def contents(data: DataSet) -> list[str]:
    return sorted(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in data.test.pixels)


def test_the_split_is_that_of_the_sha256_of_the_files(tmp_path: Path) -> None:
    part = list_data(str(write_photos(tmp_path))).parts["all"]
    digests = [int(hashlib.sha256(part.content(index)).hexdigest(), 16) for index in range(60)]
    data = load_data(str(tmp_path), INPUT)
    assert len(data.test) == sum(digest % 5 == 0 for digest in digests) == 14
    assert data.test.labels.tolist() == [
        label for label, digest in zip(part.labels.tolist(), digests, strict=True) if digest % 5 == 0
    ]


def test_names_and_order_do_not_matter(tmp_path: Path) -> None:
    first = load_data(str(write_photos(tmp_path / "first")), INPUT)
    second = load_data(str(write_photos(tmp_path / "second", "{:b}-x")), INPUT)
    assert contents(first) == contents(second)
    assert first.fingerprint() != second.fingerprint()


def saved(picture: NDArray[np.uint8], form: str, scale: int = 1, **options: int) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    image = Image.fromarray(picture)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC).save(stream, form, **options)
    return np.asarray(Image.open(stream))


def test_near_duplicates_are_one_group_and_other_pictures_are_not() -> None:
    count = 200
    copies = [
        *(photo(number) for number in range(count)),
        *(saved(photo(number), "PNG") for number in range(count)),
        *(saved(photo(number), "JPEG", quality=85) for number in range(count)),
        *(saved(photo(number), "JPEG", 2, quality=95) for number in range(count)),
    ]
    thumbnails = np.stack([thumbnail(picture) for picture in copies])
    hashes = np.stack([np.frombuffer(hashlib.sha256(picture.tobytes()).digest(), np.uint8) for picture in copies])
    groups = near_duplicates(thumbnails, hashes).reshape(4, count)
    assert len(set(groups[0].tolist())) == count
    for others in groups[1:]:
        assert (others == groups[0]).mean() > 0.97


def test_rounding_errors_of_a_processor_do_not_move_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many thumbnails are equally bright, and few of those are near duplicates: their order decides who is compared."""
    random = np.random.default_rng(0)
    bases = random.integers(60, 200, (4, 1, 64))
    thumbnails = (bases + random.normal(0, 1.05, (4, 1000, 64)).round()).astype(np.uint8).reshape(4000, 64)
    hashes = random.integers(0, 256, (4000, 32), dtype=np.uint8)
    expected = near_duplicates(thumbnails, hashes)
    transform = scipy.fft.dctn

    def inexact(values: NDArray[Any], **options: Any) -> NDArray[Any]:
        waves: NDArray[Any] = transform(values, **options)
        waves *= (1 + np.finfo(values.dtype).eps * random.uniform(-4, 4, waves.shape)).astype(values.dtype)
        return waves

    monkeypatch.setattr(scipy.fft, "dctn", inexact)
    for _ in range(5):
        assert np.array_equal(near_duplicates(thumbnails, hashes), expected)


def test_duplicates_stay_in_one_part(tmp_path: Path) -> None:
    write_photos(tmp_path)
    for path in sorted(tmp_path.glob("*/*.bmp")):
        Image.open(path).save(path.with_suffix(".png"))
        Image.open(path).save(path.with_suffix(".jpg"), quality=90)
    data = load_data(str(tmp_path), INPUT)
    assert len(data.train) + len(data.test) == 180
    assert len(data.test) % 3 == 0
    smooth = [{image.float().mean().round().item() for image in part.pixels} for part in (data.train, data.test)]
    assert len(smooth[1]) < len(data.test) / 2


def test_few_images_have_some_of_each_class_in_both_parts(tmp_path: Path) -> None:
    for first in range(0, 1200, 60):
        folder = tmp_path / str(first)
        for number in range(first, first + 6):
            path = folder / ("cat" if number % 2 else "dog") / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(number)).save(path)
        data = load_data(str(folder), INPUT)
        for part in (data.train, data.test):
            assert set(part.labels.tolist()) == {0, 1}


def test_a_class_of_one_picture_cannot_be_split(tmp_path: Path) -> None:
    write_photos(tmp_path)
    (tmp_path / "owl").mkdir()
    for name in ("a.bmp", "b.bmp"):
        Image.fromarray(photo(999)).save(tmp_path / "owl" / name)
    with pytest.raises(KilonetError) as error:
        load_data(str(tmp_path), INPUT)
    refusal(error, "'owl'", "it takes two")
