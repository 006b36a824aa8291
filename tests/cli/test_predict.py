"""Prediction on the command line: photos, rows, folders, tables, and what the network saw."""

import csv
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from found_digits import draw_change, found_digit
from helpers import command, refusal, save_overflowing_model
from kilonet.data.datasets import DataSet
from kilonet.models.metadata import Metadata
from kilonet.models.model import load_model
from kilonet.models.prediction import PredictedFiles
from kilonet.utils.errors import KilonetError


@pytest.fixture
def folder(mnist: DataSet, tmp_path: Path) -> Path:
    """Twelve found digits, one file that is none and one that ends early."""
    home = tmp_path / "photos"
    home.mkdir()
    for number in range(12):
        content = found_digit(mnist.test.pixels[number, 0].numpy(), draw_change(number))
        (home / f"{number:02}-is-{int(mnist.test.labels[number])}.png").write_bytes(content)
    (home / "junk.jpg").write_bytes(b"junk")
    (home / "short.png").write_bytes((home / "00-is-7.png").read_bytes()[:200])
    (home / "letter.txt").write_text("Dear reader")
    return home


@pytest.fixture
def row(mnist: DataSet, tmp_path: Path) -> Path:
    pixels = np.pad(np.concatenate(list(mnist.test.pixels[:6, 0].numpy()), axis=1), 9)
    Image.fromarray(255 - pixels).resize((744, 184)).save(tmp_path / "row.jpg")
    return tmp_path / "row.jpg"


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_folder_is_read_and_its_unreadable_files_are_listed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = command(capsys, "predict", "best", folder, "--csv", tmp_path / "out.csv")
    assert answer.status == 1
    assert answer.out == f"Answers: {tmp_path / 'out.csv'}\n"
    lines = answer.err.splitlines()
    assert lines[0].startswith(f"kilonet: skipped: {folder / 'junk.jpg'}: not a PNG")
    assert lines[1].startswith(f"kilonet: skipped: {folder / 'short.png'}: ")
    assert lines[2] == "kilonet: 2 of 14 files could not be read"
    with (tmp_path / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    for table in rows:
        assert table["class"] == Path(table["file"]).stem[-1]
        figures = [float(table[f"p{label}"]) for label in range(10)]
        assert sum(figures) == pytest.approx(1, abs=1e-4)
        assert float(table["probability"]) == pytest.approx(max(figures), abs=1e-6)
        assert table["uncertain"] in ("True", "False")
        assert table["no_digit"] == ""


def test_a_folder_whose_files_are_all_well_is_status_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("junk.jpg", "short.png"):
        (folder / name).unlink()
    answer = command(capsys, "predict", "best", folder)
    assert (answer.status, answer.err) == (0, "")
    assert [line.split(": ")[1][0] for line in answer.out.splitlines()] == list("721041495906")


def test_json_has_answers_and_skipped_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = json.loads(command(capsys, "predict", "best", folder, "--json").out)
    assert len(table["predictions"]) == 12
    assert [Path(one["file"]).name for one in table["skipped"]] == ["junk.jpg", "short.png"]
    assert set(table["calibration"]) == {"temperature", "sure_from", "energy_from", "rejects"}


def test_a_folder_without_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "predict", "best", tmp_path).refused(tmp_path, "no PNG, JPEG, BMP, GIF, WebP or TIFF files")


def test_a_row_is_read_with_line_and_objected_to_without(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = command(capsys, "predict", "best", row, "--line")
    assert answer.out.startswith(f"{row}: 721041 (")
    table = json.loads(command(capsys, "predict", "best", row, "--line", "--json").out)
    assert [(one["place"], one["class"]) for one in table["predictions"]] == list(enumerate([7, 2, 1, 0, 4, 1]))
    assert "no digit (several" in command(capsys, "predict", "best", row).out


def test_show_writes_what_the_network_saw(
    row: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = folder / "00-is-7.png"
    assert command(capsys, "predict", "best", photo, "--show", tmp_path / "seen.png").status == 0
    assert size(tmp_path / "seen.png") == (28, 28)
    # What was seen is seen again as it is.
    first = json.loads(command(capsys, "predict", "best", photo, "--json").out)["predictions"][0]
    again = json.loads(command(capsys, "predict", "best", tmp_path / "seen.png", "--json").out)["predictions"][0]
    assert first["probabilities"] == again["probabilities"]
    command(capsys, "predict", "best", row, "--line", "--show", tmp_path / "row.png")
    assert size(tmp_path / "row.png") == (6 * 28, 28)


def test_nothing_is_shown_where_no_file_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "junk.png").write_bytes(b"junk")
    answer = command(capsys, "predict", "best", tmp_path / "photos", "--show", tmp_path / "seen.png")
    assert answer.status == 1
    assert answer.err.splitlines()[-2:] == [
        "kilonet: 1 of 1 files could not be read",
        f"kilonet: {tmp_path / 'seen.png'} is not written: there is nothing to show",
    ]
    assert not (tmp_path / "seen.png").exists()


def test_an_empty_image_is_no_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (50, 40), 200).save(tmp_path / "empty.png")
    answer = command(capsys, "predict", "best", tmp_path / "empty.png")
    assert answer.status == 0
    assert answer.out == f"{tmp_path / 'empty.png'}: no digit (nothing stands out from the background)\n"


def test_written_test_images_are_answered_as_in_memory(
    mnist: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = mnist.test.pixels[:300, 0].numpy()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    table = json.loads(command(capsys, "predict", "best", tmp_path, "--json").out)
    model = load_model("best")
    found = np.array([one["probabilities"] for one in table["predictions"]], np.float32)
    np.testing.assert_allclose(found, model.predict(images).probabilities, atol=1e-6)


def test_the_packaged_models_are_calibrated() -> None:
    for name in ("best", "baseline"):
        calibration = load_model(name).metadata.calibration
        assert calibration is not None
        assert calibration.energy_from is not None


def test_a_model_of_other_things_takes_pictures_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, image = tmp_path / "model.safetensors", tmp_path / "image.png"
    load_model("best").with_metadata(Metadata(names=tuple("abcdefghij"))).save(path)
    Image.new("RGB", (28, 28), (9, 9, 9)).save(image)
    assert command(capsys, "predict", path, image).out.split(": ")[1][0] in "abcdefghij"
    command(capsys, "predict", path, image, "--line").refused("--line")
    Image.new("RGB", (290, 170), (9, 9, 9)).save(image)
    assert command(capsys, "predict", path, image).out.split(": ")[1][0] in "abcdefghij"


def test_photos_of_kinds_that_are_not_read_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("junk.jpg", "short.png"):
        (folder / name).unlink()
    (folder / "below").mkdir()
    names = ["IMG_0001.HEIC", "below/b.jxl", "scan", "z.dng"]
    for name in names:
        (folder / name).write_bytes(b"photo")
    answer = command(capsys, "predict", "best", folder)
    assert answer.status == 1
    assert len(answer.out.splitlines()) == 12
    *lines, last = answer.err.splitlines()
    assert lines[0].endswith("IMG_0001.HEIC: a photo of a kind that is not read; save it as JPEG")
    assert all(
        f"kilonet: skipped: {folder / name}: " in line for name, line in zip(sorted(names), sorted(lines), strict=True)
    )
    assert last == "kilonet: 4 of 16 files could not be read"
    table = json.loads(command(capsys, "predict", "best", folder, "--json").out)
    assert [one["file"] for one in table["skipped"]] == [str(folder / name) for name in names]


def test_many_skipped_files_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(50):
        (folder / f"{number:02}.heic").touch()
    lines = command(capsys, "predict", "best", folder).err.splitlines()
    assert len(lines) == 22
    assert lines[-2:] == [
        "kilonet: skipped: 32 more; --json lists all",
        "kilonet: 52 of 64 files could not be read",
    ]


def test_a_folder_of_nothing_but_other_kinds_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        (tmp_path / f"{number}.heic").touch()
    command(capsys, "predict", "best", tmp_path).refused("5 files (0.heic, 1.heic, 2.heic, ...) are not read")


def test_bmp_and_webp_are_read(mnist: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Image.fromarray(mnist.test.pixels[0, 0].numpy())
    image.save(tmp_path / "a.bmp")
    image.save(tmp_path / "b.webp", lossless=True)
    answer = command(capsys, "predict", "best", tmp_path)
    assert (answer.status, answer.err) == (0, "")
    assert [line.split(": ")[1][0] for line in answer.out.splitlines()] == ["7", "7"]


ODD_NAMES = (
    os.fsdecode(b"caf\xe9.png"),
    "=cmd|' C calc'!A0.png",
    "+1.png",
    "-1.png",
    "@SUM(A1).png",
    "\tx.png",
    "\x1b]0;owned\x07\x1b[2J.png",
    "gnp.\u202eexe.png",
    "two\nlines.png",
)


def test_odd_names_lose_nothing_and_never_reach_the_terminal(
    mnist: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in (*ODD_NAMES, "plain.png"):
        Image.fromarray(mnist.test.pixels[0, 0].numpy()).save(io := BytesIO(), "PNG")
        (photos / name).write_bytes(io.getvalue())
        (photos / f"junk-{name}").write_bytes(b"junk")
    # So that names stand at the start of their cells.
    monkeypatch.chdir(photos)
    answer = command(capsys, "predict", "best", ".", "--csv", tmp_path / "out.csv")
    assert answer.status == 1, answer.err
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    assert len(files) == len(ODD_NAMES) + 1
    assert not [name for name in files if name[0] in "=+-@\t\r\n"]
    assert "caf\\udce9.png" in files
    assert sum(name.startswith("'") for name in files) == 5
    for more in ((), ("--csv", tmp_path / "\x1b[2J.csv"), ("--show", tmp_path / "seen.png")):
        answer = command(capsys, "predict", "best", photos, *more)
        assert answer.status == 1
        assert (answer.out + answer.err).replace("\n", "").isprintable()
    assert len(command(capsys, "predict", "best", photos).out.splitlines()) == len(ODD_NAMES) + 1
    command(capsys, "predict", "best", photos / f"junk-{ODD_NAMES[2]}").refused("not a PNG")


def test_names_of_classes_never_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, image = tmp_path / "model.safetensors", tmp_path / "image.png"
    names = tuple(f"=\x1b[3{label}m\nclass" for label in range(10))
    load_model("best").with_metadata(Metadata(names=names)).save(path)
    Image.new("L", (28, 28), 9).save(image)
    out = command(capsys, "predict", path, image, "--csv", tmp_path / "out.csv").out
    out += command(capsys, "predict", path, image).out
    assert out.replace("\n", "").isprintable()
    with (tmp_path / "out.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["name"].startswith("'=")
    assert "".join(row).isprintable()


def test_an_answer_without_files_has_nothing_to_show() -> None:
    with pytest.raises(KilonetError) as error:
        PredictedFiles((), (), Metadata()).inputs_as_png()
    refusal(error, "nothing to show")


def test_a_model_that_computes_nan_is_refused(
    small_folder: Path, mnist: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_overflowing_model(tmp_path)
    Image.fromarray(mnist.test.pixels[0, 0].numpy()).save(tmp_path / "7.png")
    command(capsys, "predict", model, tmp_path / "7.png").refused("NaN or infinity")
    command(capsys, "predict", model, tmp_path / "7.png", "--json").refused("NaN or infinity")
    command(capsys, "evaluate", model, "--data", small_folder).refused("NaN or infinity", "500 of 500 images")
    command(capsys, "evaluate", model, "--data", small_folder, "--json").refused("NaN or infinity")
    for form in ("c", "html"):
        out = ("--out", tmp_path / form, "--data", small_folder)
        command(capsys, "export", model, "--to", form, *out).refused("NaN or infinity")


@pytest.fixture
def sheet(mnist: DataSet, tmp_path: Path) -> Path:
    """Two rows of three digits, 60 pixels high, at known places of a sheet larger than a page is read at."""
    pixels = np.full((1400, 4000), 235, np.uint8)
    for number, image in enumerate(mnist.test.pixels[:6, 0].numpy()):
        top, left = 300 + 500 * (number // 3), 500 + 800 * (number % 3)
        large = np.asarray(Image.fromarray(image).resize((280, 280)))
        pixels[top : top + 280, left : left + 280] -= (large * 0.8).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sheet.png")
    return tmp_path / "sheet.png"


def test_all_digits_of_a_page_are_read(
    mnist: DataSet, sheet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = command(capsys, "predict", "best", sheet, "--all", "--show", tmp_path / "seen.png")
    assert answer.status == 0
    assert answer.out == f"{sheet}: 6 digits in 2 rows, 1 uncertain (?)\n1: 7  2  1\n2: 0? 4  1\n"
    assert size(tmp_path / "seen.png") == (2048, 717)
    with Image.open(tmp_path / "seen.png") as seen:
        assert len({colour for _, colour in seen.convert("RGB").getcolors(1 << 16) or []} & {(0, 80, 208)}) == 1
    found = json.loads(command(capsys, "predict", "best", sheet, "--all", "--json").out)["predictions"]
    assert [one["class"] for one in found] == mnist.test.labels[:6].tolist()
    assert [(one["place"], one["row"]) for one in found] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
    for number, one in enumerate(found):
        box = one["box"]
        # MNIST's frame leaves 4 of 28 pixels around a digit that is centred by its mass.
        assert abs((box["left"] + box["right"]) / 2 - (640 + 800 * (number % 3))) < 40
        assert abs((box["top"] + box["bottom"]) / 2 - (440 + 500 * (number // 3))) < 40
        assert 180 < box["bottom"] - box["top"] < 260
    command(capsys, "predict", "best", sheet, "--all", "--csv", tmp_path / "page.csv")
    with (tmp_path / "page.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows] == ["0"] * 3 + ["1"] * 3
    assert [int(row["left"]) for row in rows] == [one["box"]["left"] for one in found]


def test_a_page_without_digits_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (300, 200), 230).save(tmp_path / "empty.png")
    answer = command(capsys, "predict", "best", tmp_path / "empty.png", "--all")
    assert (answer.status, answer.out) == (0, f"{tmp_path / 'empty.png'}: no digit (no digits on the page)\n")


def test_what_all_cannot_do_is_refused(sheet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show = ("--show", sheet.parent / "seen.png")
    for words, reason in (
        ((sheet, "--all", "--line"), "not allowed with"),
        ((sheet, sheet, "--all", *show), "boxes of one page"),
        ((sheet.parent, "--all", *show), "boxes of one page"),
    ):
        answer = command(capsys, "predict", "best", *words)
        assert answer.status == 2
        assert reason in answer.err


def test_a_box_is_in_pixels_of_the_file(sheet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crop = sheet.parent / "crop.png"
    with Image.open(sheet) as image:
        image.crop((100, 0, 1300, 1400)).resize((1800, 2100)).crop((0, 0, 1800, 1000)).save(crop)
    (found,) = json.loads(command(capsys, "predict", "best", crop, "--json").out)["predictions"]
    box = found["box"]
    assert abs((box["left"] + box["right"]) / 2 - 1.5 * 540) < 40
    assert "row" not in found


@pytest.mark.parametrize("flag", ["--csv", "--show"])
def test_only_what_predict_wrote_is_written_over(
    flag: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = folder / "00-is-7.png", tmp_path / "out.png"
    for other in (photo, folder / "01-is-2.png", tmp_path / "notes.txt"):
        if other.suffix == ".txt":
            other.write_text("file,place: what I saw")
        before = other.read_bytes()
        command(capsys, "predict", "best", photo, flag, other).refused(f"{other}", "nothing in it says", flag)
        assert other.read_bytes() == before
    for _ in range(2):
        assert command(capsys, "predict", "best", photo, flag, out).status == 0
    before, other_flag = out.read_bytes(), "--show" if flag == "--csv" else "--csv"
    command(capsys, "predict", "best", photo, other_flag, out).refused("nothing in it says", other_flag)
    assert out.read_bytes() == before


def test_what_was_seen_is_not_written_over_when_it_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen.png"
    assert command(capsys, "predict", "best", folder / "00-is-7.png", "--show", seen).status == 0
    before = seen.read_bytes()
    again = seen.parent / "." / ".." / tmp_path.name / seen.name
    command(capsys, "predict", "best", seen, "--show", again).refused("--show", "is one of the images")
    command(capsys, "predict", "best", tmp_path, "--show", seen).refused("--show", "is one of the images")
    assert seen.read_bytes() == before


def test_two_outputs_are_two_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command(capsys, "predict", "best", folder, "--csv", out, "--show", out).refused("one file", "give two")
    assert not out.exists()


def test_an_empty_name_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "predict", "best", "").refused("FILE", "an empty name")


@pytest.mark.ci
def test_a_name_that_the_terminal_cannot_show_is_written_escaped(folder: Path) -> None:
    named = (folder / "00-is-7.png").rename(folder / "zähler.png")
    said = subprocess.run(
        [sys.executable, "-m", "kilonet", "predict", "best", str(named)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert b"z\\xe4hler.png: " in said.stdout
