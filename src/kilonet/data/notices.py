"""What is said of data on stderr: notes, and the files that were left out, once for each set in a process."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kilonet.utils.terminal import counted, printable

SHOWN = 20
"""How many skipped files are printed."""

_told: dict[str, int] = {}
_quiet = False


def tell(source: str, notes: Sequence[str], skipped: Sequence[tuple[Path, str]], pictures: int) -> None:
    """Print the notes on a data set, its first skipped files and their number, unless they were printed before.

    Args:
        source: the data set.
        notes: a line each.
        skipped: files that are left out, each with the reason.
        pictures: how many pictures were read.
    """
    if source in _told:
        return
    _told[source] = len(skipped)
    if _quiet:
        return
    lines = [*notes, *(f"skipped: {reason}" for _, reason in skipped[:SHOWN])]
    if len(skipped) > SHOWN:
        lines.append(f"skipped: {len(skipped) - SHOWN:,} more")
    if skipped:
        lines.append(f"{counted(len(skipped), 'file')} of {source} skipped, {counted(pictures, 'picture')} read")
    for line in lines:
        print(f"kilonet: {printable(line)}", file=sys.stderr)


def files_were_skipped() -> bool:
    """Return whether files of any data set were skipped since `forget`; the exit status is then 1."""
    return any(_told.values())


def be_quiet() -> None:
    """Print nothing from now on: another process tells it."""
    global _quiet  # noqa: PLW0603
    _quiet = True


@contextmanager
def silence() -> Iterator[None]:
    """Print nothing meanwhile, and say it later if it comes again."""
    global _quiet  # noqa: PLW0603
    told, quiet = dict(_told), _quiet
    _quiet = True
    try:
        yield
    finally:
        _quiet = quiet
        _told.clear()
        _told.update(told)


def forget() -> None:
    """Begin anew: everything may be said again."""
    global _quiet  # noqa: PLW0603
    _told.clear()
    _quiet = False
