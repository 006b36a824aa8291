"""uvicorn's protocol with what it lacks: clients that are slow to send a request's head or to read its answer.

uvicorn times only connections that wait for a further request. A head may arrive byte by byte, or grow without end, and
an answer that nobody reads waits for ever; each would hold a connection.
"""

import asyncio
from typing import Any

from kilonet.serve.limits import MOST_HEAD_BYTES, Limits
from kilonet.serve.logs import LOGGER
from kilonet.serve.metrics import Metrics
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import orjson
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, limits: Limits, metrics: Metrics, **named: Any) -> None:
        """Begin a connection as uvicorn does, under limits."""
        super().__init__(*arguments, **named)
        self._limits, self._metrics = limits, metrics
        self._in_head = self._head_is_new = False
        self._head_bytes = 0
        """Of a head so far, without the bytes that came with its first."""
        self._answering: RequestResponseCycle | None = None
        self._waiting_for_head: asyncio.TimerHandle | None = None
        self._waiting_for_reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it if there are too many."""
        super().connection_made(transport)
        # Whatever the system's own buffer does not take at once is timed, however little it is.
        transport.set_write_buffer_limits(0)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "too many connections are open; try again in a moment")
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and bound the length and the time of what is missing of a head."""
        self._head_is_new = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and not self._head_is_new:
            self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(431, f"the request's head is longer than {MOST_HEAD_BYTES:,} bytes")
        elif self._waiting_for_head is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = self._head_is_new = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """End a head: it has come in time."""
        _stop(self._waiting_for_head)
        self._waiting_for_head = None
        self._in_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """Time a client that does not read."""
        super().pause_writing()
        self._waiting_for_reader = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a client that does."""
        _stop(self._waiting_for_reader)
        self._waiting_for_reader = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        _stop(self._waiting_for_head)
        self._waiting_for_head = None
        _stop(self._waiting_for_reader)
        self._waiting_for_reader = None
        super().connection_lost(exc)
        # uvicorn tells only the latest request that has come, which may still wait for the one that is being answered.
        if self._answering and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as everything else is refused."""
        self._refuse(400, msg)

    def _expect_head(self) -> None:
        self._waiting_for_head = self.loop.call_later(self._limits.seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._waiting_for_head = None
        if self._in_head:
            self._refuse(408, f"the request's head was not complete after {self._limits.seconds:g} s")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, line: str) -> None:
        """Answer before there is a request that an application could answer, and close."""
        self._metrics.refusal(status)
        LOGGER.info("refused", extra={"status": status, "error": line, "client": self.client and self.client[0]})
        body = orjson.dumps({"error": line})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
