"""Starting runs: where their folders are, several seeds, and resuming."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import StopAtEpoch, command, refusal, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.recipe import load_recipe
from kilonet.training import launch
from kilonet.training.progress import Interruption, NoProgress
from kilonet.training.run_folder import RESULT_FILE, Run, lock_folder, read_result
from kilonet.training.train import fit
from kilonet.utils.errors import KilonetError
from preloaded import fork_seeds, forked


@pytest.fixture
def tiny(tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_recipe(small_folder, epochs=1).to_toml(), encoding="utf-8")
    return path


class RecordedMessages(NoProgress):
    """Records the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_every_run_gets_a_folder_of_its_own(tiny: Path) -> None:
    folders = [launch.train_recipe(str(tiny), {"seed": seed}, None).folder for seed in (0, 0, 4)]
    assert folders == [Path("runs/tiny-seed0"), Path("runs/tiny-seed0-2"), Path("runs/tiny-seed4")]


def test_an_interruption_says_how_to_go_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, out: Path, **__: object) -> Run:
        out.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        launch.train_recipe(str(tiny), {}, tmp_path / "my run")
    assert str(error.value).endswith(f"go on with: kilonet train --resume '{tmp_path / 'my run'}'")


def test_several_seeds_are_the_runs_that_each_would_be(
    tiny: Path, tmp_path: Path, small: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seeds"
    answer = command(capsys, "train", tiny, "--seeds", "2", "--seed", "5", "--out", out, "--json")
    assert answer.status == 0, answer.err
    runs = json.loads(answer.out)["runs"]
    assert [run["folder"] for run in runs] == [str(out / "seed5"), str(out / "seed6")]
    for seed, run in zip((5, 6), runs, strict=True):
        assert read_result(out / f"seed{seed}").model_sha256 == run["model_sha256"]
        alone = fit(tiny_recipe(epochs=1, seed=seed), small)
        assert alone.result.model_sha256 == run["model_sha256"]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds are trained as on a GPU, but on the processor."""
    monkeypatch.setattr(launch, "resolve_device", lambda _: "cuda", raising=False)
    monkeypatch.setattr(launch, "own_stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 10**9))


@pytest.mark.usefixtures("on_gpu")
def test_seeds_on_a_gpu_are_the_runs_that_each_would_be(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = [launch.train_recipe(str(tiny), {"seed": seed, "dropout": 0.0}, None) for seed in range(3)]
    runs = launch.train_seeds(str(tiny), {"dropout": 0.0}, None, 3)
    assert [run.result.model_sha256 for run in runs] == [run.result.model_sha256 for run in alone]
    assert "3 seeds, 3 at a time" in capsys.readouterr().err


@pytest.mark.usefixtures("on_gpu")
def test_interrupted_seeds_on_a_gpu_go_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the main thread, while it waits for the others; they stop before their run is finished."""
    changes = {"epochs": 2, "dropout": 0.0}
    whole = launch.train_seeds(str(tiny), changes, Path("whole"), 3)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "wait", raise_interrupt)
        patch.setattr(launch, "_SEEDS_ON_A_GPU", 2)
        # Where it is set in the first batch of an epoch.
        patch.setattr(launch, "Interruption", WaitForStop)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            launch.train_seeds(str(tiny), changes, Path("seeds"), 3)
    assert not any((Path("seeds") / f"seed{seed}" / RESULT_FILE).exists() for seed in range(3))
    assert (Path("seeds") / "seed0").exists()
    assert not (Path("seeds") / "seed2").exists()
    runs = launch.train_seeds(str(tiny), changes, Path("seeds"), 3)
    assert [run.result.model_sha256 for run in runs] == [run.result.model_sha256 for run in whole]


def raise_interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


class WaitForStop(Interruption):
    """Waits in the first batch until it is to stop."""

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        self._event.wait(60)
        super().batch_trained(batch, accuracy, loss)


@pytest.mark.usefixtures("on_gpu")
def test_a_seed_that_fails_on_a_gpu_ends_the_others_before_they_begin(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KilonetError("no")

    monkeypatch.setattr(launch, "_SEEDS_ON_A_GPU", 1)
    monkeypatch.setattr(launch, "fit", fail)
    with pytest.raises(KilonetError, match="no"):
        launch.train_seeds(str(tiny), {"dropout": 0.0}, Path("seeds"), 2)


@pytest.mark.usefixtures("on_gpu")
def test_what_limits_the_seeds_that_a_gpu_trains_at_a_time(
    tiny: Path, small: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout's random numbers, which have one generator, and the memory for the images."""
    recipe = load_recipe(str(tiny), {"dropout": 0.0})
    assert (
        launch.seeds_on_a_gpu(load_recipe("best")) > launch.seeds_on_a_gpu(load_recipe("best", {"dropout": 0.1})) == 1
    )
    size = small.train.pixels.nbytes
    for free, seeds in ((7 * size, 3), (100 * size, launch._SEEDS_ON_A_GPU)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        assert launch.seeds_on_a_gpu(recipe) == seeds


def train_up_to(epoch: int, recipe: Path, changes: dict[str, Any], out: Path | None) -> None:
    """Train a recipe and interrupt it as an epoch begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "progress_on", lambda: StopAtEpoch(epoch))
        with pytest.raises(KeyboardInterrupt):
            launch.train_recipe(str(recipe), changes, out)


def test_the_same_command_goes_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without --out, whether the recipe says `auto` or not; and it says so."""
    longer = {"epochs": 2}
    whole = launch.train_recipe(str(tiny), longer, Path("whole"))
    for out in (Path("run"), None):
        train_up_to(1, tiny, longer, out)
        messages = RecordedMessages()
        monkeypatch.setattr(launch, "progress_on", lambda messages=messages: messages)
        run = launch.train_recipe(str(tiny), {**longer, "engine": "auto", "threads": 2}, out)
        assert run.folder == (out or Path("runs/tiny-seed0"))
        assert run.result.model_sha256 == whole.result.model_sha256
        assert messages.lines[0] == f"going on with the unfinished run in {run.folder}"


def test_another_command_does_not_go_on(tiny: Path) -> None:
    for out in (Path("run"), None):
        train_up_to(0, tiny, {}, out)
    with pytest.raises(KilonetError) as error:
        launch.train_recipe(str(tiny), {"batch_size": 128}, Path("run"))
    refusal(error, "run holds the run of another recipe: train.batch_size is 128, but was 64", "--resume run")
    # Without --out there is a new folder, for another recipe and for a run that another process trains.
    with lock_folder(Path("runs/tiny-seed0")):
        assert launch.train_recipe(str(tiny), {}, None).folder == Path("runs/tiny-seed0-2")
    assert launch.train_recipe(str(tiny), {"batch_size": 128}, None).folder == Path("runs/tiny-seed0-3")
    with pytest.raises(KilonetError) as error:
        launch.train_recipe(str(tiny), {}, Path("runs/tiny-seed0-2"))
    refusal(error, "runs/tiny-seed0-2 holds a finished run")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds are trained in this process, in the order in which they are waiting."""

    class Pool(ThreadPoolExecutor):
        def __init__(self, *_: object) -> None:
            super().__init__(1)

    monkeypatch.setattr(launch, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(launch, "cores", lambda: 1)


@pytest.mark.usefixtures("in_this_process")
def test_seeds_go_on_by_the_same_command(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One is finished, one has begun, one is missing; a further call trains nothing."""
    whole = [launch.train_recipe(str(tiny), {"epochs": 2, "seed": seed}, Path(f"whole{seed}")) for seed in range(3)]
    parent = Path("runs/tiny-3seeds")
    launch.train_recipe(str(tiny), {"epochs": 2}, parent / "seed0")
    train_up_to(1, tiny, {"epochs": 2, "seed": 1}, parent / "seed1")
    capsys.readouterr()
    runs = launch.train_seeds(str(tiny), {"epochs": 2}, None, 3)
    errors = capsys.readouterr().err
    assert "3 seeds, 1 of them finished before, 1 at a time, in runs/tiny-3seeds" in errors
    assert "seed 1: going on with the unfinished run in runs/tiny-3seeds/seed1" in errors
    assert [run.result.model_sha256 for run in runs] == [run.result.model_sha256 for run in whole]
    again = launch.train_seeds(str(tiny), {"epochs": 2}, parent, 3)
    assert [run.result for run in again] == [run.result for run in runs]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("in_this_process")
def test_seeds_of_another_recipe_or_other_images_do_not_go_on(tiny: Path, small_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(small_folder, tmp_path / "data")
    launch.train_seeds(str(tiny), {"data": str(data)}, Path("seeds"), 1)
    with pytest.raises(KilonetError) as error:
        launch.train_seeds(str(tiny), {"data": str(data), "epochs": 2}, Path("seeds"), 2)
    refusal(error, "seeds/seed0 holds the run of another recipe: train.epochs is 2, but was 1")
    labels = data / "train-labels.idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
    with pytest.raises(KilonetError) as error:
        launch.train_seeds(str(tiny), {"data": str(data)}, Path("seeds"), 2)
    refusal(error, "seeds/seed0 was trained on other images")


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fork_seeds_that_die() -> None:
    fork_seeds()
    launch._train_one = die


def test_a_killed_process_of_a_seed_is_one_line(tiny: Path) -> None:
    words = ("train", tiny, "--seeds", "1", "--seed", "7", "--out", "seeds")
    answer = forked(*words, before=fork_seeds_that_die)
    assert answer.status == 2
    last = answer.err.splitlines()[-1]
    assert last.startswith("kilonet: error: the process that trained seed 7 was killed")
    assert last.endswith("the same command goes on")
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("seeds", [-1, 0, 1001])
def test_a_silly_number_of_seeds_is_refused(tiny: Path, seeds: int) -> None:
    with pytest.raises(KilonetError) as error:
        launch.train_seeds(str(tiny), {}, None, seeds)
    refusal(error, f"--seeds {seeds}")


def test_a_finished_run_is_not_resumed(finished: Run) -> None:
    assert finished.folder is not None
    with pytest.raises(KilonetError) as error:
        launch.resume_run(finished.folder)
    refusal(error, finished.folder, "is finished")
