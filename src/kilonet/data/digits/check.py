"""Tell a digit from what is none, by a small network that was trained on both.

A network that knows ten digits alone takes every mark for one of them. This one has an eleventh class: letters, signs,
touching pairs, parts of digits, and what else is found in pictures. Its images and its recipe are those of
`benchmarks/digit_check_data.py` and `benchmarks/digit_check.toml`.
"""

from functools import cache
from importlib.resources import files

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from kilonet.network.module import Network, initial_network
from kilonet.network.section import ModelSection

LAYERS = (
    "conv 12",
    "conv 12",
    "maxpool 2",
    "conv 24",
    "conv 24",
    "maxpool 2",
    "conv 32",
    "gap",
    "pointwise 11",
)
DIGITS = 10
_BATCH = 256
"""Images that are computed at once; the marks of a page are thousands."""


def digit_probabilities(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probability of each digit, float32 (N, 10), for laid-out images, uint8 (N, 28, 28).

    What is left of one is the probability that an image is no digit.
    """
    if not len(images):
        return np.empty((0, DIGITS), np.float32)
    with torch.inference_mode():
        logits = torch.cat([_network()(batch[:, None]) for batch in torch.from_numpy(images).split(_BATCH)])
        return np.asarray(logits.softmax(1)[:, :DIGITS].numpy(), np.float32)


@cache
def _network() -> Network:
    network = initial_network(ModelSection(layers=LAYERS), seed=0)
    network.load(safetensors.torch.load((files(__package__) / "digit_check.safetensors").read_bytes()))
    network.eval()
    return network
