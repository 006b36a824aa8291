"""Why a request gets no answer: a status, and one line for a person."""

from http import HTTPStatus


class Refusal(Exception):
    """Ends a request with `{"error": line}`."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        """Refuse with a status of 400 or more.

        Args:
            status: of the answer.
            line: names the thing and the mend.
        """
        super().__init__(line)
        self.status = status
        self.line = " ".join(line.split())

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says beside its line."""
        return {"retry-after": "1"} if self.status is HTTPStatus.SERVICE_UNAVAILABLE else {}


def refused_image(line: str) -> Refusal:
    """Refuse what cannot be read, or not as what it claims to be."""
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, line)


def late(seconds: float) -> Refusal:
    """Refuse what takes too long to answer."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"no answer within {seconds:g} s; try again, or send less")
