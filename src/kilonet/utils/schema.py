"""Data that come from files, checked: the pydantic base of recipes, results and descriptions."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]
ProperFraction = Annotated[float, Field(ge=0, lt=1)]


class Schema(BaseModel):
    """Frozen; refuses unknown keys, values of another type, and numbers that are NaN or infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def first_complaint(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line that names the key."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if first["type"] == "missing":
        return f"{key}: missing"
    return f"{key} = {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
