"""The exception that ends a request with an error status and one line of text."""

from http import HTTPStatus


class Refusal(Exception):
    """Ends a request with the JSON `{"error": line}`."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        """Refuse a request.

        Args:
            status: the status of the response, 400 or more.
            line: what is wrong and what to do.
        """
        super().__init__(line)
        self.status = status
        self.line = " ".join(line.split())

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response beside those that every response has."""
        return {"retry-after": "1"} if self.status is HTTPStatus.SERVICE_UNAVAILABLE else {}


def unreadable(line: str) -> Refusal:
    """Return the refusal of an image that cannot be read."""
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, line)


def timed_out(seconds: float) -> Refusal:
    """Return the refusal of a request that takes more than so many seconds to answer."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"no answer within {seconds:g} s; try again, or send less")


def decoder_ended() -> Refusal:
    """Return the refusal of an image whose decoder was ended from outside."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the image's decoder was ended; try again in a moment")
