"""Find a C or C++ compiler and run it."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kilonet.utils.errors import KilonetError

_TIMEOUT_SECONDS = 600


def find_compiler(language: str, variable: str, names: Sequence[str]) -> str:
    """Return the path of a compiler.

    Args:
        language: what it compiles, for the error message.
        variable: the environment variable that may name the compiler.
        names: programs to look for if the variable is not set, the preferred one first.

    Raises:
        KilonetError: there is no such program.
    """
    wanted = os.environ.get(variable)
    for name in [wanted] if wanted else names:
        if path := shutil.which(name):
            return path
    searched = wanted or f"{', '.join(names[:-1])} or {names[-1]}"
    raise KilonetError(f"no {language} compiler found ({searched}); install one or set {variable}")


def run_compiler(command: Sequence[str], folder: Path | None = None, *, makes: Path | None = None) -> str:
    """Run a compiler or one of its tools and return what it prints.

    Args:
        command: the program and its arguments.
        folder: where it is run; by default in the current folder.
        makes: a file that it must have made.

    Raises:
        KilonetError: it cannot be run, it fails, or it makes no file; the message has its first error.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KilonetError(f"the compiler {command[0]} cannot be run: {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        place = f" in {folder}" if folder else ""
        raise KilonetError(f"the compiler {command[0]} failed{place}: {first.strip()}")
    if makes is not None and not (makes.is_file() and makes.stat().st_size):
        raise KilonetError(f"the compiler {command[0]} made no {makes.name}, although it reports no error")
    return done.stdout
