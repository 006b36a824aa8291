"""The description of a network: the table `model` of a recipe, and the head of a model file."""

from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from kilonet.network.graph import MAXIMUM_LAYERS, PlacedLayer, place
from kilonet.network.layers import parse_layer
from kilonet.network.memory import check_image_memory
from kilonet.network.operations import Shape
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import ProperFraction, Schema

Value = TypeVar("Value")
Deviation = Annotated[float, Field(gt=0, le=1)]
Channels = Annotated[tuple[Value, ...], Field(min_length=1, max_length=16, strict=False)]
"""A value for each channel of an image."""


class ModelSection(Schema):
    """A network: its input, its layers and the limit on its parameters."""

    input: tuple[
        Annotated[int, Field(ge=1, le=16)], Annotated[int, Field(ge=1, le=512)], Annotated[int, Field(ge=1, le=512)]
    ] = Field((1, 28, 28), strict=False, description="channels, rows and columns of an image")
    layers: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAXIMUM_LAYERS)] = Field(
        strict=False, description="the layers in order, such as 'conv 10', 'pointwise 10', 'maxpool 2', 'gap'"
    )
    resize: Literal["crop", "pad", "squash"] | None = Field(
        None,
        description="how a picture of another shape becomes the input: 'crop' its middle (if nothing is said), 'pad' "
        "it with the mean, or 'squash' it",
    )
    mean: ProperFraction | Channels[ProperFraction] = Field(
        0.1307,
        description="mean of the training pixels, 0 to 1, for all channels or each; subtracted from the input",
    )
    std: Deviation | Channels[Deviation] = Field(
        0.3081,
        description="standard deviation of the training pixels, 0 to 1, for all channels or each; divides the input",
    )
    dropout: ProperFraction = Field(0.0, description="probability of dropping an activation after each conv layer")
    max_parameters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="refuse a network with more trainable parameters"
    )

    @field_validator("layers")
    @classmethod
    def _layers_are_known(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(parse_layer(text)) for text in layers)

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_value_is_for_all_channels(cls, values: Any) -> Any:
        return values[0] if isinstance(values, list | tuple) and len(values) == 1 else values

    @model_validator(mode="after")
    def _layers_fit_and_keep_the_limit(self) -> "ModelSection":
        for key, values in (("mean", self.mean), ("std", self.std)):
            if isinstance(values, tuple) and len(values) != self.input[0]:
                raise KilonetError(f"{key} has {len(values)} values, but an image has {self.input[0]} channels")
        _, rows, columns = self.placed[-1].output_shape
        if (rows, columns) != (1, 1):
            raise KilonetError(f"the last layer leaves {rows}x{columns} values per class, not 1x1; end with 'gap'")
        check_image_memory(self.placed)
        if self.max_parameters is not None and self.parameters > self.max_parameters:
            raise KilonetError(
                f"the network has {self.parameters:,} parameters, over max_parameters = {self.max_parameters:,}"
            )
        return self

    @cached_property
    def placed(self) -> tuple[PlacedLayer, ...]:
        """The layers at their places in the network, with shapes and operations."""
        return place([parse_layer(text) for text in self.layers], self.input, self.dropout)

    @property
    def input_shape(self) -> Shape:
        """The shape of one image: (channels, rows, columns)."""
        return self.input

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of the training pixels of each channel, 0 to 1."""
        return self.mean if isinstance(self.mean, tuple) else (self.mean,) * self.input[0]

    @property
    def stds(self) -> tuple[float, ...]:
        """The standard deviation of the training pixels of each channel, 0 to 1."""
        return self.std if isinstance(self.std, tuple) else (self.std,) * self.input[0]

    @property
    def classes(self) -> int:
        """The number of classes: the channels of the last layer."""
        return self.placed[-1].output_shape[0]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(layer.parameters for layer in self.placed)
