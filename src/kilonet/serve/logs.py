"""Logs: one JSON object a line on stderr, including Python's warnings and uvicorn's messages.

A thread writes them, so that a stderr that nobody reads, such as a full pipe, delays no request.
"""

import contextlib
import logging
import os
import queue
import sys
import threading
from time import monotonic, sleep

from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from pythonjsonlogger.orjson import OrjsonFormatter

LOGGER = logging.getLogger("kilonet.serve")
_FORMAT = "{levelname}{name}{message}"
_MOST_WAITING = 10_000
"""The most lines that wait to be written; further ones are dropped and counted."""
_LAST_SECONDS = 1.0
"""How long, at the end, the lines that wait may take."""


class BackgroundHandler(logging.Handler):
    """Writes log records in a thread; `dropped` counts those for which there was no room."""

    def __init__(self, file: int, most_waiting: int = _MOST_WAITING) -> None:
        """Start the thread.

        Args:
            file: the descriptor that is written to.
            most_waiting: the most lines that wait to be written.
        """
        super().__init__()
        self._file = file
        self._waiting: queue.Queue[bytes] = queue.Queue(most_waiting)
        self.dropped = 0
        self._counting = threading.Lock()
        # The interpreter does not wait for it at the end, when it may hang in a write.
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread, or drop it."""
        line = self.format(record).encode(errors="replace") + b"\n"
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            with self._counting:
                self.dropped += 1

    def _write(self) -> None:
        while True:
            line = self._waiting.get()
            if self.dropped and self._waiting.empty():
                with self._counting:
                    dropped, self.dropped = self.dropped, 0
                LOGGER.warning("log lines were dropped: stderr was not read", extra={"lines": dropped})
            # Not by sys.stderr, whose lock a hanging write would hold when the interpreter ends.
            with contextlib.suppress(OSError):
                while line:
                    line = line[os.write(self._file, line) :]
            self._waiting.task_done()

    def finish(self) -> None:
        """Give the lines that wait a moment to be written."""
        deadline = monotonic() + _LAST_SECONDS
        while self._waiting.unfinished_tasks and monotonic() < deadline:
            sleep(0.01)


def start_logging() -> BackgroundHandler | None:
    """Send this process's logs to stderr: every request, and the warnings and errors of all libraries.

    Returns:
        the handler, to be finished at the end; None if stderr is closed, which leaves no place for logs.
    """
    logging.captureWarnings(capture=True)
    if sys.__stderr__ is None:
        logging.disable()
        return None
    handler = BackgroundHandler(sys.__stderr__.fileno())
    handler.setFormatter(
        OrjsonFormatter(_FORMAT, style="{", timestamp="time", rename_fields={"levelname": "level", "name": "logger"})
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    LOGGER.setLevel(logging.INFO)
    # It warns of each form that a client wrote badly.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    return handler
