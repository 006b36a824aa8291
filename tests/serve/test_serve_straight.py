"""The way around the framework alone, around an application made for the purpose."""

from http import HTTPStatus
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from kilonet.serve.refusal import Refusal
from kilonet.serve.straight import Straight
from service import in_loop


async def around(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("the long way")(scope, receive, send)


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def refuse(_: Request) -> Response:
    raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "no image")


async def fail(_: Request) -> Response:
    raise ZeroDivisionError


async def told(_: Request, error: Exception) -> Response:
    return PlainTextResponse(type(error).__name__, HTTPStatus.INTERNAL_SERVER_ERROR)


def asked(method: str, path: str, sent: list[Message]) -> None:
    """Ask for a path with the body `seen`; the parts of the answer are put in the list."""
    endpoints = {("POST", "/echo"): echo, ("POST", "/refuse"): refuse, ("POST", "/fail"): fail}
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": []}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"seen", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    in_loop(Straight(around, endpoints, told)(scope, receive, send))


def test_what_is_asked_most_goes_straight_to_its_endpoint() -> None:
    sent: list[Message] = []
    asked("POST", "/echo", sent)
    assert [message.get("status", message.get("body")) for message in sent] == [200, b"seen"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/echo"), ("POST", "/echo/"), ("POST", "/other")])
def test_all_else_goes_through_the_application(method: str, path: str) -> None:
    sent: list[Message] = []
    asked(method, path, sent)
    assert sent[1]["body"] == b"the long way"


def test_a_refusal_is_left_to_the_gate() -> None:
    sent: list[Message] = []
    with pytest.raises(Refusal):
        asked("POST", "/refuse", sent)
    assert sent == []


def test_a_fault_is_answered_and_goes_on_to_the_server() -> None:
    sent: list[Message] = []
    with pytest.raises(ZeroDivisionError):
        asked("POST", "/fail", sent)
    assert [message.get("status", message.get("body")) for message in sent] == [500, b"ZeroDivisionError"]
