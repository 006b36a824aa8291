"""Fine-tuning of the integers: what it repairs, what it says meanwhile, and how many images it takes."""

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers import model_section
from kilonet.data import augment as augmentation
from kilonet.data.datasets import DataSet, Images
from kilonet.data.section import AugmentSection
from kilonet.export import finetuning, quantisation
from kilonet.export.exporter import export_model
from kilonet.export.finetuning import finetune, image_passes
from kilonet.export.integer import integer_logits
from kilonet.export.quantisation import QuantisationResult
from kilonet.export.training_data import augment_of
from kilonet.export.unrounded_steps import UnroundedConvolution, to_integer_network
from kilonet.models.model import MODEL_FILE, load_model, packaged_models
from kilonet.network.cost import network_cost
from kilonet.recipe import load_recipe
from kilonet.training.run_folder import Run
from strategies import images_for, model_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def accuracy(scores: NDArray[Any], images: Images) -> float:
    return float((scores.argmax(1) == images.labels.numpy()).mean())


@pytest.fixture
def short_finetuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of small batches, so that few images make steps enough to see what they do."""
    monkeypatch.setattr("kilonet.export.finetuning.EPOCHS", 1)
    monkeypatch.setattr("kilonet.export.finetuning._BATCH", 32)


def first(images: Images, count: int) -> Images:
    return Images(images.pixels[:count], images.labels[:count])


@pytest.mark.ci
@pytest.mark.usefixtures("short_finetuning")
def test_finetuning_repairs_bad_biases_and_repeats_to_the_bit(
    small: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scales that were chosen badly: every bias of two convolutions is off by a seventh of its channel's range."""
    model, images = load_model("baseline"), first(small.train, 640)
    steps = list(quantisation.choose_scales(model, images))
    for number in (1, 2):
        step = steps[number]
        assert isinstance(step, UnroundedConvolution)
        steps[number] = dataclasses.replace(step, bias=step.bias + 255 / 7 / step.output.multiplier)
    pixels = small.test.pixels.numpy()
    before = accuracy(integer_logits(to_integer_network(model.section, steps), pixels), small.test)
    tuned = [to_integer_network(model.section, finetune(model, steps, images)) for _ in range(2)]
    after = [integer_logits(network, pixels) for network in tuned]
    assert np.array_equal(after[0], after[1])
    assert accuracy(after[0], small.test) > before + 0.05
    assert accuracy(after[0], small.test) > 0.97
    said = capsys.readouterr().err.splitlines()
    assert said[:11] == said[11:]
    assert "fine-tuning the integers on 640 images, moved a little, as its recipe is not known" in said[0]
    assert said[1] == "kilonet: fine-tuning: 64 of 640 images"
    assert said[10] == "kilonet: fine-tuning: 640 of 640 images"


@pytest.mark.usefixtures("short_finetuning")
def test_finetuning_happens_only_when_the_drop_asks_for_it(small: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = load_model("mcu"), first(small.train, 600)
    assert quantisation.quantise(model, images).finetuned_accuracy is None
    monkeypatch.setattr("kilonet.export.quantisation.TOLERATED_DROP", -1.0)
    forced = quantisation.quantise(model, images)
    assert forced.finetuned_accuracy is not None
    assert forced.finetuned_accuracy > 0.95


def test_a_terminal_gets_a_bar_instead_of_the_lines(small: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    model, images = load_model("uno"), first(small.train, 40)
    finetune(model, quantisation.choose_scales(model, images), images, AugmentSection())
    shown = stream.getvalue()
    assert "fine-tuning the integers on 80 images, changed as its recipe says" in shown
    assert "80/80" in shown
    assert "of 80 images" not in shown


def test_two_epochs_at_most_and_fewer_for_a_network_of_many_macs() -> None:
    for name in packaged_models():
        assert image_passes(load_model(name).section, 50_000) == 100_000
    large = load_recipe("photo-32k").model
    assert image_passes(large, 41_667) * network_cost(large).macs <= finetuning.MAXIMUM_MACS
    assert image_passes(large, 41_667) < 41_667
    assert image_passes(large, 1_000) == 2_000


@pytest.mark.usefixtures("short_finetuning")
def test_a_large_network_is_tuned_within_its_budget(small: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = load_model("uno"), first(small.train, 300)
    steps = quantisation.choose_scales(model, images)
    monkeypatch.setattr(finetuning, "MAXIMUM_MACS", 200 * network_cost(model.section).macs)
    taken: list[int] = []

    def apply(pixels: torch.Tensor, *rest: Any) -> torch.Tensor:
        taken.append(len(pixels))
        return augmentation.apply_changes(pixels, *rest)

    monkeypatch.setattr(finetuning, "apply_changes", apply)
    finetune(model, steps, images)
    assert taken == [32] * 6 + [8]


def test_each_image_is_taken_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(model_section("conv 2 1x1", "gap", "pointwise 3", input=(1, 1, 1)), 0)
    images = Images(torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1), torch.zeros(200, dtype=torch.int64))
    seen: list[torch.Tensor] = []

    def loss(_network: object, steps: Any, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.flatten())
        convolutions = [step for step in steps if isinstance(step, UnroundedConvolution)]
        return torch.cat([tensor.flatten() for step in convolutions for tensor in (step.weights, step.bias)]).sum()

    monkeypatch.setattr(finetuning, "_loss", loss)
    finetune(model, quantisation.choose_scales(model, images), images, AugmentSection())
    epochs = torch.cat(seen).view(2, 200)
    assert torch.equal(epochs.sort(1).values, torch.arange(200.0).expand(2, -1))
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(("channels", "turned"), [(1, True), (3, False)])
def test_colour_images_are_not_turned_unless_a_recipe_says_so(
    channels: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(model_section("conv 2", "gap", "pointwise 3", input=(channels, 4, 4)), 0)
    pixels = images_for(model.section, 0, 20)
    images = Images(pixels, torch.zeros(20, dtype=torch.int64))
    used: list[AugmentSection] = []

    def draw(augment: AugmentSection, *rest: Any) -> augmentation.Batch:
        used.append(augment)
        return augmentation.draw_changes(augment, *rest)

    monkeypatch.setattr(finetuning, "draw_changes", draw)
    steps = quantisation.choose_scales(model, images)
    finetune(model, steps, images)
    assert {bool(one.rotation or one.shear) for one in used} == {turned}
    used.clear()
    own = AugmentSection(flip=True, crop=1, outside="edge")
    finetune(model, steps, images, own)
    assert set(used) == {own}


def test_a_run_is_exported_with_the_changes_of_its_recipe(
    finished: Run, quantised: QuantisationResult, small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished.folder is not None
    known: list[AugmentSection | None] = []

    def quantise(_model: object, _images: object, augment: AugmentSection | None) -> QuantisationResult:
        known.append(augment)
        return quantised

    monkeypatch.setattr("kilonet.export.exporter.quantise", quantise)
    shutil.copy(finished.folder / MODEL_FILE, tmp_path)
    for form in ("c", "onnx", "html"):
        for source in (finished.folder, tmp_path / MODEL_FILE):
            export_model(form, finished.model, small, tmp_path / "out", str(source))
    assert known == [finished.result.recipe.augment, None] * 3
    assert finished.result.recipe.augment != AugmentSection()
    assert augment_of(str(finished.folder / MODEL_FILE)) == finished.result.recipe.augment
    assert augment_of("mcu") is None
