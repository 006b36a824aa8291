"""Training: it learns, it is repeatable, it stops when it diverges, and it refuses images that do not fit."""

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import kilonet
from helpers import StopAtEpoch, refusal, same_tensors, tiny_recipe
from kilonet.data.datasets import DataSet, Images
from kilonet.engines import selection
from kilonet.engines.contract import Totals
from kilonet.engines.torch_engine import TorchEngine
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import load_model
from kilonet.network import memory
from kilonet.recipe import Recipe, TrainSection
from kilonet.training import train
from kilonet.training.identity import check_identity, identity_of
from kilonet.training.lr_finder import find_rate
from kilonet.training.progress import NoProgress
from kilonet.training.run_folder import EpochMetrics, Run
from kilonet.training.train import fit, mean_loss, resume, scheduled_rate
from kilonet.utils.errors import KilonetError, TrainingDiverged


@dataclass
class RecordedEvents(NoProgress):
    """Records the events of a run."""

    begun: list[tuple[int, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    scored: list[tuple[str, int]] = field(default_factory=list)
    stops: int = 0

    def epoch_started(self, epoch: int, steps: int) -> None:
        self.begun.append((epoch, steps))

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        assert 0 <= accuracy <= 1
        assert loss > 0
        self.batches.append(batch)

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        assert metrics.epoch == len(self.scored)
        self.scored.append((scored, images))

    def stopped(self) -> None:
        self.stops += 1


def test_the_reference_network_learns_mnist_in_an_epoch(mnist: DataSet) -> None:
    # A sixth of the training images is enough for that, in batches of a quarter of the recipe's size.
    data = DataSet(mnist.train.select(torch.arange(10_000), "Train"), mnist.test)
    run = fit(kilonet.load_recipe("baseline", {"epochs": 1, "threads": 1, "batch_size": 32}), data)
    assert run.result.final.test_accuracy > 0.97
    assert run.result.scored_images == 10_000


def test_without_a_folder_nothing_is_written(small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fit(tiny_recipe(epochs=1), small)
    assert run.folder is None
    assert not list(tmp_path.iterdir())


def test_the_folder_changes_nothing(small: DataSet, finished: Run) -> None:
    run = fit(finished.result.recipe, small)
    assert run.result.model_sha256 == finished.result.model_sha256 == finished.model.sha256
    assert finished.folder is not None
    assert load_model(finished.folder).sha256 == run.result.model_sha256


def test_another_seed_gives_other_weights(small: DataSet, finished: Run) -> None:
    assert fit(tiny_recipe(seed=1), small).result.model_sha256 != finished.result.model_sha256


@pytest.mark.parametrize(
    "change", [{"rotation": 0}, {"dropout": 0}, {"ema": 0}, {"batch_size": 65}, {"optimizer": "adamw"}]
)
def test_every_key_matters(small: DataSet, change: dict[str, Any]) -> None:
    once = tiny_recipe(epochs=1)
    assert fit(once.replace(**change), small).result.model_sha256 != fit(once, small).result.model_sha256


def test_the_callers_random_numbers_neither_matter_nor_change(small: DataSet, finished: Run) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    assert fit(finished.result.recipe, small).result.model_sha256 == finished.result.model_sha256
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.ci
def test_it_learns_from_few_images_too(small: DataSet) -> None:
    run = fit(tiny_recipe(epochs=10, dropout=0, rotation=0, shift=0), small)
    losses = [metrics.train_loss for metrics in run.history]
    assert losses[-1] < losses[0]
    assert run.result.final.test_accuracy > 0.7


def test_progress_is_told_everything(small: DataSet) -> None:
    events = RecordedEvents()
    fit(tiny_recipe(batch_size=170), small, progress=events)
    assert events.begun == [(0, 8), (1, 8)]
    assert events.batches == [*range(8), *range(8)]
    assert events.scored == [("Test", 500), ("Test", 500)]
    assert events.stops == 1


def test_the_figures_of_an_epoch_are_those_of_its_images(small: DataSet, finished: Run) -> None:
    final = finished.result.final
    logits = finished.model.logits(small.test.pixels)
    evaluation = evaluate(finished.model, small.test)
    assert final.test_loss == pytest.approx(mean_loss(logits, small.test.labels), abs=1e-6)
    assert finished.result.correct == evaluation.correct
    assert final.test_accuracy == evaluation.correct / 500
    assert final.test_balanced_accuracy == evaluation.balanced_accuracy != final.test_accuracy
    assert final.test_macro_f1 == evaluation.macro_f1 != final.test_accuracy
    assert finished.result.class_images == tuple(map(sum, evaluation.confusion))
    assert final.learning_rate == scheduled_rate(finished.result.recipe.train, 37, 38)


def test_the_mean_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 3
    assert mean_loss(logits, labels) == pytest.approx(expected)


def test_an_epoch_is_scored_once(small: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    scored, logits = [], TorchEngine.logits

    def counted(engine: TorchEngine, pixels: Tensor) -> Tensor:
        scored.append(len(pixels))
        return logits(engine, pixels)

    monkeypatch.setattr(TorchEngine, "logits", counted)
    fit(tiny_recipe(epochs=3), small)
    assert scored == [500] * 3


def test_holdout_scores_images_that_it_does_not_train_on(small: DataSet) -> None:
    events = RecordedEvents()
    run = fit(tiny_recipe(holdout=True, epochs=1), small, progress=events)
    assert run.result.scored == "Holdout"
    assert run.result.scored_images == 200
    assert events.scored == [("Holdout", 200)]
    assert events.begun == [(0, math.ceil(1000 / 64))]
    held = small.hold_out().test
    assert run.result.correct == evaluate(run.model, held).correct


def test_holdout_never_looks_at_the_test_set(small: DataSet) -> None:
    blank = Images(torch.zeros_like(small.test.pixels), small.test.labels, "Test")
    recipe = tiny_recipe(holdout=True, epochs=1)
    first, second = (fit(recipe, DataSet(small.train, test)) for test in (small.test, blank))
    untimed = {"seconds", "images_per_second"}
    assert first.result.final.model_dump(exclude=untimed) == second.result.final.model_dump(exclude=untimed)
    assert first.result.model_sha256 == second.result.model_sha256


def test_too_few_images_to_hold_out_are_refused(small: DataSet) -> None:
    few = DataSet(small.train.select(torch.arange(5), "Train"), small.test)
    with pytest.raises(KilonetError) as error:
        fit(tiny_recipe(holdout=True), few)
    refusal(error, "5")


@given(
    warmup=st.floats(0, 0.99),
    steps=st.integers(1, 300),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    highest=st.floats(1e-6, 100),
)
def test_the_learning_rate_rises_and_then_falls(warmup: float, steps: int, schedule: Any, highest: float) -> None:
    section = TrainSection(warmup=warmup, schedule=schedule, learning_rate=highest)
    rates = [scheduled_rate(section, step, steps) for step in range(steps)]
    rising = round(warmup * steps)
    assert all(0 <= rate <= highest * (1 + 1e-12) for rate in rates)
    assert all(rate > 0 for rate in rates)
    assert all(before < after for before, after in itertools.pairwise(rates[:rising]))
    assert all(before >= after for before, after in itertools.pairwise(rates[rising:]))
    if rising < steps:
        assert rates[rising] == pytest.approx(highest)
    if schedule != "constant" and steps - rising >= 20:
        assert rates[-1] < 0.06 * highest


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.05), (1, 0.1), (2, 0.1), (6, 0.05), (9, 0.1 * (1 + math.cos(math.pi * 7 / 8)) / 2)],
)
def test_known_values_of_the_cosine(step: int, expected: float) -> None:
    section = TrainSection(learning_rate=0.1, warmup=0.2, schedule="cosine")
    assert scheduled_rate(section, step, 10) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (5, 0.05), (9, 0.01)])
def test_known_values_of_the_line(step: int, expected: float) -> None:
    section = TrainSection(learning_rate=0.1, warmup=0, schedule="linear")
    assert scheduled_rate(section, step, 10) == pytest.approx(expected)


def test_an_absurd_learning_rate_stops_the_run_early(small: DataSet) -> None:
    events = RecordedEvents()
    recipe = tiny_recipe(epochs=500, learning_rate=100.0, warmup=0.0, weight_decay=1.0, ema=0.0)
    with pytest.raises(TrainingDiverged) as error:
        fit(recipe, small, progress=events)
    refusal(error, "training diverged", "--learning-rate", "100")
    assert len(events.begun) <= 3
    assert events.stops == 1


class BrokenEngine:
    """An engine whose loss and logits are given."""

    name = "torch"
    device = "cpu"
    precision = "float32"

    def __init__(self, loss: float, logit: float) -> None:
        self._loss = loss
        self._logit = logit
        self.batches = 0
        self._taken = 0

    def train_batch(self, indices: Tensor, *_: object) -> None:
        self.batches += 1
        self._taken += len(indices)

    def take_totals(self) -> Totals:
        images, self._taken = self._taken, 0
        return Totals(self._loss * images, 0, images)

    def logits(self, pixels: Tensor) -> Tensor:
        return torch.full((len(pixels), 10), self._logit)

    def state(self) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize(
    ("loss", "logit", "words", "batches"),
    [
        (math.nan, 0.0, "not a number in epoch 0, batch 0", 1),
        (math.inf, 0.0, "not a number in epoch 0, batch 0", 1),
        (1.0, math.nan, "not a number in epoch 0", 19),
        (9.9, 0.0, "no better than guessing", 38),
    ],
)
def test_a_diverging_run_is_stopped(
    *, small: DataSet, monkeypatch: pytest.MonkeyPatch, loss: float, logit: float, words: str, batches: int
) -> None:
    engine = BrokenEngine(loss, logit)
    monkeypatch.setattr(train, "make_engine", lambda *_: engine)
    monkeypatch.setattr(train, "_LEAST_STEPS_JUDGED", 19)
    with pytest.raises(TrainingDiverged) as error:
        fit(tiny_recipe(epochs=15), small)
    refusal(error, words, "--learning-rate")
    assert engine.batches == batches


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_the_loss_of_logits_that_are_not_finite_is_not_a_number(logit: float) -> None:
    """Of minus infinity for a wrong class it would be finite."""
    assert math.isnan(mean_loss(torch.tensor([[1.0, logit], [1.0, 0.0]]), torch.tensor([0, 0])))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_on_a_few_images_is_not_stopped_in_its_first_steps(small: DataSet, seed: int) -> None:
    """One batch an epoch: the loss rises at first, above that of guessing."""
    few = DataSet(small.train.select(torch.arange(60), "Train"), small.test.select(torch.arange(20), "Test"))
    run = fit(tiny_recipe(epochs=15, batch_size=128, seed=seed), few)
    assert len(run.history) == 15


@pytest.mark.parametrize(
    ("images", "batch", "epochs"), [(2000, 64, 2), (60, 128, 60), (60, 2, 34), (960, 64, 4), (10, 1, 200)]
)
def test_a_loss_no_better_than_guessing_is_judged_over_enough_steps_and_images(
    images: int, batch: int, epochs: int
) -> None:
    recipe = tiny_recipe(batch_size=batch)
    check, labels = train._check_training_loss, torch.arange(images) % 10
    check([2.4] * (epochs - 1), recipe, labels)
    check([2.4] * (epochs // 2) + [2.2] * (epochs // 2), recipe, labels)
    with pytest.raises(TrainingDiverged):
        check([2.2] * (epochs // 2) + [2.4] * (epochs // 2), recipe, labels)


def test_a_loss_that_falls_towards_guessing_is_not_a_divergence() -> None:
    """As of 1,845 parameters on 100 classes: 4.76, 4.62, 4.48; that of another run rose."""
    recipe, labels = tiny_recipe(batch_size=64, layers=("gap", "pointwise 100")), torch.arange(10_000) % 100
    for falling in ([4.76, 4.62], [4.76, 4.70, 4.62], [9.0, 4.7]):
        train._check_training_loss(falling, recipe, labels)
    for rising in ([4.62, 4.62], [4.76, 4.62, 4.63], [2.0, 4.61]):
        with pytest.raises(TrainingDiverged):
            train._check_training_loss(rising, recipe, labels)


def test_a_weighted_loss_is_judged_over_as_many_images_as_decide_it() -> None:
    """If one image in a hundred has half of the weight, the mean of 1,000 images is one of about 40."""
    recipe = tiny_recipe(batch_size=64, layers=("gap", "pointwise 2"), class_weights="balanced")
    labels = (torch.arange(1000) % 100 == 0).long()
    train._check_training_loss([2.4] * 50, recipe, labels)
    with pytest.raises(TrainingDiverged):
        train._check_training_loss([2.4] * 52, recipe, labels)


@pytest.mark.parametrize(("key", "flag"), [("class_weights", "--class-weights"), ("sampling", "--sampling")])
def test_a_class_without_training_images_cannot_be_balanced(
    small: DataSet, tmp_path: Path, key: str, flag: str
) -> None:
    kept = (small.train.labels != 3).nonzero().flatten()
    with pytest.raises(KilonetError) as error:
        fit(
            tiny_recipe(**{key: "balanced"}),
            DataSet(small.train.select(kept, "Train"), small.test),
            tmp_path / "run",
        )
    refusal(error, "class 3 has no training images", flag)
    assert not (tmp_path / "run").exists()


def test_balanced_sampling_takes_of_every_class_as_many_and_of_each_its_images_in_turn() -> None:
    recipe = tiny_recipe(layers=("gap", "pointwise 3"), sampling="balanced")
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 5)
    first, second = (train.draw_epoch(recipe, labels, epoch, "cpu").indices for epoch in (0, 1))
    assert len(first) == 125
    assert not torch.equal(first, second)
    assert torch.bincount(labels[first]).tolist() in ([42, 42, 41], [42, 41, 42], [41, 42, 42])
    times = torch.bincount(first, minlength=125)
    assert times[:100].max() == 1
    assert set(times[100:120].tolist()) == {2, 3}
    assert set(times[120:].tolist()) <= {8, 9}
    # Not sorted by class.
    assert labels[first][:40].unique().tolist() == [0, 1, 2]


def test_ever_fewer_images_are_mixed() -> None:
    recipe = tiny_recipe(epochs=10, mixup=0.4, mixup_until=0.5)
    epochs = [train.draw_epoch(recipe, torch.zeros(2000, dtype=torch.int64), epoch, "cpu") for epoch in range(10)]
    mixed = [float((epoch.tensors()["shares"] < 1).float().mean()) for epoch in epochs]
    assert mixed == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0, 0], abs=0.04)


def test_a_checkpoint_of_before_a_key_was_added_goes_on(small: DataSet) -> None:
    recipe = tiny_recipe()
    now = identity_of(recipe, small)
    before = now.model_copy(update={"recipe": {k: v for k, v in now.recipe.items() if k != "augment.flip"}})
    check_identity(Path("checkpoint"), before, now)
    with pytest.raises(KilonetError, match=r"augment\.flip"):
        check_identity(Path("checkpoint"), before, identity_of(recipe.replace(flip=True), small))


@pytest.mark.parametrize("stop", [None, 1])
def test_torch_has_its_number_of_threads_back_after_a_fit(small: DataSet, stop: int | None) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            fit(tiny_recipe(epochs=2), small, progress=NoProgress() if stop is None else StopAtEpoch(stop))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_more_threads_than_cores_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(selection, "cores", lambda: 2)
    assert selection.resolve_run(tiny_recipe(threads=1024), lines.append).run.threads == 2
    assert lines == ["using 2 threads, one for each core that this process may use, not 1024"]
    assert selection.resolve_run(tiny_recipe(threads=2), lines.append).run.threads == 2
    monkeypatch.setattr(selection, "cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert selection.resolve_run(tiny_recipe(threads=0), lines.append).run.threads == 1
    assert len(lines) == 1


def test_data_that_are_missing_are_said_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*_: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(selection, "native_unavailable_reason", compiled)
    recipe = tiny_recipe(tmp_path / "nowhere", engine="auto")
    for begin in (lambda: fit(recipe), lambda: find_rate(recipe)):
        with pytest.raises(KilonetError) as error:
            begin()
        refusal(error, "nowhere")
    # A device that is missing is said before data are read, which can take minutes.
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(KilonetError) as error:
        fit(recipe.replace(device="mps"))
    refusal(error, "mps")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": ["conv 4096 15x15 same", "conv 4096 31x31 same", "gap", "pointwise 10"]}, "over the limit of 64"),
        ({"layers": ["conv 4096 5x5 same", "conv 4096 1x1", "gap", "pointwise 10"]}, "over the limit of 64"),
        ({"layers": ["conv 1024 same", "conv 1024 1x1", "gap", "pointwise 10"], "batch_size": 65_536}, "GiB"),
        ({"layers": ["gap"], "input": [10, 28, 28]}, "no weights to train"),
    ],
)
def test_networks_that_cannot_be_trained_or_stored_are_refused_before_the_start(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 4 << 30)
    for start in (lambda recipe: fit(recipe, out=tmp_path / "run"), find_rate):
        with pytest.raises(KilonetError) as error:
            start(tiny_recipe(small_folder, **changes))
        refusal(error, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["x" * 101, "caf\udce9", ""])
def test_names_that_a_model_file_cannot_hold_are_refused_before_the_start(
    small: DataSet, tmp_path: Path, name: str
) -> None:
    events = RecordedEvents()
    data = replace(small, names=(*map(str, range(9)), name))
    with pytest.raises(KilonetError) as error:
        fit(tiny_recipe(), data, tmp_path / "run", events)
    refusal(error, "names.9")
    assert not events.begun
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_keeps_its_last_good_epoch(
    small: DataSet, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_recipe(small_folder), small, folder, StopAtEpoch(1))
    before = (folder / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(train, "_LEAST_STEPS_JUDGED", 19)
    monkeypatch.setattr(train, "_train_epoch", lambda *_: (0.1, Totals(1e9, 0, len(small.train))))
    with pytest.raises(KilonetError):
        resume(folder)
    assert (folder / "checkpoint.safetensors").read_bytes() == before


def relabelled(data: DataSet) -> DataSet:
    return DataSet(data.train, Images(data.test.pixels, data.test.labels + 1, "Test"))


def cropped(data: DataSet) -> DataSet:
    return DataSet(*(Images(part.pixels[..., 1:], part.labels) for part in (data.train, data.test)))


def coloured(data: DataSet) -> DataSet:
    return DataSet(*(Images(part.pixels.expand(-1, 3, -1, -1), part.labels) for part in (data.train, data.test)))


@pytest.mark.parametrize(
    ("change", "words"), [(relabelled, "10 classes"), (cropped, "(1, 28, 27)"), (coloured, "(3, 28, 28)")]
)
def test_images_that_do_not_fit_the_network_are_refused(
    small: DataSet, tmp_path: Path, change: Callable[[DataSet], DataSet], words: str
) -> None:
    with pytest.raises(KilonetError) as error:
        fit(tiny_recipe(), change(small), tmp_path / "run")
    refusal(error, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that the test wants missing")
def test_a_device_that_is_not_there_is_refused(small: DataSet) -> None:
    with pytest.raises(KilonetError) as error:
        fit(tiny_recipe(device="cuda"), small)
    refusal(error, "cuda", "--device cpu")


def test_resuming_needs_nothing_but_the_folder(small: DataSet, small_folder: Path, tmp_path: Path) -> None:
    recipe: Recipe = tiny_recipe(small_folder)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, small, tmp_path / "run", StopAtEpoch(0))
    resumed, whole = resume(tmp_path / "run"), fit(recipe, small)
    assert same_tensors(resumed.model.network.state(), whole.model.network.state())
