"""What a report or a card is about: a model, the images it is scored on, and whatever else is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from kilonet.data.datasets import Images
from kilonet.models.metadata import Metadata
from kilonet.models.model import Model
from kilonet.network.cost import NetworkCost, network_cost
from kilonet.recipe import Recipe
from kilonet.training.run_folder import EpochMetrics, Result
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Fraction, Schema


class Robustness(Schema):
    """Accuracies under corruptions, as `kilonet evaluate --corruptions --json` prints them."""

    scored: str
    images: Annotated[int, Field(ge=1)]
    clean: Fraction
    accuracies: Annotated[dict[str, Fraction], Field(min_length=1)]
    mean: Fraction


@dataclass(frozen=True)
class Record:
    """What is known of one training run."""

    name: str
    result: Result
    history: tuple[EpochMetrics, ...] = ()
    """An entry an epoch; empty where only the result is known."""

    @property
    def accuracy(self) -> float:
        """Of the final epoch, a fraction."""
        return self.result.final.test_accuracy


@dataclass(frozen=True)
class Shipped:
    """The forms of an exported folder, each with its figures, such as bytes of flash."""

    model_sha256: str
    forms: Mapping[str, Mapping[str, int | None]]


@dataclass(frozen=True)
class Subject:
    """One model in full, and the records beside it."""

    name: str
    model: Model
    images: Images
    """What it is scored on."""
    record: Record | None = None
    """Its own run's."""
    companions: tuple[Record, ...] = ()
    robustness: Robustness | None = None
    shipped: Shipped | None = None
    digit: int = 0
    """Which of the images is looked at closely."""
    cost: NetworkCost = field(init=False)

    def __post_init__(self) -> None:
        """Compute the cost, and check that everything is of this model.

        Raises:
            KilonetError: something is another model's, or the digit is none of the images.
        """
        object.__setattr__(self, "cost", network_cost(self.model.section))
        if not 0 <= self.digit < len(self.images):
            raise KilonetError(f"--digit {self.digit}: the images have indices 0 to {len(self.images) - 1}")
        if self.record and not is_model_of(self.record.result, self.model):
            raise KilonetError(f"{self.record.name}: its result is not of this model")
        if self.robustness and self.robustness.images != len(self.images):
            found, own = self.robustness.images, len(self.images)
            raise KilonetError(f"the corruptions were of {found:,} images, but the model is scored on {own:,}")
        if self.shipped and self.shipped.model_sha256 != self.model.sha256:
            raise KilonetError("the exported folder is not of this model as it is now; export it again")

    @property
    def class_names(self) -> list[str]:
        """The classes' names, their numbers where they have none."""
        return [self.model.metadata.name_of(label) for label in range(self.model.section.classes)]

    @property
    def records(self) -> list[Record]:
        """Its own run's record, if there is one, and those beside it."""
        return [*([self.record] if self.record else []), *self.companions]

    @property
    def repetitions(self) -> list[Record]:
        """The records of its own recipe, its own run's first; none without a record."""
        return groups(self.records)[0] if self.record else []


def is_model_of(result: Result, model: Model) -> bool:
    """Tell whether a result is a model's, whether or not that was calibrated afterwards, or named as digits."""
    trained = model.metadata.model_copy(update={"calibration": None})
    return result.model_sha256 in {model.with_metadata(metadata).sha256 for metadata in (trained, Metadata())}


def groups(records: Sequence[Record]) -> list[list[Record]]:
    """Sort records into groups of one recipe, seeds and machines aside, in the order in which each first appears."""
    found: list[list[Record]] = []
    for record in records:
        for group in found:
            if _question(group[0].result.recipe) == _question(record.result.recipe):
                group.append(record)
                break
        else:
            found.append([record])
    return found


def _question(recipe: Recipe) -> Recipe:
    """Return what runs must have in common to be repetitions of one another."""
    return recipe.replace(seed=0, engine="auto", device="auto", precision="auto", threads=0)
