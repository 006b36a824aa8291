"""Optional libraries, which the extras in pyproject.toml install: an import that fails names the extra."""

import contextlib
from collections.abc import Iterator

from kilonet.utils.errors import CannotRunHere


class NotInstalled(CannotRunHere):
    """A library is not installed; the message says how to install it."""


@contextlib.contextmanager
def needed_from(extra: str, by: str | None = None) -> Iterator[None]:
    """Turn a failed import within this context into an error that names the extra.

    Args:
        extra: the extra in pyproject.toml that installs the library.
        by: the flag or command that needs it.

    Raises:
        NotInstalled: a library is missing.
    """
    try:
        yield
    except ImportError as error:
        missing = f"{by} needs {error.name}, which" if by else error.name
        raise NotInstalled(f"{missing} is not installed; in a checkout of Kilonet: pip install '.[{extra}]'") from None
