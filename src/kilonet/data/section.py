"""The random changes of training images: the table `augment` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from kilonet.utils.schema import Fraction, ProperFraction, Schema


class AugmentSection(Schema):
    """The random changes of a training image, drawn anew in every epoch; `kilonet.data.augment` has their formulas."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="largest rotation, degrees")
    shift: Annotated[float, Field(ge=0, le=64)] = Field(0.0, description="largest shift in x and in y, pixels")
    crop: Annotated[int, Field(ge=0, le=64)] = Field(
        0, description="largest shift in x and in y by whole pixels: a random crop of the image with so much padding"
    )
    scale: ProperFraction = Field(0.0, description="largest relative change of size")
    shear: Fraction = Field(0.0, description="largest horizontal shear, pixels a row")
    flip: bool = Field(False, description="mirror left to right with probability one half; not for digits or letters")
    flip_vertical: bool = Field(False, description="mirror top to bottom with probability one half")
    outside: Literal["zeros", "edge"] = Field(
        "zeros", description="what a moved image shows beyond its border: zeros, or its nearest pixel"
    )
    brightness: Fraction = Field(0.0, description="largest change of all pixels, as a share of their range")
    contrast: ProperFraction = Field(
        0.0, description="largest relative change of the distance to the mean of the training pixels"
    )
    saturation: Fraction = Field(0.0, description="largest relative change of the distance to grey; for 3 channels")
    white_balance: ProperFraction = Field(0.0, description="largest relative change of each channel by itself")
    blur: Fraction = Field(0.0, description="largest share of the blurred image, by 3x3 binomial weights")
    noise: Fraction = Field(
        0.0, description="largest standard deviation of Gaussian noise, as a share of the pixels' range"
    )
    cutout: Annotated[int, Field(ge=0, le=128)] = Field(
        0, description="side of a square at a random place that is replaced by the mean, pixels"
    )
    mixup: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="mix images, and their labels, by shares of the distribution Beta(mixup, mixup); 0 for none"
    )
    mixup_until: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="share of the epochs after which no image is mixed; up to there ever fewer are"
    )
