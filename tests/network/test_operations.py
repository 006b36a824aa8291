"""Operations: counts of weights as in torch, and the check of images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import refusal
from kilonet.network.operations import Convolution, check_pixels, elements
from kilonet.utils.errors import KilonetError


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


def test_images_of_the_networks_shape_and_type_are_taken() -> None:
    check_pixels(torch.zeros(2, 1, 4, 5, dtype=torch.uint8), (1, 4, 5))
    check_pixels(np.zeros((0, 3, 4, 5), np.uint8), (3, 4, 5))


@pytest.mark.parametrize(("shape", "dtype"), [((2, 1, 5, 4), "uint8"), ((2, 4, 5), "uint8"), ((2, 1, 4, 5), "float32")])
def test_images_of_another_shape_or_type_are_refused(shape: tuple[int, ...], dtype: str) -> None:
    for images in (np.zeros(shape, dtype), torch.zeros(shape, dtype=getattr(torch, dtype))):
        with pytest.raises(KilonetError) as error:
            check_pixels(images, (1, 4, 5))
        refusal(error, "uint8 (N, 1, 4, 5)", f"{dtype} {shape}")
