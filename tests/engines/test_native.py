"""The native engine compared with torch: gradients, runs, resuming, dropout, instruction sets and the build."""

import contextlib
import ctypes
import math
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import helpers
from helpers import NEEDS_COMPILER, in_ci, refusal, tiny_recipe
from kilonet.data.augment import NOISE_STARTS, Batch, draw_changes
from kilonet.data.datasets import DataSet, Images
from kilonet.engines.native import NativeEngine, bindings, build, cache, codegen, native_unavailable_reason
from kilonet.engines.native.bindings import TeacherNetwork, TrainingBatch
from kilonet.engines.native.cache import cache_folder, read_verified, store, work_folder
from kilonet.engines.native.codegen import value_ranges
from kilonet.engines.selection import resolve_run
from kilonet.models.model import Model
from kilonet.network.graph import place
from kilonet.network.layers import parse_layer
from kilonet.network.module import Network, initial_network
from kilonet.recipe import Recipe, load_recipe, parse_recipe
from kilonet.training.train import scheduled_rate
from kilonet.utils.errors import KilonetError
from preloaded import Started, forked_script
from reference import Reference

pytestmark = NEEDS_COMPILER

SMALL = [
    "conv 5",
    "pointwise 4",
    "maxpool 2",
    "conv 6 same",
    "conv 6 same residual",
    "conv 12 depthwise",
    "gap",
    "pointwise 5",
]
SHARED = [
    "conv 4",
    "pointwise 4",
    "conv 4 2x2",
    "again 2",
    "conv 4 same",
    "again 1",
    "pointwise 6",
    "conv 6 2x2 depthwise",
    "again 1",
    "gap",
    "pointwise 5",
]
SMALL_INPUT, COLOUR_INPUT = (2, 13, 12), (3, 13, 12)
DROPPED = ["conv 5", "conv 6 same", "gap", "pointwise 5"]
# Batch norms before them are folded.
STRIDES = ["conv 6 stride 2", "conv 7 5x5 stride 3", "conv 14 2x2 stride 2 depthwise", "conv 5 1x1 stride 2", "gap"]
PADDED_STRIDES = [
    "conv 6 5x5 same stride 2",
    "conv 12 same stride 3 depthwise",
    "pointwise 6",
    "conv 6 same residual",
    "conv 8 5x5 same stride 4",
    "gap",
    "pointwise 5",
]
SHARED_STRIDES = ["conv 4 stride 2", "pointwise 4", "conv 4 2x2 stride 2", "again 2", "gap", "pointwise 5"]
# Behind every kind of layer.
AVERAGES = [
    "conv 6 stride 2",
    "avgpool 2",
    "conv 6 same residual",
    "avgpool 1",
    "pointwise 6",
    "avgpool 3",
    "maxpool 2",
    "avgpool 1",
    "conv 6 1x1",
    "gap",
    "pointwise 5",
]
# Behind batch norms, and so parts of them, but for the last one: a dense residual's gradient is needed whole. The first
# one leaves out columns at the end, whose gradient is zero.
POOLS = [
    "conv 5",
    "maxpool 3",
    "conv 5 5x5 same depthwise residual",
    "maxpool 2",
    "conv 5 same residual",
    "maxpool 2",
    "gap",
    "pointwise 5",
]
# Too large for a byte to number its places.
# Depthwise layers of all kinds: with even and odd kernels, a stride, padding that is stored and one that is not.
DEPTHWISE = [
    "conv 6",
    "pointwise 6",
    "conv 6 5x5 same depthwise residual",
    "conv 6 same depthwise",
    "conv 6 2x2 depthwise",
    "conv 6 5x5 same stride 2 depthwise",
    "conv 7",
    "conv 7 4x4 stride 2 depthwise",
    "gap",
    "pointwise 5",
]
LARGE_POOL = ["conv 6", "maxpool 16", "gap", "pointwise 5"]
# A single channel is no depthwise convolution.
POOL_OF_ONE_CHANNEL = ["conv 1", "conv 1 same residual", "maxpool 2", "pointwise 4", "gap", "pointwise 5"]
TINY = ["conv 2", "gap"]
COUNT = 60


ALL_CHANGES = {
    "flip": True, "crop": 2, "outside": "edge", "brightness": 0.2, "contrast": 0.3, "saturation": 0.4,
    "white_balance": 0.2, "blur": 0.8, "noise": 0.1, "cutout": 4, "mixup": 0.6,
}  # fmt: skip


def make_recipe(layers: list[str], shape: tuple[int, int, int], **changes: Any) -> Recipe:
    augment = {"rotation": 15, "shift": 1.5, "scale": 0.1, "shear": 0.1}
    return parse_recipe({"model": {"input": list(shape), "layers": layers}, "augment": augment}, "test", changes)


def images_for(recipe: Recipe) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (COUNT, *recipe.model.input_shape), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(0, recipe.model.classes, (COUNT,), generator=generator)


def weights_for(recipe: Recipe) -> dict[str, Tensor]:
    """Return initial weights, with random scales and shifts of the batch norms."""
    generator = torch.Generator().manual_seed(2)
    weights = {name: tensor.clone() for name, tensor in initial_network(recipe.model, 0).state().items()}
    for name, tensor in weights.items():
        if name.endswith(("batch_norm.weight", "batch_norm.bias")):
            tensor.add_(torch.rand(tensor.shape, generator=generator) - 0.4)
    return weights


def native(recipe: Recipe, threads: int = 2) -> NativeEngine:
    return NativeEngine(recipe, *images_for(recipe), weights_for(recipe), threads)


def batches(recipe: Recipe, steps: int, size: int, first: int = 0) -> Iterator[tuple[Batch, int]]:
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        indices = torch.randint(0, COUNT, (size,), generator=generator)
        yield changed(recipe, indices, generator), step


def changed(recipe: Recipe, indices: Tensor, generator: torch.Generator) -> Batch:
    model = recipe.model
    return draw_changes(recipe.augment, indices, model.input_shape, model.means, generator, mixed=0.7)


def train(
    engine: NativeEngine, recipe: Recipe, steps: int, size: int = 21, *, first: int = 0, rate: float = 0.02
) -> None:
    for batch, step in batches(recipe, steps, size, first):
        engine.train_batch(batch, rate, step)


def train_reference(recipe: Recipe, dtype: torch.dtype, steps: int, size: int = 21, rate: float = 0.02) -> Reference:
    reference = Reference(recipe, weights_for(recipe), dtype)
    for batch, _ in batches(recipe, steps, size):
        reference.train_batch(Images(*images_for(recipe)), batch, rate)
    return reference


def relative_errors(
    found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]
) -> dict[str, float]:
    """Return the error of each tensor relative to how far it moved from its start."""
    errors = {}
    for name, tensor in expected.items():
        moved = tensor.double() - start[name].double()
        errors[name] = float((found[name].double() - tensor.double()).norm() / (moved.norm() + 1e-9))
    return errors


def check_gradients(recipe: Recipe, size: int = 21) -> None:
    """Take one plain step so large that the weights become their gradient, and compare it with torch's."""
    plain = recipe.replace(momentum=0.0, weight_decay=0.0)
    engine = native(plain)
    train(engine, plain, 1, size, rate=4096.0)
    exact = train_reference(plain, torch.float64, 1, size, rate=4096.0)
    rough = train_reference(plain, torch.float32, 1, size, rate=4096.0)
    start, expected = weights_for(plain), exact.final().state()
    errors = relative_errors(engine.network_state(), expected, start)
    torch_errors = relative_errors(rough.final().state(), expected, start)
    for name, error in errors.items():
        # Batch norm makes some gradients zero; then only rounding errors are left, in torch too.
        assert error < max(1e-4, 10 * torch_errors[name]), (name, error, torch_errors[name])
    assert engine.take_totals().loss == pytest.approx(exact.loss, rel=1e-5)


@pytest.mark.parametrize("size", [3, 21, *in_ci(16, 48)])
def test_gradients_of_a_step(size: int) -> None:
    check_gradients(make_recipe(SMALL, SMALL_INPUT, label_smoothing=0.1), size)


def coloured_recipe(**changes: Any) -> Recipe:
    """Return a recipe of images in colour, whose channels have statistics that are far apart."""
    return make_recipe(SMALL, COLOUR_INPUT, mean=(0.1, 0.5, 0.9), std=(0.1, 0.3, 0.6), **changes)


def test_gradients_with_the_statistics_of_each_channel() -> None:
    check_gradients(coloured_recipe())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_with_class_weights(smoothing: float) -> None:
    check_gradients(coloured_recipe(class_weights=(0.2, 1, 3, 0.5, 20), label_smoothing=smoothing))


def test_equal_class_weights_change_no_bit() -> None:
    recipe = coloured_recipe(label_smoothing=0.1)
    plain, weighted = native(recipe), native(recipe.replace(class_weights=(4.0,) * 5))
    for engine in (plain, weighted):
        train(engine, recipe, 3)
    assert plain.take_totals() == weighted.take_totals()
    assert helpers.same_tensors(plain.state(), weighted.state())


def test_gradients_with_flips() -> None:
    check_gradients(coloured_recipe(flip=True, flip_vertical=True))


def check_logits(recipe: Recipe, *counts: int) -> None:
    engine, network = native(recipe), Network(recipe.model).eval()
    network.load(weights_for(recipe))
    pixels = images_for(recipe)[0]
    for count in counts or (COUNT,):
        with torch.no_grad():
            torch.testing.assert_close(engine.logits(pixels[:count]), network(pixels[:count]), rtol=1e-4, atol=1e-4)


def test_logits_with_the_statistics_of_each_channel() -> None:
    check_logits(coloured_recipe())


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (STRIDES, (2, 37, 31)),
        (STRIDES, (3, 32, 34)),
        (PADDED_STRIDES, (2, 37, 31)),
        *in_ci((PADDED_STRIDES, (3, 32, 34))),
        (SHARED_STRIDES, (1, 33, 34)),
        (AVERAGES, (2, 37, 34)),
    ],
)
def test_gradients_of_strides_and_averages(
    layers: list[str], shape: tuple[int, int, int], quick_compiler: Path
) -> None:
    with compiled_by(quick_compiler):
        check_gradients(make_recipe(layers, shape))


@pytest.mark.parametrize("layers", [POOLS, LARGE_POOL, POOL_OF_ONE_CHANNEL])
def test_gradients_and_logits_of_pools_behind_batch_norms(layers: list[str], quick_compiler: Path) -> None:
    recipe = make_recipe(layers, (2, 37, 34))
    assert codegen.source(recipe.model, "float32").count("{Kind::max_pool,") == 1
    with compiled_by(quick_compiler):
        check_gradients(recipe)
        check_logits(recipe)


@pytest.mark.parametrize("layers", [PADDED_STRIDES, *in_ci(STRIDES)])
def test_gradients_of_strides_in_bfloat16(layers: list[str], quick_compiler: Path) -> None:
    """Rounding moves them by a fifth on these random images; a wrong one is about as far off as it is long."""
    plain = make_recipe(layers, (3, 80, 82), momentum=0.0, weight_decay=0.0, precision="bfloat16")
    with compiled_by(quick_compiler):
        engine = native(plain)
    train(engine, plain, 1, 48)
    exact = train_reference(plain, torch.float64, 1, 48).final().state()
    errors = relative_errors(engine.network_state(), exact, weights_for(plain))
    assert all(error < 0.4 for name, error in errors.items() if name.endswith("convolution.weight")), errors


@pytest.mark.ci
def test_gradients_of_strides_by_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONET_NATIVE_ISA", "generic")
    check_gradients(make_recipe(STRIDES, (2, 37, 31)))


def test_gradients_of_shared_weights() -> None:
    check_gradients(make_recipe(SHARED, SMALL_INPUT))


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[str], tuple[int, int, int]]:
    """Draw a legal list of layers, each kind in any place."""
    shape = first = (draw(st.integers(1, 4)), draw(st.integers(6, 12)), draw(st.integers(6, 12)))
    layers: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        channels, *sides = shape
        least, wide, stride = min(sides), draw(st.integers(1, 7)), draw(st.sampled_from(["", " stride 2", " stride 3"]))
        forms = [f"pointwise {wide}", "gap"]
        forms += ["maxpool 2", "maxpool 3", "avgpool 2", "avgpool 3"] if least >= 3 else []
        for kernel in range(1, min(least, 6)):
            forms += [f"conv {wide} {kernel}x{kernel}{stride}"]
            forms += [f"conv {2 * channels} {kernel}x{kernel}{stride} depthwise"]
        for kernel in (1, 3, 5):
            forms += [f"conv {wide} {kernel}x{kernel} same{stride}"]
            forms += [f"conv {channels} {kernel}x{kernel} same depthwise residual"]
            forms += [f"conv {channels} {kernel}x{kernel} same residual"]
        text = draw(st.sampled_from(forms))
        layers.append(text)
        if text.endswith("residual") and draw(st.booleans()):
            layers.append("again 1")
        (placed,) = place([parse_layer(text)], shape)
        shape = placed.output_shape
    last = draw(st.sampled_from(["pointwise 4", "conv 4 1x1"]))
    return [*layers, *draw(st.sampled_from([["gap", last], [last, "gap"]]))], first


@settings(max_examples=7, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
@given(networks())
def test_gradients_of_any_network(quick_compiler: Path, network: tuple[list[str], tuple[int, int, int]]) -> None:
    with compiled_by(quick_compiler):
        check_gradients(make_recipe(network[0], network[1]), 19)


def step_in_bfloat16(layers: list[str], shape: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    """Take one step in bfloat16 and check that it is near the exact one, but not equal to it."""
    plain = make_recipe(layers, shape, momentum=0.0, weight_decay=0.0, precision="bfloat16")
    engine = native(plain)
    train(engine, plain, 1, size)
    exact = train_reference(plain, torch.float64, 1, size)
    found, start = engine.network_state(), weights_for(plain)
    assert 1e-4 < distance(found, exact.final().state(), start) < 0.03
    assert engine.take_totals().loss == pytest.approx(exact.loss, rel=1e-2)
    return found


@pytest.mark.parametrize("size", [3, 21, *in_ci(16, 48)])
def test_a_step_in_bfloat16(size: int) -> None:
    step_in_bfloat16(SMALL, SMALL_INPUT, size)


@pytest.mark.parametrize(
    ("layers", "halves"),
    [
        (POOLS, True),
        *in_ci((AVERAGES, True)),
        (DEPTHWISE, True),
        # Pooling or a residual of the input, or pooling of means, have tensors of two kinds.
        *in_ci((["maxpool 2", *DEPTHWISE[:3], *DEPTHWISE[-2:]], False), (["conv 2 same residual", *DEPTHWISE], False)),
        *in_ci(([*DEPTHWISE[:-1], "maxpool 1", "pointwise 5"], False)),
    ],
    ids=["pools", "averages", "depthwise", "pooled input", "residual of the input", "pooled means"],
)
def test_a_step_in_bfloat16_with_tensors_in_halves(layers: list[str], halves: bool, quick_compiler: Path) -> None:
    model = make_recipe(layers, (2, 37, 34)).model
    assert ("Storage::halves" in codegen.source(model, "bfloat16")) == halves
    assert "Storage::halves" not in codegen.source(model, "float32")
    with compiled_by(quick_compiler):
        step_in_bfloat16(layers, (2, 37, 34), 37)


@pytest.mark.ci
@settings(max_examples=5, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
@given(networks())
def test_a_step_of_any_network_in_bfloat16(
    quick_compiler: Path, network: tuple[list[str], tuple[int, int, int]]
) -> None:
    recipe = make_recipe(*network)
    # The gradient of a single weight before a batch norm is zero, so only rounding errors would be compared.
    assume(all(tensor[0].numel() > 1 for tensor in weights_for(recipe).values() if tensor.ndim == 4))
    # So would they behind a batch norm over few values, which hardly differ after a mean.
    assume(all(min(placed.output_shape[1:]) > 1 for placed in recipe.model.placed[:-2]))
    with compiled_by(quick_compiler):
        step_in_bfloat16(*network, 19)


@pytest.mark.ci
def test_a_step_of_shared_weights_in_bfloat16(quick_compiler: Path) -> None:
    with compiled_by(quick_compiler):
        step_in_bfloat16(SHARED, SMALL_INPUT, 21)


@pytest.mark.ci
def test_bfloat16_by_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's instructions and the portable ones round alike; only the order of sums differs."""
    found = step_in_bfloat16(SMALL, SMALL_INPUT, 21)
    monkeypatch.setenv("KILONET_NATIVE_ISA", "generic")
    portable = step_in_bfloat16(SMALL, SMALL_INPUT, 21)
    assert distance(found, portable, weights_for(make_recipe(SMALL, SMALL_INPUT))) < 2e-3


def test_bfloat16_needs_a_processor_that_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(TINY, (1, 4, 4), precision="bfloat16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert "--precision float32" in (native_unavailable_reason(recipe) or "")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert native_unavailable_reason(recipe) is None
    monkeypatch.setenv("KILONET_NATIVE_ISA", "avx2")
    assert "bfloat16" in (native_unavailable_reason(recipe) or "")


@pytest.mark.ci
@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 50),
        ({"optimizer": "adamw", "weight_decay": 0.05, "ema": 0.8}, 30),
        ({"ema": 0.9, "label_smoothing": 0.1}, 50),
    ],
    ids=["sgd", "adamw", "average"],
)
def test_many_steps_track_torch(changes: dict[str, Any], steps: int) -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT, **changes)
    rate = 2e-3
    engine = native(recipe)
    train(engine, recipe, steps, rate=rate)
    exact = train_reference(recipe, torch.float64, steps, rate=rate)
    rough = train_reference(recipe, torch.float32, steps, rate=rate)
    start, expected = weights_for(recipe), exact.final().state()
    native_errors = relative_errors(engine.network_state(), expected, start)
    torch_errors = relative_errors(rough.final().state(), expected, start)
    # Rounding errors grow from step to step; torch's own float32 shows by how much. With more steps of AdamW, a unit
    # that is zero except for rounding changes sign on a processor without AVX-512.
    assert max(native_errors.values()) < max(1e-3, 5 * max(torch_errors.values())), (native_errors, torch_errors)
    final = Network(recipe.model).eval()
    final.load(engine.network_state())
    pixels = images_for(recipe)[0]
    with torch.no_grad():
        torch.testing.assert_close(engine.logits(pixels), final(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.ci
def test_the_packaged_network_tracks_torch_on_mnist(mnist: DataSet, pytestconfig: pytest.Config) -> None:
    """Training amplifies rounding errors, so the tolerance is the distance of torch's float32 from float64."""
    recipe, train_images = load_recipe("best"), mnist.train
    start = initial_network(recipe.model, 1).state()
    start = {name: tensor.clone() for name, tensor in start.items()}
    engine = NativeEngine(recipe, train_images.pixels, train_images.labels, start, 2)
    exact, rough = (Reference(recipe, start, dtype) for dtype in (torch.float64, torch.float32))
    generator = torch.Generator().manual_seed(1)
    for step in range(25 if pytestconfig.getoption("--run-slow") else 12):
        indices = torch.randint(0, len(train_images), (32,), generator=generator)
        batch, rate = changed(recipe, indices, generator), scheduled_rate(recipe.train, step, 1000)
        engine.train_batch(batch, rate, step)
        for reference in (exact, rough):
            reference.train_batch(train_images, batch, rate)
        if step == 0:
            assert distance(engine.network_state(), exact.final().state(), start) < 1e-4
    theirs = distance(rough.final().state(), exact.final().state(), start)
    assert distance(engine.network_state(), exact.final().state(), start) < 3 * theirs
    assert engine.take_totals().loss == pytest.approx(exact.loss, rel=5e-3)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Return the distance of two networks, relative to how far the expected one moved."""
    flat = [torch.cat([state[name].double().flatten() for name in expected]) for state in (found, expected, start)]
    return float((flat[0] - flat[1]).norm() / (flat[1] - flat[2]).norm())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_of_any_count(precision: str) -> None:
    """Scoring is in float32 with either precision of training."""
    check_logits(make_recipe(SMALL, SMALL_INPUT, precision=precision), 0, 1, 17, COUNT)


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adamw", "ema": 0.9}, {"precision": "bfloat16"}],
    ids=["sgd", "adamw", "bfloat16"],
)
def test_resumes_bit_for_bit_and_on_any_threads(changes: dict[str, Any]) -> None:
    for recipe in (
        make_recipe(SMALL, SMALL_INPUT, **changes),
        make_recipe(DROPPED, SMALL_INPUT, dropout=0.1, **changes),
    ):
        check_resuming(recipe)


def check_resuming(recipe: Recipe) -> None:
    whole, half, rest = native(recipe), native(recipe, 1), native(recipe, 3)
    train(whole, recipe, 6)
    train(half, recipe, 3)
    rest.load_state(half.state())
    train(rest, recipe, 3, first=3)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, rest.state()[name]), name
    with pytest.raises(KilonetError, match="checkpoint"):
        whole.load_state({})


def test_network_state_has_the_names_of_the_network() -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT)
    found, expected = native(recipe).network_state(), weights_for(recipe)
    assert list(found) == list(Network(recipe.model).state()) == [one.name for one in value_ranges(recipe.model)]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_loss_that_is_not_a_number_is_reported() -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT)
    weights = weights_for(recipe)
    weights["layers.0.convolution.weight"][0] = float("nan")
    engine = NativeEngine(recipe, *images_for(recipe), weights, 1)
    train(engine, recipe, 1)
    assert math.isnan(engine.take_totals().loss)


@pytest.mark.parametrize("label", [0, 1])
def test_an_image_whose_logits_are_not_numbers_is_not_correct(label: int) -> None:
    """All comparisons with NaN are false, so class 0 once seemed to be the answer."""
    recipe = make_recipe(SMALL, SMALL_INPUT)
    weights = {name: torch.full_like(tensor, float("nan")) for name, tensor in weights_for(recipe).items()}
    pixels, labels = images_for(recipe)
    engine = NativeEngine(recipe, pixels, torch.full_like(labels, label), weights, 1)
    train(engine, recipe, 1)
    totals = engine.take_totals()
    assert math.isnan(totals.loss)
    assert totals.correct == 0


def test_too_little_memory_is_an_error_of_one_line() -> None:
    """An exception of C++ that left the library would end the process."""
    recipe = make_recipe(SMALL, SMALL_INPUT)
    engine = native(recipe)
    batch, _ = next(batches(recipe, 1, 21))
    addresses = {name: tensor.data_ptr() for name, tensor in batch.tensors().items()}
    huge = TrainingBatch(**addresses, count=1 << 40)
    with pytest.raises(KilonetError) as error:
        engine._library.kilonet_train_batch(engine._trainer, ctypes.byref(huge), 0.1, 1.0, 0, 0)
    refusal(error, "no memory", "--batch-size")
    train(engine, recipe, 1)
    assert math.isfinite(engine.take_totals().loss)


CREATE_WITH_LITTLE_MEMORY = """
import resource, sys
sys.path[:0] = sys.argv[1:]
import test_native
recipe = test_native.make_recipe(test_native.TINY, (1, 4, 4))
test_native.native(recipe)
resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2)
try:
    test_native.native(recipe, 1024)
except test_native.KilonetError as error:
    print(error)
"""


@pytest.mark.ci
def test_too_many_threads_are_an_error_of_one_line() -> None:
    answer = forked_script(CREATE_WITH_LITTLE_MEMORY, Path(__file__).parent, Path(helpers.__file__).parent)
    assert answer.status == 0, answer
    assert answer.out.startswith(("the native engine failed: ", "the native engine gets no memory"))


def test_a_teacher_that_fails_is_an_error_of_one_line() -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT)
    teacher = Model(recipe.model, weights_for(recipe))
    engine = NativeEngine(recipe, *images_for(recipe), weights_for(recipe), 2, teachers=[teacher])
    for status in (1, 2):
        failing = FailingTeacher(lambda *_, status=status: status)
        handle = TeacherNetwork(trainer=None, logits=ctypes.cast(failing, ctypes.c_void_p).value)
        engine._library.kilonet_add_teacher(engine._trainer, ctypes.byref(handle))
        with pytest.raises(KilonetError, match="the native engine"):
            train(engine, recipe, 1)


FailingTeacher = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
)


def dropout_step(seed: int, step: int) -> Tensor:
    """Return the mean of each channel after dropout, read off the gradients of the weights behind it."""
    recipe = make_recipe(
        ["conv 400 1x1", "pointwise 2"], (1, 1, 1), dropout=0.25, momentum=0.0, weight_decay=0.0, seed=seed
    )
    weights = {name: torch.zeros_like(tensor) for name, tensor in weights_for(recipe).items()}
    for name in weights:
        if name.endswith("batch_norm.bias"):
            weights[name] += 1
    engine = NativeEngine(recipe, *images_for(recipe), weights, 2)
    transforms = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(48, 1, 1)
    engine.train_batch(Batch(torch.zeros(48, dtype=torch.int64), transforms), 1.0, step)
    # Both logits are zero, so each image adds -(+) 0.5 / 48 times what dropout let through.
    return engine.network_state()["layers.1.convolution.weight"][0].abs().flatten() * 2


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    kept = dropout_step(0, 0)
    counts = kept * 48 * 0.75
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-3)
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    # 400 binomial counts of 48 draws: the deviation is sqrt(48 * 0.75 * 0.25) = 3.
    assert 2.6 < float(counts.std()) < 3.4
    assert torch.equal(kept, dropout_step(0, 0))
    assert not torch.equal(kept, dropout_step(1, 0))
    assert not torch.equal(kept, dropout_step(0, 1))


@pytest.mark.parametrize(
    "changes",
    [*({name: value} for name, value in ALL_CHANGES.items()), ALL_CHANGES | {"class_weights": (1, 2, 0.5, 3, 1)}],
    ids="-".join,
)
def test_changed_images_give_the_gradients_of_torch(changes: dict[str, Any]) -> None:
    check_gradients(make_recipe(SMALL, COLOUR_INPUT, label_smoothing=0.1, **changes))


@pytest.mark.ci
@pytest.mark.parametrize("instructions", ["avx2", "generic"])
def test_other_instruction_sets(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if instructions == "avx2" and not torch.cpu.get_capabilities().get("avx2", False):
        pytest.skip("no AVX2")
    monkeypatch.setenv("KILONET_NATIVE_ISA", instructions)
    check_gradients(make_recipe(SMALL, SMALL_INPUT))


def test_bad_arguments_are_refused() -> None:
    recipe = make_recipe(SMALL, SMALL_INPUT)
    engine = native(recipe)
    with pytest.raises(KilonetError, match="indices"):
        engine.train_batch(Batch(torch.tensor([COUNT]), torch.zeros(1, 2, 3)), 0.1, 0)
    with pytest.raises(KilonetError, match="transforms"):
        engine.train_batch(Batch(torch.tensor([0]), torch.zeros(2, 2, 3)), 0.1, 0)
    with pytest.raises(KilonetError, match=r"cutouts are int64 \(1, 4\), not int32"):
        engine.train_batch(Batch(torch.tensor([0]), torch.zeros(1, 2, 3), cutouts=torch.zeros(1, 4).long()), 0.1, 0)
    levels = {"noise_levels": torch.zeros(1)}
    with pytest.raises(KilonetError, match="levels, starts and values"):
        engine.train_batch(Batch(torch.tensor([0]), torch.zeros(1, 2, 3), **levels), 0.1, 0)
    values = {"noise_starts": torch.tensor([NOISE_STARTS]), "noise_values": torch.zeros(NOISE_STARTS + 2 * 13 * 12)}
    with pytest.raises(KilonetError, match="noise_starts must lie"):
        engine.train_batch(Batch(torch.tensor([0]), torch.zeros(1, 2, 3), **levels, **values), 0.1, 0)
    with pytest.raises(KilonetError, match="images must be uint8"):
        engine.logits(torch.zeros(1, 2, 3, 3, dtype=torch.uint8))
    pixels, labels = images_for(recipe)
    with pytest.raises(KilonetError, match="labels"):
        NativeEngine(recipe, pixels, labels + 99, weights_for(recipe), 1)


def test_many_processes_build_at_once(
    tmp_path: Path, small_folder: Path, quick_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILONET_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", str(quick_compiler))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder, engine="native", epochs=1).to_toml(), encoding="utf-8")
    runs = [Started("train", recipe, "--out", tmp_path / name) for name in ("first", "second")]
    for run in runs:
        with run:
            answer = run.end()
        assert answer.status == 0, answer.err
        assert "native engine" in answer.err + answer.out
    left = list((tmp_path / "native").iterdir())
    assert sorted(path.suffix or path.name for path in left) == [".lock", ".o", ".so"]
    assert stat.S_IMODE((tmp_path / "native").stat().st_mode) == 0o700


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, named by a relative path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KILONET_CACHE", "relative")
    return tmp_path / "relative" / "native"


@contextlib.contextmanager
def compiled_by(compiler: Path) -> Iterator[None]:
    """Compile by another compiler; for tests of hypothesis, too, whose examples share the fixtures of one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", str(compiler))
        yield


def load_anew(recipe: Recipe) -> str | None:
    """Load a network's library as a new process would."""
    build._load_once.cache_clear()
    return native_unavailable_reason(recipe)


@pytest.fixture(scope="module")
def compiled_once(quick_compiler: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first compilation of `TINY` leaves in a cache; nobody changes it."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILONET_CACHE", str(folder))
        patch.setenv("CXX", str(quick_compiler))
        assert load_anew(make_recipe(TINY, (1, 4, 4))) is None
    return folder / "native"


@pytest.fixture
def filled_cache(own_cache: Path, compiled_once: Path, quick_compiler: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own cache, with `TINY` in it."""
    monkeypatch.setenv("CXX", str(quick_compiler))
    for file in compiled_once.iterdir():
        shutil.copy(file, cache_folder())
    return own_cache


@pytest.mark.usefixtures("filled_cache")
def test_structures_of_another_size_than_pythons_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(TINY, (1, 4, 4))
    assert load_anew(recipe) is None

    class TrainerTotals(ctypes.Structure):
        _fields_ = (*bindings.TrainerTotals._fields_, ("late", ctypes.c_int64))

    monkeypatch.setattr(bindings, "_STRUCTURES", (*bindings._STRUCTURES[:-1], TrainerTotals))
    assert "TrainerTotals has 24 bytes, not 32" in str(load_anew(recipe))


@pytest.mark.usefixtures("own_cache")
def test_libraries_that_are_not_used_for_long_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep makes one for each network."""
    folder = cache_folder()
    paths = [folder / f"{number}.so" for number in range(5)]
    for number, path in enumerate(paths[:4]):
        store(bytes(1000), path)
        os.utime(path, (number + 1, number + 1))
    store(bytes(5000), folder / "trainer.o")
    assert read_verified(paths[0]) == bytes(1000)
    monkeypatch.setattr(cache, "MAXIMUM_BYTES", 3200)
    store(bytes(1000), paths[4])
    assert sorted(folder.glob("*.so")) == [paths[0], paths[3], paths[4]]
    assert (folder / "trainer.o").exists()


def test_damaged_files_of_the_cache_are_made_again(filled_cache: Path) -> None:
    recipe = make_recipe(TINY, (1, 4, 4))
    assert load_anew(recipe) is None
    library, trainer = ((next(filled_cache.glob(f"*{suffix}"))) for suffix in (".so", ".o"))
    whole = library.read_bytes()
    for damaged in (whole[:5000], whole[:-1], whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:]):
        library.write_bytes(damaged)
        assert load_anew(recipe) is None
        assert library.read_bytes() == whole
    library.write_bytes(b"")
    trainer.write_bytes(trainer.read_bytes()[:-5000])
    assert load_anew(recipe) is None
    assert library.read_bytes() == whole
    assert read_verified(trainer) is not None
    assert sorted(path.suffix or path.name for path in filled_cache.iterdir()) == [".lock", ".o", ".so"]


def test_a_library_of_another_system_is_made_again(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder may be shared by systems that cannot load each other's libraries."""
    recipe = make_recipe(TINY, (1, 4, 4))
    library = next(filled_cache.glob("*.so"))
    whole = read_verified(library)
    monkeypatch.setattr(build, "_compile", lambda *_: whole)
    store(b"of another system", library)
    assert load_anew(recipe) is None
    assert read_verified(library) == whole


def test_what_a_killed_compilation_left_is_removed(own_cache: Path) -> None:
    cache_folder()
    script = "import os, sys; from kilonet.engines.native.cache import *; from pathlib import Path\n"
    script += "with work_folder(Path(sys.argv[1])) as folder: (folder / 'x').touch(); os._exit(9)"
    assert forked_script(script, own_cache).status == 9
    (left,) = own_cache.glob("tmp*")
    with work_folder(own_cache) as first:
        assert not left.exists()
        with work_folder(own_cache) as second:
            assert first.is_dir()
            assert second.is_dir()
    assert [path.name for path in own_cache.iterdir()] == [".lock"]


def test_a_file_is_flushed_before_it_has_its_name(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    rename = Path.replace

    def renamed(old: Path, new: Path) -> Path:
        events.append(new.name)
        return rename(old, new)

    monkeypatch.setattr(os, "fsync", lambda _: events.append("flushed"))
    monkeypatch.setattr(Path, "replace", renamed)
    store(b"content", cache_folder() / "name.so")
    assert events.index("flushed") < events.index("name.so")
    assert read_verified(own_cache / "name.so") == b"content"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_cache_below_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, 1234, 1234)
    monkeypatch.setenv("KILONET_CACHE", str(theirs / "cache"))
    with pytest.raises(KilonetError) as error:
        cache_folder()
    refusal(error, f"{theirs} belongs to another user", "KILONET_CACHE")
    monkeypatch.setenv("KILONET_CACHE", str(tmp_path))
    os.chown(cache_folder(), 1234, 1234)
    with pytest.raises(KilonetError) as error:
        cache_folder()
    refusal(error, f"{tmp_path / 'native'} is not safe", "a folder of your own")


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o777, True), (0o757, True), (0o775, True), (0o1777, False), (0o755, False)]
)
def test_a_cache_below_a_folder_that_others_write_in_is_refused(
    mode: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless its sticky bit keeps others from moving what is not theirs, as in /tmp."""
    shared = tmp_path / "shared"
    (shared / "below").mkdir(parents=True)
    shared.chmod(mode)
    monkeypatch.setattr(cache, "_is_own_group", lambda _: False)
    monkeypatch.setenv("KILONET_CACHE", str(shared / "below"))
    if not refused:
        assert cache_folder() == shared / "below" / "native"
        return
    monkeypatch.chdir(shared / "below")
    for name in (str(shared / "below"), "relative"):
        monkeypatch.setenv("KILONET_CACHE", name)
        with pytest.raises(KilonetError) as error:
            cache_folder()
        refusal(error, f"other users can write in {shared}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a link away")
@pytest.mark.parametrize("place", ["cache", "theirs"])
def test_a_cache_by_a_link_that_another_user_can_turn_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could lead to a folder of one's own with a library of theirs, as out of an archive."""
    (tmp_path / "own").mkdir()
    link, first = tmp_path / "theirs", tmp_path / place
    link.symlink_to(tmp_path / "own")
    if first != link:
        first.symlink_to(link)
    monkeypatch.setenv("KILONET_CACHE", str(first))
    assert cache_folder() == tmp_path / "own" / "native"
    os.chown(link, 1234, 1234, follow_symlinks=False)
    with pytest.raises(KilonetError) as error:
        cache_folder()
    refusal(error, f"{link} belongs to another user", "KILONET_CACHE")


def test_a_cache_below_a_folder_whose_access_list_names_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group is this user's alone, but the list lets user 1234 write."""
    entries = ((1, 7, -1), (2, 7, 1234), (4, 0, -1), (16, 7, -1), (32, 5, -1))
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    monkeypatch.setattr(cache, "_is_own_group", lambda _: True)
    monkeypatch.setenv("KILONET_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "native"
    try:
        os.setxattr(tmp_path / "cache", "system.posix_acl_access", listed)
    except (AttributeError, OSError):
        pytest.skip("no access lists here")
    with pytest.raises(KilonetError) as error:
        cache_folder()
    refusal(error, f"other users can write in {tmp_path / 'cache'}")


def test_a_system_without_file_owners_takes_the_torch_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows is."""
    monkeypatch.delattr(os, "getuid")
    said: list[str] = []
    recipe = make_recipe(TINY, (1, 4, 4)).replace(engine="auto")
    assert resolve_run(recipe, said.append).run.engine == "torch"
    assert len(said) == 1
    assert "no file owners" in said[0]


@pytest.mark.parametrize("compiler", ["/bin/true", "/bin/echo"])
def test_a_compiler_that_makes_nothing_is_named(
    compiler: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    reason = native_unavailable_reason(make_recipe(TINY, (1, 4, 4))) or ""
    assert f"the compiler {compiler} made no network.o" in reason
    assert [path.name for path in own_cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("made", ["no library", "a library of something else"])
def test_a_compiler_that_makes_something_else_is_noticed(
    made: str, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "odd"
    body = "echo rubbish" if made == "no library" else "echo 'int x;' | cc -shared -x c - -o made.$$ && cat made.$$"
    # Two processes compile at once, each its own file.
    name = 'case "$*" in *network.cpp*) name=network.o;; *trainer.cpp*) name=trainer.o;; *) name=network.so;; esac'
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{name}\n{body} > $name\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    reason = load_anew(make_recipe(TINY, (1, 4, 4))) or ""
    assert "the compiled native engine cannot be" in reason
    assert "\n" not in reason
    assert not list(own_cache.glob("*.so"))


def test_a_cache_that_others_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONET_CACHE", str(tmp_path))
    folder = cache_folder()
    folder.chmod(0o770)
    recipe = make_recipe(TINY, (1, 4, 4))
    reason = native_unavailable_reason(recipe)
    assert reason is not None
    assert "0700" in reason
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert "0700" in (native_unavailable_reason(recipe) or "")


def test_a_failing_or_missing_compiler_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(TINY, (1, 4, 4))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert "no C++ compiler" in (native_unavailable_reason(recipe) or "")
    script = tmp_path / "failing"
    script.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho noise >&2\necho 'a.cpp:1: error: bad' >&2\nexit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("KILONET_CACHE", str(tmp_path))
    reason = native_unavailable_reason(recipe) or ""
    assert reason.endswith("a.cpp:1: error: bad")
    assert "\n" not in reason
    assert [path.name for path in (tmp_path / "native").iterdir()] == [".lock"]


def test_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONET_NATIVE_ISA", "mmx")
    assert "avx512, avx2, generic" in (native_unavailable_reason(make_recipe(TINY, (1, 4, 4))) or "")


def test_instructions_that_the_processor_lacks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILONET_NATIVE_ISA", "avx512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert "does not have" in (native_unavailable_reason(make_recipe(TINY, (1, 4, 4))) or "")


EVERY_KERNEL = [
    *("conv 4", "conv 5 stride 2", "pointwise 4", "maxpool 2", "conv 6 same", "conv 6 same residual", "avgpool 2"),
    *("conv 12 2x2 stride 2 depthwise", "gap", "pointwise 5"),
]
"""Every kernel, with rows and columns left over from every window; `POOLS` has what dropout leaves out."""


SANITISED = (
    *("-std=c++20", "-O0", "-w", "-pthread", "-march=native", "-fno-strict-aliasing"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)


@pytest.fixture(scope="module")
def sanitised_steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A compiler with sanitisers, and native_steps.cpp compiled by it for any network and precision."""
    compiler = next(path for name in ("c++", "g++", "clang++") if (path := shutil.which(name)))
    folder = tmp_path_factory.mktemp("sanitised")
    (folder / "probe.cpp").write_text("int main() {}")
    probe = subprocess.run(
        [compiler, *SANITISED, "probe.cpp", "-o", "probe"], cwd=folder, capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("needs a compiler with sanitisers")
    compile_steps([compiler, *SANITISED], folder)
    return compiler, folder / "native_steps.o"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("layers", "dropout", "precision"),
    [
        *((EVERY_KERNEL, 0.1, precision) for precision in ("float32", "bfloat16")),
        *((POOLS, 0.0, precision) for precision in ("float32", "bfloat16")),
        (DEPTHWISE, 0.0, "bfloat16"),
    ],
)
def test_kernels_run_clean_under_sanitisers(
    layers: list[str], dropout: float, precision: str, sanitised_steps: tuple[str, Path], tmp_path: Path
) -> None:
    compiler, steps = sanitised_steps
    shutil.copy(steps, tmp_path)
    done = run_steps([compiler, *SANITISED], [], tmp_path, precision, layers=layers, dropout=dropout)
    assert done.returncode == 0, done.stderr


def compile_steps(compiler: list[str], folder: Path) -> None:
    source = Path(__file__).with_name("native_steps.cpp")
    subprocess.run([*compiler, f"-I{Path(codegen.__file__).parent}", "-c", str(source)], cwd=folder, check=True)


def run_steps(
    compiler: list[str],
    emulator: list[str],
    folder: Path,
    precision: str,
    *,
    layers: list[str] = EVERY_KERNEL,
    dropout: float = 0.1,
) -> subprocess.CompletedProcess[str]:
    """Link the compiled native_steps.cpp in a folder with a network, and run it."""
    model = make_recipe(layers, (2, 31, 28), dropout=dropout).model
    (folder / "network.cpp").write_text(codegen.source(model, precision))
    includes = f"-I{Path(codegen.__file__).parent}"
    subprocess.run([*compiler, includes, "network.cpp", "native_steps.o", "-o", "steps"], cwd=folder, check=True)
    return subprocess.run([*emulator, folder / "steps"], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_aarch64_trains_as_this_processor_does(tmp_path: Path) -> None:
    cross, emulator = (shutil.which(name) for name in ("aarch64-linux-gnu-g++", "qemu-aarch64"))
    if cross is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    own = next(path for name in ("c++", "g++", "clang++") if (path := shutil.which(name)))
    flags = ["-std=c++20", "-O2", "-w", "-pthread", "-fno-strict-aliasing"]
    runs = []
    for compiler, options in (([own, *flags], []), ([cross, *flags, "-static"], [emulator])):
        compile_steps(compiler, tmp_path)
        runs.append(run_steps(compiler, options, tmp_path, "float32"))
    expected, found = (torch.tensor([float(line) for line in run.stdout.split()]) for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
