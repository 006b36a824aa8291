"""Metrics for Prometheus. Every label has a small fixed set of values, so that clients cannot add any."""

from collections.abc import Iterable
from functools import cache

from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable

with needed_from("serve"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
    from prometheus_client.exposition import choose_encoder

OTHER = "other"
METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})
NO_DIGIT = "none"
REASONS = {
    400: "malformed",
    403: "origin",
    404: "no such path",
    405: "method",
    408: "slow",
    413: "too long",
    415: "type",
    421: "host",
    422: "unreadable",
    431: "too long a head",
    499: "client left",
    500: "fault",
    503: "busy",
}
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self, classes: Iterable[str]) -> None:
        """Begin at zero; `classes` are the names of the model's classes."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "kilonet_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "kilonet_request_seconds",
            "Seconds from the head of a request to the end of its response.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge("kilonet_requests_in_flight", "Requests not yet answered.", registry=self.registry)
        self._refusals = Counter("kilonet_refusals", "Requests refused.", ["reason"], registry=self.registry)
        # Each combination of labels is looked up only once: there are few, and each lookup takes a lock.
        self._requests_of, self._seconds_of = cache(self._requests.labels), cache(self._seconds.labels)
        predictions = Counter(
            "kilonet_predictions", "Images by the class that was predicted.", ["answer"], registry=self.registry
        )
        shown: dict[str | None, str] = {name: printable(name) for name in classes}
        nothing = NO_DIGIT
        while nothing in shown.values():
            nothing = f"({nothing})"
        shown[None] = nothing
        self._predictions = {name: predictions.labels(label) for name, label in shown.items()}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered or refused."""
        self._requests_of(method if method in METHODS else OTHER, route, str(status)).inc()
        self._seconds_of(route).observe(seconds)
        if status >= 400:
            self.refusal(status)

    def refusal(self, status: int) -> None:
        """Count a refusal by its reason."""
        self._refusals.labels(REASONS.get(status, OTHER)).inc()

    def prediction(self, name: str | None) -> None:
        """Count an image by the name of its class; None for no digit."""
        self._predictions[name].inc()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in a format that the header Accept allows, and the media type of that format."""
        try:
            encode, media_type = choose_encoder(accept)
            return encode(self.registry), media_type
        except (ValueError, TypeError, LookupError):
            # The header asks for a version that is no number.
            encode, media_type = choose_encoder("")
            return encode(self.registry), media_type
