"""From what a network says of a sight to an answer for a person: a class with its confidence, or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.decode import Picture
from kilonet.data.digits.prepare import PreparedImage, prepare_digit, prepare_plain, prepare_row
from kilonet.models.calibration import UNFITTED, energies
from kilonet.models.metadata import Metadata
from kilonet.models.model import Classifier

STRANGE = "unlike the images it was trained on"


@dataclass(frozen=True)
class Answer:
    """What is said of one image."""

    label: int | None
    """The class, from 0; None for no digit."""
    name: str | None
    """The class's name, the number itself where the classes have none; None for no digit."""
    probabilities: tuple[float, ...]
    """Of every class, as calibrated; also where the answer is no digit, for whoever wants to see."""
    uncertain: bool
    """The probability is below the calibration's `sure_from`, or there is no digit."""
    objection: str | None
    """Why there is no digit, if so."""
    seen: NDArray[np.uint8]
    """What the network was shown, uint8 (rows, columns) or (channels, rows, columns)."""

    @property
    def probability(self) -> float:
        """The highest probability."""
        return max(self.probabilities)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the pixels as plain values."""
        return {
            "class": self.label,
            "name": self.name,
            "probability": None if self.label is None else self.probability,
            "probabilities": list(self.probabilities),
            "uncertain": self.uncertain,
            "no_digit": self.objection,
        }

    def __str__(self) -> str:
        """Return the answer in a few words."""
        if self.label is None:
            return f"no digit ({self.objection})"
        return f"{self.name} ({100 * self.probability:.2f}%{', uncertain' if self.uncertain else ''})"


def prepare_images(picture: Picture, model: Classifier, name: str, *, line: bool = False) -> list[PreparedImage]:
    """Return what a model is shown of a picture: one sight, or with `line` one for each digit of a row.

    Raises:
        KilonetError: the picture is of another size where the model reads no digits; it is called by the name.
    """
    if not model.reads_digits:
        return [prepare_plain(picture, model.section.input_shape, name)]
    return prepare_row(picture) if line else [prepare_digit(picture)]


def answers(
    sights: Sequence[PreparedImage], logits: NDArray[np.float32], metadata: Metadata, *, digits: bool
) -> list[Answer]:
    """Turn logits, float32 (N, classes), whatever engine they come from, into an answer for each of N sights.

    Args:
        sights: what the network was shown.
        logits: what it said.
        metadata: what its file says of it, see `kilonet.models.metadata`.
        digits: whether it reads digits, so that what is strange in a photo is no digit instead of an uncertain answer.
    """
    calibration = metadata.calibration or UNFITTED
    probabilities = calibration.probabilities(logits)
    return [
        _answer(sight, row, float(energy), metadata, digits=digits)
        for sight, row, energy in zip(sights, probabilities, energies(logits), strict=True)
    ]


def _answer(
    sight: PreparedImage, row: NDArray[np.float32], energy: float, metadata: Metadata, *, digits: bool
) -> Answer:
    calibration = metadata.calibration or UNFITTED
    strange = calibration.energy_from is not None and energy < calibration.energy_from
    # What was laid out before it came here was meant to be a digit: its answer is doubted, not withheld.
    objection = sight.objection or (STRANGE if strange and digits and not sight.as_given else None)
    best = int(row.argmax())
    return Answer(
        label=None if objection else best,
        name=None if objection else metadata.name_of(best),
        probabilities=tuple(row.tolist()),
        uncertain=objection is not None or strange or float(row[best]) < calibration.sure_from,
        objection=objection,
        seen=sight.pixels,
    )
