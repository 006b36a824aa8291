"""Names in output: nothing that moves a cursor, hides text or breaks a line."""

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import needs
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable, printable_lines, shell_word


@pytest.mark.parametrize("name", ["a.png", "Übung 7.png", "数字", "a\u202fb \N{NO-BREAK SPACE}c", "🙂"])
def test_a_plain_name_is_printed_as_it_is(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;title\x07\x1b[31mred", "\\x1b]0;title\\x07\\x1b[31mred"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("\x9b31m", "\\x9b31m"),
        ("caf\udce9", "caf\\udce9"),
        ("a\u2028b\ufeffc\U000e0041", "a\\u2028b\\ufeffc\\U000e0041"),
    ],
)
def test_what_is_hidden_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable_lines(f"x\n{name.replace(chr(10), '')}").startswith("x\n")
    message = str(KilonetError(f"{name}: damaged"))
    assert message.isprintable()
    message.encode()


@given(path=st.binary(min_size=1, max_size=12).filter(lambda path: b"\0" not in path))
def test_a_path_in_a_command_is_that_path_to_a_shell(path: bytes) -> None:
    """Whatever bytes it has; one that begins with a hyphen is no flag."""
    needs("bash")
    word = shell_word(os.fsdecode(path))
    assert printable(word) == word
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == (b"./" + path if path.startswith(b"-") else path)


def test_a_plain_path_stays_readable_in_a_command() -> None:
    assert [shell_word(path) for path in ("runs/a", "my photos", "Übung")] == ["runs/a", "'my photos'", "'Übung'"]
