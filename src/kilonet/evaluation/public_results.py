"""Accuracies that others have published, which plots draw beside Kilonet's own."""

import tomllib
from importlib.resources import files
from typing import Annotated

from pydantic import Field, ValidationError

from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Schema, first_complaint

_FILE = "public_results.toml"

Percent = Annotated[float, Field(ge=0, le=100)]


class PublicResult(Schema):
    """An accuracy that others have published."""

    parameters: Annotated[int, Field(ge=1)]
    accuracy: Percent
    conditions: Annotated[str, Field(min_length=1)]
    """Which images were scored, and how the run was chosen."""
    range: Annotated[tuple[Percent, Percent] | None, Field(strict=False)] = None
    """The lowest and the highest accuracy of the runs from which this one was chosen."""
    source: Annotated[str, Field(min_length=1)]

    @property
    def label(self) -> str:
        """What a plot calls it."""
        return f"public, {self.parameters:,}: {self.conditions}"


class _PublicResults(Schema):
    result: Annotated[tuple[PublicResult, ...], Field(strict=False, min_length=1)]


def parse_public_results(text: str) -> tuple[PublicResult, ...]:
    """Parse a TOML file with a table `result` for each published result.

    Raises:
        KilonetError: not TOML, or a key that is missing, unknown or out of range.
    """
    try:
        return _PublicResults.model_validate(tomllib.loads(text)).result
    except tomllib.TOMLDecodeError as error:
        raise KilonetError(f"{_FILE}: not a TOML file: {error}") from None
    except ValidationError as error:
        raise KilonetError(f"{_FILE}: {first_complaint(error)}") from None


def public_results_on(data: str) -> tuple[PublicResult, ...]:
    """Return the packaged results that others published on the data of a recipe; all of them are on MNIST."""
    if data != "mnist":
        return ()
    return parse_public_results((files("kilonet.evaluation") / _FILE).read_text(encoding="utf-8"))
