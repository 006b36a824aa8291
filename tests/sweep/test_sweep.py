"""Whole sweeps on local Ray clusters: the same command continues after workers, nodes and drivers are killed."""

import json
import os
import shlex
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from helpers import process
from kilonet.training.run_folder import is_finished
from sweeps import NODE, at_work_in, children, epochs_of, proved, start, wait_until, write_base, write_plan


@pytest.fixture(scope="module")
def base(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), small_folder)


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
