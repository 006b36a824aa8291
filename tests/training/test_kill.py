"""Training processes that are killed at random moments or interrupted end in the weights of a run without a break."""

import contextlib
import hashlib
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from helpers import KILONET, TINY_LAYERS
from kilonet.engines.selection import resolve_run
from kilonet.models.model import MODEL_FILE
from kilonet.recipe import load_recipe
from kilonet.training.run_folder import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    is_finished,
    read_history,
    read_result,
)
from preloaded import Started, forked

# The seed of the kills. They still differ from run to run, because the processes' speed does.
SEED = 7


@pytest.fixture
def recipe(tmp_path: Path, small_folder: Path) -> Path:
    """A recipe with everything that a checkpoint has to hold, and with short epochs."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        f"""
        [model]
        layers = {list(TINY_LAYERS)}
        dropout = 0.05
        [train]
        batch_size = 64
        ema = 0.99
        [augment]
        rotation = 10
        shift = 2
        [run]
        data = "{small_folder}"
        threads = 1
        """,
        encoding="utf-8",
    )
    # Compiled here, or every training that is killed early would compile it.
    resolve_run(load_recipe(str(path)), lambda _: None)
    return path


def start(*arguments: object) -> Started:
    return Started("train", *arguments)


def wait_until(happened: Callable[[], bool], training: Started, longest: float) -> None:
    end = time.monotonic() + longest
    while time.monotonic() < end and training.running() and not happened():
        time.sleep(0.0005)


def writes(folder: Path) -> bool:
    """Return whether a checkpoint is being written at this moment."""
    with contextlib.suppress(OSError):
        return any(name.startswith(f".{CHECKPOINT_FILE}.") for name in os.listdir(folder))  # noqa: PTH208
    return False


def checkpoint_number(folder: Path) -> int:
    """Return a number that differs from one written checkpoint to the next."""
    with contextlib.suppress(OSError):
        return (folder / CHECKPOINT_FILE).stat().st_mtime_ns
    return 0


def wait_for_a_moment(kind: str, dice: random.Random, training: Started, folder: Path) -> None:
    if kind == "start-up":
        time.sleep(dice.uniform(0.0, 0.3))
        return
    before = checkpoint_number(folder)
    wait_until(lambda: checkpoint_number(folder) != before, training, 60)
    if kind == "epoch":
        time.sleep(dice.uniform(0.0, 0.2))
    else:
        wait_until(lambda: writes(folder), training, 10)
        time.sleep(dice.uniform(0.0, 0.003))


def train_with_kills(recipe: Path, folder: Path, epochs: int, kinds: list[str]) -> int:
    """Train to the end, killing one process after another; returns how many were killed."""
    dice, killed = random.Random(SEED), 0  # noqa: S311
    dice.shuffle(kinds)
    for kind in kinds:
        begun = (folder / RECIPE_FILE).exists()
        with start(
            *(["--resume", folder] if begun else [recipe, "--out", folder, "--epochs", str(epochs)])
        ) as training:
            wait_for_a_moment(kind, dice, training, folder)
            training.kill()
            answer = training.end()
        assert answer.status == -signal.SIGKILL, answer
        killed += 1
    assert not is_finished(folder), "the run ended before the kills did; give it more epochs"
    answer = forked("train", "--resume", folder)
    assert answer.status == 0, answer.err
    return killed


def prove(recipe: Path, tmp_path: Path, epochs: int, kinds: list[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with start(recipe, "--out", whole, "--epochs", str(epochs)) as unbroken:
        killed = train_with_kills(recipe, broken, epochs, kinds)
        unbroken.end()
    assert killed >= 15
    assert digest(broken) == digest(whole)
    assert read_result(broken).model_sha256 == digest(broken)
    assert [metrics.epoch for metrics in read_history(broken)] == list(range(epochs))
    untimed = {"seconds", "images_per_second"}
    for mine, theirs in zip(read_history(broken), read_history(whole), strict=True):
        assert mine.model_dump(exclude=untimed) == theirs.model_dump(exclude=untimed)
    # No incomplete file of a killed process is left.
    assert sorted(entry.name for entry in broken.iterdir()) == sorted(entry.name for entry in whole.iterdir())


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()


@pytest.mark.ci
def test_a_run_killed_at_random_moments_ends_in_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    prove(recipe, tmp_path, 300, ["start-up"] * 8 + ["epoch"] * 3 + ["write"] * 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_a_hundred_times_ends_in_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    prove(recipe, tmp_path, 1500, ["start-up"] * 30 + ["epoch"] * 30 + ["write"] * 40)


@pytest.mark.ci
def test_a_run_killed_in_its_teachers_training_ends_in_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    whole, broken, student = tmp_path / "whole", tmp_path / "broken", tmp_path / "student.toml"
    longer = recipe.read_text().replace("[train]", "[train]\nepochs = 25")
    recipe.write_text(longer)
    student.write_text(f'{longer}[distill]\nteacher = "{recipe}"\n')
    dice = random.Random(SEED)  # noqa: S311
    with start(student, "--out", whole) as unbroken:
        for kind, where in (("write", "teacher"), ("epoch", ".")):
            with start(*(["--resume", broken] if broken.exists() else [student, "--out", broken])) as training:
                wait_for_a_moment(kind, dice, training, broken / where)
                training.kill()
                answer = training.end()
            assert answer.status == -signal.SIGKILL, answer
            assert is_finished(broken / "teacher") == (where == ".")
        unbroken.end()
    answer = forked("train", "--resume", broken)
    assert answer.status == 0, answer.err
    for part in (".", "teacher"):
        assert digest(broken / part) == digest(whole / part)
        assert sorted(entry.name for entry in (broken / part).iterdir()) == sorted(
            entry.name for entry in (whole / part).iterdir()
        )


def test_ctrl_c_says_how_to_go_on_and_that_works(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run with a space"
    with start(recipe, "--out", folder, "--epochs", "30") as training:
        wait_until(
            lambda: (folder / METRICS_FILE).exists() and (folder / METRICS_FILE).read_bytes() != b"", training, 60
        )
        training.interrupt()
        answer = training.end()
    last = answer.err.splitlines()[-1]
    assert answer.status == 130, answer
    assert "Traceback" not in answer.err
    assert last.startswith("kilonet: interrupted")
    program, *words = shlex.split(last.split("go on with: ")[1])
    assert program == "kilonet"
    assert not is_finished(folder)
    answer = forked(*words)
    assert answer.status == 0, answer.err
    assert is_finished(folder)


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_ctrl_c_while_the_processes_of_seeds_start_is_quiet(recipe: Path, tmp_path: Path, seconds: float) -> None:
    """A terminal sends the signal to all of them, which are still importing torch then."""
    words = ("--seeds", "2", "--out", tmp_path / "seeds", "--epochs", "1000", "--seed", "1")
    training = subprocess.Popen(
        [*KILONET, "train", recipe, *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job, in which tests may run, ignores the signal, and so would what it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread holds a lock here
    )
    with training:
        assert training.stderr is not None
        first = training.stderr.readline()
        assert "2 seeds, " in first, first
        time.sleep(seconds)
        os.killpg(training.pid, signal.SIGINT)
        lines = training.stderr.read().splitlines()
    assert training.returncode == 130, lines
    begun = any((tmp_path / "seeds").glob(f"seed*/{RECIPE_FILE}"))
    assert lines == [f"kilonet: interrupted{'; saved' * begun}; the same command goes on"]


def children(parent: int) -> list[Path]:
    """Return the folders under /proc of a process's children that train."""
    folders = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                folders.append(status.parent)
    return [folder for folder in folders if b"spawn_main" in (folder / "cmdline").read_bytes()]


def is_running(folder: Path) -> bool:
    """Tell whether a process lives; one that has ended may stay in /proc until its new parent asks for its status."""
    with contextlib.suppress(OSError):
        return (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.ci
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found under /proc")
def test_the_processes_of_seeds_end_with_their_parent(recipe: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "seeds" / f"seed{seed}" for seed in range(2)]
    # Leaving the block closes the pipe without reading it: workers that live on would hold its other end.
    words = [*KILONET, "train", str(recipe), "--seeds", "2", "--epochs", "1000", "--out", str(tmp_path / "seeds")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as training:
        end = time.monotonic() + 60
        while time.monotonic() < end and not all(folder.exists() for folder in folders[: len(os.sched_getaffinity(0))]):
            time.sleep(0.01)
        workers = children(training.pid)
        training.kill()
    assert workers
    end = time.monotonic() + 30
    while time.monotonic() < end and any(map(is_running, workers)):
        time.sleep(0.05)
    assert not list(filter(is_running, workers))
