"""Read a row of digits that touch as a whole, without cutting it first.

A small network slides over the row; every second column it says which digit it sees there, or that it sees none yet.
The probability of a reading is the sum over all ways to spread its digits over the columns, so no cut has to be right
for the digits to be. The network was trained by `benchmarks/row_reader.py`.

Source: A. Graves, S. Fernandez, F. Gomez, J. Schmidhuber, "Connectionist temporal classification", 2006.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from kilonet.data.digits.check import DIGITS
from kilonet.data.digits.layout import cropped

Floats = NDArray[np.float32]

ROWS = 28
"""Rows that the ink is scaled to."""
PADDING = 6
"""Empty columns on either side."""
STRIDE = 2
"""Columns of the ink for each column of the network's output."""
BLANK = DIGITS
"""The class of columns that begin no digit."""
_Pair = tuple[int, int]
_CONVOLUTIONS: tuple[tuple[int, _Pair, _Pair, _Pair], ...] = (
    (16, (5, 5), (2, 1), (2, 2)),
    (24, (3, 3), (1, 1), (1, 1)),
    (48, (3, 3), (1, 1), (1, 1)),
    (48, (3, 3), (1, 1), (1, 1)),
    (64, (3, 3), (1, 1), (0, 1)),
    (64, (1, 3), (1, 1), (0, 1)),
)
"""Channels, kernel, stride and padding; 28 rows become one."""
_POOLS = {1: (2, 2), 3: (2, 1)}
"""Windows of the pooling behind some of them, by their numbers."""


@dataclass(frozen=True)
class RowReading:
    """What a row most probably says."""

    digits: tuple[int, ...]
    probabilities: Floats
    """float32 (digits, 10): the probability of the whole reading with each digit in each place."""


def row_network(*, normalised: bool) -> nn.Sequential:
    """Return the network with random weights: float32 (N, 1, 28, columns) to logits (N, 11, 1, columns / 2).

    Args:
        normalised: whether its convolutions are followed by batch normalisation, for training; without, they have the
            biases that the normalisation becomes.
    """
    layers: list[nn.Module] = []
    before = 1
    for number, (channels, kernel, stride, padding) in enumerate(_CONVOLUTIONS):
        layers.append(nn.Conv2d(before, channels, kernel, stride, padding, bias=not normalised))
        if normalised:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU())
        before = channels
        if number in _POOLS:
            layers.append(nn.MaxPool2d(_POOLS[number]))
    return nn.Sequential(*layers, nn.Conv2d(before, DIGITS + 1, 1))


def scaled_row(ink: Floats) -> NDArray[np.uint8]:
    """Return ink, float32 (rows, columns), 0 to 1, cropped and scaled to the network's rows: uint8 (28, columns)."""
    cut = Image.fromarray(cropped(ink))
    width = max(2, round(cut.width * ROWS / cut.height))
    way = Image.Resampling.BOX if cut.height > 2 * ROWS else Image.Resampling.BICUBIC
    return np.asarray((255 * np.clip(np.asarray(cut.resize((width, ROWS), way)), 0, 1)).round(), np.uint8)


def read_row(ink: Floats) -> RowReading:
    """Read the digits of ink, float32 (rows, columns), 0 to 1, from left to right."""
    row = np.pad(scaled_row(ink), ((0, 0), (PADDING, PADDING)))
    with torch.inference_mode():
        columns = _network()(torch.from_numpy(row[None, None]).float() / 255)[0, :, 0].log_softmax(0).T
    best = columns.argmax(1).tolist()
    digits = tuple(one for before, one in zip([BLANK, *best], best, strict=False) if one not in {before, BLANK})
    if not digits:
        return RowReading((), np.empty((0, DIGITS), np.float32))
    # Every digit of the reading is replaced by each of the ten, which gives the probability of it in its place.
    readings = torch.tensor(digits).repeat(len(digits) * DIGITS, 1)
    places = torch.arange(len(readings))
    readings[places, places // DIGITS] = places % DIGITS
    losses = nn.functional.ctc_loss(
        columns[:, None].expand(-1, len(readings), -1),
        readings,
        torch.full((len(readings),), len(columns)),
        torch.full((len(readings),), len(digits)),
        BLANK,
        reduction="none",
    )
    probabilities = np.asarray((-losses).exp().reshape(len(digits), DIGITS).numpy(), np.float32)
    return RowReading(digits, probabilities)


@cache
def _network() -> nn.Sequential:
    network = row_network(normalised=False)
    weights = safetensors.torch.load((files(__package__) / "row_reader.safetensors").read_bytes())
    network.load_state_dict({name: values.float() for name, values in weights.items()})
    network.eval()
    return network
