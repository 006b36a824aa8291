"""The metadata of a model file: class names, kind of images, calibration."""

from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from kilonet.data.datasets import DataSet
from kilonet.data.digits.frame import SIDE, is_laid_out
from kilonet.data.image_folders import LONGEST_NAME
from kilonet.models.calibration import Calibration
from kilonet.network.operations import Shape
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Schema, first_complaint, shortened

DIGIT_SHAPE: Shape = (1, SIDE, SIDE)
DIGITS = 10
_SAMPLE = 200
"""The training images that are examined for their layout."""

Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class Metadata(Schema):
    """What is known about a model beside its network; everything is optional."""

    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=4096)] | None = Field(None, strict=False)
    """The names of the classes in order; None if they are the class numbers."""
    digits: bool | None = None
    """Whether the model takes photos of digits, laid out as in MNIST; None if that follows from the network's shape."""
    calibration: Calibration | None = None
    """None if the model was never calibrated."""

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        seen: set[str] = set()
        for name in names or ():
            if name in seen:
                raise ValueError(f"two classes are called {shortened(name)}")
            # In C a name ends there.
            if "\0" in name:
                raise ValueError(f"{shortened(name)} has a NUL")
            seen.add(name)
        return names

    def reads_digits(self, shape: Shape, classes: int) -> bool:
        """Return whether pictures are searched for digits: by default for (1, 28, 28) and ten classes without names."""
        likely = shape == DIGIT_SHAPE and classes == DIGITS and self.names is None
        return likely if self.digits is None else self.digits

    def name_of(self, label: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        return str(label) if self.names is None else self.names[label]


NO_METADATA = Metadata()


def check_metadata(metadata: Metadata, shape: Shape, classes: int) -> None:
    """Check that metadata fit a network.

    Raises:
        KilonetError: they name more or fewer classes, or say that it reads digits although it takes other images.
    """
    if metadata.names is not None and len(metadata.names) != classes:
        raise KilonetError(f"it names {len(metadata.names)} classes, but its network has {classes}")
    if metadata.digits and shape != DIGIT_SHAPE:
        taken, needed = ("x".join(map(str, one)) for one in (shape, DIGIT_SHAPE))
        raise KilonetError(f"it says that it reads digits, but its network takes {taken} pixels, not {needed}")


def metadata_of(data: DataSet) -> Metadata:
    """Return the metadata of a model that is trained on a data set: class names, and whether it reads digits.

    Raises:
        KilonetError: a model file cannot hold the names of the classes.
    """
    first = data.train.pixels[:_SAMPLE, 0].numpy()
    like_mnist = sum(map(is_laid_out, first)) >= 0.95 * len(first)
    # None where the network's shape tells it, so that a model trained on MNIST has no metadata at all.
    try:
        return Metadata(names=data.names, digits=None if like_mnist else False)
    except ValidationError as error:
        raise KilonetError(f"a model cannot keep the names of the classes: {first_complaint(error)}") from None
