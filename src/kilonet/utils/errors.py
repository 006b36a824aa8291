"""The errors that Kilonet raises on purpose. Each message is one line that names the fault and the remedy."""

from kilonet.utils.terminal import printable


class KilonetError(Exception):
    """Bad input, or a condition that the user can change; the command line prints it and exits with status 2."""

    def __str__(self) -> str:
        """Return the message in one line that is safe to print, even if it quotes a name with line breaks."""
        return printable(" ".join(super().__str__().splitlines()))


class TrainingDiverged(KilonetError):
    """The loss is NaN or infinite, or no better than that of guessing; the command line exits with status 1."""


class CheckFailed(KilonetError):
    """A result does not keep a limit that the user gave; the command line exits with status 1."""


class CannotRunHere(KilonetError):
    """This machine lacks a library, a compiler or a device; `kilonet verify` reports it and continues."""


class InUse(KilonetError):
    """Another process uses the same folder now; a later try may succeed."""


class UnreadError(ValueError):
    """A whole file of a kind that is not read, and not a damaged one."""
