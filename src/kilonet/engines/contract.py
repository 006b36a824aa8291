"""The contract between `kilonet.training.train` and an engine, which computes the training steps.

An engine owns the training images and the state of one run (weights, batch-norm statistics, optimiser, moving average).
`train` decides everything else: the order of the images, their augmentation, the learning rate, when to score and save.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kilonet.data.augment import Batch


@dataclass(frozen=True)
class Totals:
    """Sums over the batches trained since the totals were last taken."""

    loss: float
    """Sum over images of the cross-entropy with the smoothed labels, in nats, times the weight of the image's class;
    that of a mixed image is mixed. It leaves out the teachers' part of the loss, so
    that it can be compared with other runs and with guessing."""
    correct: int
    """Images whose highest logit was their label's, in the forward passes of training."""
    images: int


def average_share(decay: float, step: int) -> float:
    """Return the share of the newest weights in the moving average after a step, counted from 0.

    The share is 1 - decay, but at least 10 / (10 + step), so that the average forgets the initial weights quickly.
    TensorFlow's ExponentialMovingAverage does the same with `num_updates`, with other constants.
    """
    return max(1 - decay, 10 / (10 + step))


class Engine(Protocol):
    """Trains one network. All tensors are on `device`; floats are float32."""

    name: str
    """`torch` or `native`."""
    device: str
    """The torch device of the batches and the pixels that the engine is given."""
    precision: str
    """Arithmetic of the convolutions in training: `float32` or `bfloat16`."""

    def train_batch(self, batch: Batch, learning_rate: float, step: int) -> None:
        """Train one step. An asynchronous device may still be computing it when this returns.

        Args:
            batch: the training images and how each is changed.
            learning_rate: of this step.
            step: number of the step in the whole run, from 0; with the recipe's seed it decides the dropout.
        """

    def take_totals(self) -> Totals:
        """Return the sums since the last call and reset them."""

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits of images with the final weights, float32 (N, classes), for uint8 pixels (N, C, H, W).

        The final weights are the moving average, or the trained weights if the recipe has no average.
        """

    def state(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of everything that is needed to resume the run bit for bit."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state` returned."""

    def network_state(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of the final weights and statistics, named as in `Network.state`."""
