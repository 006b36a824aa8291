"""From trained models to integers: folding, ranges and the accuracy that is kept."""

from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers import in_ci, model_section, refusal, some_pixels
from kilonet.data.datasets import DataSet, Images
from kilonet.export import folding, quantisation
from kilonet.export.integer import IntegerConvolution, IntegerNetwork, integer_logits
from kilonet.export.manifest import read_manifest
from kilonet.export.unrounded_steps import to_integer_network
from kilonet.models.model import Model, load_model
from kilonet.utils.errors import KilonetError
from strategies import images_for, model_of, models


def unlabelled(pixels: torch.Tensor) -> Images:
    return Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))


def integers(model: Model, pixels: torch.Tensor) -> IntegerNetwork:
    return to_integer_network(model.section, quantisation.choose_scales(model, unlabelled(pixels)))


def accuracy(scores: NDArray[Any], images: Images) -> float:
    return float((scores.argmax(1) == images.labels.numpy()).mean())


@hypothesis.settings(max_examples=60)
@hypothesis.given(models)
def test_folding_changes_nothing(model: Model) -> None:
    pixels = images_for(model.section, 1, 20)
    found = pixels.double()
    for step in folding.fold(model):
        found = folding.execute_step(step, found)
    expected = model.logits(pixels)
    torch.testing.assert_close(found.flatten(1).float(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@hypothesis.settings(max_examples=60)
@hypothesis.given(models)
def test_the_integers_are_close_to_the_floats(model: Model) -> None:
    pixels = images_for(model.section, 1, 100)
    network = integers(model, pixels)
    expected = model.logits(pixels).numpy()
    found = integer_logits(network, pixels.numpy()) / 2.0**network.fraction_bits
    error = np.sqrt(((found - expected) ** 2).mean())
    # Over 250 such networks: median 0.001, largest 0.021; 0.067 if only every fourth image chose the ranges.
    assert error <= 0.06 * np.sqrt((expected**2).mean()) + 1e-6


@pytest.mark.parametrize("name", ["mcu", "uno", *in_ci("best", "baseline")])
def test_packaged_models_lose_at_most_a_twentieth_of_a_point(
    name: str, mnist: DataSet, request: pytest.FixtureRequest
) -> None:
    model = load_model(name)
    if name == "best":
        network = read_manifest(request.getfixturevalue("exported_best")).network
    else:
        # A few of the training images show the same in a few hundredths of the time.
        images = mnist.train.select(torch.arange(1_200), "Train")
        network = quantisation.quantise(model, images).network
    quarter = mnist.test.select(torch.arange(0, 10_000, 4), "Test")
    before = accuracy(model.logits(quarter.pixels).numpy(), quarter)
    after = accuracy(integer_logits(network, quarter.pixels.numpy()), quarter)
    assert after >= before - 0.0005
    assert after >= 0.993


def test_batch_norm_costs_the_reference_network_nothing() -> None:
    """Where batch norm folds, no channel needs an offset, and weights are all there is."""
    section = model_section(
        "conv 4", "conv 6", "pointwise 4", "maxpool 2", "conv 5", "gap", "pointwise 3", input=(1, 12, 12)
    )
    model = model_of(section, 0)
    for module in model.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.abs_()
    network = integers(model, images_for(section, 0, 100))
    outputs = [operation.output for operation in network.operations if hasattr(operation, "output")]
    assert all(output.offset_is_rounding_half for output in outputs)


def test_padding_stands_for_zero_in_every_channel() -> None:
    section = model_section(
        "pointwise 4", "conv 4 same", "conv 4 same residual", "gap", "pointwise 3", input=(2, 6, 6), mean=0.5
    )
    model = model_of(section, 3)
    pixels = images_for(section, 3, 100)
    first, second, third, *_ = integers(model, pixels).operations
    assert isinstance(second, IntegerConvolution)
    assert isinstance(third, IntegerConvolution)
    assert third.skip is not None
    # A signed range has its zero inside; `pointwise` gives one.
    assert ((second.pad > 0) & (second.pad < 255)).all()
    assert isinstance(first, IntegerConvolution)


def test_calibration_repeats_to_the_bit(mnist: DataSet) -> None:
    model = load_model("mcu")
    first, second = (integers(model, mnist.train.pixels[:500]) for _ in range(2))
    for one, other in zip(first.operations, second.operations, strict=True):
        if isinstance(one, IntegerConvolution) and isinstance(other, IntegerConvolution):
            assert np.array_equal(one.weights, other.weights)
            assert np.array_equal(one.bias, other.bias)
            assert np.array_equal(one.output.multiplier, other.output.multiplier)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(KilonetError) as error:
        quantisation.quantise(load_model("mcu"), unlabelled(some_pixels(12, (1, 8, 8))))
    refusal(error, "(12, 1, 8, 8)", "(N, 1, 28, 28)")


def test_too_few_images_are_refused() -> None:
    with pytest.raises(KilonetError) as error:
        quantisation.quantise(load_model("mcu"), unlabelled(some_pixels(3)))
    refusal(error, "too few")


def test_a_network_whose_logits_are_not_finite_is_not_quantised(small: DataSet) -> None:
    model = load_model("mcu")
    with torch.no_grad():
        next(iter(model.network.state().values())).fill_(3e38)
    with pytest.raises(KilonetError) as error:
        quantisation.quantise(model, small.train)
    refusal(error, "NaN or infinity", "its weights are too large")
