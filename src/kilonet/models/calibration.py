"""How sure a model may be: probabilities that mean what they say, and the bounds below which an answer is marked."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kilonet.utils.schema import Fraction, Schema

LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 0.02, 50.0


class Calibration(Schema):
    """The dials that turn logits into a confidence."""

    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE, le=GREATEST_TEMPERATURE)] = 1.0
    """Divides the logits before the softmax."""
    sure_from: Fraction = 0.9
    """An answer of a lower probability is uncertain."""
    energy_from: float | None = None
    """An image whose log-sum-exp of the logits is lower is unlike what the network was trained on; None to take all."""

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn logits, float32 (N, classes), into probabilities of the same shape; each row sums to one."""
        scaled = logits / np.float32(self.temperature)
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


UNFITTED = Calibration()
"""What a model without a calibration gets."""


def energies(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each row's log-sum-exp: (N, classes) to float64 (N,).

    Source: W. Liu et al., "Energy-based out-of-distribution detection", 2020, with the sign turned round.
    """
    highest = logits.max(1).astype(np.float64)
    return np.asarray(highest + np.log(np.exp(logits - highest[:, None]).sum(1)))
