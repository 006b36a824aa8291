"""Runs the service until a signal ends it."""

import gc
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from math import ceil
from typing import Any

from kilonet.export.exported_model import ExportedModel
from kilonet.models.model import Model
from kilonet.serve.access import access_of
from kilonet.serve.app import application
from kilonet.serve.classifiers import thread_safe
from kilonet.serve.gate import Gate
from kilonet.serve.limits import RequestLimits
from kilonet.serve.logs import start_logging
from kilonet.serve.metrics import Metrics
from kilonet.serve.model_facts import describe_model
from kilonet.serve.protocol import GuardedProtocol
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import uvicorn

_BACKLOG = 1024


def serve(
    model: Model | ExportedModel,
    source: str,
    address: tuple[str, int],
    limits: RequestLimits,
    announce: Callable[[str], None],
    *,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> None:
    """Serve a model until SIGINT or SIGTERM, then finish the requests that are being answered.

    Args:
        model: the model.
        source: what the model was loaded from.
        address: host and port; port 0 takes a free one.
        limits: the limits of a request.
        announce: called once with a line that gives the address, when the service listens.
        hosts: further hosts that requests may name, see `kilonet.serve.access.access_of`.
        origins: the origins whose pages may read answers.

    Raises:
        KilonetError: the service cannot listen on the address, a host or an origin is none, or the model computes NaN.
    """
    # Threads that change the warning filters for a while, as decoding does, overwrite each other's changes; so no
    # warning may be left to print.
    warnings.simplefilter("ignore")
    with closing(_listening(address)) as listener:
        host, port = listener.getsockname()[:2]
        access = access_of(host, hosts, origins)
        classifier = thread_safe(model)
        facts = describe_model(model, classifier, source)
        metrics = Metrics(facts.classes)
        app = application(classifier, facts, limits, metrics, access)
        # What is loaded now stays for good: the garbage collector need not go through it again and again.
        gc.collect()
        gc.freeze()
        log = start_logging()
        announce(f"Serving {facts.name} at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
        _Server(_config(app, limits, metrics)).run([listener])
    if log:
        log.finish()


def _config(app: Gate, limits: RequestLimits, metrics: Metrics) -> uvicorn.Config:
    protocol: Any = partial(GuardedProtocol, limits=limits, metrics=metrics)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=ceil(limits.seconds),
        # A request may take this long three times: to send its body, to be answered, and to read the response.
        timeout_graceful_shutdown=ceil(3 * limits.seconds),
    )


class _Server(uvicorn.Server):
    """uvicorn's server, but SIGINT and SIGTERM are not raised again after it has stopped: the exit status is 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listening(address: tuple[str, int]) -> socket.socket:
    host, port = address
    if not 0 <= port < 1 << 16:
        # The system would take it modulo 65536.
        raise KilonetError(f"--port is {port}; a port is from 0 to 65535")
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        is_both = where[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(where[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=is_both)
    except (OSError, UnicodeError) as error:
        line = f"cannot listen on {host} port {port}: {_reason(error)}; choose another --host or --port"
        raise KilonetError(line) from None


def _reason(error: OSError | UnicodeError) -> str:
    """Return the system's text for an error number, without the address that Python adds; else the error's own text."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return str(error.args[-1])
