"""Text for a terminal: names from files cannot move its cursor, change its colours or break a line."""

import os
import shlex
import string
import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories that are not printed as they are: control, format (direction, joiners), surrogates (bytes of a
file name that are not UTF-8), private, unassigned, and separators of lines."""


def printable(name: object) -> str:
    """Return the text of a name, a path or a message in one line, with every hidden character escaped as in Python."""
    text = str(name)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")


def shell_word(path: object) -> str:
    """Return a path as a word of a command that can be copied into bash or zsh, in printable characters."""
    text = str(path)
    if text.startswith("-"):
        text = f"./{text}"
    if printable(text) == text:
        return shlex.quote(text)
    # The form $'...' takes any byte.
    kept = set(map(ord, string.printable.strip())) - set(b"\\'") | {ord(" ")}
    return "$'" + "".join(chr(byte) if byte in kept else f"\\x{byte:02x}" for byte in os.fsencode(text)) + "'"


def printable_lines(text: object) -> str:
    """Return a text of several lines, each of them as `printable` gives it."""
    return "\n".join(map(printable, str(text).split("\n")))


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: `1 file`, `2,000 files`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
