"""What computes the training steps: the contract between `train` and an engine.

An engine owns the training images and the state of one run (weights, batch-norm statistics, optimiser, moving average).
`train` decides everything else: the order of the images, their augmentation, the learning rate, when to score and save.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Totals:
    """Sums over the batches trained since the totals were last taken."""

    loss: float
    """Sum over images of the cross-entropy with the labels in nats, smoothing included; with teachers, only a part of
    what is minimised is of the labels, but this is what can be compared with other runs and with guessing."""
    correct: int
    """Images whose highest logit was their label's, as seen while training."""
    images: int
    """Images trained."""


def average_share(decay: float, step: int) -> float:
    """Return the newest weights' share in the moving average after a step, counted from 0.

    An average over less than about a tenth of the steps so far at first, so that the initial weights do not linger in
    it; 1 - decay once that is more. The same idea with other constants: TensorFlow's ExponentialMovingAverage with
    `num_updates`.
    """
    return max(1 - decay, 10 / (10 + step))


class Engine(Protocol):
    """Trains one network. All tensors are on `device`; floats are float32."""

    name: str
    """`torch` or `native`."""
    device: str
    """The torch device that order, transforms and pixels are handed over on."""
    precision: str
    """Arithmetic of the convolutions while training: `float32` or `bfloat16`."""

    def train_batch(self, indices: Tensor, transforms: Tensor, learning_rate: float, step: int) -> None:
        """Train one step, without waiting for it where the device works by itself.

        Args:
            indices: int64 (B,), which training images make the batch.
            transforms: float32 (B, 2, 3), the affine map of each image, see `kilonet.data.augment`.
            learning_rate: of this step.
            step: number of the step in the whole run, from 0; with the recipe's seed it decides the dropout.
        """

    def take_totals(self) -> Totals:
        """Return the sums since the last call and start anew."""

    def logits(self, pixels: Tensor) -> Tensor:
        """Score images with the weights that would be kept: uint8 (N, C, H, W) to float32 (N, classes)."""

    def state(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of all that the run needs to go on bit for bit."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state` returned."""

    def network_state(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of the weights that would be kept, under the names of `Network.state`."""
