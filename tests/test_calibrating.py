"""`kilonet calibrate`: on images that were held out, or not at all."""

import json
import shutil
from pathlib import Path

import pytest

from helpers import command, tiny_recipe
from kilonet.datasets import load_data
from kilonet.model import load
from kilonet.runs import Run
from kilonet.train import fit


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """A run that held images out, of a data set with enough of them."""
    folder = tmp_path_factory.mktemp("runs") / "held"
    recipe = tiny_recipe("mnist", holdout=True, epochs=1, batch_size=512)
    data = load_data("mnist")
    assert small_folder.is_dir()
    fit(recipe, data, out=folder)
    return folder


def test_a_run_with_a_holdout_calibrates_itself(held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(held, tmp_path / "run")
    before = load(tmp_path / "run")
    assert before.notes.calibration is None
    table = json.loads(command(capsys, "calibrate", tmp_path / "run", "--by", held, "--json").out)
    after = load(tmp_path / "run")
    assert after.notes.calibration is not None
    assert after.notes.calibration.model_dump(mode="json") == table
    images = load_data("mnist").hold_out().test
    confidence, right = (after.predict(images.pixels).probabilities.max(1), None)
    right = after.predict(images.pixels).classes == images.labels.numpy()
    assert right[confidence >= table["sure_from"]].mean() >= 0.999
    # Confidence means what it says, on average.
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.02)


def test_another_model_of_the_same_network_is_calibrated_by_a_run(
    held: Path, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.model.save(tmp_path / "model.safetensors")
    text = command(capsys, "calibrate", tmp_path / "model.safetensors", "--by", held).out
    assert text.startswith("Temperature: ")
    assert "Uncertain below a probability of" in text
    assert load(tmp_path / "model.safetensors").notes.calibration is not None


def test_what_held_nothing_out_or_is_another_network_is_refused(
    held: Path, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    finished.model.save(tmp_path / "model.safetensors")
    command(capsys, "calibrate", tmp_path / "model.safetensors", "--by", finished.folder).refused("--holdout")
    command(capsys, "calibrate", tmp_path / "model.safetensors", "--by", tmp_path).refused("result.json")
    load("best").save(tmp_path / "other.safetensors")
    command(capsys, "calibrate", tmp_path / "other.safetensors", "--by", held).refused("not that of")
