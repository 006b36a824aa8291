"""`kilonet train`: a recipe's keys as flags, where runs go, resuming, and what is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Interrupted
from helpers import command, tiny_recipe
from kilonet.cli.flags import Parser, add_recipe_flags, recipe_changes
from kilonet.cli.train import run_text, seeds_text
from kilonet.recipe import SECTIONS, load_recipe
from kilonet.training.run_folder import Run, read_history, read_result


@pytest.fixture
def tiny(tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_recipe(small_folder, epochs=1).to_toml(), encoding="utf-8")
    return path


# Flags


def test_the_help_of_train_names_every_key_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    text = command(capsys, "train", "--help").out
    for section in SECTIONS.values():
        for key in section.model_fields:
            assert f"--{key.replace('_', '-')}" in text


def changes(*arguments: str) -> dict[str, Any]:
    parser = Parser("train", "Train")
    add_recipe_flags(parser)
    return recipe_changes(parser.read(arguments))


NO_VALUES = {"max_parameters": None, "calibration": None, "resize": None}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), {}),
        (("--epochs", "3"), {"epochs": 3}),
        (("--epochs=3", "--batch-size=64"), {"epochs": 3, "batch_size": 64}),
        (("--learning-rate", "3e-2"), {"learning_rate": 0.03}),
        (("--input", "3", "32", "32"), {"input": (3, 32, 32)}),
        (("--layers", "conv 8", "gap", "--epochs", "1"), {"layers": ("conv 8", "gap"), "epochs": 1}),
        (("--teacher", "a", "b.toml"), {"teacher": ("a", "b.toml")}),
        (("--teacher", ""), {"teacher": ("",)}),
        (("--optimizer", "adamw"), {"optimizer": "adamw"}),
        (("--max-parameters", "900"), {"max_parameters": 900}),
        (("--max-parameters", "none", "--calibration", "none", "--resize", "none"), NO_VALUES),
        (("--calibration", "0.1", "--resize", "pad"), {"calibration": 0.1, "resize": "pad"}),
        (("--negatives", "none"), {"negatives": "none"}),
        (("--class-weights", "balanced"), {"class_weights": ("balanced",)}),
        (("--class-weights", "1", "2.5", "3"), {"class_weights": (1.0, 2.5, 3.0)}),
        (("--flip", "--no-flip-vertical"), {"flip": True, "flip_vertical": False}),
        (("--holdout",), {"holdout": True}),
        (("--no-holdout",), {"holdout": False}),
    ],
    ids=str,
)
def test_keys_of_a_recipe_are_read_with_their_types(arguments: tuple[str, ...], wanted: dict[str, Any]) -> None:
    assert changes(*arguments) == wanted


def test_a_value_that_a_recipe_sets_can_be_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_recipe("best", changes("--max-parameters", "none")).model.max_parameters is None
    command(capsys, "train", "--max-parameters", "nine").refused("--max-parameters", "invalid int value: 'nine'")
    command(capsys, "train", "--resize", "bend").refused("--resize", "'crop', 'pad', 'squash', 'none'")


def test_a_switch_that_a_recipe_sets_can_be_switched_off(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "held.toml"
    recipe.write_text(tiny_recipe(small_folder, epochs=1, holdout=True).to_toml(), encoding="utf-8")
    held, all_images = (
        json.loads(command(capsys, "train", recipe, *flags, "--out", tmp_path / name, "--json").out)
        for flags, name in (((), "held"), (("--no-holdout",), "all"))
    )
    assert (held["recipe"]["run"]["holdout"], held["scored"]) == (True, "Holdout")
    assert (all_images["recipe"]["run"]["holdout"], all_images["scored"]) == (False, "Test")
    assert all_images["scored_images"] == 500


def test_an_error_about_a_flag_is_short_however_long_its_value_is(capsys: pytest.CaptureFixture[str]) -> None:
    answer = command(capsys, "train", "--epochs", "9" * 8000)
    answer.refused("--epochs")
    assert len(answer.err) < 400


# Run folders


@pytest.mark.parametrize(
    "others",
    [("baseline",), ("--epochs", "3"), ("--out", "run"), ("--seeds", "2"), ("--holdout",), ("--seed", "0")],
    ids=" ".join,
)
def test_resume_goes_with_nothing_else(
    interrupted: Interrupted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    others: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    command(capsys, "train", *others, "--resume", interrupted.folder).refused("--resume")
    assert not (tmp_path / "run").exists()


def under_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "run"


def not_empty(folder: Path) -> Path:
    (folder / "full").mkdir()
    (folder / "full" / "letter.txt").touch()
    return folder / "full"


def a_file(folder: Path) -> Path:
    (folder / "taken").touch()
    return folder / "taken"


@pytest.mark.parametrize("make", [under_a_file, not_empty, a_file, lambda folder: folder / ("x" * 5000)])
def test_a_run_folder_that_will_not_do_is_refused_before_training(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]
) -> None:
    out = make(tmp_path)
    command(capsys, "train", tiny, "--out", out).refused(out.name)


# Output


def json_of(text: str) -> dict[str, object]:
    assert len(text.splitlines()) == 1
    table = json.loads(text)
    assert isinstance(table, dict)
    return table


def test_train_prints_its_result_on_stdout_and_its_progress_on_stderr(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    answer = command(capsys, "train", tiny, "--out", folder, "--seed", "3")
    assert answer.status == 0
    result = read_result(folder)
    assert result.recipe.run.seed == 3
    assert f"Final: {100 * result.final.test_accuracy:.2f}% of 500 test images" in answer.out
    for words in ("95 % interval", "Best epoch", "Time: ", f"Run folder: {folder}", f"kilonet evaluate {folder}"):
        assert words in answer.out


def test_train_prints_one_json_object(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = json_of(command(capsys, "train", tiny, "--out", tmp_path / "run", "--json").out)
    assert table.pop("folder") == str(tmp_path / "run")
    assert table.pop("history") == [epoch.model_dump() for epoch in read_history(tmp_path / "run")]
    assert table == read_result(tmp_path / "run").model_dump(mode="json")


def test_resume_finishes_a_run(interrupted: Interrupted, capsys: pytest.CaptureFixture[str]) -> None:
    table = json_of(command(capsys, "train", "--resume", interrupted.folder, "--json").out)
    assert table["model_sha256"] == interrupted.sha256


def test_the_closing_words_of_a_run(finished: Run) -> None:
    result = finished.result
    lines = run_text(finished).splitlines()
    assert lines[0].startswith(f"Final: {100 * result.final.test_accuracy:.2f}% of 500 test images, 95 % interval ")
    assert lines.pop(1).startswith("Balanced accuracy: ")
    assert "picked by looking" in lines[1]
    assert "2 epochs (torch engine, 1 thread)" in lines[2]
    assert lines[3:] == [f"Run folder: {finished.folder}", f"Next: kilonet evaluate {finished.folder}"]


def test_the_closing_words_of_several_seeds(finished: Run) -> None:
    def with_figures(seed: int, accuracy: float) -> Run:
        result = finished.result
        recipe = result.recipe.replace(seed=seed)
        final = result.final.model_copy(update={"test_accuracy": accuracy})
        changes = {"recipe": recipe, "final": final, "seconds": 10.0, "class_images": (50,) * 10}
        return Run(result.model_copy(update=changes), finished.history, finished.model, finished.folder)

    runs = [with_figures(3, 0.99), with_figures(4, 0.992), with_figures(5, 0.994)]
    assert seeds_text(runs).splitlines() == [
        "seed 3: 99.00%",
        "seed 4: 99.20%",
        "seed 5: 99.40%",
        "Final epoch: 99.200 ± 0.200 % (mean ± sd, n = 3) of 500 test images; 10.0 s a run",
    ]
    assert "99.000 % (mean ± sd, n = 1)" in seeds_text(runs[:1])


def test_unequal_classes_are_counted_alike_in_the_closing_words(finished: Run) -> None:
    def with_figures(sizes: tuple[int, ...] | None, **figures: float | None) -> Run:
        final = finished.result.final.model_copy(update={f"test_{name}": value for name, value in figures.items()})
        changed = finished.result.model_copy(update={"class_images": sizes, "final": final})
        return Run(changed, finished.history, finished.model, finished.folder)

    unequal = with_figures((400, 80, 20), balanced_accuracy=0.75, macro_f1=0.5)
    other = with_figures((400, 80, 20), balanced_accuracy=0.85, macro_f1=0.75)
    line = "Balanced accuracy: 75.00% (mean of the classes' accuracies), macro F1: 50.00%"
    assert run_text(unequal).splitlines()[1] == line
    assert seeds_text([unequal, other]).splitlines()[-1] == (
        "Balanced accuracy: 80.000 ± 7.071 % (mean of the classes' accuracies), macro F1: 62.500 ± 17.678 %"
    )
    of_one_size = with_figures((170, 170, 160), balanced_accuracy=0.75, macro_f1=0.5)
    older = with_figures((400, 80, 20), balanced_accuracy=None, macro_f1=None)
    oldest = with_figures(None, balanced_accuracy=None, macro_f1=None)
    for run in (of_one_size, older, oldest):
        assert "Balanced" not in run_text(run)
        assert "Balanced" not in seeds_text([unequal, run])
