"""What the service counts, for Prometheus. Every label takes few values, whatever clients send."""

from collections.abc import Iterable
from functools import cache

from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
    from prometheus_client.exposition import choose_encoder

OTHER = "other"
METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})
NO_DIGIT = "none"
REASONS = {
    400: "malformed",
    404: "no such path",
    405: "method",
    408: "slow",
    413: "too long",
    415: "type",
    422: "unreadable",
    431: "too long a head",
    499: "client left",
    500: "fault",
    503: "busy",
}
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """One service's counts, in a registry of its own."""

    def __init__(self, answers: Iterable[str]) -> None:
        """Begin at zero.

        Args:
            answers: the names of the classes.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "kilonet_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "kilonet_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge("kilonet_requests_in_flight", "Requests not yet answered.", registry=self.registry)
        self._refusals = Counter("kilonet_refusals", "Requests refused.", ["reason"], registry=self.registry)
        # Every combination of labels is looked up once: they are few, and each lookup takes a lock.
        self._requests_of, self._seconds_of = cache(self._requests.labels), cache(self._seconds.labels)
        predictions = Counter(
            "kilonet_predictions", "Images by what they were read as.", ["answer"], registry=self.registry
        )
        self._predictions = {name: predictions.labels(name) for name in (*answers, NO_DIGIT)}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that has been answered, or refused."""
        self._requests_of(method if method in METHODS else OTHER, route, str(status)).inc()
        self._seconds_of(route).observe(seconds)
        if status >= 400:
            self.refusal(status)

    def refusal(self, status: int) -> None:
        """Count a refusal by its reason."""
        self._refusals.labels(REASONS.get(status, OTHER)).inc()

    def prediction(self, name: str | None) -> None:
        """Count an image by its class's name, or None for no digit."""
        self._predictions[NO_DIGIT if name is None else name].inc()

    def shown(self, accept: str) -> tuple[bytes, str]:
        """Return all counts in a format that the header Accept allows, and that format's media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type
