"""The errors that Kilonet raises on purpose: one line for a person, naming the thing and the mend."""


class KilonetError(Exception):
    """Bad input or a condition that the user can mend; the command line prints it and exits with status 2."""

    def __str__(self) -> str:
        """Return the message in one line, whatever names it quotes."""
        return " ".join(super().__str__().splitlines())


class TrainingDiverged(KilonetError):
    """The loss is no longer a number, or training does no better than guessing; exits with status 1."""


class CheckFailed(KilonetError):
    """What was asked for is sound, but does not keep a limit that was given with it; exits with status 1."""


class CannotRunHere(KilonetError):
    """This machine lacks what it takes; `kilonet verify` says so and goes on."""


class InUse(KilonetError):
    """Another process holds what is needed; it may let go of it, or die, at any moment."""
