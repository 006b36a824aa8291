"""The torch engine on an NVIDIA GPU. `pytest -m cuda tests/engines/test_cuda.py` needs no browser, Ray or compiler.

As long as they pass, `auto` may choose the GPU; see `resolve_device`. docs/log/training.md says where they passed.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import StopAtEpoch, command, same_tensors, some_pixels, tiny_recipe
from kilonet.data.augment import apply_transforms, draw_transforms
from kilonet.data.datasets import DataSet, Images
from kilonet.engines.torch_engine import TorchEngine
from kilonet.models.model import Model
from kilonet.network.module import initial_network
from kilonet.recipe import Recipe
from kilonet.training.run_folder import CHECKPOINT_FILE, RECIPE_FILE, Run
from kilonet.training.train import draw_epoch, fit, resume

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU here"),
]

CASES: list[dict[str, Any]] = [
    {"dropout": 0.3},
    {"optimizer": "adamw", "weight_decay": 0.05},
    {"ema": 0.0, "momentum": 0.0, "label_smoothing": 0.1},
    {"precision": "bfloat16"},
    {"outside": "edge", "contrast": 0.3, "blur": 0.8, "noise": 0.1, "cutout": 4, "mixup": 0.6},
]
WIDE = ("conv 8", "conv 8 5x5 same depthwise residual", "pointwise 16", "maxpool 2", "conv 16 depthwise", "gap")
NETWORKS = [
    {},
    {"layers": (*WIDE, "pointwise 10")},
    {"layers": ("conv 6", "conv 6 same", "again 1 x2", "gap", "pointwise 10")},
]


def on_gpu(data: Path | str = "mnist", **changes: Any) -> Recipe:
    return tiny_recipe(data, device="cuda", **changes)


def images(count: int = 300) -> Images:
    return Images(some_pixels(count), torch.arange(count) % 10)


def engine_of(recipe: Recipe, teachers: int = 0) -> TorchEngine:
    models = [Model(recipe.model, initial_network(recipe.model, 10 + seed).state()) for seed in range(teachers)]
    return TorchEngine(recipe, images(), initial_network(recipe.model, recipe.run.seed), models)


def train(engine: TorchEngine, recipe: Recipe, epochs: int = 2, first: int = 0) -> TorchEngine:
    """Train whole epochs: four batches that are captured and a smaller one that is not."""
    for epoch in range(first, first + epochs):
        batches = list(draw_epoch(recipe, images().labels, epoch, engine.device).split(64))
        for number, batch in enumerate(batches):
            step = epoch * len(batches) + number
            engine.train_batch(batch, 0.05 / (1 + step), step)
    return engine


def uncaptured(engine: TorchEngine) -> TorchEngine:
    """Make an engine run every step as it is, without a CUDA graph."""
    engine._replay = engine._step  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("changes", CASES, ids=str)
def test_a_captured_step_gives_the_bits_of_a_plain_one(changes: dict[str, Any], network: dict[str, Any]) -> None:
    recipe = on_gpu(**changes, **network)
    captured, plain = train(engine_of(recipe), recipe), train(uncaptured(engine_of(recipe)), recipe)
    assert captured._captured is not None
    assert plain._captured is None
    assert same_tensors(captured.state(), plain.state())
    assert captured.take_totals() == plain.take_totals()


def test_a_compiled_network_trains_as_a_plain_one() -> None:
    recipe = on_gpu(layers=(*WIDE, "pointwise 10"), dropout=0.0)
    plain, compiled, again = (train(engine_of(one), one) for one in (recipe, *2 * [recipe.replace(compile=True)]))
    start = initial_network(recipe.model, recipe.run.seed).state()
    assert distance(compiled.network_state(), plain.network_state(), start) < 0.02
    assert same_tensors(compiled.state(), again.state())


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_the_same_run_gives_the_same_bits(changes: dict[str, Any]) -> None:
    recipe = on_gpu(**changes)
    first, second = (train(engine_of(recipe), recipe) for _ in range(2))
    assert same_tensors(first.state(), second.state())
    assert first.take_totals() == second.take_totals()


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_a_restored_state_goes_on_bit_for_bit(changes: dict[str, Any]) -> None:
    recipe = on_gpu(**changes)
    whole, half = train(engine_of(recipe), recipe, 2), train(engine_of(recipe), recipe, 1)
    rest = engine_of(recipe)
    rest.load_state(half.state())
    assert same_tensors(train(rest, recipe, 1, first=1).state(), whole.state())


@pytest.mark.parametrize("count", [1, 2])
def test_distillation(count: int) -> None:
    recipe = on_gpu(weight=0.7, temperature=3.0)
    captured = train(engine_of(recipe, count), recipe)
    plain = train(uncaptured(engine_of(recipe, count)), recipe)
    assert same_tensors(captured.state(), plain.state())
    assert not same_tensors(captured.state(), train(engine_of(recipe), recipe).state())
    assert_near(recipe, count)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Return the distance of two networks relative to how far the expected one moved.

    Not weight by weight: AdamW divides a gradient by its size, so that where it is zero but for rounding, a weight
    moves either way.
    """
    flat = [torch.cat([state[name].double().flatten() for name in expected]) for state in (found, expected, start)]
    return float((flat[0] - flat[1]).norm() / (flat[1] - flat[2]).norm())


def assert_near(recipe: Recipe, teachers: int = 0) -> None:
    """Compare two epochs on the GPU with the same on the processor; without dropout, which draws other numbers."""
    still = recipe.replace(dropout=0.0)
    found = train(engine_of(still, teachers), still)
    on_cpu = still.replace(device="cpu")
    expected = train(engine_of(on_cpu, teachers), on_cpu)
    start = engine_of(on_cpu).network_state()
    assert distance(found.network_state(), expected.network_state(), start) < 2e-2
    pixels = some_pixels(100, seed=9)
    torch.testing.assert_close(found.logits(pixels), expected.logits(pixels), atol=2e-2, rtol=2e-2)
    mine, theirs = found.take_totals(), expected.take_totals()
    assert mine.images == theirs.images == 600
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-3)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("changes", CASES[:3], ids=str)
def test_training_is_near_that_on_the_processor(changes: dict[str, Any], network: dict[str, Any]) -> None:
    assert_near(on_gpu(**changes, **network))


def test_augmentation_on_the_device() -> None:
    recipe = tiny_recipe()
    pixels, transforms = some_pixels(50), draw_transforms(recipe.augment, 50, torch.Generator().manual_seed(0))
    found = apply_transforms(pixels.cuda(), transforms.cuda())
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), apply_transforms(pixels, transforms), atol=1e-2, rtol=1e-4)


def test_settings_and_random_numbers_of_the_caller_are_left_alone() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    generators = torch.random.get_rng_state(), torch.cuda.get_rng_state()
    recipe = on_gpu(dropout=0.3)
    train(engine_of(recipe), recipe).logits(some_pixels(10))
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == before
    assert all(map(torch.equal, generators, (torch.random.get_rng_state(), torch.cuda.get_rng_state())))


def sha256(run: Run) -> str:
    return run.result.model_sha256


def test_a_whole_run_repeats_and_resumes_to_the_same_bits(small_folder: Path, small: DataSet, tmp_path: Path) -> None:
    recipe = on_gpu(small_folder, epochs=3)
    whole = fit(recipe, small)
    assert sha256(fit(recipe, small)) == sha256(whole)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, small, tmp_path / "run", StopAtEpoch(2))
    assert (tmp_path / "run" / CHECKPOINT_FILE).is_file()
    assert sha256(resume(tmp_path / "run", small)) == sha256(whole)
    on_cpu = fit(recipe.replace(device="cpu"), small)
    assert abs(on_cpu.result.final.test_accuracy - whole.result.final.test_accuracy) < 0.1


def test_the_command_trains_and_its_model_is_used(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder, engine="auto").to_toml(), encoding="utf-8")
    flags = ("--device", "cuda", "--epochs", "1")
    answer = command(capsys, "train", recipe, *flags, "--out", tmp_path / "run", "--json")
    assert answer.status == 0, answer.err
    environment = json.loads(answer.out)["environment"]
    assert (environment["device"], environment["engine"]) == ("cuda", "torch")
    assert 'device = "cuda"' in (tmp_path / "run" / RECIPE_FILE).read_text(encoding="utf-8")
    answer = command(capsys, "evaluate", tmp_path / "run", "--json")
    assert answer.status == 0, answer.err


def test_the_seeds_of_a_run(small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe(small_folder, epochs=1).to_toml(), encoding="utf-8")
    answer = command(capsys, "train", recipe, "--device", "cuda", "--seeds", "2", "--out", tmp_path / "runs", "--json")
    assert answer.status == 0, answer.err
    assert "2 seeds, 1 at a time" in answer.err
    assert len(json.loads(answer.out)["runs"]) == 2


def test_a_loss_that_is_not_a_number_is_seen() -> None:
    recipe = on_gpu()
    engine = engine_of(recipe)
    state: dict[str, Tensor] = engine.state()
    state["network.layers.0.convolution.weight"].fill_(float("nan"))
    engine.load_state(state)
    assert math.isnan(train(engine, recipe, 1).take_totals().loss)
