"""Operations: counts of weights as torch has them."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kilonet.network.operations import Convolution, elements


@given(inputs=st.integers(1, 5), times=st.integers(1, 3), kernel=st.integers(1, 4), depthwise=st.booleans())
def test_a_convolution_has_torchs_weights(inputs: int, times: int, kernel: int, depthwise: bool) -> None:
    groups = inputs if depthwise else 1
    operation = Convolution(inputs, inputs * times, kernel, groups=groups)
    weight: torch.Tensor = nn.Conv2d(inputs, inputs * times, kernel, groups=groups, bias=False).weight
    assert operation.weight_shape == tuple(weight.shape)
    assert operation.weights == operation.parameters == weight.numel()


def test_shared_weights_count_once() -> None:
    shared = Convolution(3, 4, 3, shared=True)
    assert (shared.weights, shared.parameters) == (108, 0)


def test_elements_are_counted() -> None:
    assert elements((10, 26, 26)) == 6760
