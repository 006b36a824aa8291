"""Libraries that come with an extra: imported only where they are used, and named when they are missing."""

import contextlib
from collections.abc import Iterator

from kilonet.utils.errors import CannotRunHere


class NotInstalled(CannotRunHere):
    """A library is not on this machine; the message says how to get it."""


@contextlib.contextmanager
def needed_from(extra: str, by: str | None = None) -> Iterator[None]:
    """Import within this context what comes with `kilonet[extra]`.

    Args:
        extra: what to install.
        by: what cannot be done without it, such as a flag.

    Raises:
        NotInstalled: a library is missing.
    """
    try:
        yield
    except ImportError as error:
        missing = f"{by} needs {error.name}, which" if by else error.name
        raise NotInstalled(f"{missing} is not installed; get it by: pip install 'kilonet[{extra}]'") from None
