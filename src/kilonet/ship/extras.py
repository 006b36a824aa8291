"""Libraries that only some shipped forms need: imported where they are used, and named when they are missing."""

import contextlib
from collections.abc import Iterator

from kilonet.errors import CannotRunHere


class NotInstalled(CannotRunHere):
    """Something that a form needs is not on this machine; the message says how to get it."""


@contextlib.contextmanager
def needed_from(extra: str) -> Iterator[None]:
    """Import within this context what comes with `kilonet[extra]`.

    Raises:
        NotInstalled: a library is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise NotInstalled(f"{error.name} is not installed; get it by: pip install 'kilonet[{extra}]'") from None
