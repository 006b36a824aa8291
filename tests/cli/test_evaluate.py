"""Evaluation on the command line: photos in class-named folders, other data sets, corruptions."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from found_digits import draw_change, found_digit
from helpers import Hide, command, write_idx_folder
from kilonet.data.datasets import DataSet
from kilonet.data.listing import FASHION
from kilonet.models.metadata import Metadata
from kilonet.models.model import load_model


@pytest.fixture
def photos(mnist: DataSet, tmp_path: Path) -> Path:
    for number in range(30):
        home = tmp_path / "photos" / str(int(mnist.test.labels[number]))
        home.mkdir(parents=True, exist_ok=True)
        content = found_digit(mnist.test.pixels[number, 0].numpy(), draw_change(number))
        (home / f"{number}.png").write_bytes(content)
    return tmp_path / "photos"


def test_photos_in_class_named_folders_are_scored(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = command(capsys, "evaluate", "best", "--data", photos, "--json")
    table = json.loads(answer.out)
    assert (table["images"], table["scored"]) == (30, "photos")
    assert table["correct"] >= 28
    assert answer.err == ""


def test_photos_without_a_digit_count_and_are_told_of(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (40, 40), 99).save(photos / "0" / "empty.png")
    answer = command(capsys, "evaluate", "best", "--data", photos, "--json")
    assert json.loads(answer.out)["images"] == 31
    assert answer.err == "no digit found in 1 of 31 images; scored all the same\n"


def test_the_name_of_a_folder_never_reaches_the_terminal(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = photos.rename(photos.with_name("\x1b[2J\u202e"))
    out = command(capsys, "evaluate", "best", "--data", odd).out
    assert out.startswith("\\x1b[2J\\u202e set: ")
    assert out.replace("\n", "").isprintable()


def test_a_folder_that_is_no_class_of_the_model_is_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "7").rename(photos / "seven")
    command(capsys, "evaluate", "best", "--data", photos).refused("seven", "0, 1, 2")


def test_folders_are_matched_to_the_names_that_a_model_has(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple("0123456789"[::-1])
    load_model("best").with_metadata(Metadata(names=names, digits=True)).save(tmp_path / "turned.safetensors")
    table = json.loads(command(capsys, "evaluate", tmp_path / "turned.safetensors", "--data", photos, "--json").out)
    # Every label is another digit's now, but for none of ten is it its own.
    assert table["correct"] <= 2


def test_summary_tells_of_data_that_fit(small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = command(capsys, "summary", "best", "--data", small_folder)
    assert answer.out.splitlines()[-1] == (
        f"Data: {small_folder}: 1,200 training and 500 test images, 1x28x28, 10 classes; they fit the network"
    )


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs dataset-fashion-mnist")
def test_fashion_mnist_is_a_name_for_data(capsys: pytest.CaptureFixture[str]) -> None:
    table = json.loads(command(capsys, "evaluate", "uno", "--data", "fashion-mnist", "--json").out)
    assert table["images"] == 10_000
    assert table["accuracy"] < 0.3


def test_corruptions_without_their_extra_are_refused(hide: Hide, capsys: pytest.CaptureFixture[str]) -> None:
    hide("skimage", "kilonet.evaluation.corruptions")
    command(capsys, "evaluate", "best", "--corruptions").refused("skimage", "pip install '.[corruptions]'")


@pytest.mark.ci
def test_corruptions_are_a_table_with_their_mean(
    mnist: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = mnist.test.pixels[:200, 0].numpy(), mnist.test.labels[:200].to(torch.uint8).numpy()
    few = write_idx_folder(tmp_path / "few", images, images)
    lines = command(capsys, "evaluate", "best", "--data", few, "--corruptions").out.splitlines()
    assert lines[0] == "Test set: 200 images under the corruptions of MNIST-C"
    figures = {line[:23].strip(): float(line[23:].strip(" %")) for line in lines[1:]}
    assert len(figures) == 17
    corrupted = [figure for name, figure in figures.items() if name not in ("clean", "mean of the corruptions")]
    assert figures["mean of the corruptions"] == pytest.approx(sum(corrupted) / 15, abs=0.01)
    assert figures["clean"] > 98
    assert figures["brightness"] < figures["translate"]
