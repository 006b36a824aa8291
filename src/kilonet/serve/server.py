"""Running the service until a signal ends it."""

import gc
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from math import ceil
from typing import Any

from kilonet.export.exported_model import ExportedModel
from kilonet.models.model import Model
from kilonet.serve.app import application
from kilonet.serve.card import card_of
from kilonet.serve.engine import engine_of
from kilonet.serve.gate import Gate
from kilonet.serve.limits import Limits
from kilonet.serve.logs import start_logging
from kilonet.serve.metrics import Metrics
from kilonet.serve.protocol import GuardedProtocol
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import uvicorn

_BACKLOG = 1024


def serve(
    classifier: Model | ExportedModel,
    source: str,
    address: tuple[str, int],
    limits: Limits,
    say: Callable[[str], None],
) -> None:
    """Serve a model until SIGINT or SIGTERM; what is being answered then is finished first.

    Args:
        classifier: the model.
        source: what it was loaded from.
        address: host and port; port 0 takes a free one.
        limits: what a request may cost.
        say: told in one line where the service is, once it is.

    Raises:
        KilonetError: the address cannot be listened on.
    """
    # Threads that set filters for a while, as decoding does, undo one another's; nothing here is to warn on stderr.
    warnings.simplefilter("ignore")
    start_logging()
    with closing(_listening(address)) as listener:
        engine = engine_of(classifier)
        card = card_of(classifier, engine, source)
        metrics = Metrics(card.classes)
        app = application(engine, card, limits, metrics)
        host, port = listener.getsockname()[:2]
        # What is here now stays: no collection need walk through all that torch and its like have brought.
        gc.collect()
        gc.freeze()
        say(f"Serving {card.name} at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
        _Server(_config(app, limits, metrics)).run([listener])


def _config(app: Gate, limits: Limits, metrics: Metrics) -> uvicorn.Config:
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
        # A body and its answer may each take so long, and so may the client to read it.
        timeout_graceful_shutdown=ceil(3 * limits.seconds),
    )


class _Server(uvicorn.Server):
    """uvicorn, but a signal that has ended it is not raised once more: it ends well."""

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
        # The system would take the remainder.
        raise KilonetError(f"--port is {port}; a port is from 0 to 65535")
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        line = f"cannot listen on {host} port {port}: {_reason(error)}; choose another --host or --port"
        raise KilonetError(line) from None


def _reason(error: OSError | UnicodeError) -> str:
    """Return the system's own words, to which Python adds the address once more; a name has errors that are not its."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return str(error.args[-1])
