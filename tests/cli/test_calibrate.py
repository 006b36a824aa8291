"""`kilonet calibrate`: on images that were held out, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers import command, tiny_recipe, write_idx_folder
from kilonet.data.datasets import DataSet, load_data
from kilonet.models.model import Model, load_model
from kilonet.training.run_folder import Run
from kilonet.training.train import fit


@pytest.fixture(scope="module")
def data_folder(mnist: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images for 600 to be held out."""
    train, test = (
        (part.pixels[:count, 0].numpy(), part.labels[:count].to(torch.uint8).numpy())
        for part, count in ((mnist.train, 3600), (mnist.test, 100))
    )
    return write_idx_folder(tmp_path_factory.mktemp("data"), train, test)


@pytest.fixture(scope="module")
def held(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "held"
    fit(tiny_recipe(data_folder, holdout=True, epochs=6), out=folder)
    return folder


def test_a_run_with_a_holdout_calibrates_itself(
    held: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(held, tmp_path / "run")
    before = load_model(tmp_path / "run")
    assert before.metadata.calibration is None
    table = json.loads(command(capsys, "calibrate", tmp_path / "run", "--by", held, "--json").out)
    after = load_model(tmp_path / "run")
    assert after.metadata.calibration is not None
    assert after.metadata.calibration.model_dump(mode="json") == table
    images = load_data(str(data_folder)).hold_out().test
    confidence = after.predict(images.pixels).probabilities.max(1)
    right = after.predict(images.pixels).classes == images.labels.numpy()
    assert right[confidence >= table["sure_from"]].mean() >= 0.999
    # Confidence means what it says, on average.
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.03)


def test_another_model_of_the_same_network_is_calibrated_by_a_run(
    held: Path, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.model.save(tmp_path / "model.safetensors")
    text = command(capsys, "calibrate", tmp_path / "model.safetensors", "--by", held).out
    assert text.startswith("Temperature: ")
    assert "Uncertain below a probability of" in text
    assert load_model(tmp_path / "model.safetensors").metadata.calibration is not None


@pytest.mark.parametrize("exchanged", ["run", "held"])
def test_a_model_that_was_exchanged_is_neither_calibrated_nor_calibrated_by(
    held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], exchanged: str
) -> None:
    for name in ("run", "held"):
        shutil.copytree(held, tmp_path / name)
    model = load_model(held)
    state = {name: tensor + 0.01 for name, tensor in model.network.state().items()}
    Model(model.section, state, model.metadata).save(tmp_path / exchanged / "model.safetensors")
    before = (tmp_path / "run/model.safetensors").read_bytes()
    answer = command(capsys, "calibrate", tmp_path / "run", "--by", tmp_path / "held")
    answer.refused(tmp_path / exchanged, "is not the model that this run trained")
    assert (tmp_path / "run/model.safetensors").read_bytes() == before


def test_a_calibrated_run_calibrates_again(held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(held, tmp_path / "run")
    for _ in range(2):
        assert command(capsys, "calibrate", run, "--by", run).status == 0


def test_what_held_nothing_out_or_is_another_network_is_refused(
    held: Path, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    finished.model.save(tmp_path / "model.safetensors")
    command(capsys, "calibrate", tmp_path / "model.safetensors", "--by", finished.folder).refused("--holdout")
    command(capsys, "calibrate", tmp_path / "model.safetensors", "--by", tmp_path).refused("result.json")
    load_model("best").save(tmp_path / "other.safetensors")
    command(capsys, "calibrate", tmp_path / "other.safetensors", "--by", held).refused("not that of")


def test_of_changed_data_it_is_not_known_what_was_held_out(
    held: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(held, tmp_path / "run")
    table = json.loads((tmp_path / "run" / "result.json").read_text())
    (tmp_path / "run" / "result.json").write_text(json.dumps({**table, "data_sha256": "0" * 64}))
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    answer = command(capsys, "calibrate", tmp_path / "run", "--by", tmp_path / "run")
    answer.refused("has changed since", "bring the images back, or train anew")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
