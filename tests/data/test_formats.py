"""Data sets in the formats in which they are published: what is read, and what is refused in one line."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers import idx_bytes, refusal, write_idx_folder
from kilonet.data.datasets import DataSet, load_data
from kilonet.data.formats import arrays as array_format
from kilonet.data.formats import file_names, parquet, pixel_tables
from kilonet.data.inspection.survey import survey
from kilonet.data.listing import list_data
from kilonet.data.parts import ImageArray
from kilonet.data.preprocessing import Preprocessing
from kilonet.utils.errors import KilonetError

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def parts(mnist: DataSet) -> tuple[Labelled, Labelled]:
    """40 and 20 images with labels."""
    return tuple(
        (part.pixels[:count, 0].numpy(), part.labels[:count].numpy().astype(np.uint8))
        for part, count in ((mnist.train, 60), (mnist.test, 40))
    )  # type: ignore[return-value]


def same(data: DataSet, parts: tuple[Labelled, Labelled]) -> None:
    for found, (pixels, labels) in zip((data.train, data.test), parts, strict=True):
        assert np.array_equal(found.pixels[:, 0].numpy(), pixels)
        assert np.array_equal(found.labels.numpy(), labels)


def refused(source: Path, *words: str | Path) -> str:
    with pytest.raises(KilonetError) as error:
        list_data(str(source))
    return refusal(error, *words)


@pytest.mark.parametrize(
    "spelling",
    [
        "{part}-{kind}-idx{dimensions}-ubyte",
        "{part}-{kind}.idx{dimensions}-ubyte",
        "emnist-letters-{part}-{kind}-idx{dimensions}-ubyte",
        "{part}_{kind}.idx",
        "{part}-{kind}.idx{dimensions}",
        "{part}-{kind}-ubyte",
    ],
)
def test_idx_in_its_spellings(tmp_path: Path, parts: tuple[Labelled, Labelled], spelling: str) -> None:
    for part, arrays_of_part in zip(("train", "test"), parts, strict=True):
        for kind, array in zip(("images", "labels"), arrays_of_part, strict=True):
            name = spelling.format(part=part, kind=kind, dimensions=array.ndim)
            (tmp_path / name).write_bytes(idx_bytes(array))
    same(load_data(str(tmp_path)), parts)


def test_idx_sets_in_one_folder_are_named(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    for name in ("emnist-digits", "emnist-letters"):
        for part, (images, labels) in zip(("train", "test"), parts, strict=True):
            (tmp_path / f"{name}-{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (tmp_path / f"{name}-{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    refused(tmp_path, "emnist-digits, emnist-letters", "--data")
    same(load_data(str(tmp_path / "emnist-digits")), parts)
    assert "transposed" in list_data(str(tmp_path / "emnist-digits")).notes[0]


def test_labels_from_one_on_become_names(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    (pixels, labels), _ = parts
    lifted = (pixels, labels % 3 + 1)
    data = load_data(str(write_idx_folder(tmp_path, lifted, lifted)))
    assert data.names == data.folders == ("1", "2", "3")
    assert np.array_equal(data.train.labels.numpy(), labels % 3)


def test_pixels_of_0_and_1_are_read_as_0_and_255(
    tmp_path: Path, parts: tuple[Labelled, Labelled], capsys: pytest.CaptureFixture[str]
) -> None:
    (pixels, labels), _ = parts
    data = load_data(str(write_idx_folder(tmp_path, (pixels // 128, labels), (pixels // 128, labels))))
    assert data.train.pixels.unique().tolist() == [0, 255]
    assert "read as 0 and 255" in capsys.readouterr().err


def test_npz_as_keras_publishes_it(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    (train, train_labels), (test, test_labels) = parts
    np.savez_compressed(tmp_path / "mnist.npz", x_train=train, y_train=train_labels, x_test=test, y_test=test_labels)
    same(load_data(str(tmp_path / "mnist.npz")), parts)
    same(load_data(str(tmp_path)), parts)


def test_npz_as_kmnist_publishes_it(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        np.savez_compressed(tmp_path / f"kmnist-{part}-imgs.npz", images)
        np.savez_compressed(tmp_path / f"kmnist-{part}-labels.npz", labels)
    same(load_data(str(tmp_path)), parts)


def test_npz_as_medmnist_publishes_it(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    (train, train_labels), (test, test_labels) = parts
    colour = {"train": train[..., None].repeat(3, 3), "val": test[..., None].repeat(3, 3)}
    colour["test"] = colour["val"]
    labels: dict[str, Any] = {"train": train_labels[:, None], "val": test_labels[:, None], "test": test_labels[:, None]}
    arrays: dict[str, Any] = {f"{part}_images": images for part, images in colour.items()}
    np.savez(tmp_path / "pathmnist.npz", **arrays, **{f"{part}_labels": one for part, one in labels.items()})
    data = load_data(str(tmp_path / "pathmnist.npz"))
    assert data.train.pixels.shape == (60, 3, 28, 28)
    assert data.validation is not None
    assert len(data.validation) == 40
    same(data, parts)


def npz(path: Path, **changed: Any) -> Path:
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    images[:] = np.arange(4)[:, None, None] * 60
    np.savez(path, **({"x_train": images, "y_train": labels, "x_test": images, "y_test": labels} | changed))
    return path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x_test": np.full((4, 8, 8), np.nan)}, "256 of its pixels are NaN, the first in image 0 from 0"),
        ({"x_test": np.full((4, 8, 8), 300)}, "300"),
        ({"x_test": np.array([None, {}], object)}, "objects may run code"),
        ({"x_test": np.zeros((4, 9, 9), np.uint8)}, "differ in size"),
        ({"x_test": np.zeros((4, 8, 8, 2), np.uint8)}, "are no images"),
        ({"x_test": np.array(["a", "b"])}, "not numbers"),
        ({"y_test": np.array([0, 1, 2])}, "4 test images but 3 labels"),
        ({"y_test": np.zeros((4, 14), np.uint8)}, "one number for each image"),
        ({"y_test": np.array([0, 1, 0, 99999])}, "99999"),
        ({"y_test": np.array([0, 1, 0, -1])}, "-1"),
    ],
)
def test_arrays_that_will_not_do_are_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    refused(npz(tmp_path / "a.npz", **changed), tmp_path / "a.npz", words)


def test_an_array_whose_header_lies_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 28, 28)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", header.getvalue())
    monkeypatch.setattr(array_format, "available_memory", lambda: 1 << 40)
    refused(tmp_path / "a.npz", "not what its header says")
    monkeypatch.setattr(array_format, "available_memory", lambda: 1 << 20)
    refused(tmp_path / "a.npz", "do not fit in the 1 MiB of memory")


def test_floats_from_0_to_1_are_levels(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    (train, train_labels), (test, test_labels) = parts
    floats: dict[str, Any] = {"x_train": train.astype(np.float32) / 255, "x_test": test / 255}
    np.savez(tmp_path / "a.npz", y_train=train_labels, y_test=test_labels, **floats)
    same(load_data(str(tmp_path / "a.npz")), parts)


def pixel_table(path: Path, images: NDArray[np.uint8], labels: list[Any] | None, head: str | None = "pixel") -> Path:
    count = images[0].size
    names = [f"pixel{place}" for place in range(count)]
    if head == "1x1":
        names = [f"{row + 1}x{column + 1}" for row in range(images.shape[1]) for column in range(images.shape[2])]
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        if head:
            table.writerow([*(["label"] if labels is not None else []), *names])
        for number, image in enumerate(images):
            table.writerow([*([labels[number]] if labels is not None else []), *image.flatten().tolist()])
    return path


@pytest.mark.parametrize("head", [None, "pixel", "1x1"])
def test_a_pixel_table_as_kaggle_publishes_it(
    tmp_path: Path, parts: tuple[Labelled, Labelled], head: str | None
) -> None:
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        pixel_table(tmp_path / f"mnist_{part}.csv", images, labels.tolist(), head)
    same(load_data(str(tmp_path)), parts)


def test_a_pixel_table_alone_is_split_and_one_without_labels_is_noted(
    tmp_path: Path, parts: tuple[Labelled, Labelled], capsys: pytest.CaptureFixture[str]
) -> None:
    (images, labels), (others, _) = parts
    names = ["even" if label % 2 == 0 else "odd" for label in labels]
    pixel_table(tmp_path / "train.csv", images, names)
    pixel_table(tmp_path / "test.csv", others, None)
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    data = load_data(str(tmp_path))
    assert data.names == ("even", "odd")
    assert len(data.train) + len(data.test) == 60
    assert not data.skipped
    told = capsys.readouterr().err
    assert "test.csv: has no labels" in told
    assert "sample_submission.csv: has no pixels" in told


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1," + "7," * 63 + "256", "line 5: '256' is no number from 0 to 255"),
        ("1,2,3", "line 5 has 3 columns, not 65"),
        ("1," + "7," * 62 + "x,1", "line 5: 'x' is no number from 0 to 255"),
        ("1," + "nan," * 63 + "1", "line 5: 'nan' is no number from 0 to 255"),
    ],
)
def test_a_line_that_will_not_do_is_refused(tmp_path: Path, line: str, words: str) -> None:
    path = pixel_table(tmp_path / "a.csv", np.zeros((3, 8, 8), np.uint8), [0, 1, 0])
    path.write_text(path.read_text() + line + "\n")
    refused(path, path, words)


def test_fractions_in_a_pixel_table_are_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_tables, "_AT_ONCE", 2)
    levels = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)
    labels = [0, 1, 0, 1, 0, 1]
    path = pixel_table(tmp_path / "a.csv", levels, labels)
    lines = path.read_text().splitlines()
    parted = [[int(value) for value in line.split(",")] for line in lines[1:]]
    lines[1:] = [",".join([str(label), *(f"{value / 255:.6f}" for value in values)]) for label, *values in parted]
    path.write_text("\n".join(lines))
    ((_, part),) = list_data(str(path)).parts.items()
    assert isinstance(part, ImageArray)
    assert np.array_equal(part.pixels[:, 0], levels)
    # Zeros and ones before levels of the whole range are levels as well.
    dark = np.concatenate([np.ones((4, 8, 8), np.uint8), levels[:2]])
    ((_, part),) = list_data(str(pixel_table(tmp_path / "b.csv", dark, labels))).parts.items()
    assert isinstance(part, ImageArray)
    assert np.array_equal(part.pixels[:, 0], dark)


def test_blank_lines_in_a_pixel_table_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_tables, "_AT_ONCE", 2)
    path = pixel_table(tmp_path / "a.csv", np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8), [0, 1, 0, 1])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "", "", "", "", *lines[3:]]))
    assert list_data(str(path)).parts["all"].labels.tolist() == [0, 1, 0, 1]


def test_a_pixel_table_without_names_has_its_label_first(tmp_path: Path) -> None:
    path = pixel_table(tmp_path / "a.csv", np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8), [0, 1, 0, 1])
    path.write_text(path.read_text().partition("\n")[2])
    listing = list_data(str(path))
    assert listing.parts["all"].labels.tolist() == [0, 1, 0, 1]
    assert "the first column is taken for the label" in listing.notes[0]


def save(path: Path, level: int, size: tuple[int, ...] = (10, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full(size, level, np.uint8)
    picture[: 1 + level % 9, : 1 + level // 9] = 255 - level
    Image.fromarray(picture).save(path)
    return path


def manifest(folder: Path, head: str, *lines: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


@pytest.mark.parametrize("head", ["file,label,split", "Filename,Class,Set", "image_path;category;partition"])
def test_a_manifest_names_files_labels_and_parts(tmp_path: Path, head: str) -> None:
    sign = ";" if ";" in head else ","
    lines = []
    for number, part in enumerate(["train"] * 4 + ["test"] * 2 + ["val"]):
        save(tmp_path / "images" / f"{number}.png", 10 * number)
        lines.append(sign.join([f"images/{number}.png", "cat" if number % 2 else "tea pot", part]))
    path = manifest(tmp_path, head, *lines)
    for source in (path, tmp_path):
        data = load_data(str(source))
        assert data.names == ("cat", "tea pot")
        assert data.train.labels.tolist() == [1, 0, 1, 0]
        assert data.test.labels.tolist() == [1, 0]
        assert data.validation is not None
        assert not data.skipped


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_a_manifest_has_any_ends_of_lines_and_absolute_paths(tmp_path: Path, end: str) -> None:
    paths = [save(tmp_path / "images" / f"{number}.png", number) for number in range(4)]
    rows = [f"{path.resolve()},{'cat' if number % 2 else 'dog'}" for number, path in enumerate(paths)]
    (tmp_path / "labels.csv").write_bytes(end.join(["file,label", *rows]).encode())
    listing = list_data(str(tmp_path))
    assert (len(listing.parts["all"]), listing.skipped) == (4, ())


def test_a_file_of_another_folder_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "new" / f"{number}.png", number)
    manifest(tmp_path, "file,label", "old/0.png,cat", "elsewhere/new/1.png,dog", "0.png,owl")
    listing = list_data(str(tmp_path))
    assert listing.names == ("dog", "owl")
    assert [path.name for path, _ in listing.skipped] == ["0.png"]


@pytest.mark.parametrize("content", ["picture,kind\nimages/0.png,cat\n", 'a,"b\rc\n', "file,cat,dog\n0.png,1,0\n"])
def test_a_table_that_does_not_name_files_and_labels_is_told(tmp_path: Path, content: str) -> None:
    for number in range(4):
        save(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text(content)
    for read in (load_data, survey):
        with pytest.raises(KilonetError) as error:
            read(str(tmp_path))
        refusal(error, "labels.csv")


def test_columns_of_a_manifest_that_are_left_out_are_told_of(tmp_path: Path) -> None:
    """The second of two columns of labels may have been meant for the part."""
    for number in range(6):
        Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")
    path = manifest(tmp_path, "file,Label,class", *(f"{number}.png,{'ab'[number % 2]},train" for number in range(6)))
    listing = list_data(str(path))
    assert listing.names == ("a", "b")
    assert listing.notes == (f"{path}: the column 'Label' is read, 'class' is left out",)


def test_files_that_a_manifest_and_its_folder_do_not_share_are_listed(tmp_path: Path) -> None:
    names = [save(tmp_path / "all" / f"{number:03}.png", number).stem for number in range(30)]
    path = manifest(tmp_path, "id,label", *(f"{name},{'ab'[int(name) % 2]}" for name in names[1:]), "404,a")
    data = load_data(str(tmp_path))
    assert len(data.train) + len(data.test) == 29
    assert sorted(file.name for file, _ in data.skipped) == ["000.png", "404"]
    assert [file.name for file, _ in load_data(str(path)).skipped] == ["404"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["0.png,"], "line 2 has no file or no label"),
        (["0.png"], "line 2 has no file or no label"),
        (["0.png,a", "0.png,b"], "two labels"),
        (["0.png,a", "../{folder}/0.png,b"], "two labels"),
        (["9.png,a"], "none of the image files"),
        (['"0.png,a'], "line"),
        (["\0.png,a"], "NUL"),
        ([f"0.png,{'a' * 101}"], "over 100 characters"),
        ([f"0.png,{'a' * (2 << 20)}"], "over 1,048,576 bytes"),
    ],
)
def test_a_manifest_that_will_not_do_is_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    save(tmp_path / "0.png", 1)
    lines = [line.replace("{folder}", tmp_path.name) for line in lines]
    refused(manifest(tmp_path, "file,label", *lines), words)


def test_a_table_beside_class_folders_that_cannot_be_read_is_left_out_with_a_note(tmp_path: Path) -> None:
    for number in range(8):
        save(tmp_path / "ab"[number % 2 : number % 2 + 1] / f"{number}.png", 20 * number)
    (tmp_path / "notes.csv").touch()
    (tmp_path / "prices.csv").write_bytes("Preis;Währung\n1;€\n".encode("cp1252"))
    listing = list_data(str(tmp_path))
    assert listing.names == ("a", "b")
    assert ["left out" in note for note in listing.notes] == [True, True]
    assert "notes.csv" in listing.notes[0]
    assert "prices.csv" in listing.notes[1]
    for folder in ("a", "b"):
        (tmp_path / folder).rename(tmp_path / f".{folder}")
    refused(tmp_path, "notes.csv")


def test_labels_in_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        save(tmp_path / f"{'cat' if number % 2 else 'dog'}_{number:03}.png", number)
    save(tmp_path / "nothing.png", 1)
    told = refused(tmp_path, "--label-pattern '^([^\\W\\d_]+)'")
    assert "dog_000.png" in told
    data = load_data(str(tmp_path), label_pattern=r"^([a-z]+)_")
    assert data.names == ("cat", "dog")
    assert [(path.name, reason.partition(": ")[2]) for path, reason in data.skipped] == [
        ("nothing.png", "its name does not match --label-pattern")
    ]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "no regular expression"),
        ("a", "0 groups"),
        ("(a)(b)", "2 groups"),
        ("(zzz)", "matches the name of no image"),
    ],
)
def test_a_pattern_that_will_not_do_is_refused(tmp_path: Path, pattern: str, words: str) -> None:
    save(tmp_path / "a.png", 1)
    with pytest.raises(KilonetError) as error:
        list_data(str(tmp_path), pattern)
    refusal(error, words, pattern)


def test_a_pattern_that_takes_for_ever_is_ended() -> None:
    with pytest.raises(KilonetError) as error:
        file_names.labels_in(["a" * 60 + "b"], "^(?:a+)+$|(?P<label>z)", seconds=1)
    refusal(error, "takes over 1 s")


def write_parquet(path: Path, images: NDArray[np.uint8], labels: list[Any], names: list[str] | None = None) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def png(image: NDArray[np.uint8]) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        return stream.getvalue()

    table = pa.table({"image": [{"bytes": png(image), "path": None} for image in images], "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=25)


def test_parquet_as_hugging_face_publishes_it(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    names = [f"digit {number}" for number in range(10)]
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        write_parquet(tmp_path / "data" / f"{part}-00000-of-00001.parquet", images, labels.tolist(), names)
    data = load_data(str(tmp_path), Preprocessing((1, 28, 28)))
    same(data, parts)
    assert data.names == tuple(names)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    (images, labels), _ = parts
    path = tmp_path / "train.parquet"
    write_parquet(path, images, labels.tolist())
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    refused(path, path, "damaged")
    path.write_bytes(b"")
    refused(path, path, "damaged")


def test_a_parquet_file_of_too_many_rows_is_refused_unread(
    tmp_path: Path, parts: tuple[Labelled, Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    (images, labels), _ = parts
    path = tmp_path / "train.parquet"
    write_parquet(path, images, labels.tolist())
    monkeypatch.setattr(parquet, "MAXIMUM_ROWS", 59)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read_row_group", None)
    refused(path, path, "over 59 rows")


def test_features_of_another_make_are_none(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    (images, labels), _ = parts
    path = tmp_path / "a.parquet"
    write_parquet(path, images, labels.tolist())
    table = pq.read_table(path).replace_schema_metadata({"huggingface": '{"info": {"features": []}}'})
    pq.write_table(table, path)
    assert list_data(str(path)).parts["all"].labels.tolist() == labels.tolist()


def test_pixels_of_another_size_are_brought_to_the_input(tmp_path: Path, parts: tuple[Labelled, Labelled]) -> None:
    folder = write_idx_folder(tmp_path, *parts)
    data = load_data(str(folder), Preprocessing((3, 20, 16), "squash"))
    assert data.train.pixels.shape == (60, 3, 20, 16)
    assert data.preparation == "100 of 100 pictures are of another size than 16x20 pixels: they are squashed"
    assert torch.equal(data.train.pixels[:, 0], data.train.pixels[:, 2])


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([f"{kind}_{number:03}.jpg" for kind in ("cat", "dog") for number in range(9)], r"^([^\W\d_]+)[-_ .(]*\d"),
        ([f"{kind} ({number}).jpg" for kind in ("cat", "dog") for number in range(9)], r"^([^\W\d_]+)[-_ .(]*\d"),
        ([f"{kind}_{number}.jpg" for kind in "abcdefgh" for number in range(20)], r"^([^\W\d_]+)[-_ .(]*\d"),
        ([f"{digit}_{number:05}.png" for digit in range(10) for number in range(5)], "^([^-_ ]+)[-_ ]"),
        ([f"{tenth / 10}_dig{number}_2022.jpg" for tenth in range(5) for number in range(7)], "^([^-_ ]+)[-_ ]"),
        ([f"{number:05}-{kind}.png" for kind in ("on", "off") for number in range(9)], r"[-_ ]([^-_ .]+)\.[^.]+$"),
        ([f"IMG_{number:04}.jpg" for number in range(40)], None),
        ([f"{number:04}.jpg" for number in range(40)], None),
        ([f"cat_{number:04}.jpg" for number in range(40)] + ["dog_1.jpg"], None),
        ([f"cat_{number}.jpg" for number in range(9)] + ["photo.jpg"], None),
        ([f"{kind}-x-{side}.jpg" for kind in ("cat", "dog") for side in ("left", "right")] * 9, None),
    ],
)
def test_labels_in_names_are_found_where_they_are_plain(names: list[str], pattern: str | None) -> None:
    assert file_names.inferred_pattern(names) == pattern


def test_a_folder_of_plain_names_needs_no_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(10):
        for kind in ("cat", "dog"):
            Image.new("L", (8, 8), 9 * number + (5 if kind == "cat" else 0)).save(tmp_path / f"{kind}_{number}.png")
    data = load_data(str(tmp_path))
    assert data.names == ("cat", "dog")
    assert len(data.train) + len(data.test) == 20
    assert "the label is taken from each file's name" in capsys.readouterr().err
