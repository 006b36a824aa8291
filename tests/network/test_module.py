"""The torch module that a list of layers describes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers import BASELINE_LAYERS, TINY_LAYERS, model_section, same_tensors, some_pixels
from kilonet.network.module import Network, initial_network, pointwise_product
from kilonet.recipe import load_recipe

BASELINE = load_recipe("baseline").model


def test_the_reference_network_is_the_seeds() -> None:
    network = Network(BASELINE)
    assert sum(parameter.numel() for parameter in network.parameters()) == 7662
    kinds = [module for module in network.modules() if not list(module.children())]
    leaves = [next(kind.__name__ for kind in type(module).__mro__ if kind.__name__[0] != "_") for module in kinds]
    block = ["Conv2d", "ReLU", "BatchNorm2d", "DropoutModule"]
    expected = [*block, *block, "Conv2d", "MaxPool2d", *block, *block, *block, "AdaptiveAvgPool2d", "Conv2d"]
    assert leaves == expected
    assert not any(isinstance(module, nn.Linear) for module in network.modules())
    assert all(module.bias is None for module in network.modules() if isinstance(module, nn.Conv2d))
    assert network(some_pixels(5)).shape == (5, 10)


def test_a_pointwise_layer_as_a_product_of_matrices() -> None:
    """As a GPU computes it: values and both gradients are the convolution's."""
    generator = torch.Generator().manual_seed(0)
    shapes = (5, 3, 1, 1), (4, 3, 6, 7), (4, 5, 6, 7)
    weight, values, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    weight.requires_grad_(), values.requires_grad_()
    expected, found = functional.conv2d(values, weight), pointwise_product(weight, values)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(output, (weight, values), upstream) for output in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_pixels_are_normalised_by_the_sections_mean_and_std() -> None:
    network = Network(model_section("gap", mean=0.25, std=0.5))
    white, black = torch.full((1, 1, 28, 28), 255, dtype=torch.uint8), torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    assert network(white).item() == pytest.approx((1 - 0.25) / 0.5)
    assert network(black).item() == pytest.approx(-0.25 / 0.5)
    assert torch.equal(network(white), network(white.float()))


def test_a_forward_pass_is_what_its_weights_say() -> None:
    network = initial_network(model_section("conv 3", "maxpool 2", "gap", "pointwise 4"), seed=0).eval()
    state, pixels = network.state(), some_pixels(3)
    values = (pixels / 255 - network.model.means[0]) / network.model.stds[0]
    values = functional.conv2d(values, state["layers.0.convolution.weight"]).relu()
    # Fresh statistics: mean 0, variance 1.
    values = values / (1 + 1e-5) ** 0.5
    values = functional.max_pool2d(values, 2).mean((2, 3), keepdim=True)
    values = functional.conv2d(values, state["layers.3.convolution.weight"])
    torch.testing.assert_close(network(pixels), values.flatten(1))


def test_a_stride_takes_every_second_value_and_an_average_pool_the_mean() -> None:
    network = initial_network(model_section("conv 3 same stride 2", "avgpool 3", "gap"), seed=0).eval()
    values = torch.randn(2, 1, 28, 28)
    whole = functional.conv2d(values, network.state()["layers.0.convolution.weight"], padding=1).relu()
    strided = network.layers[0](values.clone())
    torch.testing.assert_close(strided, whole[:, :, ::2, ::2] / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(
        network.layers[1](strided), strided[:, :, :12, :12].unflatten(2, (4, 3)).unflatten(4, (4, 3)).mean((3, 5))
    )


def test_a_residual_layer_adds_its_input() -> None:
    with_it, without = (
        initial_network(model_section("conv 3", f"conv 3 same{word}", "gap"), seed=0).eval()
        for word in (" residual", "")
    )
    values = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(with_it.layers[1](values.clone()), values + without.layers[1](values.clone()))


def test_a_depthwise_layer_keeps_channels_apart() -> None:
    network = initial_network(model_section("conv 3", "conv 6 depthwise", "gap"), seed=0).eval()
    # Large weights of either sign, so that no channel is zero everywhere after its ReLU.
    values = 10 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = network.layers[1](values.clone())
    values[:, 1] += 1
    changed = (network.layers[1](values.clone()) != before).flatten(2).any(2)[0]
    assert changed.tolist() == [False, False, True, True, False, False]


def test_a_same_layer_keeps_the_size() -> None:
    network = Network(model_section("conv 2 7x7 same", "gap"))
    assert network.layers[0](torch.zeros(1, 1, 28, 28)).shape == (1, 2, 28, 28)


def test_the_names_in_a_model_file_do_not_change() -> None:
    network = Network(model_section("conv 2 same", "conv 2 same residual", "gap", "pointwise 3", dropout=0.1))
    norm = ("weight", "bias", "running_mean", "running_var")
    assert list(network.state()) == [
        "layers.0.convolution.weight",
        *(f"layers.0.batch_norm.{name}" for name in norm),
        "layers.1.layer.convolution.weight",
        *(f"layers.1.layer.batch_norm.{name}" for name in norm),
        "layers.3.convolution.weight",
    ]
    assert all(tensor.dtype == torch.float32 for tensor in network.state().values())


def test_a_state_is_loaded_into_another_network() -> None:
    first, second = initial_network(BASELINE, seed=1), initial_network(BASELINE, seed=2)
    assert not same_tensors(first.state(), second.state())
    second.load(first.state())
    assert same_tensors(first.state(), second.state())


def test_a_loaded_state_is_a_copy() -> None:
    first, second = initial_network(BASELINE, seed=1), initial_network(BASELINE, seed=2)
    second.load(first.state())
    with torch.no_grad():
        first.state()["layers.0.convolution.weight"].zero_()
    assert second.state()["layers.0.convolution.weight"].any()


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    section = model_section(*TINY_LAYERS)
    first = initial_network(section, seed=5).state()
    torch.rand(100)
    assert same_tensors(first, initial_network(section, seed=5).state())
    assert not same_tensors(first, initial_network(section, seed=6).state())


def test_drawing_weights_leaves_the_callers_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    initial_network(BASELINE, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_weights_are_torchs_own_initial_ones() -> None:
    network = initial_network(BASELINE, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = nn.Conv2d(1, 10, 3, bias=False)
    assert torch.equal(network.state()["layers.0.convolution.weight"], first.weight)
    assert len(BASELINE_LAYERS) == len(network.layers)
