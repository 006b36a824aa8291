"""A name may stand for a recipe or for a model."""

from pathlib import Path

import pytest

from conftest import Interrupted
from helpers import BASELINE_LAYERS, refusal, tiny_recipe
from kilonet.models.lookup import model_section
from kilonet.training.run_folder import Run
from kilonet.utils.errors import KilonetError


def test_recipes_runs_and_models_are_all_told_apart(finished: Run, tmp_path: Path) -> None:
    assert finished.folder is not None
    section = finished.result.recipe.model
    (tmp_path / "mine.toml").write_text(tiny_recipe().to_toml())
    for source in (finished.folder, finished.folder / "model.safetensors", finished.folder / "recipe.toml"):
        assert model_section(str(source)) == section
    assert model_section(str(tmp_path / "mine.toml")) == tiny_recipe().model
    assert model_section("baseline").layers == BASELINE_LAYERS


def test_a_run_that_is_not_finished_has_a_network_already(interrupted: Interrupted) -> None:
    (interrupted.folder / "checkpoint.safetensors").unlink()
    assert model_section(str(interrupted.folder)) == tiny_recipe().model


def test_a_recipe_of_a_packaged_name_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "baseline").mkdir()
    assert model_section("baseline").layers == BASELINE_LAYERS


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", ""),
        ("no-such", "neither a file, a run folder nor packaged (1k, "),
        ("no-such.toml", "no recipe 'no-such.toml'"),
        (".", "model.safetensors"),
        ("letter.txt", "letter.txt: not a usable model file"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.txt").write_text("Dear reader")
    with pytest.raises(KilonetError) as error:
        model_section(source)
    refusal(error, words)
