"""What goes in and out, as models of pydantic: they check the JSON that comes in, and are the OpenAPI of both ways."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from kilonet.models.calibration import Calibration
from kilonet.network.operations import Shape

Level = Annotated[int, Field(ge=0, le=255)]
# JSON writes a whole number as 30 or as 30.0, and true or "30" are none.
_GivenLevel = Annotated[float, Field(ge=0, le=255, multiple_of=1, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]


class Answer(BaseModel):
    """What is said of one image, as `kilonet predict --json` says it, with what the network saw."""

    class_: int | None = Field(alias="class", description="The class, from 0; null for no digit.")
    name: str | None = Field(description="The class's name; null for no digit.")
    probability: Share | None = Field(description="Of that class; null for no digit.")
    probabilities: list[Share] = Field(description="Of every class, calibrated if the model is.")
    uncertain: bool = Field(
        description="Whether the answer is to be doubted: see `sure_from` of the model's calibration."
    )
    no_digit: str | None = Field(description="Why there is no digit; null if there is one.")
    seen: list[list[Level]] | list[list[list[Level]]] = Field(
        description="What the network saw: rows of grey levels, light ink on black, or channels of such rows."
    )


class Answers(BaseModel):
    """What is said of several images, in their order."""

    answers: list[Answer]


class Error(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One line for a person.")


class Health(BaseModel):
    """That the service answers."""

    status: str


class Accuracy(BaseModel):
    """How many images a model reads right."""

    share: Share
    images: int
    of: str = Field(description="Which images.")


class Card(BaseModel):
    """What is known of the model."""

    name: str
    parameters: int
    layers: list[str]
    input: Shape = Field(description="Channels, rows and columns.")
    classes: list[str] = Field(description="Their names, in order.")
    reads_digits: bool = Field(
        description="Whether photos are searched for a digit; if not, images have the input's size."
    )
    sha256: str = Field(description="Of the model's file.")
    accuracy: Accuracy | None = Field(description="Null where it is not known.")
    calibration: Calibration | None = Field(description="Null where it was never fitted.")
    kilonet: str = Field(description="The version of the service.")


def pixels_schema(shape: Shape) -> type[BaseModel]:
    """Return the model of one image as JSON, for a network that takes (channels, rows, columns)."""
    return create_model("Pixels", __config__=ConfigDict(extra="forbid"), pixels=(_rows(shape), _PIXELS))


def batch_schema(shape: Shape, most: int) -> type[BaseModel]:
    """Return the model of several images as JSON."""
    images: Any = Annotated[list[_rows(shape)], Field(min_length=1, max_length=most)]  # type: ignore[misc]
    return create_model("PixelsOfSeveral", __config__=ConfigDict(extra="forbid"), images=(images, _PIXELS))


_PIXELS = Field(description="Rows of grey levels, 0 to 255; no polarity is asked for.")


def _rows(shape: Shape) -> Any:
    _, rows, columns = shape
    row = Annotated[list[_GivenLevel], Field(min_length=columns, max_length=columns)]
    return Annotated[list[row], Field(min_length=rows, max_length=rows)]
