"""The service as a process: slow and lying clients, many requests, signals, and the command line."""

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGINT, SIGTERM

import numpy as np
import pytest

from helpers import KILONET, Hide, command, in_ci
from kilonet.cli.flags import Parser
from kilonet.cli.serve import add_flags
from kilonet.data.datasets import DataSet
from kilonet.serve.server import _listening
from service import Process, exchange, head, mcu_file, png, running, status_and_error

SECONDS = 2.0
_CLIENTS = 8


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    flags = ("--max-seconds", str(SECONDS), "--max-bytes", "100000", "--max-requests", "16")
    folder = tmp_path_factory.mktemp("service")
    with running(*flags, source=mcu_file(folder)) as started:
        yield started


@pytest.fixture(scope="module")
def seven(mnist: DataSet) -> bytes:
    return png(mnist.test.pixels[0, 0].numpy())


def whole(content: bytes, *headers: str) -> bytes:
    """Return a request for a prediction."""
    return head("/predict", "Content-Type: image/png", f"Content-Length: {len(content)}", *headers) + content


CHUNKED = head("/predict", "Content-Type: image/png", "Transfer-Encoding: chunked", "Connection: close")


def refused(answer: bytes, status: int, *words: str) -> None:
    found, line = status_and_error(answer)
    assert found == status
    for word in words:
        assert word in line


def counted(service: Process, name: str) -> float:
    with urllib.request.urlopen(f"{service.url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


# Slow clients


@pytest.mark.ci
def test_slow_clients_are_disconnected_in_time_while_others_are_answered(service: Process, seven: bytes) -> None:
    """Heads and bodies that arrive a byte at a time, are never complete, or never begin."""
    slowly = [bytes([byte]) for byte in whole(seven)]
    slow_head = ([*slowly[:90]], 0.1)
    slow_body = ([whole(seven)[:-50], *slowly[-50:]], 0.1)
    cases = {
        "head": (slow_head, 408, "head"),
        "body": (slow_body, 408, "body"),
        "stopped head": (([b"GET / HT"], 0.0), 408, "head"),
        "stopped body": (([whole(seven)[:-1]], 0.0), 408, "body"),
        "stopped chunk": (([CHUNKED, b"5\r\nab"], 0.0), 408, "body"),
        "second head": (([head("/health", method="GET"), b"GE"], 0.3), 408, "head"),
        "nothing": (([], 0.0), 0, ""),
        "blank lines": (([b"\r\n"] * 60, 0.1), 0, ""),
    }

    def case(name: str) -> tuple[float, bytes]:
        (parts, pause), _, _ = cases[name]
        began = time.monotonic()
        answer = exchange(service.port, *parts, pause=pause)
        return time.monotonic() - began, answer

    with ThreadPoolExecutor(len(cases)) as threads:
        found = {name: threads.submit(case, name) for name in cases}
        for _ in range(10):
            assert urllib.request.urlopen(f"{service.url}/health", timeout=1).status == 200
    for name, (_, status, word) in cases.items():
        took, answer = found[name].result()
        assert SECONDS * 0.5 < took < SECONDS * 4, name
        if status:
            refused(answer[answer.rindex(b"HTTP/1.1") :], status, word)
        else:
            assert answer == b"", name


@pytest.mark.ci
def test_a_client_that_does_not_read_is_disconnected(service: Process) -> None:
    """Thirty megabytes of responses, of which the system's buffers take some."""
    received = 0
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(20 * head("/docs/swagger-ui-bundle.js", method="GET"))
        time.sleep(1.5 * SECONDS)
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 20):
                received += len(piece)
    assert received < 15_000_000


def test_a_head_without_end_is_refused(service: Process) -> None:
    endless = itertools.chain([b"GET / HTTP/1.1\r\nX: "], itertools.repeat(4096 * b"x", 40))
    refused(exchange(service.port, *endless, pause=0.002), 431, "32,768")
    many = itertools.chain([b"GET / HTTP/1.1\r\n"], itertools.repeat(100 * b"X: y\r\n", 100))
    refused(exchange(service.port, *many, pause=0.002), 431, "32,768")


def test_a_long_head_that_arrives_at_once_is_refused(service: Process) -> None:
    """A chunk from the socket may hold more than a head may have."""
    refused(exchange(service.port, head("/health", f"X: {60_000 * 'x'}", method="GET")), 431, "32,768")
    refused(exchange(service.port, head(f"/{33_000 * 'x'}", method="GET")), 431, "32,768")
    refused(exchange(service.port, head("/health", *["X: y"] * 6_000, method="GET")), 431, "32,768")
    longest = head("/health", "Connection: close", f"X: {32_500 * 'x'}", method="GET")
    assert exchange(service.port, longest).startswith(b"HTTP/1.1 200")


# Clients that offer another protocol

OFFER = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_an_offer_of_http_2_loses_no_body(service: Process, seven: bytes, pieces: int, chunked: bool) -> None:
    """As Java's HttpClient and curl --http2 send it; RFC 9110, 7.8: a server may ignore an offer."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(seven)}"
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(seven), seven) if chunked else seven
    offered = head("/predict", *OFFER, "Content-Type: image/png", length)
    last = head("/health", "Connection: close", method="GET")
    whole_ = offered + body
    parts = {1: [whole_ + last], 2: [offered, body, last]}.get(pieces)
    step = -(-len(whole_) // pieces)
    parts = parts or [whole_[start : start + step] for start in range(0, len(whole_), step)] + [last]
    answers = exchange(service.port, *parts, pause=0.005).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200"]
    assert json.loads(answers[0].split(b"\r\n\r\n", 1)[1])["class"] == 7
    assert b"upgrade" not in answers[0].lower()


def test_offers_are_ignored_in_every_request_of_a_connection(service: Process, seven: bytes) -> None:
    offered = head("/predict", *OFFER, "Content-Type: image/png", f"Content-Length: {len(seven)}") + seven
    socket_ = head("/health", "Connection: Upgrade", "Upgrade: websocket", method="GET")
    last = head("/health", "Connection: close", method="GET")
    answers = exchange(service.port, offered + socket_ + offered + last).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == 4 * [b"200"]
    refused(exchange(service.port, head("example.com:80", method="CONNECT") + b"anything"), 405, "CONNECT")


# Lying clients


def test_a_body_that_is_too_long_is_refused_and_the_refusal_can_be_read(service: Process) -> None:
    declared = head("/predict", "Content-Type: image/png", "Content-Length: 5000000")
    refused(exchange(service.port, declared, bytes(5_000_000)), 413, "100,000")
    refused(exchange(service.port, head("/predict", "Content-Length: 99999999999999999999999")), 400, "")
    expecting = head("/predict", "Content-Type: image/png", "Content-Length: 5000000", "Expect: 100-continue")
    answer = exchange(service.port, expecting)
    assert b"100 Continue" not in answer
    refused(answer, 413)


def test_a_chunked_body_is_measured_as_it_arrives(service: Process, seven: bytes) -> None:
    parts = [b"%x\r\n%b\r\n" % (len(part), part) for part in (seven[:100], seven[100:])]
    answer = exchange(service.port, CHUNKED, *parts, b"0\r\n\r\n", pause=0.01)
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["class"] == 7
    refused(exchange(service.port, CHUNKED, *([b"4000\r\n" + bytes(0x4000) + b"\r\n"] * 20)), 413, "100,000")


def test_bytes_beyond_the_declared_length_are_not_a_request(service: Process, seven: bytes) -> None:
    short = head("/predict", "Content-Type: image/png", f"Content-Length: {len(seven) - 100}") + seven
    answer = exchange(service.port, short)
    refused(answer[answer.rindex(b"HTTP/1.1") :], 400)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        head("/predict", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("/predict", "Content-Length: 3", "Content-Length: 4") + b"abcd",
        head("/predict", "Content-Length: -1"),
        head("/predict", "Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_anything_but_http_is_refused(service: Process, request_: bytes) -> None:
    answer = exchange(service.port, request_)
    refused(answer[answer.rindex(b"HTTP/1.1") :], 400)


def test_pipelined_requests_are_answered_in_order(service: Process, seven: bytes) -> None:
    last = head("/health", "Connection: close", method="GET")
    answer = exchange(service.port, whole(seven) + whole(b"no image") + last)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"422", b"200"]


def test_a_client_that_leaves_disturbs_nobody(service: Process, seven: bytes) -> None:
    before = counted(service, 'kilonet_refusals_total{reason="client left"}')
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(whole(seven)[:-10])
    deadline = time.monotonic() + 10
    while counted(service, 'kilonet_refusals_total{reason="client left"}') < before + 20:
        assert time.monotonic() < deadline, "the service has not noticed that the clients left"
    assert counted(service, "kilonet_requests_in_flight") == 1, "the request for the metrics itself"


# Many requests


def test_connections_are_bounded(service: Process) -> None:
    """Four connections for each of 16 requests at once."""
    held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(64)]
    try:
        time.sleep(0.2)
        refused(exchange(service.port, head("/health", method="GET")), 503, "connections")
    finally:
        for connection in held:
            connection.close()


@pytest.mark.ci
@pytest.mark.parametrize("requests", [4_000, pytest.param(16_000, marks=pytest.mark.slow)])
def test_memory_stays_flat_over_thousands_of_requests(service: Process, mnist: DataSet, requests: int) -> None:
    """Digits, photos and bad images, over connections that stay open and connections that do not."""
    photo = np.full((80, 80), 250, np.uint8)
    photo[20:48, 20:48] -= mnist.test.pixels[1, 0].numpy() // 2
    digits = [png(image) for image in mnist.test.pixels[:100, 0].numpy()]
    bodies = [*digits, png(photo), b"no image", digits[0][:-9]]

    def ask(count: int) -> int:
        """Return how many requests are answered; twenty are sent at once, which costs half of one at a time."""
        answered = 0
        for start in range(0, count, 100):
            with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
                for first in range(start, start + 100, 20):
                    requests = [whole(bodies[number % len(bodies)]) for number in range(first, first + 20)]
                    connection.sendall(b"".join(requests) + head("/health", method="GET"))
                    answer = b""
                    while not answer.endswith(b'{"status":"ok"}'):
                        piece = connection.recv(1 << 20)
                        assert piece, answer[-500:]
                        answer += piece
                    answered += len(re.findall(rb"HTTP/1\.1 (?:200|422) ", answer)) - 1
        return answered

    def round_of(count: int) -> int:
        with ThreadPoolExecutor(_CLIENTS) as threads:
            return sum(threads.map(ask, [count // _CLIENTS] * _CLIENTS))

    def resident() -> int:
        pages = int(Path(f"/proc/{service.started.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    round_of(1_600)
    before = resident()
    assert round_of(requests) == requests
    assert resident() - before < 1024 * requests


def test_every_request_was_a_json_log_line_without_its_body(service: Process) -> None:
    """Of all that the tests before have sent, and one more."""
    with urllib.request.urlopen(f"{service.url}/health") as response:
        assert response.status == 200
    while '"path":"/health"' not in service.log:
        time.sleep(0.02)
    lines = service.lines()
    request = next(line for line in lines if "path" in line)
    assert {"status", "ms", "path", "method", "bytes", "client", "time", "level"} <= set(request)
    assert {line["logger"] for line in lines} <= {"kilonet.serve", "uvicorn.error"}
    assert not [line for line in lines if line["level"] in ("ERROR", "CRITICAL")]
    assert max(map(len, service.log.splitlines())) < 500


@pytest.mark.ci
def test_a_stderr_that_nobody_reads_blocks_no_request_and_no_shutdown(tmp_path: Path) -> None:
    """More log lines than a pipe holds."""
    words = [*KILONET, "serve", mcu_file(tmp_path), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as unread:
        assert unread.stdout
        found = re.search(r":(\d+) ", unread.stdout.readline())
        assert found
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=5)
        for _ in range(500):
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b'{"status":"ok"}'
        connection.close()
        unread.send_signal(SIGTERM)
        assert unread.wait(10) == 0
        assert unread.stderr
        assert unread.stderr.read().count('"path":"/health"') > 100


# Shutdown


@pytest.mark.parametrize("number", [SIGTERM, *in_ci(SIGINT)])
def test_a_signal_ends_the_service_once_requests_are_answered(tmp_path: Path, seven: bytes, number: int) -> None:
    with running("--max-seconds", "5", source=mcu_file(tmp_path)) as ending:
        with socket.create_connection(("127.0.0.1", ending.port)) as idle, ThreadPoolExecutor(1) as thread:
            begun = threading.Event()

            def under_way() -> bytes:
                request = whole(seven, "Connection: close")
                with socket.create_connection(("127.0.0.1", ending.port)) as connection:
                    connection.sendall(request[:-10])
                    begun.set()
                    time.sleep(1)
                    connection.sendall(request[-10:])
                    return b"".join(iter(lambda: connection.recv(1 << 16), b""))

            answer = thread.submit(under_way)
            assert begun.wait(5)
            time.sleep(0.3)
            status, out = ending.stop(number)
            assert json.loads(answer.result().split(b"\r\n\r\n", 1)[1])["class"] == 7
            assert idle.recv(1) == b""
        assert (status, out) == (0, "")
        assert [line["status"] for line in ending.lines()] == [200]


# Addresses


def test_all_addresses_are_those_of_ipv6_and_ipv4() -> None:
    with closing(_listening(("::", 0))) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()
    with closing(_listening(("127.0.0.1", 0))) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("::1", listener.getsockname()[1]), timeout=5)


def test_another_host_is_not_answered(service: Process) -> None:
    asked = b"GET /model HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    refused(exchange(service.port, asked), 421, "evil.example", "--allow-host")


def test_health_is_answered_while_slow_bodies_wait(service: Process, seven: bytes) -> None:
    """More bodies than there may be requests at once."""
    slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(20)]
    try:
        for connection in slow:
            connection.sendall(whole(seven)[:-1])
        time.sleep(0.2)
        last = head("/health", "Connection: close", method="GET")
        assert exchange(service.port, last).startswith(b"HTTP/1.1 200")
        assert exchange(service.port, whole(seven, "Connection: close")).startswith(b"HTTP/1.1 200")
    finally:
        for connection in slow:
            connection.close()


# The command line


def test_bad_input_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command(capsys, "serve", "no such model").refused("no such model")
    command(capsys, "serve", tmp_path).refused("model.safetensors")
    command(capsys, "serve", "best", "--max-bytes", "0").refused("--max-bytes")
    command(capsys, "serve", "best", "--max-seconds", "-1").refused("--max-seconds")
    command(capsys, "serve", "best", "--allow-origin", "localhost").refused("--allow-origin", "http://localhost:3000")
    command(capsys, "serve", "best", "--allow-host", "http://a").refused("--allow-host")
    command(capsys, "serve", "best", "--port", "70000").refused("--port")
    for host in ("no.such.host.invalid", 300 * "x"):
        command(capsys, "serve", "best", "--host", host).refused("--host")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command(capsys, "serve", "best", "--port", str(taken.getsockname()[1])).refused("in use;", "--port")


def test_a_missing_library_is_named_with_its_extra(hide: Hide, capsys: pytest.CaptureFixture[str]) -> None:
    hide("uvicorn", "kilonet.serve", "uvicorn")
    command(capsys, "serve", "best").refused("uvicorn", "pip install '.[serve]'")


def test_help_states_the_limits_and_so_does_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(command(capsys, "serve", "--help").out.split())
    document = (Path(__file__).parents[2] / "docs" / "SERVE.md").read_text(encoding="utf-8")
    parser = Parser("serve", "Serve")
    add_flags(parser)
    defaults = {name: value for name, value in vars(parser.read(["best"])).items() if name.startswith("max_")}
    assert len(defaults) == 5
    for name, default in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        assert f"{flag} " in shown
        assert re.search(rf"{flag} .*?\(default: {default}\)", shown)
        (row,) = (line for line in document.splitlines() if line.startswith(f"| `{flag}`"))
        assert f" {default:,} " in row
    assert "127.0.0.1" in shown
