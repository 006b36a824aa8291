"""The run folder: its files, its lock, and what happens when it is damaged or the disk is full."""

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from conftest import Interrupted
from helpers import command, refusal, tiny_recipe, write_idx_folder
from kilonet.data.datasets import DataSet
from kilonet.models.calibration import Calibration
from kilonet.models.model import MODEL_FILE, load_model
from kilonet.recipe import load_recipe
from kilonet.training.identity import check_identity, identity_of
from kilonet.training.run_folder import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    Run,
    RunFolder,
    is_finished,
    read_checkpoint,
    read_history,
    read_result,
    read_run,
)
from kilonet.training.train import fit, resume
from kilonet.utils.errors import KilonetError
from preloaded import forked


def folder_of(run: Run) -> Path:
    assert run.folder is not None
    return run.folder


def test_a_finished_folder_holds_what_it_should(finished: Run) -> None:
    names = {entry.name for entry in folder_of(finished).iterdir()}
    assert names - {".lock"} == {
        "recipe.toml",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "model.safetensors",
        "result.json",
    }


def test_the_recipe_is_written_fully_resolved(finished: Run) -> None:
    recipe = load_recipe(str(folder_of(finished) / RECIPE_FILE))
    assert recipe == finished.result.recipe
    assert "auto" not in (recipe.run.engine, recipe.run.device, recipe.run.precision)
    assert recipe.run.threads == 1


def test_metrics_are_a_line_an_epoch_with_the_promised_keys(finished: Run) -> None:
    lines = (folder_of(finished) / METRICS_FILE).read_text().splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        metrics = json.loads(line)
        assert list(metrics) == [
            "epoch",
            "train_loss",
            "train_accuracy",
            "test_loss",
            "test_accuracy",
            "learning_rate",
            "seconds",
            "images_per_second",
            "test_balanced_accuracy",
            "test_macro_f1",
        ]
        assert metrics["epoch"] == number
        assert 0 <= metrics["train_accuracy"] <= 1
        assert 0 <= metrics["test_accuracy"] <= 1
        assert metrics["images_per_second"] == pytest.approx(1200 / metrics["seconds"])
    assert read_history(folder_of(finished)) == finished.history


def test_the_result_is_read_back(finished: Run) -> None:
    result = read_result(folder_of(finished))
    assert result == finished.result
    assert result.scored == "Test"
    assert result.scored_images == 500
    assert result.correct == round(500 * result.final.test_accuracy)
    assert result.interval[0] < result.final.test_accuracy < result.interval[1]
    assert result.best.test_accuracy == max(metrics.test_accuracy for metrics in finished.history)
    assert result.seconds == pytest.approx(sum(metrics.seconds for metrics in finished.history))
    assert result.parameters == result.recipe.model.parameters


def test_a_run_is_read_back_with_its_model(finished: Run) -> None:
    run = read_run(folder_of(finished))
    assert run.result == finished.result
    assert run.history == finished.history
    assert run.model.sha256 == finished.result.model_sha256


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", RESULT_FILE),
        (b"{", RESULT_FILE),
        (b"[]", RESULT_FILE),
        (b"[" * 100_000, RESULT_FILE),
        (b"\xff\xfe", RESULT_FILE),
        (b'{"format_version": 2}', "format_version"),
        (b'{"format_version": 1}', "recipe"),
    ],
)
def test_a_damaged_result_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / RESULT_FILE).write_bytes(content)
    with pytest.raises(KilonetError) as error:
        read_result(tmp_path)
    refusal(error, tmp_path / RESULT_FILE, words)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"unknown": 1},
        {"correct": None},
        {"seconds": float("nan")},
        {"interval": [0.1]},
        {"recipe": {}},
        {"environment": "a laptop"},
        {"scored_images": 0},
        {"scored_images": 0, "correct": 0},
        {"scored_images": -5},
        {"correct": -1},
        {"correct": 501},
        {"correct": 1},
        {"interval": [0.0, 0.001]},
        {"parameters": -1},
        {"seconds": -1.0},
        {"interval": [0.5, 1.1]},
        {"final": {"epoch": 1, "test_accuracy": 1.5}},
        {"best": {"epoch": -1}},
        {"final": {"train_loss": 1e308}},
        {"teachers": [{"scored_images": 0}]},
        {"class_images": [500, -1, 1]},
        {"class_images": [499]},
        {"final": {"test_macro_f1": 1.5}},
    ],
    ids=str,
)
def test_a_changed_result_is_refused(tmp_path: Path, finished: Run, change: dict[str, Any]) -> None:
    result = json.loads((folder_of(finished) / RESULT_FILE).read_bytes())
    key, value = next(iter(change.items()))
    if key in ("final", "best"):
        value = {**result[key], **value}
    elif key == "teachers":
        teacher = dict.fromkeys(("parameters", "seconds"), 1) | {"scored": "Test", "folder": None, "model_sha256": "0"}
        value = [{**teacher, "accuracy": 0.5, **value[0]}]
    (tmp_path / RESULT_FILE).write_text(json.dumps({**result, **change, key: value}))
    with pytest.raises(KilonetError) as error:
        read_result(tmp_path)
    refusal(error, tmp_path / RESULT_FILE, key)


def test_a_run_of_a_version_without_balanced_accuracy_is_read_and_resumed(
    tmp_path: Path, finished: Run, interrupted: Interrupted
) -> None:
    new = ("test_balanced_accuracy", "test_macro_f1")
    result = json.loads((folder_of(finished) / RESULT_FILE).read_bytes())
    del result["class_images"]
    for key in new:
        del result["final"][key], result["best"][key]
    (tmp_path / RESULT_FILE).write_text(json.dumps(result))
    lines = [json.loads(line) for line in (folder_of(finished) / METRICS_FILE).read_text().splitlines()]
    old = [{key: value for key, value in line.items() if key not in new} for line in lines]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in old))
    read = read_result(tmp_path)
    assert (read.class_images, read.final.test_macro_f1, read.balanced_scores) == (None, None, None)
    assert [epoch.test_accuracy for epoch in read_history(tmp_path)] == [line["test_accuracy"] for line in lines]
    with pytest.raises(KilonetError) as error:
        read.final.score("macro_f1", "my run")
    refusal(error, "my run has no macro F1", "older version")

    checkpoint = read_checkpoint(interrupted.folder / CHECKPOINT_FILE)
    history = [epoch.model_copy(update=dict.fromkeys(new)) for epoch in checkpoint.history]
    with RunFolder.open(interrupted.folder) as folder:
        folder.save_checkpoint(checkpoint.state, history, checkpoint.identity)
    run = resume(interrupted.folder)
    assert run.result.model_sha256 == interrupted.sha256
    assert [epoch.test_macro_f1 is None for epoch in run.history] == [True, True, False]


@pytest.mark.parametrize("content", [b"{\n", b"[]\n", b"\xff\n", b'{"epoch": 0}\n'])
def test_damaged_metrics_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / METRICS_FILE).write_bytes(content)
    with pytest.raises(KilonetError) as error:
        read_history(tmp_path)
    refusal(error, tmp_path / METRICS_FILE, "damaged")


@pytest.mark.parametrize("read", [read_result, read_history, read_run, resume])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(KilonetError) as error:
        read(tmp_path)
    refusal(error, tmp_path)


def test_a_run_goes_into_a_new_folder_only(tmp_path: Path, finished: Run) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    for folder, words in ((tmp_path, "is not empty"), (folder_of(finished), "holds a finished run")):
        with pytest.raises(KilonetError) as error:
            RunFolder.create(folder, finished.result.recipe)
        refusal(error, folder, words)
    assert (tmp_path / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("leftovers", [(".lock",), (".lock", ".recipe.toml.0123abcd.tmp")])
def test_a_folder_in_which_a_run_was_killed_before_it_began_is_as_good_as_new(
    tmp_path: Path, finished: Run, leftovers: tuple[str, ...]
) -> None:
    for name in leftovers:
        (tmp_path / name).touch()
    with RunFolder.create(tmp_path, finished.result.recipe):
        assert {entry.name for entry in tmp_path.iterdir()} == {".lock", RECIPE_FILE}


def test_what_a_killed_process_began_to_write_is_removed(interrupted: Interrupted) -> None:
    leftovers = [interrupted.folder / f".{name}.abcd1234.tmp" for name in (CHECKPOINT_FILE, RESULT_FILE, MODEL_FILE)]
    for leftover in leftovers:
        leftover.write_bytes(b"half a file")
    resume(interrupted.folder)
    assert not any(leftover.exists() for leftover in leftovers)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("seed = 0", "seed = 1", "run.seed is 1, but was 0"),
        ("learning_rate = 0.1", "learning_rate = 0.2", "train.learning_rate is 0.2, but was 0.1"),
        ("epochs = 3", "epochs = 4", "train.epochs is 4, but was 3"),
        ('data = "', 'data = "{other}', "the training images are others"),
    ],
)
def test_a_run_is_not_resumed_as_another_one(
    interrupted: Interrupted, other_images: Path, before: str, after: str, words: str
) -> None:
    recipe = interrupted.folder / RECIPE_FILE
    text = recipe.read_text()
    assert before in text
    changed = text.replace(before, after)
    if "{other}" in after:
        changed = re.sub("data = .*", f'data = "{other_images}"', text)
    recipe.write_text(changed)
    checkpoint = (interrupted.folder / CHECKPOINT_FILE).read_bytes()
    with pytest.raises(KilonetError) as error:
        resume(interrupted.folder)
    refusal(error, interrupted.folder / CHECKPOINT_FILE, words)
    assert (interrupted.folder / CHECKPOINT_FILE).read_bytes() == checkpoint
    recipe.write_text(text)
    assert resume(interrupted.folder).result.model_sha256 == interrupted.sha256


def test_a_run_does_not_go_on_with_another_teacher(small: DataSet, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    begun = identity_of(recipe, small, ["a" * 64])
    check_identity(tmp_path, begun, identity_of(recipe, small, ["a" * 64]))
    for others in (["b" * 64], [], ["a" * 64] * 2):
        with pytest.raises(KilonetError) as error:
            check_identity(tmp_path, begun, identity_of(recipe, small, others))
        refusal(error, tmp_path, "a teacher is another one")


def test_the_same_images_in_another_folder_are_no_change(
    interrupted: Interrupted, small_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_folder, tmp_path / "moved")
    recipe = interrupted.folder / RECIPE_FILE
    recipe.write_text(re.sub("data = .*", f'data = "{tmp_path / "moved"}"', recipe.read_text()))
    assert resume(interrupted.folder).result.model_sha256 == interrupted.sha256


@pytest.fixture(scope="module")
def other_images(small: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images, one pixel of them changed."""
    train, test = (
        (part.pixels[:, 0].numpy().copy(), part.labels.to(torch.uint8).numpy()) for part in (small.train, small.test)
    )
    train[0][-1, 27, 27] ^= 1
    return write_idx_folder(tmp_path_factory.mktemp("other"), train, test)


def test_a_model_that_was_exchanged_is_refused(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(folder_of(finished), folder)
    load_model("best").save(folder / MODEL_FILE)
    with pytest.raises(KilonetError) as error:
        read_run(folder)
    refusal(error, folder / MODEL_FILE, "is not the model that this run trained")
    calibrated = finished.model.metadata.model_copy(update={"calibration": Calibration(temperature=2.0)})
    finished.model.with_metadata(calibrated).save(folder / MODEL_FILE)
    assert read_run(folder).model.metadata == calibrated


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [CHECKPOINT_FILE, RECIPE_FILE])
def test_a_pipe_in_a_run_folder_is_refused(interrupted: Interrupted, name: str) -> None:
    (interrupted.folder / name).unlink()
    os.mkfifo(interrupted.folder / name)
    with pytest.raises(KilonetError) as error:
        resume(interrupted.folder)
    refusal(error, name)


def test_an_interrupted_run_is_not_finished(interrupted: Interrupted) -> None:
    assert not is_finished(interrupted.folder)
    assert len(read_history(interrupted.folder)) == 2


def test_a_resumed_run_ends_in_the_weights_of_an_unbroken_one(interrupted: Interrupted) -> None:
    run = resume(interrupted.folder)
    assert run.result.model_sha256 == interrupted.sha256
    assert [metrics.epoch for metrics in run.history] == [0, 1, 2]
    assert read_history(interrupted.folder) == run.history
    assert is_finished(interrupted.folder)


def test_a_run_killed_before_its_first_checkpoint_starts_anew(interrupted: Interrupted) -> None:
    (interrupted.folder / CHECKPOINT_FILE).unlink()
    (interrupted.folder / METRICS_FILE).unlink()
    assert resume(interrupted.folder).result.model_sha256 == interrupted.sha256


def test_epochs_whose_checkpoint_is_gone_are_not_trained_again_unasked(interrupted: Interrupted) -> None:
    checkpoint, metrics = interrupted.folder / CHECKPOINT_FILE, interrupted.folder / METRICS_FILE
    checkpoint.unlink()
    before = metrics.read_bytes()
    with pytest.raises(KilonetError) as error:
        resume(interrupted.folder)
    epochs = len(before.splitlines())
    refusal(error, checkpoint, f"is gone, so the {epochs} epochs of metrics.jsonl", f"remove {metrics}")
    assert metrics.read_bytes() == before
    metrics.unlink()
    assert resume(interrupted.folder).result.model_sha256 == interrupted.sha256


def test_metrics_that_a_kill_left_behind_the_checkpoint_are_caught_up(interrupted: Interrupted) -> None:
    finished = resume(interrupted.folder)
    # As if killed after the last checkpoint and before its metrics.
    (interrupted.folder / RESULT_FILE).unlink()
    lines = (interrupted.folder / METRICS_FILE).read_text().splitlines(keepends=True)
    (interrupted.folder / METRICS_FILE).write_text("".join(lines[:-1]))
    assert resume(interrupted.folder).history == finished.history
    assert read_history(interrupted.folder) == finished.history


def test_a_finished_run_is_not_resumed_by_the_command_line(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    answer = command(capsys, "train", "--resume", folder_of(finished))
    answer.refused(folder_of(finished), "is finished", "nothing to resume")


@pytest.fixture
def occupied(interrupted: Interrupted) -> Iterator[Path]:
    with RunFolder.open(interrupted.folder):
        yield interrupted.folder


def test_a_second_process_is_refused_and_changes_nothing(occupied: Path) -> None:
    before = {entry.name: entry.read_bytes() for entry in occupied.iterdir()}
    answer = forked("train", "--resume", occupied)
    answer.refused(occupied, "another process trains in it")
    assert {entry.name: entry.read_bytes() for entry in occupied.iterdir()} == before


def test_a_second_run_in_this_process_is_refused_too(occupied: Path) -> None:
    with pytest.raises(KilonetError) as error:
        resume(occupied)
    refusal(error, occupied, "another process trains in it")


def test_a_refused_run_lets_go_of_its_folder(interrupted: Interrupted) -> None:
    checkpoint = interrupted.folder / CHECKPOINT_FILE
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good[:-1])
    with pytest.raises(KilonetError):
        resume(interrupted.folder)
    checkpoint.write_bytes(good)
    assert resume(interrupted.folder).result.model_sha256 == interrupted.sha256


def state_and_metadata(checkpoint: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    length = int.from_bytes(checkpoint[:8], "little")
    return safetensors.torch.load(checkpoint), json.loads(checkpoint[8 : 8 + length])["__metadata__"]


def without_a_tensor(checkpoint: bytes) -> bytes:
    state, metadata = state_and_metadata(checkpoint)
    state.pop(next(iter(state)))
    return safetensors.torch.save(state, metadata)


def with_another_shape(checkpoint: bytes) -> bytes:
    state, metadata = state_and_metadata(checkpoint)
    name = next(name for name in state if name.endswith("convolution.weight"))
    return safetensors.torch.save({**state, name: torch.zeros(1, 1, 1, 1)}, metadata)


def with_not_a_number(checkpoint: bytes) -> bytes:
    state, metadata = state_and_metadata(checkpoint)
    name = next(name for name in state if name.endswith("convolution.weight"))
    return safetensors.torch.save({**state, name: state[name] * torch.nan}, metadata)


def with_metadata(text: str) -> Callable[[bytes], bytes]:
    return lambda checkpoint: safetensors.torch.save(state_and_metadata(checkpoint)[0], {"kilonet": text})


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda checkpoint: checkpoint[:7],
        lambda checkpoint: checkpoint[:1000],
        lambda checkpoint: checkpoint[:-1],
        lambda checkpoint: checkpoint + b"\0",
        lambda checkpoint: bytes(len(checkpoint)),
        lambda checkpoint: safetensors.torch.save(safetensors.torch.load(checkpoint)),
        with_metadata(""),
        with_metadata("7"),
        with_metadata("[7]"),
        with_metadata('["{}"]'),
        with_metadata("[" * 100_000),
        without_a_tensor,
        with_another_shape,
    ],
)
def test_a_damaged_checkpoint_is_refused(interrupted: Interrupted, damage: Callable[[bytes], bytes]) -> None:
    checkpoint = interrupted.folder / CHECKPOINT_FILE
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(KilonetError) as error:
        resume(interrupted.folder)
    refusal(error, checkpoint)


def test_a_checkpoint_of_no_numbers_does_not_train_on(interrupted: Interrupted) -> None:
    checkpoint = interrupted.folder / CHECKPOINT_FILE
    checkpoint.write_bytes(with_not_a_number(checkpoint.read_bytes()))
    with pytest.raises(KilonetError) as error:
        resume(interrupted.folder)
    refusal(error)


@pytest.mark.parametrize("content", ["", "[model]\nlayers = []", "x = [", "\0"])
def test_a_damaged_recipe_is_refused(interrupted: Interrupted, content: str) -> None:
    recipe = interrupted.folder / RECIPE_FILE
    recipe.write_text(content)
    with pytest.raises(KilonetError) as error:
        resume(interrupted.folder)
    refusal(error, recipe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that the test wants missing")
def test_a_run_from_another_machine_says_what_is_missing_here(interrupted: Interrupted) -> None:
    recipe = interrupted.folder / RECIPE_FILE
    recipe.write_text(recipe.read_text().replace('device = "cpu"', 'device = "cuda"'))
    with pytest.raises(KilonetError) as error:
        resume(interrupted.folder)
    refusal(error, "no cuda device")


def fill_the_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_full_disk_is_told_in_one_line_and_costs_nothing(interrupted: Interrupted) -> None:
    folder = interrupted.folder
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    assert len(before[CHECKPOINT_FILE]) > 4096
    answer = forked("train", "--resume", folder, before=fill_the_disk)
    errors = [line for line in answer.err.splitlines() if line.startswith("kilonet: error: ")]
    assert answer.status == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert errors == answer.err.splitlines()[-1:]
    assert f"{folder / CHECKPOINT_FILE} cannot be written: File too large" in errors[0]
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
    assert resume(folder).result.model_sha256 == interrupted.sha256


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, small_folder: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KilonetError) as error:
        fit(tiny_recipe(small_folder), out=tmp_path / "file" / "run")
    refusal(error, tmp_path / "file" / "run")
