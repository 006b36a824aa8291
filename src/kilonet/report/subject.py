"""The subject of a report or a card: one model, the images it is scored on, and what else is known about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from kilonet.data.datasets import Images
from kilonet.models.classes import class_names
from kilonet.models.metadata import NO_METADATA
from kilonet.models.model import Model
from kilonet.network.cost import NetworkCost, network_cost
from kilonet.training.run_folder import Result
from kilonet.training.run_records import RunRecord, group_repetitions
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Fraction, Schema
from kilonet.utils.terminal import printable


class Robustness(Schema):
    """Accuracies under corruptions, as `kilonet evaluate --corruptions --json` prints them."""

    scored: str
    images: Annotated[int, Field(ge=1)]
    clean: Fraction
    accuracies: Annotated[dict[str, Fraction], Field(min_length=1)]
    mean: Fraction


@dataclass(frozen=True)
class ExportedSizes:
    """The forms in an exported folder, each with its sizes in bytes, such as `flash` or `ram`."""

    model_sha256: str
    forms: Mapping[str, Mapping[str, int | None]]


@dataclass(frozen=True)
class Subject:
    """One model with everything known about it, and the runs beside it."""

    name: str
    model: Model
    images: Images
    """The images on which the model is scored."""
    record: RunRecord | None = None
    """The run that trained the model, if it is known."""
    others: tuple[RunRecord, ...] = ()
    """Further runs, shown side by side."""
    robustness: Robustness | None = None
    exported: ExportedSizes | None = None
    image_index: int = 0
    """The image that is looked at closely."""
    cost: NetworkCost = field(init=False)

    def __post_init__(self) -> None:
        """Compute the network's cost, and check that all parts belong to the model.

        Raises:
            KilonetError: a part belongs to another model, or there is no image of that index.
        """
        object.__setattr__(self, "cost", network_cost(self.model.section))
        if not 0 <= self.image_index < len(self.images):
            raise KilonetError(f"--digit {self.image_index}: the images have indices 0 to {len(self.images) - 1}")
        if self.record:
            check_result_of(self.record, self.model)
        if self.robustness and self.robustness.images != len(self.images):
            found, own = self.robustness.images, len(self.images)
            raise KilonetError(f"corruptions were measured on {found:,} images, but the model is scored on {own:,}")
        if self.exported and self.exported.model_sha256 != self.model.sha256:
            raise KilonetError("the exported folder is not of this model as it is now; export it again")

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, their hidden characters escaped; a class without a name has its number."""
        return list(map(printable, class_names(self.model.metadata, self.model.section.classes)))

    @property
    def records(self) -> list[RunRecord]:
        """The run that trained the model, if it is known, and the others."""
        return [*([self.record] if self.record else []), *self.others]

    @property
    def repetitions(self) -> list[RunRecord]:
        """The runs of the model's recipe, that of the model first; none where its run is not known."""
        return group_repetitions(self.records)[0] if self.record else []


def check_result_of(record: RunRecord, model: Model) -> None:
    """Check that a run trained a model.

    Raises:
        KilonetError: the result is that of another model, as if one of the two files had been exchanged.
    """
    if not is_result_of(record.result, model):
        raise KilonetError(f"{record.name}: its result is not of this model")


def is_result_of(result: Result, model: Model) -> bool:
    """Tell whether a run with this result trained the model, which may have been calibrated or renamed since."""
    return result.model_sha256 in (model.trained_sha256, model.with_metadata(NO_METADATA).sha256)
