"""A way around the framework for what is asked most: its middlewares and router cost as much as answering a digit."""

from collections.abc import Awaitable, Callable, Mapping

from kilonet.serve.refusal import Refusal
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
"""What reads a request and makes its response; a `Refusal` that it raises is for the gate to send."""
OnFault = Callable[[Request, Exception], Awaitable[Response]]
"""What makes the response to a request on which an endpoint failed."""


class Straight:
    """An ASGI application around another, which answers all but a few requests."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint], on_fault: OnFault) -> None:
        """Stand before an application.

        Args:
            app: whatever answers, and documents the endpoints too.
            endpoints: what is called without it, by method and path.
            on_fault: answers where an endpoint fails; what was raised then goes on to the server.
        """
        self._app, self._endpoints, self._on_fault = app, dict(endpoints), on_fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except Refusal:
            raise
        except Exception as error:
            response = await self._on_fault(request, error)
            await response(scope, receive, send)
            raise
        await response(scope, receive, send)
