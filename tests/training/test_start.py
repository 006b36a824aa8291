"""Training that begins with given weights: from them, resumed in the same bits, refused where they do not fit."""

from pathlib import Path

import pytest

from helpers import StopAtEpoch, refusal, tiny_recipe
from kilonet.models.model import MODEL_FILE, Model, load_model
from kilonet.recipe import Recipe
from kilonet.training.run_folder import CHECKPOINT_FILE, START_FILE, Run, RunFolder
from kilonet.training.run_records import RunRecord, group_repetitions
from kilonet.training.train import fit, resume
from kilonet.utils.errors import KilonetError


@pytest.fixture(scope="module")
def short(small_folder: Path) -> Recipe:
    return tiny_recipe(small_folder, epochs=2)


@pytest.fixture(scope="module")
def continued(short: Recipe, finished: Run) -> Run:
    return fit(short, start=finished.model)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_training_begins_with_the_given_weights(short: Recipe, finished: Run, engine: str) -> None:
    """With a learning rate that moves no weight, they are what comes out; batch-norm statistics are measured anew."""
    still = short.replace(engine=engine, learning_rate=1e-30, weight_decay=0.0, epochs=1)
    run = fit(still, start=finished.model)
    given, kept = finished.model.network.state(), run.model.network.state()
    weights = [name for name in given if "running" not in name]
    assert weights
    for name in weights:
        assert given[name].equal(kept[name]), name
    assert run.result.start_sha256 == finished.model.sha256
    assert fit(still).result.start_sha256 is None


def test_a_start_may_be_named(short: Recipe, continued: Run, finished: Run, tmp_path: Path) -> None:
    """By its run folder or its file, as the other arguments may be."""
    assert finished.folder
    named = fit(short, out=str(tmp_path / "run"), start=str(finished.folder))
    assert named.result.model_sha256 == continued.result.model_sha256
    with pytest.raises(KilonetError) as error:
        fit(short, start="no such model")
    refusal(error, "no model 'no such model'")


def test_a_start_saves_epochs(short: Recipe, continued: Run) -> None:
    assert continued.history[0].train_loss < 0.8 * fit(short).history[0].train_loss


def test_a_run_with_a_start_resumes_in_the_same_bits(
    short: Recipe, continued: Run, finished: Run, tmp_path: Path
) -> None:
    """After an epoch; and after a kill before the first checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        fit(short, out=tmp_path / "stopped", progress=StopAtEpoch(1), start=finished.model)
    with RunFolder.create(tmp_path / "killed", continued.result.recipe, finished.model):
        pass
    for name in ("stopped", "killed"):
        run = resume(tmp_path / name)
        assert run.result.model_sha256 == continued.result.model_sha256 != fit(short).result.model_sha256
        assert run.result.start_sha256 == finished.model.sha256
        assert load_model(tmp_path / name / START_FILE).sha256 == finished.model.sha256


def test_what_does_not_fit_is_refused(short: Recipe, continued: Run, finished: Run, tmp_path: Path) -> None:
    other = short.replace(layers=["conv 4", "gap", "pointwise 10"])
    with pytest.raises(KilonetError) as error:
        fit(other, out=tmp_path / "other", start=finished.model)
    refusal(error, "weights to begin with are of another network: its layers", "'conv 4'")
    assert not (tmp_path / "other").exists()
    for change in ({"mean": 0.5}, {"layers": [layer.replace("max", "avg") for layer in short.model.layers]}):
        if short.replace(**change).model != short.model:
            with pytest.raises(KilonetError) as error:
                fit(short.replace(**change), start=finished.model)
            refusal(error, f"its {next(iter(change))} is")

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        fit(short, out=folder, progress=StopAtEpoch(1), start=finished.model)
    for content, words in ((continued.model.content, "weights to begin with are others"), (b"{}", START_FILE)):
        (folder / START_FILE).write_bytes(content)
        with pytest.raises(KilonetError) as error:
            resume(folder)
        refusal(error, words)
    (folder / START_FILE).unlink()
    with pytest.raises(KilonetError) as error:
        resume(folder)
    refusal(error, folder / CHECKPOINT_FILE, "weights to begin with are others")


def test_a_start_left_by_a_kill_is_replaced(short: Recipe, finished: Run, tmp_path: Path) -> None:
    """A run that was killed before its recipe was written was not begun: another one may take its folder."""
    finished.model.save(tmp_path / START_FILE)
    run = fit(short, out=tmp_path)
    assert run.result.start_sha256 is None
    assert not (tmp_path / START_FILE).exists()
    assert (tmp_path / MODEL_FILE).exists()


def test_runs_from_other_weights_are_no_repetitions(short: Recipe, continued: Run) -> None:
    records = [RunRecord("from weights", continued.result), RunRecord("from a seed", fit(short).result)]
    assert [len(group) for group in group_repetitions(records)] == [1, 1]
    assert isinstance(continued.model, Model)
