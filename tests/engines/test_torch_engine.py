"""The torch engine, compared with a plain torch loop, and the contract that every engine keeps."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import same_tensors, some_pixels, tiny_recipe
from kilonet.data.augment import Batch, apply_changes, draw_changes
from kilonet.data.datasets import Images
from kilonet.engines import torch_engine
from kilonet.engines.torch_engine import TorchEngine, distillation_loss
from kilonet.models.model import Model
from kilonet.network.module import Network, initial_network
from kilonet.network.operations import AveragePooling, Convolution, Operation
from kilonet.recipe import DistillSection, Recipe
from reference import Reference, averaging

IMAGES = Images(some_pixels(200), torch.arange(200) % 10)
PLAIN: dict[str, Any] = {"dropout": 0.0, "ema": 0.0, "momentum": 0.9, "weight_decay": 0.01}


def engine_of(recipe: Recipe) -> TorchEngine:
    return TorchEngine(recipe, IMAGES, initial_network(recipe.model, recipe.run.seed))


def batches(recipe: Recipe, steps: int, first: int = 0) -> Iterator[tuple[Batch, float, int]]:
    """Yield batches of three sizes, with random changes, a changing learning rate and the number of the step."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        count = [64, 33, 7][step % 3]
        indices = torch.randint(0, 200, (count,), generator=generator)
        model = recipe.model
        batch = draw_changes(recipe.augment, indices, model.input_shape, model.means, generator, mixed=0.7)
        yield batch, 0.05 / (1 + step), step


def train(engine: TorchEngine, recipe: Recipe, steps: int, first: int = 0) -> TorchEngine:
    for batch in batches(recipe, steps, first):
        engine.train_batch(*batch)
    return engine


def plain_loop(
    recipe: Recipe, make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], steps: int
) -> tuple[Network, AveragedModel, float, int]:
    """Train as any tutorial would; returns the network, its average, the summed loss and the correct answers."""
    network = initial_network(recipe.model, recipe.run.seed).train()
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    norms = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    optimizer = make(
        [{"params": weights, "weight_decay": recipe.train.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    )
    average = AveragedModel(network, avg_fn=averaging(recipe.train.ema), use_buffers=True)
    total, correct = 0.0, 0
    for batch, rate, _ in batches(recipe, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = network(apply_changes(IMAGES.pixels[batch.indices], batch, recipe.model.means))
        labels = IMAGES.labels[batch.indices]
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.train.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(network)
        total += loss.item() * len(batch)
        correct += int((logits.argmax(1) == labels).sum())
    return network, average, total, correct


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    torch.testing.assert_close(first, second, atol=2e-5, rtol=1e-4)


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999))


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        ({}, sgd),
        ({"momentum": 0.0}, lambda groups: torch.optim.SGD(groups, lr=1.0)),
        ({"weight_decay": 0.0}, sgd),
        ({"label_smoothing": 0.2}, sgd),
        ({"optimizer": "adamw"}, adamw),
    ],
    ids=["sgd", "no momentum", "no decay", "smoothing", "adamw"],
)
def test_steps_match_a_plain_loop(
    changes: dict[str, Any], make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
) -> None:
    recipe = tiny_recipe(**{**PLAIN, **changes})
    engine = train(engine_of(recipe), recipe, 6)
    network, _, total, correct = plain_loop(recipe, make, 6)
    assert_close(engine.network_state(), network.state())
    totals = engine.take_totals()
    assert totals.loss == pytest.approx(total, rel=1e-4)
    assert totals.correct == correct
    assert totals.images == 2 * (64 + 33 + 7)


STRIDED = {
    "conv 4 stride 2": "conv 4 5x5 same stride 3",
    "conv 6 2x2 stride 2": "conv 8 1x1 stride 2 depthwise",
    "avgpool 2": "avgpool 3",
}


@pytest.mark.parametrize("layers", [tuple(STRIDED), tuple(STRIDED.values())], ids=["valid", "padded"])
def test_a_step_of_strides_and_averages_is_that_of_windows_written_out(layers: tuple[str, ...]) -> None:
    """In float64, with every convolution as products of windows, and every mean as one of products too."""
    recipe = tiny_recipe(layers=(*layers, "gap", "pointwise 10"), **PLAIN)
    engine = train(engine_of(recipe), recipe, 1)
    network = initial_network(recipe.model, recipe.run.seed).double().train()
    optimizer = torch.optim.SGD(
        [
            {"params": [weight for weight in network.parameters() if weight.ndim > 1], "weight_decay": 0.01},
            {"params": [weight for weight in network.parameters() if weight.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.05,
        momentum=0.9,
        nesterov=True,
    )
    ((batch, _, _),) = batches(recipe, 1)
    shown = apply_changes(IMAGES.pixels[batch.indices], batch, recipe.model.means).double()
    values = (shown / 255 - recipe.model.means[0]) / recipe.model.stds[0]
    for placed, layer in zip(recipe.model.placed, network.layers, strict=True):
        assert isinstance(layer, nn.Sequential)
        first, *rest = layer
        values = values_of_windows(placed.operations[0], first, values)
        for module in rest:
            values = module(values)
    functional.cross_entropy(values.flatten(1), IMAGES.labels[batch.indices]).backward()
    optimizer.step()
    found = engine.network_state()
    for name, tensor in network.state().items():
        torch.testing.assert_close(found[name].double(), tensor, atol=2e-6, rtol=1e-5, msg=name)


def values_of_windows(operation: Operation, module: nn.Module, values: Tensor) -> Tensor:
    """Compute a convolution or a mean as the sum of the products of every window with its weights."""
    match operation, module:
        case Convolution(), nn.Conv2d(weight=weight):
            groups, stride, padding = operation.groups, operation.stride, operation.padding
        case AveragePooling(size), _:
            groups, stride, padding = values.shape[1], size, 0
            weight = torch.full((values.shape[1], 1, size, size), 1 / size**2, dtype=values.dtype)
        case _:
            return values.mean((2, 3), keepdim=True)
    padded = functional.pad(values, [padding] * 4)
    windows = padded.unfold(2, weight.shape[2], stride).unfold(3, weight.shape[3], stride)
    parts = [
        torch.einsum("nircab,oiab->norc", part, own)
        for part, own in zip(windows.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
    ]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("ema", [0.5, 0.9, 0.998])
def test_the_average_is_that_of_torch(ema: float) -> None:
    recipe = tiny_recipe(**{**PLAIN, "ema": ema})
    engine = train(engine_of(recipe), recipe, 6)
    network, average, _, _ = plain_loop(recipe, sgd, 6)
    assert isinstance(average.module, Network)
    assert_close(engine.network_state(), average.module.state())
    trained = {
        name.removeprefix("network."): tensor for name, tensor in engine.state().items() if name.startswith("network.")
    }
    assert_close(trained, network.state())


def test_the_final_weights_are_the_ones_scored() -> None:
    recipe = tiny_recipe()
    engine = train(engine_of(recipe), recipe, 4)
    final = Network(recipe.model)
    final.load(engine.network_state())
    pixels = some_pixels(1001, seed=9)
    with torch.no_grad():
        expected = final.eval()(pixels)
    torch.testing.assert_close(engine.logits(pixels), expected)
    assert engine.logits(pixels).shape == (1001, 10)


def test_scoring_changes_nothing() -> None:
    recipe = tiny_recipe(ema=0.0)
    quiet, asked = (train(engine_of(recipe), recipe, 2) for _ in range(2))
    asked.logits(some_pixels(10))
    assert same_tensors(train(quiet, recipe, 2, 2).state(), train(asked, recipe, 2, 2).state())


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema": 0.0}, {"dropout": 0.0}, {"momentum": 0.0}, {"optimizer": "adamw"}, {"precision": "bfloat16"}],
    ids=str,
)
def test_a_restored_state_goes_on_bit_for_bit(changes: dict[str, Any]) -> None:
    recipe = tiny_recipe(**changes)
    unbroken = train(engine_of(recipe), recipe, 3)
    state = unbroken.state()
    restored = engine_of(recipe.replace(seed=recipe.run.seed))
    train(restored, recipe, 1, 7)
    restored.load_state(state)
    assert same_tensors(restored.state(), state)
    assert same_tensors(train(unbroken, recipe, 4, 3).state(), train(restored, recipe, 4, 3).state())


def test_a_state_is_a_copy_with_nothing_missing() -> None:
    recipe = tiny_recipe()
    engine = train(engine_of(recipe), recipe, 1)
    state = engine.state()
    copied = {name: tensor.clone() for name, tensor in state.items()}
    train(engine, recipe, 1, 1)
    assert same_tensors(state, copied)
    changed = engine.state()
    assert all(not torch.equal(state[name], changed[name]) for name in state)
    assert {name.split(".")[0] for name in state} == {"network", "average", "optimizer"}


def test_totals_start_anew_when_they_are_taken() -> None:
    recipe = tiny_recipe()
    engine = train(engine_of(recipe), recipe, 1)
    assert engine.take_totals().images == 64
    assert engine.take_totals() == type(engine.take_totals())(0.0, 0, 0)
    train(engine, recipe, 1, 1)
    assert engine.take_totals().images == 33


def test_dropout_is_drawn_from_seed_and_step_alone() -> None:
    recipe = tiny_recipe(dropout=0.5)
    batch = next(batches(recipe, 1))
    weights = []
    for seed, step, noise in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1)):
        changed = recipe.replace(seed=seed)
        engine = TorchEngine(changed, IMAGES, initial_network(recipe.model, 0))
        # Without an average, whose first step is like no other, only dropout can tell the steps apart.
        torch.manual_seed(noise)
        engine.train_batch(*batch[:2], step)
        weights.append({name: tensor for name, tensor in engine.state().items() if name.startswith("network.")})
    assert same_tensors(weights[0], weights[1])
    assert not same_tensors(weights[0], weights[2])
    assert not same_tensors(weights[0], weights[3])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_leaves_the_callers_random_numbers_alone(dropout: float) -> None:
    recipe = tiny_recipe(dropout=dropout)
    engine = engine_of(recipe)
    before = torch.random.get_rng_state()
    train(engine, recipe, 2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_single_image_is_a_batch() -> None:
    recipe = tiny_recipe()
    engine = engine_of(recipe)
    engine.train_batch(Batch(torch.tensor([3]), torch.eye(2, 3)[None]), 0.1, 0)
    assert engine.take_totals().images == 1
    assert all(torch.isfinite(tensor).all() for tensor in engine.state().values())


def test_bfloat16_is_near_float32_and_keeps_float32_weights() -> None:
    exact, reduced = (
        train(engine_of(recipe), recipe, 3).network_state()
        for recipe in (tiny_recipe(**PLAIN), tiny_recipe(**PLAIN, precision="bfloat16"))
    )
    assert all(tensor.dtype == torch.float32 for tensor in reduced.values())
    assert not same_tensors(exact, reduced)
    for name in exact:
        torch.testing.assert_close(exact[name], reduced[name], atol=0.05, rtol=0.1)


def test_steps_with_teachers_match_the_reference() -> None:
    recipe = tiny_recipe(**PLAIN, temperature=3.0, weight=0.6, label_smoothing=0.1)
    models = [Model(recipe.model, initial_network(recipe.model, seed).state()) for seed in (1, 2)]
    start = {name: tensor.clone() for name, tensor in initial_network(recipe.model, recipe.run.seed).state().items()}
    reference = Reference(recipe, start, torch.float32, [model.network for model in models])
    engine = train(TorchEngine(recipe, IMAGES, initial_network(recipe.model, recipe.run.seed), models), recipe, 6)
    for batch, rate, _ in batches(recipe, 6):
        reference.train_batch(IMAGES, batch, rate)
    assert_close(engine.network_state(), reference.network.state())
    assert engine.take_totals().loss == pytest.approx(reference.loss, rel=1e-4)


class NothingFromTheHost(TorchDispatchMode):
    """Forbids what capturing a CUDA graph forbids: a tensor from the host, a copy between devices, reading a value."""

    FORBIDDEN = frozenset({"lift", "lift_fresh", "lift_fresh_copy", "scalar_tensor", "_local_scalar_dense", "_to_cpu"})

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, given = func.overloadpacket.__name__, kwargs or {}
        moved = name == "_to_copy" and given.get("device", args[0].device) != args[0].device
        if name in self.FORBIDDEN or moved:
            raise AssertionError(f"{func} in a step that is captured")
        return func(*args, **given)


ALL_CHANGES: dict[str, Any] = {
    "flip": True, "crop": 2, "outside": "edge", "brightness": 0.2, "contrast": 0.3, "white_balance": 0.2, "blur": 0.8,
    "noise": 0.1, "cutout": 4, "mixup": 0.6, "class_weights": tuple(range(1, 11)), "label_smoothing": 0.1,
}  # fmt: skip


def test_steps_with_all_changes_match_the_reference() -> None:
    recipe = tiny_recipe(**PLAIN, **ALL_CHANGES)
    start = {name: tensor.clone() for name, tensor in initial_network(recipe.model, recipe.run.seed).state().items()}
    exact, rough = (Reference(recipe, start, dtype) for dtype in (torch.float64, torch.float32))
    engine = train(engine_of(recipe), recipe, 3)
    for batch, rate, _ in batches(recipe, 3):
        for reference in (exact, rough):
            reference.train_batch(IMAGES, batch, rate)
    assert_close(engine.network_state(), rough.network.state())
    assert engine.take_totals().loss == pytest.approx(exact.loss, rel=1e-4)
    for name, tensor in exact.network.state().items():
        torch.testing.assert_close(engine.network_state()[name].double(), tensor.double(), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adamw"}, {"precision": "bfloat16"}, {"weight": 0.5}, {"dropout": 0.0, "ema": 0.0}, ALL_CHANGES],
    ids="-".join,
)
def test_a_captured_step_takes_nothing_from_the_host(changes: dict[str, Any]) -> None:
    recipe = tiny_recipe(**changes)
    teachers = [Model(recipe.model, initial_network(recipe.model, 1).state())] if "weight" in changes else []
    engine = TorchEngine(recipe, IMAGES, initial_network(recipe.model, 0), teachers)
    batch, _, _ = next(batches(recipe, 1))
    engine._step(batch)
    with NothingFromTheHost():  # type: ignore[no-untyped-call]
        engine._step(batch)


@pytest.mark.ci
def test_a_compiled_step_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    recipe = tiny_recipe(precision="float32", compile=True, dropout=0.0)
    compiled, plain = engine_of(recipe), engine_of(recipe)
    assert compiled._fused is not compiled._network
    for batch, _, _ in batches(recipe, 2):
        compiled._fused_step(batch)
        plain._step(batch)
    assert same_tensors(compiled.state(), plain.state())
    assert compiled.take_totals() == plain.take_totals()


class RunOnTheHost:
    """Stands in for `CapturedStep`: runs the step as often as recording does, and then at every call."""

    def __init__(self, step: Callable[[Batch], None], example: Batch) -> None:
        self._step = step
        for _ in range(4):
            step(example)

    def __call__(self, batch: Batch) -> None:
        self._step(batch)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_recording_a_step_changes_nothing(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither weights, optimiser and average nor the totals, nor what dropout draws in the first step and after it."""
    monkeypatch.setattr(torch_engine, "CapturedStep", RunOnTheHost)
    recipe = tiny_recipe(dropout=0.5, optimizer=optimizer)
    plain, captured = train(engine_of(recipe), recipe, 1), train(engine_of(recipe), recipe, 1)
    with torch.random.fork_rng():
        for step, call in ((plain._step, plain), (captured._replay, captured)):
            torch.manual_seed(3)
            for batch, rate, number in batches(recipe, 2, 1):
                call._learning_rate.fill_(rate)
                call._average_share.fill_(1 / (1 + number))
                step(batch)
    assert same_tensors(plain.state(), captured.state())
    assert plain.take_totals() == captured.take_totals()


NUMBERS = st.floats(-20, 20, width=32)


@st.composite
def student_and_teacher_logits(draw: st.DrawFn) -> tuple[Tensor, list[Tensor], DistillSection]:
    images, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    rows = st.lists(st.lists(NUMBERS, min_size=classes, max_size=classes), min_size=images, max_size=images)
    drawn = [torch.tensor(draw(rows), dtype=torch.float64) for _ in range(draw(st.integers(2, 4)))]
    distill = DistillSection(temperature=draw(st.floats(0.5, 20)), weight=draw(st.floats(0, 1)))
    return drawn[0], drawn[1:], distill


@given(student_and_teacher_logits())
def test_the_loss_of_distillation(drawn: tuple[Tensor, list[Tensor], DistillSection]) -> None:
    logits, teacher_logits, distill = drawn
    logits.requires_grad_()
    temperature, weight = distill.temperature, distill.weight
    labels = torch.tensor(3.0, dtype=torch.float64)
    loss = distillation_loss(labels, logits, teacher_logits, distill)
    (gradient,) = torch.autograd.grad(loss, logits)
    targets = sum((one / temperature).softmax(1) for one in teacher_logits) / len(teacher_logits)
    # The divergence is never negative, and its gradient is the difference of the probabilities.
    assert float(loss.detach()) >= (1 - weight) * 3 - 1e-9
    expected = weight * temperature * ((logits / temperature).softmax(1) - targets) / len(logits)
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-9, atol=1e-9)
    agreeing = distillation_loss(labels, teacher_logits[0], teacher_logits[:1], distill)
    assert float(agreeing) == pytest.approx((1 - weight) * 3, abs=1e-9)
