"""The calibration at the end of a run: on images kept aside, and on images of none of the classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import StopAtEpoch, command, refusal, tiny_recipe
from kilonet.data.datasets import DataSet, Images
from kilonet.models.model import MODEL_FILE, load_model
from kilonet.models.prediction import predict_files
from kilonet.recipe import RunSection
from kilonet.training.calibrate import calibrate
from kilonet.training.progress import NoProgress
from kilonet.training.run_data import divided
from kilonet.training.run_folder import Run, read_run
from kilonet.training.train import fit, resume
from kilonet.utils.errors import KilonetError

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Messages(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def write_stripes(folder: Path, count: int) -> Path:
    """Write pictures of stripes, of several sizes, in two folders: no digits, nor alike."""
    random = np.random.default_rng(0)
    for number in range(count):
        rows, columns, width = random.integers(20, 60), random.integers(20, 60), random.integers(1, 5)
        lines = np.arange(rows)[:, None] // width % 2 * 255 * np.ones(columns)
        place = folder / f"part{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(lines.astype(np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("negatives"), 60)


@pytest.fixture(scope="module")
def named(small: DataSet) -> DataSet:
    """Images whose classes have names, so that no digits are searched for in pictures."""
    return replace(small, names=NAMES)


@pytest.fixture(scope="module")
def told(named: DataSet, small_folder: Path, stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was calibrated on negatives."""
    # Wider maps than those of the other tests, which learn less of stripes.
    layers = ("conv 4", "maxpool 2", "conv 8", "maxpool 2", "conv 8", "gap", "pointwise 10")
    recipe = tiny_recipe(small_folder, layers=layers, calibration=0.2, negatives=str(stripes), epochs=8)
    return fit(recipe, named, tmp_path_factory.mktemp("runs") / "told")


def rows(images: Images) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in images.pixels)


@pytest.mark.parametrize("holdout", [False, True])
def test_images_kept_aside_are_neither_trained_on_nor_scored(small: DataSet, *, holdout: bool) -> None:
    plain = divided(small, RunSection(holdout=holdout))
    parts = divided(small, RunSection(holdout=holdout, calibration=0.1))
    assert parts.validation is not None
    assert len(parts.validation) == round(0.1 * len(plain.train))
    assert sorted(rows(parts.train) + rows(parts.validation)) == rows(plain.train)
    assert torch.equal(parts.test.pixels, plain.test.pixels)


def test_a_part_to_validate_on_needs_no_share(small: DataSet) -> None:
    data = replace(small, validation=small.test)
    run = fit(tiny_recipe(epochs=1), data)
    assert run.result.calibration is not None
    assert run.result.calibration.images == len(small.test)
    assert run.model.metadata.calibration is not None
    assert len(divided(data, RunSection(calibration=0.1)).train) == len(small.train)
    # The weights are those of a run without.
    assert run.model.trained_sha256 == fit(tiny_recipe(epochs=1), small).result.model_sha256


def test_a_calibrated_run_goes_on_bit_for_bit(small_folder: Path, tmp_path: Path) -> None:
    # Few, as each run looks for digits in them.
    stripes = write_stripes(tmp_path / "negatives", 20)
    recipe = tiny_recipe(small_folder, calibration=0.1, negatives=str(stripes))
    whole = fit(recipe, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, out=tmp_path / "broken", progress=StopAtEpoch(1))
    resumed = resume(tmp_path / "broken")
    assert resumed.model.content == whole.model.content == fit(recipe).model.content
    assert whole.model.metadata.calibration is not None
    assert whole.result.calibration == resumed.result.calibration
    found = read_run(tmp_path / "broken")
    assert found.result.model_sha256 == found.model.trained_sha256 != found.model.sha256


def test_the_data_are_no_negatives(small_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(small_folder, calibration=0.1, negatives=f"{small_folder}/../{small_folder.name}")
    with pytest.raises(KilonetError) as error:
        fit(recipe, out=tmp_path / "run")
    refusal(error, "the data cannot be images of none of the classes")
    assert not (tmp_path / "run").exists()
    fit(recipe.replace(negatives=None), out=tmp_path / "run")
    before = (tmp_path / "run" / MODEL_FILE).read_bytes()
    with pytest.raises(KilonetError) as error:
        calibrate(str(tmp_path / "run"), negatives=small_folder)
    refusal(error, "the data cannot be images of none of the classes")
    assert (tmp_path / "run" / MODEL_FILE).read_bytes() == before


def test_other_negatives_are_another_training(small: DataSet, small_folder: Path, tmp_path: Path) -> None:
    """They are digits here, as what is none is not found in pictures."""
    negatives = tmp_path / "negatives"
    negatives.mkdir()
    for number, pixels in enumerate(small.train.pixels[:40, 0]):
        Image.fromarray(pixels.numpy()).save(negatives / f"{number}.png")
    recipe = tiny_recipe(small_folder, calibration=0.1, negatives=str(negatives))
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, out=tmp_path / "run", progress=StopAtEpoch(1))
    next(negatives.rglob("*.png")).unlink()
    with pytest.raises(KilonetError) as error:
        resume(tmp_path / "run")
    refusal(error, "the images to calibrate on are others")


def test_too_few_images_are_refused_before_anything_is_trained(small: DataSet, tmp_path: Path) -> None:
    with pytest.raises(KilonetError) as error:
        fit(tiny_recipe(calibration=0.005, epochs=1), small, out=tmp_path / "run")
    refusal(error, "6 images of 1,200", "at least 20", "give it at least 0.02, or leave it out")
    assert not (tmp_path / "run").exists()
    few = replace(small, train=small.train.select(torch.arange(30), "Train"))
    with pytest.raises(KilonetError) as error:
        fit(tiny_recipe(calibration=0.5, epochs=1), few)
    assert str(error.value).endswith("; leave it out")


def test_few_images_that_the_data_have_to_validate_on_are_said_in_one_line(small: DataSet) -> None:
    """No share of the others would make them more."""
    progress = Messages()
    data = replace(small, validation=small.train.select(torch.arange(6), "Validation"))
    run = fit(tiny_recipe(epochs=1, calibration=0.1), data, progress=progress)
    assert run.model.metadata.calibration is None
    assert run.result.calibration is None
    assert [line for line in progress.lines if "calibrated" in line] == [
        "not calibrated: 6 images were kept aside, and it takes at least 20"
    ]


def test_teachers_do_not_see_the_images_kept_aside(small_folder: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.toml"
    teacher.write_text(tiny_recipe(small_folder, seed=7, epochs=1).to_toml())
    recipe = tiny_recipe(small_folder, calibration=0.1, teacher=(str(teacher),), epochs=1)
    run = fit(recipe, out=tmp_path / "run")
    own = read_run(tmp_path / "run" / "teacher")
    assert own.result.data_sha256 == run.result.data_sha256
    assert own.model.metadata.calibration is None
    plain = fit(tiny_recipe(small_folder, epochs=1), out=tmp_path / "plain")
    with pytest.raises(KilonetError) as error:
        fit(recipe.replace(teacher=(str(plain.folder),)))
    refusal(error, "has seen the images held out", "--calibration 0.1")


def test_none_of_these_is_answered_and_proved_on_other_negatives(told: Run, stripes: Path, named: DataSet) -> None:
    report = told.result.calibration
    calibration = told.model.metadata.calibration
    assert report is not None
    assert calibration is not None
    assert calibration.rejects
    assert (report.images, report.negatives, report.negatives_scored, report.skipped) == (240, 60, 30, 0)
    assert report.kept is not None
    assert report.kept >= 0.98
    assert report.rejected is not None
    # A network of eight epochs on 960 digits knows little of stripes.
    assert report.rejected >= 0.2
    answers = predict_files(told.model, [stripes]).files
    none = [one for one in answers if one.predictions[0].label is None]
    assert len(none) >= 0.2 * len(answers)
    text = str(none[0])
    assert "none of these (" in text
    table = none[0].predictions[0].as_json()
    assert (table["class"], table["name"], table["no_digit"], table["uncertain"]) == (None, None, None, True)
    assert table["none_of_these"]
    assert (~calibration.uncertain(told.model.logits(named.test.pixels).numpy())).mean() > 0.75


def test_negatives_without_images_kept_aside_or_too_few_are_refused_before_training(
    small: DataSet, stripes: Path, tmp_path: Path
) -> None:
    write_stripes(tmp_path / "few", 19)
    for changes, words in (
        ({"negatives": str(stripes)}, "--calibration"),
        ({"negatives": str(tmp_path / "none"), "calibration": 0.1}, "no such folder"),
        ({"negatives": str(tmp_path / "few"), "calibration": 0.1}, "19"),
    ):
        with pytest.raises(KilonetError) as error:
            fit(tiny_recipe(**changes), small, tmp_path / "run")
        refusal(error, words)
        assert not (tmp_path / "run").exists()


def test_unreadable_negatives_are_listed_and_counted(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    negatives = write_stripes(tmp_path / "negatives", 40)
    (negatives / "broken.png").write_bytes(b"no picture")
    (negatives / "photo.heic").write_bytes(b"no picture")
    (tmp_path / "tiny.toml").write_text(tiny_recipe(small_folder, epochs=1).to_toml())
    words = ("train", tmp_path / "tiny.toml", "--out", tmp_path / "run", "--calibration", "0.1")
    answer = command(capsys, *words, "--negatives", negatives)
    assert answer.status == 1
    for name in ("broken.png", "photo.heic"):
        assert sum(name in line for line in answer.err.splitlines()) == 1
    run = read_run(tmp_path / "run")
    assert run.result.calibration is not None
    assert run.result.calibration.skipped == 2
    before = run.model.metadata.calibration
    # A digit model's negatives without a digit do not reach the network.
    answer = command(capsys, "calibrate", tmp_path / "run", "--negatives", negatives)
    assert answer.status == 1
    assert "2 files of" in answer.err
    assert "None of these below a probability of" in answer.out
    assert load_model(tmp_path / "run").metadata.calibration == before
    for told in (True, False):
        answer = command(capsys, "calibrate", tmp_path / "run")
        assert ("any more; --negatives" in answer.out) == told


def test_a_run_calibrates_itself_again_on_what_it_kept_aside(told: Run, tmp_path: Path, stripes: Path) -> None:
    assert told.folder is not None
    for file in told.folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    again = calibrate(str(tmp_path), negatives=stripes)
    assert again.report == told.result.calibration
    assert again.calibration == told.model.metadata.calibration
    assert calibrate(str(tmp_path)).calibration.rejects is None
    told.model.save(tmp_path / "other.safetensors")
    (tmp_path / "result.json").unlink()
    with pytest.raises(KilonetError) as error:
        calibrate(str(tmp_path / "other.safetensors"))
    refusal(error, "--by")
