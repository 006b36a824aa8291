"""The JSON of requests and responses as pydantic models, which check what comes in and make the OpenAPI document."""

from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model

from kilonet.data.decode import READABLE
from kilonet.data.preprocessing import PreprocessingFacts
from kilonet.models.calibration import Calibration
from kilonet.network.operations import Shape

COLOURS = 3
"""The channels of a coloured image."""
Level = Annotated[int, Field(ge=0, le=255)]
# JSON may write a whole number as 30 or as 30.0; true and "30" are refused.
_GivenLevel = Annotated[float, Field(ge=0, le=255, multiple_of=1, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]


class BoxResponse(BaseModel):
    """A rectangle of whole pixels of the upright image, without its last column and row."""

    left: int
    top: int
    right: int
    bottom: int


class PredictionResponse(BaseModel):
    """The answer to one image, as `kilonet predict --json` gives it, with the pixels that the network saw."""

    class_: int | None = Field(alias="class", description="The class, from 0; null for none of them.")
    name: str | None = Field(description="The class's name; null for none of them.")
    probability: Share | None = Field(description="The probability of that class; null for none of them.")
    probabilities: list[Share] = Field(description="The probability of every class, calibrated if the model is.")
    uncertain: bool = Field(
        description="True for none of the classes, for an image unlike those of the training, and where the "
        "probability is below `sure_from` of the model's calibration."
    )
    no_digit: str | None = Field(description="Why there is no digit; null if there is one, or for other classes.")
    none_of_these: str | None = Field(description="Why it is none of the classes, digits or others; null if it is one.")
    box: BoxResponse | None = Field(
        description="Where the digit was found; null for an image that is laid out like MNIST's, or of other classes."
    )
    row: int | None = Field(None, description="The row of a page that it stands in, from 0; there for pages alone.")
    seen: list[list[Level]] | list[list[list[Level]]] = Field(
        description="What the network saw: rows of grey levels, for digits light ink on black; or channels, red, green "
        "and blue, of such rows."
    )


class BatchResponse(BaseModel):
    """The answers to several images, in their order, or to all digits of a page, row by row."""

    answers: list[PredictionResponse]


class ErrorResponse(BaseModel):
    """The reason why a request was refused or failed."""

    error: str = Field(description="What is wrong and what to do, in one line.")


class HealthResponse(BaseModel):
    """The sign that the service answers."""

    status: str


class ModelAccuracy(BaseModel):
    """How many images a model classifies correctly."""

    share: Share
    images: int
    of: str = Field(description="Which images.")


class ModelFacts(BaseModel):
    """What is known about the model."""

    name: str
    parameters: int
    layers: list[str]
    input: Shape = Field(description="Channels, rows and columns.")
    classes: list[str] = Field(description="The names of the classes, in order.")
    reads_digits: bool = Field(
        description="Whether a digit is searched for in a photo; if not, `preprocessing` says how it becomes the input."
    )
    preprocessing: PreprocessingFacts | None = Field(
        description="How a picture becomes the input, and the input numbers; null for a network that takes no pictures."
    )
    sha256: str = Field(description="SHA-256 of the model's file.")
    accuracy: ModelAccuracy | None = Field(description="Null if unknown.")
    calibration: Calibration | None = Field(description="Null if the model was not calibrated.")
    kilonet: str = Field(description="The version of the service.")


def pixels_schema(shape: Shape) -> type[BaseModel]:
    """Return the model of one image as JSON, for a network that takes (channels, rows, columns)."""
    return create_model("PixelsRequest", __config__=_CONFIG, pixels=(_rows(shape), _PIXELS))


def file_schema() -> type[BaseModel]:
    """Return the model of a file in JSON."""
    return create_model("FileRequest", __config__=_CONFIG, image=(_FILE, ...))


def batch_schema(shape: Shape, max_images: int) -> type[BaseModel]:
    """Return the model of several images as JSON."""
    images: Any = Annotated[list[_rows(shape)], Field(min_length=1, max_length=max_images, fail_fast=True)]  # type: ignore[misc]
    return create_model("BatchRequest", __config__=_CONFIG, images=(images, _PIXELS))


_CONFIG = ConfigDict(extra="forbid")
_PIXELS = Field(
    description="Rows of levels, 0 to 255, of the input's size: grey ones, for digits dark ink on light paper or the "
    "reverse; of a network for colours also [red, green, blue] in each place, or three channels of rows, as in `seen`."
)
_FILE: Any = Annotated[
    str,
    Field(description=f"A {READABLE} file as a data URL, `data:image/png;base64,...`, or in base64 alone."),
]


def _rows(shape: Shape) -> Any:
    """Return the type of an image's pixels: rows of levels or, for three channels, colours in one of two orders."""
    channels, rows, columns = shape
    grey = _lists(_GivenLevel, rows, columns)
    if channels != COLOURS:
        return grey
    kinds = {
        "levels": grey,
        "colours": _lists(_GivenLevel, rows, columns, COLOURS),
        "channels": _lists(_GivenLevel, COLOURS, rows, columns),
    }

    def kind_of(pixels: Any) -> str:
        if not _is_nested(pixels, 3):
            return "levels"
        return "channels" if len(pixels) == COLOURS and len(pixels[0][0]) != COLOURS else "colours"

    tagged = [Annotated[kind, Tag(name)] for name, kind in kinds.items()]
    return Annotated[Union[tuple(tagged)], Discriminator(kind_of)]  # noqa: UP007 - made at run time


def _lists(level: Any, *lengths: int) -> Any:
    """Return the type of lists of lists of levels, of these lengths from the outermost one."""
    for length in reversed(lengths):
        # At the first fault: a list of all of them would take far more memory than what was sent.
        level = Annotated[list[level], Field(min_length=length, max_length=length, fail_fast=True)]
    return level


def _is_nested(pixels: Any, depth: int) -> bool:
    for _ in range(depth):
        if not isinstance(pixels, list) or not pixels:
            return False
        pixels = pixels[0]
    return True
