"""A sweep on a Ray of its own continues after its driver is killed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import process
from kilonet.training.run_folder import is_finished
from sweeps import children, epochs_of, processes_that_name, proved, start, wait_until, write_base, write_plan


@pytest.fixture(scope="module")
def base(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), small_folder)


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
