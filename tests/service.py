"""The service under test, in this process or as a process of its own, and images to send to it."""

import asyncio
import contextlib
import functools
import io
import json
import os
import re
import signal
import socket
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import Classifier, load_model
from kilonet.serve import model_facts
from kilonet.serve.app import application
from kilonet.serve.classifiers import thread_safe
from kilonet.serve.gate import Gate
from kilonet.serve.limits import RequestLimits
from kilonet.serve.metrics import Metrics
from kilonet.serve.model_facts import describe_model
from kilonet.serve.schema import ModelFacts
from preloaded import Started, nothing

Result = TypeVar("Result")

LIMITS = RequestLimits(bytes=1 << 20, pixels=1_000_000, images=4, requests=16, seconds=5.0)
PNG = {"content-type": "image/png"}


def service_of(source: str, limits: RequestLimits = LIMITS) -> Gate:
    """Return the application that serves a trained model."""
    classifier, facts = served_once(source)
    return application(classifier, facts, limits, Metrics(facts.classes))


@functools.cache
def served_once(source: str) -> tuple[Classifier, ModelFacts]:
    """Return a trained model and what is said of it, once."""
    model = load_model(source)
    classifier = thread_safe(model)
    with pytest.MonkeyPatch.context() as patch:
        if source == "best":
            patch.setattr(model_facts, "evaluate", _best_scored_once)
        return classifier, describe_model(model, classifier, source)


def _best_scored_once(classifier: Classifier, images: Images) -> SimpleNamespace:
    """Score `best` on all test images, which takes three seconds, once for all processes of this run of the tests."""
    path = Path(os.environ["KILONET_CACHE"]) / "best-as-served"
    path.parent.mkdir(exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            path.write_text(str(evaluate(classifier, images).accuracy))
        return SimpleNamespace(accuracy=float(path.read_text()))


def _score_best_once() -> None:
    pytest.MonkeyPatch().setattr(model_facts, "evaluate", _best_scored_once)


def png(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Return the bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def in_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in an event loop of its own; Playwright may have one in this thread, see browser.py."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, main).result()


def mcu_file(folder: Path) -> str:
    """Write `mcu` to a file and return its path: by its name it would be scored on all test images at every start."""
    path = folder / "mcu.safetensors"
    load_model("mcu").save(path)
    return str(path)


@dataclass(frozen=True)
class Process:
    """A running `kilonet serve`."""

    started: Started
    port: int

    @property
    def url(self) -> str:
        """The address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.started.printed("err")

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of its log."""
        return [json.loads(line) for line in self.log.splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit status and what was printed behind the first line."""
        os.kill(self.started.pid, number)
        answer = self.started.end(30)
        return answer.status, answer.out.partition("\n")[2]


@contextlib.contextmanager
def running(*flags: str, source: str = "best") -> Iterator[Process]:
    """Start a service on a free port; kill it at the end if it still runs."""
    before = _score_best_once if source == "best" else nothing
    with Started("serve", source, "--port", "0", *flags, before=before) as started:
        end = time.monotonic() + 120
        while not started.printed("out").endswith("\n") and started.running() and time.monotonic() < end:
            time.sleep(0.02)
        line = started.printed("out")
        found = re.fullmatch(r"Serving \w+ at http://127\.0\.0\.1:(\d+) \(Ctrl-C ends it\)\n", line)
        assert found, line + started.printed("err")
        yield Process(started, int(found[1]))


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def exchange(port: int, *parts: bytes, pause: float = 0.0, timeout: float = 20.0) -> bytes:
    """Send parts, with pauses in seconds between them; return all bytes until the service closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return answer


def status_and_error(answer: bytes) -> tuple[int, str]:
    """Return the status and the line of a refusal, given the bytes from the socket."""
    first, _, body = answer.partition(b"\r\n\r\n")
    return int(first.split(b" ")[1]), json.loads(body)["error"]
