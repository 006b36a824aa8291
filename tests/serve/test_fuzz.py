"""Random and damaged requests to a running service: each is answered or refused in one line, none is a fault."""

import io
import json
import re
import socket
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from service import Process, exchange, head, mcu_file, png, running

EXPECTED = {200, 307, 400, 403, 404, 405, 408, 413, 415, 421, 422, 431, 503}
FAST, LONG = 60, 4_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    flags = ("--max-seconds", "0.4", "--max-bytes", "100000", "--max-pixels", "1000000")
    folder = tmp_path_factory.mktemp("fuzzed")
    with running(*flags, source=mcu_file(folder)) as started:
        yield started


IMAGES = tuple(
    png(np.random.default_rng(seed).integers(0, 256, (28, 28), np.uint8), kind)
    for seed, kind in enumerate(("PNG", "JPEG"))
)
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + IMAGES[0] + b"\r\n"
    b'--x\r\nContent-Disposition: form-data; name="g"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--x--\r\n'
)
BODIES = (
    *IMAGES,
    FORM,
    json.dumps({"pixels": [[7] * 28] * 28}).encode(),
    json.dumps({"images": [[[7.0] * 28] * 28] * 2}).encode(),
    b'{"image": "data:image/png;base64,iVBORw0KGgo="}',
    b"",
    b"[" * 3_000,
)
CHARSETS = ("utf-8", "utf-7", "utf-16", "unicode_escape", "raw_unicode_escape", "punycode", "idna", "hex", "undefined")
TYPES = st.one_of(
    st.sampled_from(("image/png", "image/jpg", "application/json", "text/plain", "", "*/*")),
    st.builds(
        "multipart/form-data; boundary={}; charset={}".format,
        st.sampled_from(("x", '"x"', "", "y" * 300)),
        st.sampled_from(CHARSETS),
    ),
)
VALUES = st.one_of(
    st.sampled_from(("gzip", "h2c", "Upgrade", "close", "keep-alive", "chunked", "100-continue", "0", "-1", "9" * 30)),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40),
)
HEADERS = st.one_of(
    st.builds("Content-Type: {}".format, TYPES),
    st.builds("Accept: text/plain; version={}".format, st.text("0123456789.xa;=,/ ", max_size=12)),
    st.builds(
        "Accept: application/openmetrics-text; version={}; escaping=x".format, st.text("0123456789.x", max_size=5)
    ),
    st.builds(
        "{}: {}".format,
        st.sampled_from(
            (
                "Connection",
                "Upgrade",
                "Transfer-Encoding",
                "Content-Length",
                "Expect",
                "Host",
                "Origin",
                "Range",
                "X",
                "HTTP2-Settings",
                "Content-Encoding",
                "Access-Control-Request-Method",
            )
        ),
        VALUES,
    ),
)
PATHS = st.one_of(
    st.sampled_from(
        (
            "/predict",
            "/predict/batch",
            "/predict/page",
            "/",
            "/health",
            "/metrics",
            "/model",
            "/docs",
            "/openapi.json",
            "/docs/swagger-ui.css",
            "/docs/../model",
            "//",
            "/%00",
            "/%ff%fe",
            "*",
            "http://a/health",
        )
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map("/{}".format),
)
METHODS = st.sampled_from(
    ("POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "PRI", "G@T")
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return a request: mostly well framed, with a body that may be damaged."""
    body = bytearray(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.sampled_from((0, 0, 1, 4))) if body else 0):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    headers = draw(st.lists(HEADERS, max_size=4))
    framing = draw(st.sampled_from(("length", "length", "chunked", "lie", "none")))
    sent = bytes(body)
    if framing == "chunked":
        headers.append("Transfer-Encoding: chunked")
        sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), bytes(body)) if body else b"0\r\n\r\n"
    elif framing != "none":
        headers.append(f"Content-Length: {len(body) + (framing == 'lie') * draw(st.integers(-9, 9))}")
    lines = f"{draw(METHODS)} {draw(PATHS)} HTTP/1.1", "Host: localhost", *headers, "", ""
    whole = bytearray("\r\n".join(lines).encode("latin-1") + sent)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Return the parts in which some requests arrive on one connection, the last of them well."""
    sent = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    parts = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return [*parts, head("/health", "Connection: close", method="GET")]


def check(service: Process, parts: list[bytes], statuses: dict[int, int]) -> None:
    """Send parts and check every response; count the statuses."""
    stream = io.BytesIO(exchange(service.port, *parts, pause=0.001, timeout=5))
    for status in re.findall(rb"(?:\A|\n|\}|\>)HTTP/1\.1 (\d{3}) ", stream.getvalue()):
        assert int(status) in EXPECTED | {100}, (status, parts)
        statuses[int(status)] = statuses.get(int(status), 0) + 1


@pytest.mark.parametrize("examples", [FAST, pytest.param(LONG, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_request_is_a_fault(service: Process, examples: int) -> None:
    statuses: dict[int, int] = {}

    @hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(streams())
    def ask(parts: list[bytes]) -> None:
        check(service, parts, statuses)

    ask()
    print(f"{sum(statuses.values())} responses: {dict(sorted(statuses.items()))}")
    # A machine that is busy with other work answers 503 to some pictures instead of judging them.
    assert {200, 400} | (set() if 503 in statuses else {422}) <= set(statuses)
    with socket.create_connection(("127.0.0.1", service.port), timeout=5):
        assert exchange(service.port, head("/health", "Connection: close", method="GET")).startswith(b"HTTP/1.1 200")
    assert not [line for line in service.lines() if line["level"] in ("ERROR", "CRITICAL")]
    assert service.started.running()
