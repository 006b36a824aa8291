"""The limits of a request. Whatever exceeds one is refused before it is decoded."""

from dataclasses import dataclass

from kilonet.data.decode import DecodeLimits
from kilonet.utils.errors import KilonetError

MAX_HEAD_BYTES = 32 << 10
"""The most bytes of a request's first line and headers."""
MOST_DECODERS = 4
"""The most processes that decode images, on any machine, which bounds their memory."""
_BODIES_HELD = 8
_CONNECTIONS_PER_REQUEST = 4
_SCANS = 10


@dataclass(frozen=True)
class RequestLimits:
    """The flags `--max-...` of `kilonet serve`.

    Raises:
        KilonetError: a value is not positive; names its flag.
    """

    bytes: int
    """The most bytes of a body."""
    pixels: int
    """The most pixels of an image, rows times columns."""
    images: int
    """The most images of a batch."""
    requests: int
    """The most requests at once; further ones get status 503."""
    seconds: float
    """The longest time, in seconds, to receive a head, to receive a body, to compute an answer, and for the client
    to take the answer: so long for each of the four."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise KilonetError(f"--max-{name} is {value}; it must be positive")

    @property
    def bytes_in_memory(self) -> int:
        """The most bytes of all bodies that are in memory at once."""
        return _BODIES_HELD * self.bytes

    @property
    def connections(self) -> int:
        """The most open connections, idle ones included."""
        return _CONNECTIONS_PER_REQUEST * self.requests

    @property
    def decoding(self) -> DecodeLimits:
        """The limits for decoding one image."""
        return DecodeLimits(content=self.bytes, pixels=self.pixels, scanned=_SCANS * self.pixels)
