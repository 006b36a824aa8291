"""Whole sweeps on local Ray clusters: the same command continues after workers, nodes and drivers are killed."""

import contextlib
import itertools
import json
import os
import random
import shlex
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import torch
from ray._private.authentication_test_utils import reset_auth_token_state
from ray.cluster_utils import Cluster

from helpers import command, write_idx_folder
from kilonet.data.datasets import DataSet
from kilonet.recipe import load_recipe
from kilonet.training.run_folder import is_finished, read_result
from sweeps import (
    EPOCHS,
    NODE,
    addresses_of,
    at_work_in,
    children,
    epochs_of,
    processes_that_name,
    proved,
    sweep,
    wait_until,
    write_base,
    write_plan,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found under /proc")


@pytest.fixture(scope="module")
def few(mnist: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 and 100 real images as a folder of IDX files, nearly all of them ones and zeros: even two steps learn it."""
    parts = []
    for images, count in ((mnist.train, 400), (mnist.test, 100)):
        easy = (images.labels < 2).nonzero()[: count - 40, 0]
        chosen = torch.cat([easy, (images.labels >= 2).nonzero()[:40, 0]])
        parts.append((images.pixels[chosen, 0].numpy(), images.labels[chosen].to(torch.uint8).numpy()))
    return write_idx_folder(tmp_path_factory.mktemp("few"), *parts)


@pytest.fixture(scope="module")
def base(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), few)


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """A folder for Ray's files: the paths of its sockets must be shorter than pytest's."""
    with tempfile.TemporaryDirectory(prefix="k-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(short_folder: Path) -> Iterator[Cluster]:
    """A head with one core, and whatever a test adds to it."""
    health = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(short_folder))
        (short_folder / "ray").mkdir()
        token = short_folder / "token"
        token.touch(0o600)
        token.write_text("a" * 64)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        reset_auth_token_state()
        made = Cluster(initialize_head=True, head_node_args={**NODE, "no_monitor": True, "_system_config": health})
        yield made
        made.shutdown()


@dataclass(frozen=True)
class Killed:
    """A sweep of two trials on a Ray of its own, whose driver was killed in the first trial."""

    plan: Path
    out: Path
    session: str
    """The session folder of its Ray, which all processes of that Ray name."""
    listening: dict[str, set[IPv4Address | IPv6Address]]
    """The addresses on which the driver and its Ray took connections, by the name of the process."""
    modes: dict[str, int]
    """The permissions of the file with the Ray's token, and of its folder."""


@pytest.fixture(scope="module")
def killed(base: Path, short_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    plan, out = write_plan(folder, base, trials=2), folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(short_folder))
        with sweep(plan) as driver:
            wait_until(lambda: len(epochs_of(out / "0001")) >= 2, driver)
            (server,) = children(driver.pid, b"gcs_server")
            words = Path(f"/proc/{server}/cmdline").read_bytes().decode().split("\0")
            (session,) = (word.partition("=")[2] for word in words if word.startswith("--session-dir="))
            environment = Path(f"/proc/{server}/environ").read_bytes().decode().split("\0")
            assert "RAY_AUTH_MODE=token" in environment
            (token,) = (Path(word.partition("=")[2]) for word in environment if word.startswith("RAY_AUTH_TOKEN_PATH="))
            modes = {"token": token.stat().st_mode & 0o777, "folder": token.parent.stat().st_mode & 0o777}
            listening = addresses_of(driver.pid)
            driver.kill()
            driver.end()
    return Killed(plan, out, session, listening, modes)


@pytest.mark.ci
def test_nobody_else_reaches_a_sweep_without_address(killed: Killed) -> None:
    assert {"gcs_server", "raylet"} <= killed.listening.keys()
    for name, addresses in killed.listening.items():
        assert all(address.is_loopback for address in addresses), (name, addresses)
    assert killed.modes == {"token": 0o600, "folder": 0o700}


@pytest.mark.ci
def test_a_killed_driver_leaves_no_process(killed: Killed) -> None:
    assert not is_finished(killed.out / "0001")
    wait_until(lambda: not processes_that_name(killed.session), pause=0.2)


@pytest.mark.ci
def test_a_driver_and_a_worker_are_killed_and_a_node_is_lost(cluster: Cluster, killed: Killed) -> None:
    """The sweep whose driver was killed goes on."""
    wait_until(lambda: not processes_that_name(killed.session), pause=0.2)
    first, second = killed.out / "0001", killed.out / "0002"
    begun = epochs_of(first)
    node = cluster.add_node(**NODE)
    with sweep(killed.plan, "--address", cluster.address, "--json") as driver:
        # The first waits for the second, so that two nodes of one core each are at work on two unfinished trials.
        wait_until(lambda: len(epochs_of(first)) > len(begun), driver)
        for worker in at_work_in(first):
            os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: len(epochs_of(second)) >= 1, driver)
        raylets = [one.all_processes["raylet"][0].process.pid for one in (cluster.head_node, node)]
        at_work = [children(raylet, b"ray::ImplicitFunc") for raylet in raylets]
        # On a busy machine the second would end before it is killed.
        for worker in itertools.chain(*at_work):
            os.kill(worker, signal.SIGSTOP)
        for worker in at_work[0]:
            os.kill(worker, signal.SIGKILL)
        before = {folder: epochs_of(folder) for folder in (first, second)}
        cluster.remove_node(node, allow_graceful=False)
        # A worker ends by itself when it sees that its node is gone.
        for worker in at_work[1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        assert all(len(epochs) < EPOCHS for epochs in before.values()), f"killed too late: {before}"
        answer = driver.end()
    assert answer.status == 0, answer.err
    proved(killed.out, trials=2)
    assert before[first][: len(begun)] == begun
    for folder, epochs in before.items():
        assert epochs_of(folder)[: len(epochs)] == epochs, "epochs that were on the disk were trained again"
    front = json.loads(answer.out)
    assert front["trials"] == front["finished"] == 2
    errors = answer.err
    assert "2/2: trial" in errors
    assert "has lost its worker, and goes on with another" in errors
    assert "state-dump" not in errors
    assert "Traceback" not in errors


@pytest.mark.ci
def test_weak_trials_are_stopped_early_and_stay_run_folders(
    cluster: Cluster, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the midst says how to continue. The data's path is relative to where the sweep is started."""
    near, few = tmp_path / "near.toml", Path(load_recipe(str(base)).run.data)
    near.write_text(base.read_text().replace(f"{few}", few.name))
    monkeypatch.chdir(few.parent)
    plan, out = write_plan(tmp_path, near, trials=4, grace=1, reduction=2), tmp_path / "out"
    with sweep(plan, "--address", cluster.address) as driver:
        wait_until(lambda: len(epochs_of(out / "0001")) >= 2, driver)
        driver.interrupt()
        answer = driver.end()
    assert answer.status == 130, answer
    errors = answer.err
    assert "Traceback" not in errors
    assert not is_finished(out / "0001")
    words = shlex.split(errors.splitlines()[-1].split("go on with: ")[1])
    assert words == ["kilonet", "sweep", str(plan), "--address", cluster.address]

    with sweep(Path(words[2]), *words[3:], "--json") as driver:
        answer = driver.end()
    assert answer.status == 0, answer.err
    ends = {path.stem: json.loads(path.read_text())["end"] for path in out.glob("0*.json")}
    stopped = [name for name, end in ends.items() if end == "stopped"]
    assert stopped
    assert json.loads(answer.out)["finished"] == 4 - len(stopped)
    assert (out / "front.svg").read_text().startswith("<?xml")
    for name in stopped:
        assert not is_finished(out / name)
    assert not (out / ".tune").exists()
    assert command(capsys, "train", "--resume", out / stopped[0]).status == 0
    assert is_finished(out / stopped[0])


def test_a_missing_cluster_is_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "sweep", write_plan(tmp_path, base), "--address", "127.0.0.1:1").refused(
        "cannot join the Ray cluster at 127.0.0.1:1"
    )


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_at_random_moments_change_no_bit(cluster: Cluster, base: Path, tmp_path: Path) -> None:
    """KILONET_KILLS kills (default 20) each of drivers and of workers; a sweep that ends is begun anew elsewhere."""
    undisturbed = write_plan(new_folder(tmp_path, "undisturbed"), base, trials=2)
    with sweep(undisturbed, "--address", cluster.address) as driver:
        answer = driver.end()
    assert answer.status == 0, answer.err
    right = ends_of(undisturbed.parent / "out")
    kills = int(os.environ.get("KILONET_KILLS", "20"))
    left, sweeps, chance = {"driver": kills, "worker": kills}, 0, random.Random(0)  # noqa: S311
    raylet = cluster.head_node.all_processes["raylet"][0].process.pid
    while any(left.values()):
        sweeps += 1
        plan, status = write_plan(new_folder(tmp_path, str(sweeps)), base, trials=2), -1
        while status != 0:
            with sweep(plan, "--address", cluster.address) as driver:
                while driver.running() and any(left.values()):
                    driver.wait(chance.uniform(0.1, 8))
                    kind = chance.choice([kind for kind, count in left.items() if count])
                    victims = [driver.pid] if kind == "driver" else children(raylet, b"ray::ImplicitFunc")
                    if not victims or not driver.running():
                        continue
                    for victim in victims:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(victim, signal.SIGKILL)
                    left[kind] -= 1
                answer = driver.end()
                status = answer.status
                # A trial that loses more than five workers of one driver is given up, until the next one.
                assert status in (0, -signal.SIGKILL) or "the same command tries again" in answer.err, answer
                assert "Traceback" not in answer.err
        assert ends_of(plan.parent / "out") == right
    print(f"{kills} kills of drivers and {kills} of workers in {sweeps} sweeps, all of which ended in the same bits")


def new_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def ends_of(out: Path) -> dict[str, tuple[str, str]]:
    """Return the record and the SHA-256 of the model of each trial."""
    return {path.stem: (path.read_text(), read_result(out / path.stem).model_sha256) for path in out.glob("0*.json")}
