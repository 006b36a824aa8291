"""Whole sweeps on local Ray clusters: the same command continues after workers, nodes and drivers are killed."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from helpers import KILONET, process
from kilonet.recipe import load_recipe
from kilonet.training.run_folder import METRICS_FILE, is_finished, read_result
from kilonet.training.train import fit

EPOCHS = 10
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def base(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that uses everything that a checkpoint stores."""
    path = tmp_path_factory.mktemp("base") / "tiny.toml"
    path.write_text(
        f"""
        [model]
        layers = ["gap", "pointwise 10"]
        dropout = 0.05
        [train]
        ema = 0.9
        [augment]
        rotation = 10
        [run]
        data = "{small_folder}"
        engine = "torch"
        device = "cpu"
        precision = "float32"
        """
    )
    return path


def write_plan(folder: Path, base: Path, trials: int = 1, **search: Any) -> Path:
    """A plan whose candidates differ in size and batch size; by default none is stopped early."""
    path = folder / "sweep.toml"
    keys = {"epochs": EPOCHS, "grace": EPOCHS, **search}
    path.write_text(
        f"""
        recipe = "{base}"
        out = "{folder / "out"}"
        layers = ["conv {{3..6}}", "maxpool 2", "0..1 * conv = same residual", "conv {{4..8}}", "gap", "pointwise 10"]
        [search]
        trials = {trials}
        """
        + "\n".join(f"{key} = {value}" for key, value in keys.items())
        + """
        [budget]
        max_parameters = 700
        [keys]
        batch_size = {choices = [64, 128]}
        """
    )
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    words = [*KILONET, "sweep", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(happened: Callable[[], bool], driver: subprocess.Popen[str] | None = None, longest: float = 120) -> None:
    end = time.monotonic() + longest
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        assert driver is None or driver.poll() is None, driver and driver.communicate()[1]
        time.sleep(0.01)


def epochs_of(folder: Path) -> list[str]:
    path = folder / METRICS_FILE
    return path.read_text().splitlines() if path.exists() else []


def children(parent: int, name: bytes) -> list[int]:
    """Return the child processes whose command line contains a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            below = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if below and name in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def at_work_in(folder: Path) -> list[int]:
    """Return the processes that hold a file of a run folder open, such as the lock of the training process."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().parent == folder:
                found.append(int(link.parts[2]))
    return found


def processes_that_name(word: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def proved(out: Path, trials: int) -> None:
    """Check that every trial is a finished run on the holdout, with the weights of its recipe trained by hand."""
    folders = sorted(folder for folder in out.iterdir() if folder.is_dir())
    assert [folder.name for folder in folders] == [f"{number:04}" for number in range(1, trials + 1)]
    for folder in folders:
        result = read_result(folder)
        assert result.scored == "Holdout"
        assert result.parameters <= 700
        assert len(epochs_of(folder)) == EPOCHS
    by_hand = fit(load_recipe(str(folders[0] / "recipe.toml")))
    assert by_hand.result.model_sha256 == read_result(folders[0]).model_sha256


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with one core, and whatever a test adds to it."""
    health = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    # Sockets need a short path, shorter than pytest's.
    with (
        tempfile.TemporaryDirectory(prefix="k-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        made = Cluster(initialize_head=True, head_node_args={**NODE, "_system_config": health})
        yield made
        made.shutdown()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found under /proc")
def test_a_worker_is_killed_and_a_node_is_lost(cluster: Cluster, base: Path, tmp_path: Path) -> None:
    second = cluster.add_node(**NODE)
    out = tmp_path / "out"
    plan = write_plan(tmp_path, base, trials=2)
    with start(plan, "--address", cluster.address, "--json") as driver:
        # The first waits for the second, so that two nodes of one core each are at work on two unfinished trials.
        wait_until(lambda: len(epochs_of(out / "0001")) >= 1, driver)
        for worker in at_work_in(out / "0001"):
            os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: len(epochs_of(out / "0002")) >= 1, driver)
        raylet = cluster.head_node.all_processes["raylet"][0].process.pid
        for worker in children(raylet, b"ray::ImplicitFunc"):
            os.kill(worker, signal.SIGKILL)
        before = {name: epochs_of(out / name) for name in ("0001", "0002")}
        cluster.remove_node(second, allow_graceful=False)
        answer, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    proved(out, trials=2)
    for name, epochs in before.items():
        assert epochs_of(out / name)[: len(epochs)] == epochs, "epochs that were on the disk were trained again"
    front = json.loads(answer)
    assert front["trials"] == front["finished"] == 2
    assert "2/2: trial" in errors
    assert "has lost its worker, and goes on with another" in errors
    assert "state-dump" not in errors


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for what a killed driver leaves; the paths of sockets must be shorter than pytest's."""
    with tempfile.TemporaryDirectory(prefix="k-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield


@pytest.mark.usefixtures("short_tmp")
def test_a_killed_driver_loses_nothing_and_leaves_no_process(base: Path, tmp_path: Path) -> None:
    plan, out = write_plan(tmp_path, base), tmp_path / "out"
    with start(plan) as driver:
        wait_until(lambda: len(epochs_of(out / "0001")) >= 2, driver)
        session = session_of(driver.pid)
        driver.kill()
        driver.communicate()
    before = epochs_of(out / "0001")
    assert not is_finished(out / "0001")
    wait_until(lambda: not processes_that_name(session))
    answer = process("sweep", plan)
    assert answer.status == 0, answer.err
    proved(out, trials=1)
    assert epochs_of(out / "0001")[: len(before)] == before
    assert "Traceback" not in answer.err


def session_of(driver: int) -> str:
    """Return the session folder of a driver's own Ray, which all of its processes name."""
    (server,) = children(driver, b"gcs_server")
    words = Path(f"/proc/{server}/cmdline").read_bytes().decode().split("\0")
    return next(word.partition("=")[2] for word in words if word.startswith("--session-dir="))


def test_ctrl_c_says_how_to_continue(cluster: Cluster, base: Path, tmp_path: Path) -> None:
    plan, out = write_plan(tmp_path, base), tmp_path / "out"
    with start(plan, "--address", cluster.address) as driver:
        wait_until(lambda: len(epochs_of(out / "0001")) >= 2, driver)
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert "Traceback" not in errors
    assert not is_finished(out / "0001")
    words = shlex.split(errors.splitlines()[-1].split("go on with: ")[1])
    assert words == ["kilonet", "sweep", str(plan), "--address", cluster.address]


def test_weak_trials_are_stopped_early_and_stay_run_folders(
    cluster: Cluster, base: Path, small_folder: Path, tmp_path: Path
) -> None:
    """The path of the data is relative to where the sweep is started; workers start elsewhere."""
    near = tmp_path / "near.toml"
    near.write_text(base.read_text().replace(f"{small_folder}", small_folder.name))
    plan, out = write_plan(tmp_path, near, trials=4, epochs=2, grace=1, reduction=2), tmp_path / "out"
    answer = process("sweep", plan, "--address", cluster.address, "--json", cwd=small_folder.parent)
    assert answer.status == 0, answer.err
    ends = {path.stem: json.loads(path.read_text())["end"] for path in out.glob("0*.json")}
    stopped = [name for name, end in ends.items() if end == "stopped"]
    assert stopped
    assert json.loads(answer.out)["finished"] == 4 - len(stopped)
    assert (out / "front.svg").read_text().startswith("<?xml")
    for name in stopped:
        assert not is_finished(out / name)
    assert not (out / ".tune").exists()
    resumed = process("train", "--resume", out / stopped[0], cwd=small_folder.parent)
    assert resumed.status == 0, resumed.err


def test_a_missing_cluster_is_one_line(base: Path, tmp_path: Path) -> None:
    process("sweep", write_plan(tmp_path, base), "--address", "127.0.0.1:1").refused("no Ray cluster", "127.0.0.1:1")
