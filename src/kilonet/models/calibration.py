"""The calibration of a model: the temperature of its probabilities, and the thresholds of an uncertain prediction."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Fraction, Schema

LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 0.02, 50.0


class Calibration(Schema):
    """The temperature and the thresholds that turn logits into a confidence."""

    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE, le=GREATEST_TEMPERATURE)] = 1.0
    """The divisor of the logits before the softmax."""
    sure_from: Fraction = 0.9
    """The confidence threshold: a prediction of a lower probability is uncertain."""
    energy_from: float | None = None
    """The energy threshold: an image whose logits have a lower log-sum-exp is unlike the training images.

    None if every image is taken.
    """
    rejects: bool | None = None
    """Whether an uncertain prediction is answered with "none of these": the thresholds were fitted on images of none of
    the classes too. None for a model without such images.
    """

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities of logits, float32 (N, classes), in the same shape; each row sums to one.

        Raises:
            KilonetError: a logit, divided by the temperature, is NaN or infinite.
        """
        # A difference of finite logits may overflow to minus infinity, whose power is 0, as it should be.
        with np.errstate(over="ignore"):
            scaled = logits / np.float32(self.temperature)
            check_finite(scaled)
            powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)

    def strange(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which images are unlike the training images, bool (N,), for logits, float32 (N, classes)."""
        if self.energy_from is None:
            return np.zeros(len(logits), np.bool_)
        return np.asarray(~(energies(logits) >= self.energy_from))

    def uncertain(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which predictions are uncertain, bool (N,), for logits, float32 (N, classes).

        Raises:
            KilonetError: a logit, divided by the temperature, is NaN or infinite.
        """
        confidence = self.probabilities(logits).max(1).astype(np.float64)
        return np.asarray(self.strange(logits) | ~(confidence >= self.sure_from))


UNFITTED = Calibration()
"""The calibration of a model that was never calibrated."""


def check_finite(logits: NDArray[np.float32]) -> None:
    """Check logits, (N, classes), before anything is concluded from them: every comparison with NaN is false.

    Raises:
        KilonetError: one is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(1).sum())
        raise KilonetError(
            f"the network computes NaN or infinity for {bad:,} of {len(logits):,} images: its weights are too large; "
            "train it again at a lower learning rate"
        )


def energies(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-sum-exp of each row of logits, (N, classes): float64 (N,).

    Source: W. Liu et al., "Energy-based out-of-distribution detection", 2020, with the opposite sign.
    """
    highest = logits.max(1).astype(np.float64)
    return np.asarray(highest + np.log(np.exp(logits - highest[:, None]).sum(1)))
