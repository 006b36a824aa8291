"""Dropout whose mask is cheap to draw on a processor."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16
"""A mask compares 16 random bits an element; one 64-bit draw of the generator serves four elements."""


class Dropout(nn.Module):
    """Zeroes activations with a probability while training and scales up the rest.

    On a CPU, torch's own dropout spends more time on drawing one Bernoulli variable an element than the convolution
    before it takes; elsewhere torch's own is used. The probability is kept to the nearest 1/65,536.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        """Return the activations, some zeroed: the same shape, dtype and memory format."""
        if not self.training or self.probability == 0:
            return values
        if values.device.type != "cpu":
            return functional.dropout(values, self.probability)
        return values * _scaled_mask(values, self.probability)

    def extra_repr(self) -> str:
        """Say the probability where the module is printed."""
        return f"p={self.probability}"


def _scaled_mask(values: Tensor, probability: float) -> Tensor:
    count = values.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    dropped = round(probability * _LEVELS)
    kept = draws >= dropped - _LEVELS // 2
    mask = torch.empty_like(values)
    # The mask is filled in the order of memory, whatever that is: element-wise work then runs straight through.
    flat = mask.as_strided((count,), (1,))
    torch.mul(kept, _LEVELS / (_LEVELS - dropped), out=flat)
    return mask
