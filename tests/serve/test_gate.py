"""The gate alone, around small applications of these tests."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from helpers import refusal
from kilonet.serve.access import Access, access_of
from kilonet.serve.gate import HEALTH, Gate
from kilonet.serve.limits import RequestLimits
from kilonet.serve.metrics import Metrics
from kilonet.utils.errors import KilonetError
from service import in_loop

LIMITS = RequestLimits(bytes=100, pixels=1, images=1, requests=2, seconds=0.3)


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


@dataclass
class Client:
    """One request, sent in parts, each after a pause in seconds, and the messages of its response."""

    parts: Iterable[tuple[bytes, float]] = ((b"", 0),)
    length: int | None = None
    leaves: bool = False
    method: str = "POST"
    more_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    asked: int = 0
    sent: list[Message] = field(default_factory=list)

    async def through(self, gate: Gate, path: str = "/echo") -> "Client":
        headers = [] if self.length is None else [(b"content-length", str(self.length).encode())]
        headers += self.more_headers
        scope = {"type": "http", "method": self.method, "path": path, "headers": headers, "client": ("10.0.0.1", 1)}
        messages = self._messages()

        async def receive() -> Message:
            self.asked += 1
            return await anext(messages)

        async def send(message: Message) -> None:
            self.sent.append(message)

        await gate(scope, receive, send)
        return self

    async def _messages(self) -> Any:
        parts = list(self.parts)
        for number, (part, pause) in enumerate(parts, 1):
            await asyncio.sleep(pause)
            more = number < len(parts) or self.leaves
            yield {"type": "http.request", "body": part, "more_body": more}
        if self.leaves:
            yield {"type": "http.disconnect"}
        await asyncio.Event().wait()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    def refused(self, status: int, *words: str) -> None:
        assert self.status == status
        line = json.loads(self.body)["error"]
        assert len(line.splitlines()) == 1
        for word in words:
            assert word in line
        assert not self.sent[-1].get("more_body")


def gate(app: Any = echo, **limits: Any) -> tuple[Gate, Metrics]:
    metrics = Metrics(["0"])
    return Gate(app, replace(LIMITS, **limits), metrics, ["/echo"]), metrics


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_a_body_is_passed_on_whole_and_the_response_has_security_headers() -> None:
    guarded, metrics = gate()
    client = in_loop(Client([(b"abc", 0), (b"", 0), (b"def", 0.01)]).through(guarded))
    assert (client.status, client.body) == (200, b"abcdef")
    assert client.headers[b"x-content-type-options"] == b"nosniff"
    assert client.headers[b"content-security-policy"].startswith(b"default-src 'none'")
    assert counted(metrics, "kilonet_requests_total", method="POST", route="/echo", status="200") == 1
    assert counted(metrics, "kilonet_requests_in_flight") == 0


def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_asked_for() -> None:
    async def refuse(_: Scope, __: Receive, ___: Send) -> None:
        raise AssertionError

    guarded, metrics = gate(refuse)
    client = Client([(b"x", 0)], length=101)
    asked: list[int] = []
    client.sent = _Noting(lambda: asked.append(client.asked))
    in_loop(client.through(guarded))
    client.refused(413, "100 bytes")
    assert asked[0] == 0
    assert client.headers[b"connection"] == b"close"
    assert counted(metrics, "kilonet_refusals_total", reason="too long") == 1


class _Noting(list[Message]):
    """A list that calls a function when something is appended."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    def append(self, message: Message) -> None:
        self._note()
        super().append(message)


def test_a_body_longer_than_declared_is_refused_at_the_limit() -> None:
    guarded, _ = gate()
    endless = ((b"x" * 30, 0.0) for _ in range(10))
    client = in_loop(Client(endless, length=3).through(guarded))
    client.refused(413, "100 bytes")


def test_a_client_that_still_sends_may_read_its_refusal() -> None:
    guarded, _ = gate()
    client = in_loop(Client([(b"x" * 101, 0), (b"y", 0.05), (b"z", 0.05)]).through(guarded))
    client.refused(413)
    assert client.asked == 3, "what still comes is read"
    assert [message.get("more_body") for message in client.sent[1:]] == [True, None]


def test_a_slow_body_is_refused() -> None:
    guarded, metrics = gate()
    client = in_loop(Client([(b"x", 0.1)] * 9).through(guarded))
    client.refused(408, "0.3 s")
    assert counted(metrics, "kilonet_refusals_total", reason="slow") == 1


async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] != HEALTH:
        await asyncio.sleep(0.1)
    await echo(scope, receive, send)


def test_too_many_requests_at_once_are_refused_for_now_but_health_is_answered() -> None:
    async def run() -> list[Client]:
        clients = [Client() for _ in range(5)]
        answers = [client.through(guarded) for client in clients]
        _, health = await asyncio.gather(asyncio.gather(*answers), Client().through(guarded, HEALTH))
        return [*clients, health, await Client().through(guarded)]

    guarded, metrics = gate(slowly)
    *clients, health, after = in_loop(run())
    clients.sort(key=lambda client: client.status)
    assert [client.status for client in clients] == [200, 200, 503, 503, 503]
    for client in clients[2:]:
        client.refused(503, "2 requests")
        assert client.headers[b"retry-after"] == b"1"
    assert (health.status, after.status) == (200, 200)
    assert counted(metrics, "kilonet_refusals_total", reason="busy") == 3


def test_slow_bodies_take_no_place_from_others() -> None:
    async def run() -> tuple[list[Client], list[Client]]:
        waiting = [Client([(b"x", 0.1), (b"y", 0.02)]) for _ in range(20)]
        others = [Client() for _ in range(5)]

        async def others_in_turn() -> None:
            for client in others:
                await client.through(guarded)

        await asyncio.gather(*(client.through(guarded) for client in waiting), others_in_turn())
        return waiting, others

    guarded, _ = gate()
    waiting, others = in_loop(run())
    assert {client.status for client in waiting + others} == {200}


# Who is answered


def answered(access: Access, method: str = "POST", **headers: str) -> Client:
    """Send a request with headers, underscores in their names for dashes, and return the client with its response."""
    guarded = Gate(echo, LIMITS, Metrics(["0"]), [], access)
    client = Client(method=method)
    client.more_headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return in_loop(client.through(guarded))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "[::1]", "[::1]:80")),
        *(
            (host, 421)
            for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1")
        ),
        *((host, 421) for host in ("", "[::1", "localhost@evil.example", "169.254.169.254", "::1")),
    ],
)
def test_on_a_loopback_address_only_the_names_of_this_machine_are_answered(host: str, status: int) -> None:
    """Otherwise a page whose own host resolves to 127.0.0.1 could read the answers."""
    for address in ("127.0.0.1", "::1"):
        client = answered(access_of(address, [], []), host=host)
        assert client.status == status
        if status == 421:
            client.refused(421, "--allow-host")


def test_further_hosts_are_answered_by_name_and_any_host_on_other_addresses() -> None:
    named = access_of("127.0.0.1", ["Models.example", "127.0.0.7"], [])
    for host in ("models.example", "MODELS.example:443", "localhost", "127.0.0.7:8000"):
        assert answered(named, host=host).status == 200
    assert answered(named, host="evil.example").status == 421
    assert answered(access_of("127.0.0.9", [], []), host="127.0.0.9").status == 200
    for address in ("10.0.0.1", "::", "192.168.1.7"):
        assert answered(access_of(address, [], []), host="evil.example").status == 200
        assert answered(access_of(address, ["a.example"], []), host="evil.example").status == 421
    assert answered(access_of("127.0.0.1", [], [])).status == 200, "HTTP/1.0 has no Host"


def test_pages_of_other_origins_may_read_nothing_unless_they_are_allowed() -> None:
    asking = {"origin": "http://localhost:3000", "access_control_request_method": "POST"}
    client = answered(Access(), "OPTIONS", **asking)
    client.refused(403, "http://localhost:3000", "--allow-origin")
    assert not any(name.startswith(b"access-control") for name in client.headers)
    access = access_of("127.0.0.1", [], ["http://localhost:3000", "https://a.example"])
    client = answered(access, "OPTIONS", **asking, access_control_request_headers="content-type")
    assert (client.status, client.headers[b"access-control-allow-origin"]) == (200, b"http://localhost:3000")
    assert b"content-type" in client.headers[b"access-control-allow-headers"].lower()
    client = answered(access, origin="http://localhost:3000")
    assert (client.status, client.headers[b"access-control-allow-origin"]) == (200, b"http://localhost:3000")
    client = answered(access, origin="http://localhost:3000", content_length="101")
    client.refused(413)
    assert client.headers[b"access-control-allow-origin"] == b"http://localhost:3000", "so that the page can show why"
    for other in ("http://localhost:3001", "http://evil.example", "null"):
        answered(access, "OPTIONS", **{**asking, "origin": other}).refused(403, other)
        assert b"access-control-allow-origin" not in answered(access, origin=other).headers
    assert answered(Access(("*",)), origin="http://b.example").headers[b"access-control-allow-origin"] == b"*"


@pytest.mark.parametrize(
    ("hosts", "origins", "flag"),
    [
        (["http://a.example"], [], "--allow-host"),
        (["a.example:80"], [], "--allow-host"),
        ([""], [], "--allow-host"),
        ([], ["a.example"], "--allow-origin"),
        ([], ["http://a.example/"], "--allow-origin"),
    ],
)
def test_hosts_and_origins_are_checked(hosts: list[str], origins: list[str], flag: str) -> None:
    with pytest.raises(KilonetError) as error:
        access_of("127.0.0.1", hosts, origins)
    refusal(error, flag)


def test_all_bodies_in_memory_share_a_limit() -> None:
    async def run() -> list[Client]:
        clients = [Client([(b"x" * 100, 0), (b"", 0.1)]) for _ in range(10)]
        await asyncio.gather(*(client.through(guarded) for client in clients))
        return [*clients, await Client([(b"x" * 100, 0)]).through(guarded)]

    guarded, _ = gate(requests=20)
    *clients, after = in_loop(run())
    clients.sort(key=lambda client: client.status)
    assert [client.status for client in clients] == 8 * [200] + 2 * [503]
    clients[-1].refused(503, "800 bytes")
    assert after.status == 200, "the memory of answered requests is free again"


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    async def sleep(_: Scope, __: Receive, ___: Send) -> None:
        await asyncio.sleep(60)

    guarded, metrics = gate(sleep)
    in_loop(Client().through(guarded)).refused(503, "0.3 s")
    assert counted(metrics, "kilonet_requests_in_flight") == 0


def test_a_response_that_has_begun_is_not_refused() -> None:
    async def long(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b"at last"})

    client = in_loop(Client().through(gate(long)[0]))
    assert (client.status, client.body) == (200, b"at last")


def test_a_client_that_leaves_is_counted_and_gets_no_response() -> None:
    guarded, metrics = gate()
    client = in_loop(Client([(b"x", 0)], leaves=True).through(guarded))
    assert client.sent == []
    assert counted(metrics, "kilonet_refusals_total", reason="client left") == 1
    assert counted(metrics, "kilonet_requests_in_flight") == 0


def test_a_fault_is_counted_and_raised_to_the_server() -> None:
    async def broken(_: Scope, __: Receive, ___: Send) -> None:
        raise ZeroDivisionError

    guarded, metrics = gate(broken)
    with pytest.raises(ZeroDivisionError):
        in_loop(Client().through(guarded))
    assert counted(metrics, "kilonet_refusals_total", reason="fault") == 1


def test_invented_paths_and_methods_make_no_new_labels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    guarded, metrics = gate()
    for number in range(20):
        in_loop(Client().through(guarded, f"/{number}/" + 1000 * "x"))
    assert counted(metrics, "kilonet_requests_total", method="POST", route="other", status="200") == 20
    metrics.request("INVENTED", "other", 200, 0.1)
    assert counted(metrics, "kilonet_requests_total", method="other", route="other", status="200") == 1
    assert max(len(record.__dict__["path"]) for record in caplog.records) == 200


def test_a_request_is_one_log_line_without_its_body(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    in_loop(Client([(b"secret", 0)]).through(gate()[0]))
    (record,) = (record.__dict__ for record in caplog.records)
    assert {key: record[key] for key in ("method", "path", "status", "bytes", "client")} == {
        "method": "POST",
        "path": "/echo",
        "status": 200,
        "bytes": 6,
        "client": "10.0.0.1",
    }
    assert 0 <= record["ms"] < 300
    assert "secret" not in str(record)
