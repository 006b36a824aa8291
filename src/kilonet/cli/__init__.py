"""The command line, `kilonet COMMAND`: one file a command, with its flags, one call into the library, and its text.

`main` finds the command; `flags` has the parser and what several commands share. A command's file has `add_flags`,
and `run`, which returns the exit status. Only `run` imports what is slow to import, so that help is fast.
"""

from kilonet.cli.main import main

__all__ = ["main"]
