"""Learning from teachers in the native engine, against torch in float64."""

import shutil
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kilonet.model import Model
from kilonet.native import NativeEngine
from kilonet.recipe import Recipe, parse_recipe
from reference import Reference
from test_native import (
    SMALL,
    SMALL_INPUT,
    batches,
    images_for,
    make_recipe,
    relative_errors,
    train,
    weights_for,
)

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)

WIDE = ["conv 9", "mix 8", "maxpool 2", "conv 10 same", "gap", "mix 5"]


def teacher(layers: list[str] = WIDE, **keys: Any) -> Model:
    """A network of its own normalisation, with running statistics that are not those of any batch."""
    recipe = parse_recipe({"model": {"input": list(SMALL_INPUT), "layers": layers, **keys}}, "teacher", {})
    weights = weights_for(recipe)
    for name, tensor in weights.items():
        if "running" in name:
            tensor.add_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(3)))
        if name == f"layers.{len(layers) - 1}.convolution.weight":
            # Opinions strong enough to be told apart.
            tensor.mul_(20)
    return Model(recipe.model, weights)


def engine(recipe: Recipe, teachers: list[Model], threads: int = 2) -> NativeEngine:
    return NativeEngine(recipe, *images_for(recipe), weights_for(recipe), threads, teachers=teachers)


def one_step(recipe: Recipe, dtype: torch.dtype, teachers: list[Model], size: int, rate: float) -> Reference:
    reference = Reference(recipe, weights_for(recipe), dtype, [one.network for one in teachers])
    pixels, labels = images_for(recipe)
    for indices, transforms, _ in batches(recipe, 1, size):
        reference.train_batch(pixels[indices], labels[indices], transforms, rate)
    return reference


def check_gradients(recipe: Recipe, teachers: list[Model], size: int = 21) -> None:
    plain = recipe.replace(momentum=0.0, weight_decay=0.0)
    native = engine(plain, teachers)
    train(native, plain, 1, size, rate=4096.0)
    exact, rough = (one_step(plain, dtype, teachers, size, 4096.0) for dtype in (torch.float64, torch.float32))
    start, expected = weights_for(plain), exact.kept().state()
    errors = relative_errors(native.network_state(), expected, start)
    torch_errors = relative_errors(rough.kept().state(), expected, start)
    for name, error in errors.items():
        assert error < max(1e-4, 10 * torch_errors[name]), (name, error, torch_errors[name])
    assert native.take_totals().loss == pytest.approx(exact.loss, rel=1e-5)


@pytest.mark.parametrize("size", [3, 16, 21])
def test_gradients_of_a_step_with_a_teacher(size: int) -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, label_smoothing=0.1, temperature=2.5, weight=0.7)
    check_gradients(recipe, [teacher(mean=0.3, deviation=0.2)], size)


@settings(max_examples=12, phases=[Phase.generate])
@given(temperature=st.floats(0.25, 30), weight=st.floats(0, 1), count=st.integers(1, 3))
def test_gradients_at_any_temperature_and_weight(temperature: float, weight: float, count: int) -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, temperature=temperature, weight=weight)
    check_gradients(recipe, [teacher(), teacher(SMALL), teacher(mean=0.5)][:count])
