"""The command line: fast help, one line for every bad input, one JSON object when asked."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import GOLDEN, KILONET, Answer, command, process, python, tiny_recipe
from kilonet.cli import recipes
from kilonet.cli.main import COMMANDS
from kilonet.models.model import packaged_models
from kilonet.recipe import packaged_recipes
from kilonet.training.run_folder import Run
from kilonet.utils.errors import TrainingDiverged


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(path)
    return path


@pytest.fixture
def tiny(tmp_path: Path, small_folder: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_recipe(small_folder, epochs=1).to_toml(), encoding="utf-8")
    return path


def test_help_is_fast_and_needs_no_torch() -> None:
    def once(start: Callable[[], Answer]) -> float:
        """Return the seconds that the processor works for a process, as other tests may keep it waiting."""
        before = os.times()
        assert start().status == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # The slowest help, which reads the recipe's keys, beside the library that it needs for that, as processors differ.
    pydantic = "from pydantic import BaseModel"
    rounds = [(once(lambda: process("train", "--help")), once(lambda: python(pydantic))) for _ in range(5)]
    ours, theirs = map(sum, zip(*rounds, strict=True))
    assert ours < 3 * theirs, rounds
    script = (
        "import sys; from kilonet.cli.main import COMMANDS, main; main(['--help'])\n"
        "for name in COMMANDS: main([name, '--help'])\n"
        "print({'torch', 'scipy', 'PIL', 'matplotlib'} & set(sys.modules))"
    )
    assert python(script).out.splitlines()[-1] == "set()"


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_is_the_golden_one(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    answer = command(capsys, *arguments)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out == (GOLDEN / "help.txt").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    answer = command(capsys, name, "--help")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith(f"usage: kilonet {name} ")
    assert ("--json" in answer.out) == (name != "serve")
    assert "None" not in answer.out
    assert len(answer.out.split("\n\n")[0].splitlines()) <= 5, "the usage is short"


def test_the_installed_command_is_the_module() -> None:
    script = Path(sys.executable).with_name("kilonet")
    installed = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert installed.stdout == process("--help").out == (GOLDEN / "help.txt").read_text()


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such",), ["no command 'no-such'", *COMMANDS]),
        (("--no-such",), ["--no-such"]),
        (("evalute",), ["no command 'evalute'; did you mean 'evaluate'?"]),
        (("lr_find",), ["did you mean 'lr-find'?"]),
        (("train", "--no-such"), ["--no-such"]),
        (("train", "--no-such", "3"), ["--no-such"]),
        (("train", "--no-such=3"), ["error: train has no flag '--no-such'"]),
        (("train", "--epoch", "3"), ["has no flag '--epoch'; did you mean '--epochs'?"]),
        (("train", "--batch_size", "3"), ["did you mean '--batch-size'?"]),
        (("export", "best", "--too", "c"), ["has no flag '--too'; did you mean '--to'?"]),
        (("export", "best"), ["--to", "--out"]),
        (("export", "best", "--to", "c", "--to=html", "--out", "x"), ["error: export: --to is given twice"]),
        (("train", "-x"), ["-x"]),
        (("summary", "best", "extra"), ["extra"]),
        (("evaluate",), []),
        (("predict",), []),
        (("summary",), []),
        (("predict", "best"), []),
        (("train", "--epochs"), ["--epochs"]),
        (("train", "--epochs", "many"), ["error: train: --epochs: ", "'many'"]),
        (("train", "--epochs", "1.5"), ["--epochs", "1.5"]),
        (("train", "--epochs", ""), ["--epochs"]),
        (("train", "--epochs", "0"), ["train.epochs = 0", "best"]),
        (("train", "--epochs", "-3"), ["train.epochs = -3"]),
        (("train", "--epochs", "9" * 30), ["train.epochs"]),
        (("train", "--learning-rate", "nan"), ["train.learning_rate"]),
        (("train", "--learning-rate", "inf"), ["train.learning_rate"]),
        (("train", "--learning-rate", "0"), ["train.learning_rate"]),
        (("train", "--dropout", "1"), ["model.dropout"]),
        (("train", "--seed", "-1"), ["run.seed"]),
        (("train", "--threads", "-1"), ["run.threads"]),
        (("train", "--optimizer", "lion"), ["--optimizer", "lion", "adamw"]),
        (("train", "--engine", "quantum"), ["quantum"]),
        (("train", "--device", "tpu"), ["tpu"]),
        (("train", "--layers", "conv 9000", "gap"), ["conv 9000"]),
        (("train", "--layers", "conv\nfoo", "gap"), ["foo"]),
        (("train", "--layers", "conv 10"), ["1x1"]),
        (("train", "--layers"), ["model.layers"]),
        (("train", "--holdout=yes"), ["--holdout"]),
        (("train", "--max-parameters", "7000"), ["7,662", "7,000"]),
        (("train", "--input", "1", "28"), ["--input"]),
        (("train", "--seeds", "0"), ["--seeds"]),
        (("train", "--seeds", "1001"), ["--seeds"]),
        (("train", "--json", "yes"), ["yes"]),
        (("train", "no-such-recipe"), ["no-such-recipe"]),
        (("train", "no/such.toml"), ["no/such.toml"]),
        (("train", LONG), []),
        (("train", "."), []),
        (("train", "--data", "no-such-folder"), ["no-such-folder"]),
        (("train", "--data", "."), ["--label-pattern"]),
        (("train", "--data", LONG), []),
        (("train", "--resume", "no-such-run"), ["no-such-run"]),
        (("train", "--resume", LONG), []),
        (("evaluate", "no-such-model"), ["no-such-model"]),
        (("evaluate", LONG), []),
        (("evaluate", "."), ["model.safetensors"]),
        (("evaluate", "tiny.toml"), ["tiny.toml"]),
        (("predict", "no-such-model", "digit.png"), ["no-such-model"]),
        (("summary", "no-such"), ["no-such"]),
        (("summary", "no-such.toml"), ["no-such.toml"]),
        (("summary", LONG), []),
        (("recipes", "best"), ["best"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bad_input_is_one_line_and_status_2(
    *,
    elsewhere: Path,
    digit: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    before = set(elsewhere.iterdir())
    assert {digit, tiny} <= before
    command(capsys, *arguments).refused(*words)
    assert set(elsewhere.iterdir()) == before


def test_a_real_process_answers_bad_input_likewise() -> None:
    process("train", "--epochs", "0").refused("train.epochs = 0")


def test_a_run_that_diverges_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(flags: Namespace) -> int:
        raise TrainingDiverged(f"training of {flags.recipe} diverged")

    monkeypatch.setattr("kilonet.cli.train.run", diverge)
    answer = command(capsys, "train", "mine")
    assert (answer.status, answer.out, answer.err) == (1, "", "kilonet: error: training of mine diverged\n")


def json_of(text: str) -> dict[str, object]:
    assert len(text.splitlines()) == 1
    table = json.loads(text)
    assert isinstance(table, dict)
    return table


def test_evaluate_and_predict_print_one_json_object(
    finished: Run, small_folder: Path, digit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    table = json_of(command(capsys, "evaluate", finished.folder, "--data", small_folder, "--json").out)
    assert table["correct"] == finished.result.correct
    table = json_of(command(capsys, "predict", finished.folder, digit, digit, "--json").out)
    predictions = table["predictions"]
    assert isinstance(predictions, list)
    assert [entry["file"] for entry in predictions] == [str(digit), str(digit)]
    for entry in predictions:
        assert entry["probability"] == max(entry["probabilities"]) == entry["probabilities"][entry["class"]]


def test_evaluate_prints_a_report(finished: Run, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finished.folder is not None
    answer = command(capsys, "evaluate", finished.folder / "model.safetensors", "--data", small_folder)
    assert answer.out.startswith(f"Test set: Average loss: {finished.result.final.test_loss:.4f}, Accuracy: ")
    assert "Confusion" in answer.out
    assert "Worst images" in answer.out


def test_a_command_to_go_on_with_never_moves_the_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt("go on with: kilonet train --resume 'runs/\x1b[2J'")

    monkeypatch.setattr(recipes, "run", interrupted)
    answer = command(capsys, "recipes")
    assert (answer.status, answer.err) == (130, "kilonet: go on with: kilonet train --resume 'runs/\\x1b[2J'\n")


def test_a_message_is_not_longer_than_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """Files are quoted in messages, and may hold anything of any length."""
    answer = command(capsys, "evaluate", "best", "--data", 100_000 * "x")
    answer.refused("[...]")
    assert len(answer.err) < 10_000


def test_predict_prints_a_line_a_file(finished: Run, digit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finished.folder is not None
    lines = command(capsys, "predict", finished.folder, digit, digit).out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{digit}: ")
    assert lines[0].endswith(("%)", "%, uncertain)"))


def test_predict_refuses_all_when_one_image_will_not_do(
    finished: Run, digit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.folder is not None
    missing = digit.with_name("missing.png")
    command(capsys, "predict", finished.folder, digit, missing).refused(missing)


def test_summary_and_recipes_print_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert json_of(command(capsys, "summary", "best", "--json").out)["parameters"] == 7662
    assert sorted(json_of(command(capsys, "recipes", "--json").out)) == packaged_recipes()


def test_recipes_lists_each_with_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    lines = command(capsys, "recipes").out.splitlines()
    assert [line.split()[0] for line in lines] == packaged_recipes()
    assert all("7,662 parameters" in line for line in lines if line.split()[0] in ("best", "baseline"))


@pytest.mark.parametrize("arguments", ["summary best", "recipes", "--help", "train --help", "no-such"])
def test_a_reader_that_goes_away_is_no_error_of_ours(arguments: str) -> None:
    script = f"{' '.join(KILONET)} {arguments} | head -c 0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", f"sleep 0; {script}"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("summary", "best"), ("train", "--help")])
def test_a_pipe_that_was_closed_before_is_no_error_of_ours(arguments: tuple[str, ...]) -> None:
    with subprocess.Popen([*KILONET, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 0


@pytest.mark.parametrize("name", packaged_models())
def test_the_packaged_models_work_by_name(
    name: str, digit: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = command(capsys, "predict", name, digit)
    assert answer.status == 0, answer.err
    # tests/models/test_model.py scores them on all test images.
    answer = command(capsys, "evaluate", name, "--data", small_folder, "--json")
    assert answer.status == 0, answer.err
    accuracy = json_of(answer.out)["accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy >= 0.98


@pytest.mark.parametrize(
    "words",
    [
        *((name, "") for name in ("evaluate", "card", "calibrate", "summary", "lr-find", "serve", "report", "compare")),
        ("export", "", "--to", "c"),
        ("init", ""),
        *((name, "best", "--data", "") for name in ("evaluate", "summary", "export")),
        ("verify", "exported", "--data", ""),
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_current_folder(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, *words).refused("an empty name")


@pytest.mark.parametrize("name", ["train", "lr-find"])
def test_no_data_have_an_empty_name(name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, name, "best", "--data", "").refused("no data ''", "an empty name")
    assert not list(elsewhere.iterdir())


def test_a_label_pattern_is_checked_wherever_it_is_given(
    small_folder: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("evaluate", "best"), ("verify", "."), ("export", "best", "--to", "c", "--out", "out")):
        command(capsys, *words, "--label-pattern", "(.)").refused("--label-pattern", "--data")
        bad = command(capsys, *words, "--data", small_folder, "--label-pattern", "(")
        bad.refused("--label-pattern '('", "no regular expression")
    assert not list(elsewhere.iterdir())


def test_a_table_of_text_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "summary", "best", "--classic", "--json").refused("--classic", "--json")


def test_the_summary_of_a_trained_model_compares_the_names_of_classes(
    tmp_path: Path, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for name in ("0", "1", "zzz"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((28, 28), 40 * number, np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    assert finished.folder is not None
    for words in (("summary", finished.folder), ("evaluate", finished.folder)):
        command(capsys, *words, "--data", tmp_path).refused("no class 'zzz'")
    shutil.rmtree(tmp_path / "train" / "zzz")
    shutil.rmtree(tmp_path / "test" / "zzz")
    assert "they fit the network" in command(capsys, "summary", finished.folder, "--data", tmp_path).out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_closed_and_a_full_output_are_no_traceback() -> None:
    for words, status, told in (
        ("recipes >&-", 0, ""),
        ("no-such-command 2>&-", 2, ""),
        ("recipes >/dev/full", 2, "kilonet: error: standard output cannot be written: No space left on device\n"),
    ):
        script = f"exec {shlex.join(KILONET)} {words}"
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", told)
