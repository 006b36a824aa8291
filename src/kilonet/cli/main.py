"""The table of commands, and `main`, which runs one and turns errors into one line and an exit status.

Figures go to stdout, progress to stderr. Exit status: 0 done, 1 a check failed or files were skipped, 2 bad input,
130 interrupted.
"""

import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from kilonet.cli.flags import Parser, did_you_mean
from kilonet.data.notices import files_were_skipped, forget
from kilonet.utils.errors import CheckFailed, KilonetError, TrainingDiverged
from kilonet.utils.terminal import printable

COMMANDS = {
    "init": "Look at your images and write a recipe for them",
    "train": "Train a network and keep it in a run folder",
    "evaluate": "Score a model on test images",
    "predict": "Classify images (PNG, JPEG, BMP, GIF, WebP, TIFF)",
    "calibrate": "Fit a model's confidence on held-out images and keep it in the model's file",
    "summary": "Print a network's layers and what it costs",
    "recipes": "List the packaged recipes",
    "lr-find": "Find a learning rate by training a few hundred steps at rising rates",
    "sweep": "Search for networks under a budget, or continue a search",
    "compare": "Compare runs over seeds and image by image",
    "report": "Write an HTML page about a run",
    "card": "Write a model card in Hugging Face's format",
    "export": "Write a model with integer weights as C, as an HTML page or as ONNX",
    "verify": "Check every form in an exported folder against the integer reference",
    "serve": "Serve a model over HTTP, with a page to draw on",
}
"""Each command with its summary; `lr-find` is in `kilonet.cli.lr_find`, and so on."""

_LONGEST_LINE = 8000
"""Characters of an error; a path may have over 4,000."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default the one in `sys.argv`, and return its exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by whoever started the command.
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A name that the terminal's encoding lacks is written escaped, as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except (TrainingDiverged, CheckFailed) as error:
        return _fail(f"error: {error}", 1)
    except KilonetError as error:
        return _fail(f"error: {error}", 2)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has gone; point stdout elsewhere so that Python's exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # For example a name that is too long for any file. Files are written with their names in the message.
        full = error.errno == errno.ENOSPC and error.filename is None
        return _fail(f"error: {f'standard output cannot be written: {error.strerror}' if full else error}", 2)
    return status


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"; the commands are: {', '.join(COMMANDS)}"
        raise KilonetError(f"no command '{name}'{hint}")
    command = import_module(f"kilonet.cli.{name.replace('-', '_')}")
    parser = Parser(name, COMMANDS[name])
    command.add_flags(parser)
    try:
        flags = parser.read(rest)
    except SystemExit as stop:
        # Help was asked for; `main` flushes what was printed like any other output.
        return int(stop.code or 0)
    forget()
    status = int(command.run(flags))
    return 1 if status == 0 and files_were_skipped() else status


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: kilonet COMMAND ...",
            "",
            "Trains, proves and ships image classifiers of a few thousand parameters.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()),
            "",
            "'kilonet COMMAND --help' shows a command's flags.",
        ]
    )


def _fail(message: str, status: int) -> int:
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST_LINE:
        # What a file says may be quoted in a message; its end says what to do.
        line = f"{line[: _LONGEST_LINE // 2]} [...] {line[-_LONGEST_LINE // 2 :]}"
    print(f"kilonet: {line}", file=sys.stderr)
    return status
