"""Who is answered: the hosts that a request may name, and the origins whose pages may read answers."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from kilonet.serve.refusal import Refusal
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from starlette.middleware.cors import CORSMiddleware
    from starlette.types import ASGIApp, Scope

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""The names of this machine in a request that came from it."""
ANY = "*"
_MOST_QUOTED = 100


@dataclass(frozen=True)
class Access:
    """The flags `--allow-origin` and `--allow-host` of `kilonet serve`, and what follows from `--host`."""

    origins: tuple[str, ...] = ()
    """The origins whose pages may read answers, such as `http://localhost:3000`; `*` is any."""
    hosts: frozenset[str] | None = None
    """The hosts, without a port, that a request may name; None is any."""

    def check(self, scope: Scope) -> None:
        """Check the head of a request.

        Raises:
            Refusal: it names another host; or a browser asks whether a page of another origin may send a request.
        """
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        for name, value in headers:
            if name == b"host" and self.hosts is not None and host_name(value) not in self.hosts:
                host = host_name(value)[:_MOST_QUOTED]
                # Otherwise a page could give its own host this address and then read the answers (DNS rebinding).
                line = f"this service is not the host '{host}'; --allow-host {host} makes it answer to that name"
                raise Refusal(HTTPStatus.MISDIRECTED_REQUEST, line)
        named = dict(headers)
        origin = named.get(b"origin", "")
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in named and not self._allows(origin):
            origin = origin[:_MOST_QUOTED]
            line = f"pages of '{origin}' may not read the answers; --allow-origin {origin} lets them"
            raise Refusal(HTTPStatus.FORBIDDEN, line)

    def with_cors(self, app: ASGIApp) -> ASGIApp:
        """Return an application whose answers the pages of the allowed origins may read."""
        if not self.origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("content-type",),
            expose_headers=("retry-after",),
        )

    def _allows(self, origin: str) -> bool:
        return ANY in self.origins or origin in self.origins


ANYBODY = Access()


def access_of(address: str, hosts: Sequence[str], origins: Sequence[str]) -> Access:
    """Return the access to a service.

    Args:
        address: the IP address that it listens on. On a loopback address it answers to the names of this machine and
            to `hosts`; on others to `hosts`, or to any name if there are none.
        hosts: the values of `--allow-host`.
        origins: the values of `--allow-origin`.

    Raises:
        KilonetError: an origin is not of the form `http://host:port`, or a host is none.
    """
    for origin in origins:
        if origin not in (ANY, "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
            raise KilonetError(f"--allow-origin {origin}: an origin is like http://localhost:3000, without a path")
    for host in hosts:
        if not re.fullmatch(r"[^/?#@\s:]+|\[[0-9A-Fa-f:.]+\]", host):
            raise KilonetError(f"--allow-host {host}: a host is like example.com, without http:// and without a port")
    is_loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    if not is_loopback and not hosts:
        return Access(tuple(origins))
    own = f"[{address}]" if ":" in address else address
    return Access(tuple(origins), frozenset(map(host_name, [*LOOPBACK, own, *hosts])))


def host_name(value: str) -> str:
    """Return the name in a header Host: without its port and a dot at its end, in lower case."""
    return re.sub(r":[0-9]*$", "", value.strip()).rstrip(".").lower()
