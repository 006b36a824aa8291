"""The outer ASGI application, which every request passes first: limits, metrics, one log line.

It receives the whole body under limits of length and time, so that a slow or endless client never reaches the
application behind it.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from time import perf_counter

from kilonet.serve.access import ANYBODY, Access
from kilonet.serve.limits import RequestLimits
from kilonet.serve.logs import LOGGER
from kilonet.serve.metrics import OTHER, Metrics
from kilonet.serve.refusal import Refusal, timed_out
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_LEFT = 499
"""The status in logs and metrics for a client that left before it was answered, as in nginx."""
_POLICY = b"content-security-policy"
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
HEALTH = "/health"
"""The path that is answered even while the service is busy: it takes no thread, and its answer is what others ask for
to find out whether the service still lives."""
_MAX_LOGGED_PATH = 200
_LINGER_SECONDS = 1.0


class ClientLeftError(Exception):
    """The client closed the connection before its request was complete."""


class Gate:
    """An ASGI application around another one."""

    def __init__(
        self, app: ASGIApp, limits: RequestLimits, metrics: Metrics, routes: Iterable[str], access: Access = ANYBODY
    ) -> None:
        """Wrap an application.

        Args:
            app: answers the requests that pass.
            limits: the limits of a request.
            metrics: counts the requests.
            routes: the paths that get a label of their own in the metrics; all other paths share one.
            access: who is answered.
        """
        self._app, self._limits, self._metrics = access.with_cors(app), limits, metrics
        self._routes, self._access = frozenset(routes), access
        self._being_answered = 0
        """Requests whose body is complete; one that still arrives takes no place from others."""
        self._bytes_in_memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, exchange = perf_counter(), _Exchange(receive, send)
        self._metrics.in_flight.inc()
        try:
            await self._answer(scope, exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal, scope, self._access)
        except ClientLeftError:
            exchange.status = CLIENT_LEFT
        finally:
            self._bytes_in_memory -= exchange.body_bytes
            self._metrics.in_flight.dec()
            self._log_and_count(scope, exchange, perf_counter() - started)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        self._access.check(scope)
        self._check_length(_declared_length(scope))
        self._check_busy(scope)
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds) as timeout:
                body = await self._body(exchange)
                timeout.reschedule(asyncio.get_running_loop().time() + seconds)
                exchange.timeout = timeout
                self._check_busy(scope)
                self._being_answered += 1
                try:
                    await self._app(_as_get(scope), _receive_once(body), exchange.send)
                finally:
                    self._being_answered -= 1
        except TimeoutError:
            if exchange.complete:
                raise timed_out(seconds) from None
            line = f"the body was not complete after {seconds:g} s"
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, line) from None
        finally:
            exchange.timeout = None

    async def _body(self, exchange: "_Exchange") -> bytes:
        parts: list[bytes] = []
        while not exchange.complete:
            part = await exchange.receive()
            self._check_length(exchange.body_bytes + len(part))
            # Only this request is refused: the other bodies are within the limit without it.
            if self._bytes_in_memory + len(part) > self._limits.bytes_in_memory:
                raise _busy(f"{self._limits.bytes_in_memory:,} bytes of bodies are in memory")
            exchange.body_bytes += len(part)
            self._bytes_in_memory += len(part)
            parts.append(part)
        return b"".join(parts)

    def _check_busy(self, scope: Scope) -> None:
        if self._being_answered >= self._limits.requests and scope["path"] != HEALTH:
            raise _busy(f"{self._limits.requests} requests are being answered")

    def _check_length(self, length: int) -> None:
        if length > self._limits.bytes:
            line = f"the body is longer than {self._limits.bytes:,} bytes; send a smaller one"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)

    def _log_and_count(self, scope: Scope, exchange: "_Exchange", seconds: float) -> None:
        method, path, status = scope["method"], scope["path"], exchange.status or HTTPStatus.INTERNAL_SERVER_ERROR
        self._metrics.request(method, path if path in self._routes else OTHER, int(status), seconds)
        LOGGER.info(
            "request",
            extra={
                "method": method,
                "path": path[:_MAX_LOGGED_PATH],
                "status": int(status),
                "ms": round(1000 * seconds, 2),
                "bytes": exchange.body_bytes,
                "client": (scope.get("client") or ("", 0))[0],
            },
        )


class _Exchange:
    """The state of one request and its response."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.complete = False
        """Whether the whole body has been received."""
        self.body_bytes = 0
        """The bytes of the body that have been received."""
        self.status = 0
        """The status of the response; 0 until it begins."""
        self.timeout: asyncio.Timeout | None = None
        """The time limit of the answer. None once the response begins: the protocol times the client that reads it."""

    async def receive(self) -> bytes:
        """Return the next part of the body."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        self.complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def send(self, message: Message) -> None:
        """Send a part of the response, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.timeout:
                self.timeout.reschedule(None)
            headers = [*message.get("headers", ()), *_SECURITY_HEADERS]
            if not any(name == _POLICY for name, _ in headers):
                headers.append((_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
            message["headers"] = headers
        await self._send(message)

    async def refuse(self, refusal: Refusal, scope: Scope, access: Access) -> None:
        """Send a refusal. A client that is still sending gets a moment to read it before the connection closes."""
        headers = refusal.headers if self.complete else refusal.headers | {"connection": "close"}
        response: ASGIApp = JSONResponse({"error": refusal.line}, refusal.status, headers)
        if scope["method"] != "OPTIONS":
            # Lets an allowed page read why; a preflight it would answer itself.
            response = access.with_cors(response)
        lingers = not self.complete and refusal.status is not HTTPStatus.REQUEST_TIMEOUT
        await response(scope, self._receive, self._send_unfinished if lingers else self.send)
        if lingers:
            await self._drain()
            await self._send({"type": "http.response.body"})

    async def _send_unfinished(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            message["more_body"] = True
        await self.send(message)

    async def _drain(self) -> None:
        """Read on for a while: closing a socket with unread bytes resets it, and the client may miss its answer."""
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.complete:
                    await self.receive()
        except (TimeoutError, ClientLeftError):
            return


def _busy(reason: str) -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}; try again in a moment")


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _as_get(scope: Scope) -> Scope:
    """Turn HEAD into GET: the server leaves out the content."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _receive_once(body: bytes) -> Receive:
    """Return an ASGI `receive` that gives the whole body once and then waits for ever, as for the client to leave."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop()

    return receive
