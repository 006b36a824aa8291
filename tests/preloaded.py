"""Commands in processes that are forked from one that has imported torch, which saves each of them two seconds."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from unittest import mock

from kilonet.cli import main

if TYPE_CHECKING:
    from helpers import Answer

_PROCESSES = multiprocessing.get_context("forkserver")
_TRAINING = ("kilonet.training.launch", "kilonet.engines.native.engine", "scipy.special")


def _run(words: list[str], folder: Path, environment: dict[str, str], output: Path, before: Callable[[], None]) -> None:
    """Run a command, or the script behind `-c`, as if the process had been started in this folder and environment."""
    os.chdir(folder)
    os.environ.update(environment)
    tempfile.tempdir = None
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), number)
    # Ctrl-C ends it also where whoever started the tests ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As in tests/conftest.py.
    setattr(os, "fsync", lambda _: None)  # noqa: B010
    before()
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})  # noqa: S102
        sys.exit(0)
    sys.exit(main(words))


def nothing() -> None:
    """Do nothing."""


def fork_seeds() -> None:
    """Fork the processes of `--seeds` too, in the process that calls this: no thread runs in it when they start."""
    from kilonet.training import launch

    launch.START_METHOD = "fork"


class Started:
    """A started command, killed at the end of its `with` block if it still runs then."""

    def __init__(
        self, *words: object, before: Callable[[], None] = nothing, preload: tuple[str, ...] = _TRAINING
    ) -> None:
        """Start it.

        Args:
            words: the command's name and its arguments, or `-c`, a script and its arguments.
            before: called in the command's process first.
            preload: modules that the process which is forked has imported, if this is the first command of all.
        """
        self._output = tempfile.TemporaryDirectory()
        _PROCESSES.set_forkserver_preload(list(preload))
        self._process = _PROCESSES.Process(
            target=_run,
            args=(list(map(str, words)), Path.cwd(), dict(os.environ), Path(self._output.name), before),
        )
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self._process.join()
        self._output.cleanup()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for the end, but not longer than that."""
        self._process.join(seconds)

    def kill(self) -> None:
        self._process.kill()

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        os.kill(self.pid, signal.SIGINT)

    def printed(self, stream: str) -> str:
        """Return what it has printed so far to the stream `out` or `err`."""
        file = Path(self._output.name) / stream
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def end(self, timeout: float = 120) -> "Answer":
        """Wait for the end; return the exit status, negative after a signal, and the output."""
        # Not above: the children import this module, and have no use for what the tests need.
        from helpers import Answer

        self._process.join(timeout)
        assert self._process.exitcode is not None, "the command did not end in time"
        return Answer(self._process.exitcode, self.printed("out"), self.printed("err"))


def forked(*words: object, before: Callable[[], None] = nothing) -> "Answer":
    """Run a command to its end; `before` is called in its process first."""
    with Started(*words, before=before) as started:
        return started.end()


def forked_script(script: str, *arguments: object) -> "Answer":
    """Run a script like `helpers.python`, but for scripts for which torch may be imported already."""
    return forked("-c", script, *arguments)


def run_forked(command: list[str], *, env: dict[str, str], **_: object) -> "subprocess.CompletedProcess[str]":
    """Fork the script of `python -c`, in the place of `subprocess.run` with `check` and `text`."""
    with mock.patch.dict(os.environ, env):
        answer = forked(*command[1:])
    assert answer.status == 0, answer
    return subprocess.CompletedProcess(command, answer.status, answer.out, answer.err)
