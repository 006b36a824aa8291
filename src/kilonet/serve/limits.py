"""What a request may cost. Whatever is over a limit is refused before it is decoded."""

from dataclasses import dataclass

from kilonet.data.decode import DecodeLimits
from kilonet.utils.errors import KilonetError

MOST_HEAD_BYTES = 32 << 10
"""Bytes of a request's line and headers."""
_BODIES_HELD = 8
_CONNECTIONS_EACH = 4
_SCANS = 10


@dataclass(frozen=True)
class Limits:
    """The dials, every one a flag of `kilonet serve`.

    Raises:
        KilonetError: one of them is not positive; named as its flag is.
    """

    bytes: int
    """Of a request's body."""
    pixels: int
    """Rows times columns of an image."""
    images: int
    """In one batch."""
    requests: int
    """At once; more are told to come back."""
    seconds: float
    """For a request's head, for its body, for its answer to be found, and for the client to take it: each so many."""

    def __post_init__(self) -> None:
        """Check the dials."""
        for name, value in vars(self).items():
            if not value > 0:
                raise KilonetError(f"--max-{name} is {value}; it must be positive")

    @property
    def held(self) -> int:
        """Bytes of all bodies that are in memory at once."""
        return _BODIES_HELD * self.bytes

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return _CONNECTIONS_EACH * self.requests

    @property
    def decoding(self) -> DecodeLimits:
        """Of each image."""
        return DecodeLimits(content=self.bytes, pixels=self.pixels, scanned=_SCANS * self.pixels)
