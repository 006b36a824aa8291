"""What every request passes before anything reads it: limits, counts, a line in the log.

Bodies are read here, whole, under limits of length and time, so that whatever stands behind the gate has them at once.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from time import perf_counter

from kilonet.serve.limits import Limits
from kilonet.serve.logs import LOGGER
from kilonet.serve.metrics import OTHER, Metrics
from kilonet.serve.refusal import Refusal, late
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_LEFT = 499
"""What is logged and counted of a client that left before it was answered; nginx has this number for it too."""
_POLICY = b"content-security-policy"
_GUARDS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_LONGEST_PATH = 200
_LINGER = 1.0


class ClientLeftError(Exception):
    """The client closed the connection before its request was complete."""


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, routes: Iterable[str]) -> None:
        """Stand before an application.

        Args:
            app: whatever answers.
            limits: what a request may cost.
            metrics: where requests are counted.
            routes: the paths by which they are counted; all others are one.
        """
        self._app, self._limits, self._metrics = app, limits, metrics
        self._routes = frozenset(routes)
        self._under_way = 0
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, exchange = perf_counter(), _Exchange(receive, send)
        self._under_way += 1
        self._metrics.in_flight.inc()
        try:
            await self._answer(scope, exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal, scope)
        except ClientLeftError:
            exchange.status = CLIENT_LEFT
        finally:
            self._under_way -= 1
            self._held -= exchange.held
            self._metrics.in_flight.dec()
            self._record(scope, exchange, perf_counter() - started)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        if self._under_way > self._limits.requests:
            raise _busy(f"{self._limits.requests} requests are being answered")
        self._check_length(_declared_length(scope))
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds) as patience:
                body = await self._gathered(exchange)
                patience.reschedule(asyncio.get_running_loop().time() + seconds)
                exchange.patience = patience
                await self._app(_as_get(scope), _given(body), exchange.send)
        except TimeoutError:
            if exchange.complete:
                raise late(seconds) from None
            line = f"the body was not complete after {seconds:g} s"
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, line) from None
        finally:
            exchange.patience = None

    async def _gathered(self, exchange: "_Exchange") -> bytes:
        parts: list[bytes] = []
        while not exchange.complete:
            part = await exchange.receive()
            self._check_length(exchange.held + len(part))
            # Only this request is refused: what is held of the others stays within the limit.
            if self._held + len(part) > self._limits.held:
                raise _busy(f"{self._limits.held:,} bytes of bodies are in memory")
            exchange.held += len(part)
            self._held += len(part)
            parts.append(part)
        return b"".join(parts)

    def _check_length(self, length: int) -> None:
        if length > self._limits.bytes:
            line = f"the body is longer than {self._limits.bytes:,} bytes; send a smaller one"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)

    def _record(self, scope: Scope, exchange: "_Exchange", seconds: float) -> None:
        method, path, status = scope["method"], scope["path"], exchange.status or HTTPStatus.INTERNAL_SERVER_ERROR
        self._metrics.request(method, path if path in self._routes else OTHER, int(status), seconds)
        LOGGER.info(
            "request",
            extra={
                "method": method,
                "path": path[:_LONGEST_PATH],
                "status": int(status),
                "ms": round(1000 * seconds, 2),
                "bytes": exchange.held,
                "client": (scope.get("client") or ("", 0))[0],
            },
        )


class _Exchange:
    """One request and its answer, as far as they have come."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.complete = False
        """Whether the whole body has been received."""
        self.held = 0
        """Bytes of the body so far."""
        self.status = 0
        """Of the answer, once it has begun."""
        self.patience: asyncio.Timeout | None = None
        """Until the answer has begun: from then on the protocol times the client that reads it."""

    async def receive(self) -> bytes:
        """Return the next part of the body."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        self.complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer, with the headers that all answers have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.patience:
                self.patience.reschedule(None)
            headers = [*message.get("headers", ()), *_GUARDS]
            if not any(name == _POLICY for name, _ in headers):
                headers.append((_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
            message["headers"] = headers
        await self._send(message)

    async def refuse(self, refusal: Refusal, scope: Scope) -> None:
        """Answer with a refusal. A client that still sends gets a moment to read it before the connection closes."""
        headers = refusal.headers if self.complete else refusal.headers | {"connection": "close"}
        response = JSONResponse({"error": refusal.line}, refusal.status, headers)
        lingers = not self.complete and refusal.status is not HTTPStatus.REQUEST_TIMEOUT
        await response(scope, self._receive, self._send_but_end if lingers else self.send)
        if lingers:
            await self._drain()
            await self._send({"type": "http.response.body"})

    async def _send_but_end(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            message["more_body"] = True
        await self.send(message)

    async def _drain(self) -> None:
        """Read on for a while: a socket that is closed with bytes unread resets, and the client may miss its answer."""
        try:
            async with asyncio.timeout(_LINGER):
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
    """Answer HEAD as GET: the server leaves out the content."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _given(body: bytes) -> Receive:
    """Return what gives a whole body once, and then waits as if for the client to leave."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop()

    return receive
