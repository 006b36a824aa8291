"""The pydantic base of everything that is read from files, and the wording of its errors."""

import reprlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

Fraction = Annotated[float, Field(ge=0, le=1)]
ProperFraction = Annotated[float, Field(ge=0, lt=1)]

_LONGEST = 80
"""Characters of a key or a value that an error message quotes."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _LONGEST


class Schema(BaseModel):
    """A frozen model that refuses unknown keys, values of another type, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def first_complaint(error: ValidationError) -> str:
    """Return the first validation error in one line that names the key; long keys and values are cut."""
    errors = error.errors(include_url=False)
    place = _place(errors[0])
    # Where several types are allowed there is an error of each; the deepest is of the type that was meant.
    first = max((one for one in errors if _place(one)[: len(place)] == place), key=lambda one: len(_place(one)))
    key = _cut(".".join(_place(first)))
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if first["type"] == "missing":
        return f"{key}: missing"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "a list")
    message = f"{message[:1].lower()}{message[1:]}".removesuffix(" after validation, not 0").replace(
        " after validation", ""
    )
    return f"{key} = {shortened(first['input'])}: {message}" if key else message


def _place(error: ErrorDetails) -> tuple[str, ...]:
    """Return the keys that lead to a value, without the types that were tried for it, which pydantic puts between."""
    parts = map(str, error["loc"])
    return tuple(part for part in parts if not part.startswith(("constrained-", "tuple[", "literal[")))


def shortened(value: object) -> str:
    """Return a value as Python writes it, cut to the length that fits into an error message."""
    try:
        return _cut(_SHORT.repr(value))
    except ValueError:
        # Python refuses to write out an integer of more than 4,300 digits.
        return f"a huge {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
