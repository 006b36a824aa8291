"""Distillation in the native engine, compared with torch in float64."""

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_native import (
    SMALL,
    SMALL_INPUT,
    batches,
    changed,
    distance,
    images_for,
    make_recipe,
    relative_errors,
    train,
    weights_for,
)
from torch import Tensor

from helpers import NEEDS_COMPILER, in_ci, same_tensors, tiny_recipe
from kilonet.data.augment import Batch
from kilonet.data.datasets import DataSet, Images
from kilonet.engines.native import NativeEngine
from kilonet.engines.native.codegen import value_ranges
from kilonet.engines.torch_engine import TorchEngine
from kilonet.models.model import Model
from kilonet.network.module import Network, initial_network
from kilonet.recipe import Recipe, parse_recipe
from kilonet.training.run_folder import Run
from kilonet.training.train import fit, scheduled_rate
from reference import Reference

pytestmark = NEEDS_COMPILER

WIDE = ["conv 9", "pointwise 8", "maxpool 2", "conv 10 same", "gap", "pointwise 5"]


def teacher(layers: list[str] = WIDE, **keys: Any) -> Model:
    """Return a model with its own normalisation and with running statistics of no batch."""
    recipe = parse_recipe({"model": {"input": list(SMALL_INPUT), "layers": layers, **keys}}, "teacher", {})
    weights = weights_for(recipe)
    for name, tensor in weights.items():
        if "running" in name:
            tensor.add_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(3)))
        if name == f"layers.{len(layers) - 1}.convolution.weight":
            # Make the probabilities of the classes differ clearly.
            tensor.mul_(20)
    return Model(recipe.model, weights)


def engine(recipe: Recipe, teachers: list[Model], threads: int = 2) -> NativeEngine:
    return NativeEngine(recipe, *images_for(recipe), weights_for(recipe), threads, teachers=teachers)


def one_step(recipe: Recipe, dtype: torch.dtype, teachers: list[Model], size: int, rate: float) -> Reference:
    reference = Reference(recipe, weights_for(recipe), dtype, [one.network for one in teachers])
    for batch, _ in batches(recipe, 1, size):
        reference.train_batch(Images(*images_for(recipe)), batch, rate)
    return reference


def check_gradients(recipe: Recipe, teachers: list[Model], size: int = 21) -> None:
    plain = recipe.replace(momentum=0.0, weight_decay=0.0)
    native = engine(plain, teachers)
    train(native, plain, 1, size, rate=4096.0)
    exact, rough = (one_step(plain, dtype, teachers, size, 4096.0) for dtype in (torch.float64, torch.float32))
    start, expected = weights_for(plain), exact.final().state()
    errors = relative_errors(native.network_state(), expected, start)
    torch_errors = relative_errors(rough.final().state(), expected, start)
    for name, error in errors.items():
        assert error < max(1e-4, 10 * torch_errors[name]), (name, error, torch_errors[name])
    assert native.take_totals().loss == pytest.approx(exact.loss, rel=1e-5)


@pytest.mark.parametrize("size", [3, 16, 21])
def test_gradients_of_a_step_with_a_teacher(size: int) -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, label_smoothing=0.1, temperature=2.5, weight=0.7)
    check_gradients(recipe, [teacher(mean=0.3, std=0.2)], size)


def test_gradients_with_a_teacher_of_other_statistics_of_each_channel() -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, mean=(0.2, 0.6), std=(0.3, 0.1))
    check_gradients(recipe, [teacher(mean=[0.5, 0.1], std=[0.2, 0.4]), teacher(mean=0.3)])


@settings(max_examples=8, phases=[Phase.generate])
@given(temperature=st.floats(0.25, 30), weight=st.floats(0, 1), count=st.integers(1, 3))
def test_gradients_at_any_temperature_and_weight(temperature: float, weight: float, count: int) -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, temperature=temperature, weight=weight)
    check_gradients(recipe, [teacher(), teacher(SMALL), teacher(mean=0.5)][:count])


def targets(model: Model, pixels: Tensor, precision: str) -> Tensor:
    """Return a teacher's soft targets of images, float32 (N, classes), read off one step of a student.

    The student's logits are its weights times one feature. They are zero, so the gradient of a class's weight is the
    feature times (1 / classes - target).
    """
    shape, classes = model.section.input_shape, model.section.classes
    changes = {"momentum": 0.0, "weight_decay": 0.0, "weight": 1.0, "temperature": 1.0, "precision": precision}
    layers = ["gap", f"pointwise {classes}"]
    recipe = parse_recipe({"model": {"input": list(shape), "layers": layers}}, "blank", changes)
    blank = {name: torch.zeros_like(tensor) for name, tensor in Network(recipe.model).state().items()}
    features = ((pixels.float() / 255 - recipe.model.means[0]) / recipe.model.stds[0]).mean((2, 3))[:, 0]
    found = []
    for image, feature in enumerate(features):
        labels = torch.zeros(len(pixels), dtype=torch.int64)
        student = NativeEngine(recipe, pixels, labels, blank, 1, teachers=[model])
        student.train_batch(Batch(torch.tensor([image]), torch.eye(2, 3)[None]), 1.0, 0)
        moved = student.network_state()["layers.1.convolution.weight"][:, 0].flatten()
        found.append(1 / classes + moved / feature)
    return torch.stack(found)


@pytest.fixture(scope="module")
def trained(small: DataSet) -> Model:
    return fit(tiny_recipe(epochs=4), small).model


@pytest.mark.parametrize(("precision", "close"), [("float32", 5e-4), *in_ci(("bfloat16", 0.02))])
def test_the_targets_are_the_models_probabilities(precision: str, close: float, trained: Model, small: DataSet) -> None:
    """Of the surest digits and of the most uncertain ones, where rounding matters most."""
    model = trained
    order = model.logits(small.test.pixels).softmax(1).amax(1).argsort()
    pixels = small.test.pixels[torch.cat([order[:30], order[-30:]])]
    expected = model.logits(pixels).softmax(1)
    assert float(expected.max()) > 0.95
    assert float(expected.amax(1).min()) < 0.5
    torch.testing.assert_close(targets(model, pixels, precision), expected, rtol=0, atol=close)


def test_a_step_in_bfloat16_with_a_teacher() -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, momentum=0.0, weight_decay=0.0, precision="bfloat16")
    native = engine(recipe, [teacher(SMALL)])
    train(native, recipe, 1)
    exact = one_step(recipe, torch.float64, [teacher(SMALL)], 21, 0.02)
    assert 1e-4 < distance(native.network_state(), exact.final().state(), weights_for(recipe)) < 0.03


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_teachers_resume_bit_for_bit_and_on_any_threads(precision: str) -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, precision=precision)
    teachers = [teacher(SMALL), teacher(SMALL, mean=0.4)]
    whole, half, rest = engine(recipe, teachers), engine(recipe, teachers, 1), engine(recipe, teachers, 3)
    train(whole, recipe, 6, size=48)
    train(half, recipe, 3, size=48)
    rest.load_state(half.state())
    train(rest, recipe, 3, size=48, first=3)
    assert same_tensors(whole.state(), rest.state())


def test_teachers_of_no_weight_change_no_bit() -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, label_smoothing=0.1)
    plain, taught = engine(recipe, []), engine(recipe.replace(weight=0.0), [teacher()])
    for one in (plain, taught):
        train(one, recipe, 3)
    assert same_tensors(plain.state(), taught.state())
    assert plain.take_totals() == taught.take_totals()


@pytest.mark.parametrize("weights", [None, tuple(range(1, 11))])
def test_both_engines_learn_the_same_from_a_teacher(
    weights: tuple[int, ...] | None, small: DataSet, finished: Run
) -> None:
    """The tolerance is the distance of torch's float32 from a loop in float64.

    After more steps either engine may round a pixel to the other side of zero, which then grows from step to step.
    """
    recipe = tiny_recipe(dropout=0.0, class_weights=weights or "none")
    start = {name: tensor.clone() for name, tensor in initial_network(recipe.model, 0).state().items()}
    model, images = finished.model, small.train
    native = NativeEngine(recipe, images.pixels, images.labels, start, 1, teachers=[model])
    in_torch = TorchEngine(recipe, images, initial_network(recipe.model, 0), [model])
    exact = Reference(recipe, start, torch.float64, [model.network])
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        indices = torch.randint(0, len(images), (64,), generator=generator)
        batch, rate = changed(recipe, indices, generator), scheduled_rate(recipe.train, step, 1000)
        for one in (native, in_torch):
            one.train_batch(batch, rate, step)
        exact.train_batch(images, batch, rate)
    trained = {name.removeprefix("network."): tensor for name, tensor in in_torch.state().items() if "network." in name}
    theirs = distance(trained, exact.network.state(), start)
    assert distance(native_weights(native, recipe), exact.network.state(), start) < max(3 * theirs, 1e-4)
    assert theirs < 0.01
    assert native.take_totals().loss == pytest.approx(in_torch.take_totals().loss, rel=1e-4)


def native_weights(engine: NativeEngine, recipe: Recipe) -> dict[str, Tensor]:
    values = engine.state()["values"]
    return {one.name: values[one.begin : one.end].view(one.shape) for one in value_ranges(recipe.model)}
