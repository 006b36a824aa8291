"""The random changes of training images: the table `augment` of a recipe."""

from typing import Annotated

from pydantic import Field

from kilonet.utils.schema import Fraction, ProperFraction, Schema


class AugmentSection(Schema):
    """The random affine transform of a training image, drawn anew in every epoch."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="largest rotation, degrees")
    shift: Annotated[float, Field(ge=0, le=64)] = Field(0.0, description="largest shift in x and in y, pixels")
    scale: ProperFraction = Field(0.0, description="largest relative change of size")
    shear: Fraction = Field(0.0, description="largest horizontal shear, pixels a row")
    flip: bool = Field(False, description="mirror left to right with probability one half; not for digits or letters")
    flip_vertical: bool = Field(False, description="mirror top to bottom with probability one half")
