"""The memory that networks take is computed before it is taken."""

from pathlib import Path

import pytest

from helpers import PEAK, command, model_section, python, refusal, some_pixels
from kilonet.models import model
from kilonet.models.model import Model, load_model, scoring_batch, serialise
from kilonet.network import memory
from kilonet.network.memory import check_training_memory, image_bytes, weight_bytes
from kilonet.network.module import initial_network
from kilonet.utils.errors import KilonetError

SMALL = model_section("conv 4", "maxpool 2", "conv 4 same residual", "gap", "pointwise 10", input=(4, 10, 10))


def test_weights_are_counted_with_the_statistics_of_batch_norms() -> None:
    state = initial_network(SMALL, 0).state()
    assert weight_bytes(SMALL.placed) == sum(4 * tensor.numel() for tensor in state.values())


def test_the_activations_of_an_image_are_those_of_one_operation() -> None:
    section = model_section("conv 16 1x1", "maxpool 2", "gap", "pointwise 10", input=(1, 8, 8))
    # ReLU and batch norm have 16 maps of 8x8 before them, as many behind them, and a copy of these.
    assert image_bytes(section.placed) == 4 * 3 * 16 * 64


def test_a_network_of_over_a_gibibyte_an_image_is_no_network() -> None:
    layers = ("conv 4096 1x1", "conv 4096 1x1 depthwise", "maxpool 31", "maxpool 16", "gap", "pointwise 2")
    with pytest.raises(KilonetError) as error:
        model_section(*layers, input=(1, 512, 512))
    refusal(error, "one image takes 12.0 GiB of activations, over the limit of 1.0 GiB")


def test_a_small_model_file_does_not_take_memory_without_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = model_section("conv 4096 1x1", "gap", "pointwise 2", input=(1, 8, 8))
    content = serialise(small, initial_network(small, 0).state())
    # The numbers in the header are the only thing that a large image changes.
    before, after = b"[1, 8, 8]", b"[1,512,512]"
    assert len(content) < 240 << 10
    escaped = content.replace(before, after + b" " * 0)
    length = int.from_bytes(content[:8], "little") + len(after) - len(before)
    (tmp_path / "large.safetensors").write_bytes(length.to_bytes(8, "little") + escaped[8:])
    command(capsys, "evaluate", tmp_path / "large.safetensors").refused("12.0 GiB of activations", "1.0 GiB")


def test_a_model_that_does_not_fit_into_this_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(serialise(SMALL, initial_network(SMALL, 0).state()))
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(KilonetError) as error:
        load_model(tmp_path / "model.safetensors")
    refusal(error, "memory", "are available")


def test_fewer_images_are_scored_at_once_where_they_take_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scoring_batch(SMALL) == 128
    pixels = some_pixels(20, SMALL.input_shape)
    network = Model(SMALL, initial_network(SMALL, 0).state())
    whole = network.logits(pixels)
    monkeypatch.setattr(model, "_SCORING_BYTES", 3 * image_bytes(SMALL.placed))
    assert scoring_batch(SMALL) == 3
    assert (network.logits(pixels) - whole).abs().max() < 1e-5


def test_training_without_memory_names_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 100 << 20)
    check_training_memory(SMALL.placed, 64, native=True)
    with pytest.raises(KilonetError) as error:
        check_training_memory(SMALL.placed, 65_536, native=True)
    refusal(error, "batches of 65,536 images", "100.0 MiB are available", "--batch-size")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    check_training_memory(SMALL.placed, 65_536, native=True)


MEASURED = """
import torch
from kilonet.data.datasets import Images
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.network.memory import training_bytes
from kilonet.network.module import initial_network
from kilonet.recipe import parse_recipe
from kilonet.training.train import draw_epoch
engine, count = sys.argv[1], 1024
table = {
    "model": {"layers": ["conv 16", "conv 32", "maxpool 2", "conv 32", "gap", "pointwise 10"]},
    "train": {"batch_size": count},
    "augment": {"rotation": 5.0},
    "run": {"engine": engine, "device": "cpu", "precision": "float32", "threads": 1},
}
recipe = resolve_run(parse_recipe(table, "measured", {}))
images = Images(torch.zeros(count, 1, 28, 28, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
def train(part):
    engine = make_engine(recipe, part, initial_network(recipe.model, 0))
    for step in range(2):
        engine.train_batch(draw_epoch(recipe, part.labels, 0, "cpu"), 0.01, step)
    engine.take_totals()
    return peak()
few = train(images.select(torch.arange(32), "few"))
estimate = training_bytes(recipe.model.placed, count, native=engine == "native")
print((train(images) - few) * 2**20 / estimate)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "torch"])
def test_the_estimate_is_about_what_training_takes(engine: str) -> None:
    done = python(PEAK + MEASURED, engine)
    assert done.status == 0, done.err
    assert 0.6 < float(done.out) < 1.1
