"""uvicorn's HTTP protocol with the limits that it lacks: time and length of a request's head, time to read a response.

uvicorn closes only idle connections in time. A head that arrives byte by byte or never ends, and a response that the
client does not read, would hold a connection for ever. This subclass relies on methods of uvicorn 0.54 that are not
public; pyproject.toml therefore pins that minor version.

It also answers a request that offers another protocol (`Upgrade: h2c`) as if there were no offer, body and all, which
RFC 9110, 7.8 allows. httptools ends such a request after its head, and would take the body for the next request.
"""

import asyncio
from typing import Any

from kilonet.serve.limits import MAX_HEAD_BYTES, RequestLimits
from kilonet.serve.logs import LOGGER
from kilonet.serve.metrics import Metrics
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import httptools
    import orjson
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

_BETWEEN = len(": \r\n")
"""The bytes beside name and value in a line of a head."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, limits: RequestLimits, metrics: Metrics, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits, self._metrics = limits, metrics
        self._in_head = self._head_is_new = False
        self._head_bytes = 0
        """The bytes of the current head; without those of the chunk in which it began, while it is not complete."""
        self._answering: RequestResponseCycle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or close it if there are too many."""
        super().connection_made(transport)
        # pause_writing is called, and so the client timed, as soon as the system's own buffer is full.
        transport.set_write_buffer_limits(0)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "too many connections are open; try again in a moment")
            return
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        """Parse the data, and limit the length of a head and the time for it."""
        self._unset_keepalive_if_required()
        self._head_is_new = False
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if self._head_bytes <= MAX_HEAD_BYTES:
                self._refuse(400, "this is not an HTTP request")
        if self.transport.is_closing():
            return
        if self._in_head and not self._head_is_new:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is longer than {MAX_HEAD_BYTES:,} bytes")
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_head_timer()

    def _parse(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                # What follows the head is parsed again, after the same head without its offer.
                data = self._head_without_offer() + data[offer.args[0] :]
            else:
                return

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        super().on_message_begin()
        self._in_head = self._head_is_new = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Note that the head arrived in time, and check its length.

        Raises:
            ValueError: it is too long; httptools turns this into an HttpParserError.
        """
        _stop(self._head_timer)
        self._head_timer = None
        self._in_head = False
        self._head_bytes = len(self.url) + sum(len(name) + len(value) + _BETWEEN for name, value in self.headers)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError
        if self.parser.get_method() == b"CONNECT":
            self._refuse(405, "CONNECT is for proxies; send GET or POST")
        elif not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that a request is complete, unless only the head of one with an offer is."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _head_without_offer(self) -> bytes:
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [line, *(b"%b: %b" % header for header in self.headers if header[0] != b"upgrade")]
        return b"\r\n".join([*lines, b"", b""])

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """Start the timer of a client that does not read."""
        super().pause_writing()
        self._reader_timer = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer: the client reads again."""
        _stop(self._reader_timer)
        self._reader_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and tell the application that the client left."""
        _stop(self._head_timer)
        self._head_timer = None
        _stop(self._reader_timer)
        self._reader_timer = None
        super().connection_lost(exc)
        # uvicorn tells only the latest request, which may still wait behind the one that is being answered.
        if self._answering and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.seconds, self._head_timed_out)

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(408, f"the request's head was not complete after {self._limits.seconds:g} s")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, line: str) -> None:
        """Refuse before there is a request that the application could answer, and close the connection."""
        self._metrics.refusal(status)
        LOGGER.info("refused", extra={"status": status, "error": line, "client": self.client and self.client[0]})
        body = orjson.dumps({"error": line})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
