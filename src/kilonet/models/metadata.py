"""What a model file may say beside the network: names, what kind of images, how sure it may be."""

from typing import Annotated

from pydantic import Field

from kilonet.data.datasets import DataSet
from kilonet.data.digits.frame import SIDE, is_laid_out
from kilonet.models.calibration import Calibration
from kilonet.network.operations import Shape
from kilonet.utils.schema import Schema

DIGIT_SHAPE: Shape = (1, SIDE, SIDE)
DIGITS = 10
_LOOKED_AT = 200

Name = Annotated[str, Field(min_length=1, max_length=100)]


class Metadata(Schema):
    """Optional knowledge about a model."""

    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=4096)] | None = Field(None, strict=False)
    """Of the classes, in order; None where they are their numbers."""
    digits: bool | None = None
    """Whether photos are to be laid out as MNIST's digits for it; None to tell by the network's shape."""
    calibration: Calibration | None = None
    """None where it was never fitted."""

    def reads_digits(self, shape: Shape, classes: int) -> bool:
        """Tell whether a picture is searched for digits: by default if (1, 28, 28) goes in and ten numbers come out."""
        likely = shape == DIGIT_SHAPE and classes == DIGITS and self.names is None
        return likely if self.digits is None else self.digits

    def name_of(self, label: int) -> str:
        """Return a class's name, or its number."""
        return str(label) if self.names is None else self.names[label]


def metadata_of(data: DataSet) -> Metadata:
    """Return what a model trained on a data set is to know of it: its classes' names, and whether it is digits."""
    first = data.train.pixels[:_LOOKED_AT, 0].numpy()
    like_mnist = sum(map(is_laid_out, first)) >= 0.95 * len(first)
    # Left open where it goes without saying, so that a model trained on MNIST has no metadata at all.
    return Metadata(names=data.names, digits=None if like_mnist else False)
