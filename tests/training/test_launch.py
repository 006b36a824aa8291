"""Starting runs: where their folders are, several seeds, and resuming."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers import StopAtEpoch, refusal, tiny_recipe
from kilonet.data.datasets import DataSet
from kilonet.training import launch
from kilonet.training.progress import NoProgress
from kilonet.training.run_folder import Run, lock_folder, read_result
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


def test_several_seeds_are_the_runs_that_each_would_be(tiny: Path, tmp_path: Path, small: DataSet) -> None:
    out = tmp_path / "seeds"
    answer = forked("train", tiny, "--seeds", "2", "--seed", "5", "--out", out, "--json", before=fork_seeds)
    assert answer.status == 0, answer.err
    runs = json.loads(answer.out)["runs"]
    assert [run["folder"] for run in runs] == [str(out / "seed5"), str(out / "seed6")]
    for seed, run in zip((5, 6), runs, strict=True):
        assert read_result(out / f"seed{seed}").model_sha256 == run["model_sha256"]
        alone = fit(tiny_recipe(epochs=1, seed=seed), small)
        assert alone.result.model_sha256 == run["model_sha256"]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_seeds_share_a_gpu_one_after_another(
    device: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where `auto` means the GPU."""

    def interrupted(*_: Any, **__: Any) -> list[Run]:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "cores", lambda: 8)
    monkeypatch.setattr(launch, "resolve_device", lambda _: "cuda", raising=False)
    monkeypatch.setattr(launch, "_train_side_by_side", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch.train_seeds(str(tiny), {"device": device}, None, 4)
    assert "4 seeds, 1 at a time" in capsys.readouterr().err


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


@pytest.mark.ci
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
