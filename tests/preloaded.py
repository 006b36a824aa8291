"""Commands in processes that are forked from one that has imported torch, which saves each of them two seconds."""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kilonet.cli import main

if TYPE_CHECKING:
    from helpers import Answer

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["kilonet.training.launch", "kilonet.engines.native.engine", "scipy.stats"])


def _run(words: list[str], folder: Path, before: Callable[[], None] | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    if before is not None:
        before()
    sys.exit(main(words))


class Started:
    """A started command; leaving its `with` block waits for it, as `subprocess.Popen` does."""

    def __init__(self, *words: object, before: Callable[[], None] | None = None) -> None:
        self._output = tempfile.TemporaryDirectory()
        self.folder = Path(self._output.name)
        arguments = (list(map(str, words)), self.folder, before)
        self._process = _SERVER.Process(target=_run, args=arguments)
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        self._process.join()
        self._output.cleanup()

    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGINT)

    def end(self, timeout: float = 120) -> "Answer":
        """Wait for the end; return the exit status, negative after a signal, and the output."""
        # Not above: the children import this module, and have no use for what the tests need.
        from helpers import Answer

        self._process.join(timeout)
        assert self._process.exitcode is not None, "the command did not end in time"
        out, err = (
            (self.folder / name).read_text() if (self.folder / name).exists() else "" for name in ("out", "err")
        )
        return Answer(self._process.exitcode, out, err)


def forked(*words: object, before: Callable[[], None] | None = None) -> "Answer":
    """Run a command to its end; `before` is called in its process first."""
    with Started(*words, before=before) as started:
        return started.end()
