"""TensorBoard's event files, read back by TensorBoard."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import Interrupted
from helpers import Hide, StopAtEpoch, command, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.training.progress import NoProgress, ProgressGroup
from kilonet.training.run_folder import EVENTS_FOLDER, RESULT_FILE, EpochMetrics, read_history, read_result
from kilonet.training.tensorboard import EventFile
from kilonet.training.train import fit, resume
from preloaded import fork_seeds, forked

FIELDS = {
    "loss/training": "train_loss",
    "loss/scored": "test_loss",
    "accuracy/training": "train_accuracy",
    "accuracy/scored": "test_accuracy",
    "learning rate": "learning_rate",
    "images a second": "images_per_second",
}


def check(run: Path, epochs: int) -> None:
    """Check that TensorBoard reads the metrics of every epoch once, each as a step."""
    folder = run / EVENTS_FOLDER
    assert len(list(folder.iterdir())) == 1
    # TensorBoard must not remove steps that come twice.
    read = EventAccumulator(str(folder), purge_orphaned_data=False)
    read.Reload()
    assert set(read.Tags()["scalars"]) == set(FIELDS)
    history = read_history(run)
    assert len(history) == epochs
    for tag, field in FIELDS.items():
        events = read.Scalars(tag)
        assert [event.step for event in events] == list(range(epochs))
        assert [event.value for event in events] == pytest.approx([getattr(epoch, field) for epoch in history], 1e-6)


def test_the_events_are_the_metrics(tmp_path: Path, small: DataSet) -> None:
    run = tmp_path / "run"
    fit(tiny_recipe(), small, run, EventFile(run))
    check(run, 2)


def test_a_teacher_s_epochs_are_none_of_the_run_s(tmp_path: Path, small: DataSet, small_folder: Path) -> None:
    teacher, run = tmp_path / "teacher.toml", tmp_path / "run"
    teacher.write_text(tiny_recipe(small_folder, epochs=3).to_toml(), encoding="utf-8")
    fit(tiny_recipe(teacher=str(teacher)), small, run, ProgressGroup(NoProgress(), EventFile(run)))
    check(run, 2)


def test_a_run_that_goes_on_has_every_epoch_once(interrupted: Interrupted) -> None:
    run = interrupted.folder
    # As if it had been killed after the third epoch's events and before its checkpoint.
    killed = EventFile(run)
    killed.epoch_started(2, 1)
    killed.epoch_trained(read_history(run)[-1].model_copy(update={"epoch": 2}), "Test", 500)
    assert resume(run, progress=EventFile(run)).result.model_sha256 == interrupted.sha256
    check(run, 3)


def test_the_command_writes_them_for_each_seed(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder, epochs=1).to_toml(), encoding="utf-8")
    out = tmp_path / "seeds"
    words = ("train", recipe, "--seeds", "1", "--out", out, "--tensorboard", "--json")
    answer = forked(*words, before=fork_seeds)
    assert answer.status == 0, answer.err
    (run,) = json.loads(answer.out)["runs"]
    check(Path(run["folder"]), 1)
    assert run["history"] == [epoch.model_dump() for epoch in read_history(Path(run["folder"]))]
    single = tmp_path / "single"
    assert command(capsys, "train", recipe, "--out", single, "--tensorboard").status == 0
    check(single, 1)
    assert command(capsys, "train", recipe, "--out", tmp_path / "without").status == 0
    assert not (tmp_path / "without" / EVENTS_FOLDER).exists()


def test_resuming_goes_on_with_them_without_being_told(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_recipe(small_folder), out=run, progress=ProgressGroup(StopAtEpoch(1), EventFile(run)))
    assert command(capsys, "train", "--resume", run).status == 0
    check(run, 2)


def test_resuming_may_begin_with_them(interrupted: Interrupted, capsys: pytest.CaptureFixture[str]) -> None:
    answer = command(capsys, "train", "--resume", interrupted.folder, "--tensorboard")
    assert answer.status == 0, answer.err
    check(interrupted.folder, 3)
    assert read_result(interrupted.folder).model_sha256 == interrupted.sha256


def test_where_no_epoch_is_left_those_there_were_are_written(interrupted: Interrupted) -> None:
    """As if killed after its last checkpoint and before its result."""
    resume(interrupted.folder)
    (interrupted.folder / RESULT_FILE).unlink()
    resume(interrupted.folder, progress=EventFile(interrupted.folder))
    check(interrupted.folder, 3)


def test_a_group_passes_every_event_to_each_listener() -> None:
    class Listener(NoProgress):
        def __init__(self) -> None:
            self.events: list[tuple[object, ...]] = []

        def message(self, text: str) -> None:
            self.events.append((text,))

        def epoch_started(self, epoch: int, steps: int) -> None:
            self.events.append((epoch, steps))

        def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
            self.events.append((batch, accuracy, loss))

        def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
            self.events.append((metrics, scored, images))

        def stopped(self) -> None:
            self.events.append(())

    listeners = Listener(), Listener()
    metrics = EpochMetrics(
        epoch=0, train_loss=1, train_accuracy=1, test_loss=1, test_accuracy=1, learning_rate=1, seconds=1,
        images_per_second=1,
    )  # fmt: skip
    group = ProgressGroup(*listeners)
    group.message("hello")
    group.epoch_started(1, 2)
    group.batch_trained(3, 0.5, 0.6)
    group.epoch_trained(metrics, "Test", 4)
    group.stopped()
    assert listeners[0].events == listeners[1].events == [("hello",), (1, 2), (3, 0.5, 0.6), (metrics, "Test", 4), ()]


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(
    interrupted: Interrupted, capsys: pytest.CaptureFixture[str]
) -> None:
    (interrupted.folder / EVENTS_FOLDER).write_text("a file")
    command_answer = command(capsys, "train", "--resume", interrupted.folder, "--tensorboard")
    assert command_answer.status == 2
    assert command_answer.err.splitlines()[-1].startswith("kilonet: error: ")


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hide: Hide
) -> None:
    hide("tensorboard", "kilonet.training.tensorboard", "torch.utils.tensorboard")
    command(capsys, "train", "fast", "--tensorboard", "--out", tmp_path / "run").refused(
        "tensorboard", "'.[tensorboard]'"
    )
    assert not list(tmp_path.iterdir())
