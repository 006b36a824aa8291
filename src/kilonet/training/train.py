"""Training: `fit` turns a recipe and images into a run.

The order of the images, their augmentation and the dropout of every step are drawn from the run's seed and the number
of the epoch or step alone. So nothing but the engine's state has to be kept to go on after a crash, and the run ends in
the same weights, bit for bit, as if nothing had happened.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kilonet.data.augment import draw_transforms
from kilonet.data.datasets import DataSet, Images, check_fit, load_data
from kilonet.engines.contract import Engine, Totals
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.evaluation.scoring import correct_predictions
from kilonet.evaluation.statistics import wilson_interval
from kilonet.models.metadata import metadata_of
from kilonet.models.model import Model
from kilonet.network.module import initial_network
from kilonet.recipe import Recipe, TrainSection
from kilonet.training.distillation import Teacher, gather_teachers, kept_teachers, train_shared, wanted_teachers
from kilonet.training.progress import Progress, Silence
from kilonet.training.run_folder import CHECKPOINT_FILE, RECIPE_FILE, Checkpoint, EpochMetrics, Result, Run, RunFolder
from kilonet.utils.environment import describe_environment
from kilonet.utils.errors import KilonetError, TrainingDiverged

_STEPS_BETWEEN_LOOKS = 50
"""Where the device works by itself, looking at the loss waits for it, so it is looked at only so often."""


def fit(
    recipe: Recipe, images: DataSet | None = None, out: Path | None = None, progress: Progress | None = None
) -> Run:
    """Train a recipe's network.

    Args:
        recipe: the network and how to train it.
        images: what to train on and score; by default what the recipe names as its data.
        out: a new or empty folder for the run's files; none are written without it.
        progress: is told what happens.

    Raises:
        KilonetError: recipe, images or folder will not do.
        TrainingDiverged: the loss is not a number any more, or no better than guessing.
    """
    progress = progress or Silence()
    recipe = resolve_run(recipe, progress.message)
    data = checked_data(recipe, images)
    gather = _gathering(recipe, data, progress)
    if out is None:
        return _train(recipe, data, None, progress, gather(None))
    with RunFolder.create(out, recipe) as folder:
        teachers = gather(out)
        # Only now, when nothing stands in the way: bad input is answered by its one line alone.
        progress.message(f"{recipe.model.parameters:,} parameters, in {out}")
        return _train(recipe, data, folder, progress, teachers)


def resume(path: Path, images: DataSet | None = None, progress: Progress | None = None) -> Run:
    """Go on with the run in a folder, to weights bit-identical to those of a run without a break.

    Raises:
        KilonetError: no run folder, a damaged checkpoint, or another process trains in it.
    """
    progress = progress or Silence()
    with RunFolder.open(path) as folder:
        recipe = resolve_run(folder.recipe, progress.message)
        data = checked_data(recipe, images)
        # Where training has begun the teachers are there, whatever has become of what the recipe names.
        begun = (path / CHECKPOINT_FILE).exists()
        teachers = kept_teachers(recipe.distill, path, data) if begun else _gathering(recipe, data, progress)(path)
        return _train(recipe, data, folder, progress, teachers)


def _gathering(recipe: Recipe, data: DataSet, progress: Progress) -> Callable[[Path | None], list[Teacher]]:
    """Check the recipe's teachers; returns what has them at hand, in the run's folder if there is one."""
    wanted = wanted_teachers(recipe, progress)
    train = partial(_train_teacher, data=data, progress=progress)
    return partial(gather_teachers, wanted, data, train, progress)


def prepare_teachers(recipe: Recipe, parent: Path, progress: Progress) -> None:
    """Train the teachers of a recipe once for all runs that will be made in a folder, or go on with that.

    Raises:
        KilonetError: the recipe or a teacher will not do.
        TrainingDiverged: a teacher's loss is not a number any more, or no better than guessing.
    """
    recipe = resolve_run(recipe, progress.message)
    data = checked_data(recipe, None)
    train_shared(wanted_teachers(recipe, progress), data, parent, partial(_train_teacher, data=data, progress=progress))


def _train_teacher(recipe: Recipe, path: Path | None, data: DataSet, progress: Progress) -> Run:
    """Train a teacher on its student's data, which hold out already what is held out, or go on with that."""
    where = f", in {path}" if path else ""
    progress.message(f"the teacher: {recipe.model.parameters:,} parameters, seed {recipe.run.seed}{where}")
    try:
        if path is None:
            return _train(recipe, data, None, progress)
        begun = (path / RECIPE_FILE).is_file()
        with RunFolder.open(path) if begun else RunFolder.create(path, recipe) as folder:
            return _train(folder.recipe, data, folder, progress)
    except TrainingDiverged as error:
        raise TrainingDiverged(f"the teacher's {error} in its own recipe") from None


def checked_data(recipe: Recipe, images: DataSet | None = None) -> DataSet:
    """Return what a run trains on and is scored on: the given images, or what the recipe names, split if it says so.

    Raises:
        KilonetError: no such data, or the network does not take them.
    """
    data = images or load_data(recipe.run.data)
    check_fit(recipe.model, data)
    return data.hold_out() if recipe.run.holdout else data


def _train(
    recipe: Recipe, data: DataSet, folder: RunFolder | None, progress: Progress, teachers: Sequence[Teacher] = ()
) -> Run:
    network = initial_network(recipe.model, recipe.run.seed)
    engine = make_engine(recipe, data.train, network, [teacher.model for teacher in teachers])
    checkpoint = folder.load_checkpoint() if folder else None
    history = list(checkpoint.history) if checkpoint else []
    if checkpoint:
        _restore(engine, checkpoint)
        progress.message(f"resuming after {len(history)} of {recipe.train.epochs} epochs")
    if folder:
        # After a resumption too: the metrics may have been left an epoch behind.
        folder.save_checkpoint(engine.state(), history)
    try:
        for epoch in range(len(history), recipe.train.epochs):
            history.append(_run_epoch(engine, recipe, data, epoch, progress))
            if folder:
                folder.save_checkpoint(engine.state(), history)
    finally:
        progress.stopped()
    result, model = _outcome(engine, recipe, data, history, teachers)
    if folder:
        folder.finish(result, model)
    return Run(result, tuple(history), model, folder.path if folder else None)


def _restore(engine: Engine, checkpoint: Checkpoint) -> None:
    described = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
        for state in (engine.state(), checkpoint.state)
    ]
    if described[0] != described[1]:
        raise KilonetError(f"{checkpoint.path}: not a checkpoint of the recipe and the engine of its run")
    engine.load_state(checkpoint.state)


def _run_epoch(engine: Engine, recipe: Recipe, data: DataSet, epoch: int, progress: Progress) -> EpochMetrics:
    start = time.perf_counter()
    learning_rate, totals = _train_epoch(engine, recipe, len(data.train), epoch, progress)
    seconds = time.perf_counter() - start
    _check_that_it_learns(totals, recipe, epoch)
    test_loss, correct = score(engine.logits(data.test.pixels), data.test)
    if not math.isfinite(test_loss):
        raise _diverged(f"the loss on the {data.test.name.lower()} set is not a number in epoch {epoch}", recipe)
    metrics = EpochMetrics(
        epoch=epoch,
        train_loss=totals.loss / totals.images,
        train_accuracy=totals.correct / totals.images,
        test_loss=test_loss,
        test_accuracy=correct / len(data.test),
        learning_rate=learning_rate,
        seconds=seconds,
        images_per_second=totals.images / seconds,
    )
    progress.epoch_trained(metrics, data.test.name, len(data.test))
    return metrics


def _train_epoch(engine: Engine, recipe: Recipe, images: int, epoch: int, progress: Progress) -> tuple[float, Totals]:
    """Train one epoch; returns the last learning rate and the epoch's totals."""
    order, transforms = draw_epoch(recipe, images, epoch, engine.device)
    batches = list(zip(order.split(recipe.train.batch_size), transforms.split(recipe.train.batch_size), strict=True))
    look = 1 if engine.device == "cpu" else _STEPS_BETWEEN_LOOKS
    total, learning_rate = Totals(0.0, 0, 0), 0.0
    progress.epoch_started(epoch, len(batches))
    for batch, (indices, maps) in enumerate(batches):
        step = epoch * len(batches) + batch
        learning_rate = scheduled_rate(recipe.train, step, recipe.train.epochs * len(batches))
        engine.train_batch(indices, maps, learning_rate, step)
        if batch % look == look - 1 or batch == len(batches) - 1:
            latest = engine.take_totals()
            if not math.isfinite(latest.loss):
                raise _diverged(f"the loss is not a number in epoch {epoch}, batch {batch}", recipe)
            total = Totals(total.loss + latest.loss, total.correct + latest.correct, total.images + latest.images)
            progress.batch_trained(batch, total.correct / total.images, latest.loss / latest.images)
    return learning_rate, total


def draw_epoch(recipe: Recipe, images: int, epoch: int, device: str) -> tuple[Tensor, Tensor]:
    """Draw an epoch's order, int64 (N,), and each image's transform, float32 (N, 2, 3), from seed and epoch alone."""
    entropy = np.random.SeedSequence([recipe.run.seed, epoch]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    order = torch.randperm(images, generator=generator)
    return order.to(device), draw_transforms(recipe.augment, images, generator).to(device)


def scheduled_rate(train: TrainSection, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear rise over the warm-up, then a fall to zero in the schedule's shape.

    Source of the cosine: I. Loshchilov and F. Hutter, "SGDR", 2017, without restarts.
    """
    rising = round(train.warmup * steps)
    if step < rising:
        return train.learning_rate * (step + 1) / rising
    fallen = (step - rising) / (steps - rising)
    shape = {"cosine": (1 + math.cos(math.pi * fallen)) / 2, "linear": 1 - fallen, "constant": 1.0}
    return train.learning_rate * shape[train.schedule]


def score(logits: Tensor, images: Images) -> tuple[float, int]:
    """Return the mean cross-entropy in nats and the number of correct answers of float32 logits (N, classes)."""
    loss = functional.cross_entropy(logits, images.labels).item()
    return loss, int(correct_predictions(logits, images.labels).sum())


def _check_that_it_learns(totals: Totals, recipe: Recipe, epoch: int) -> None:
    loss, guessing = totals.loss / totals.images, math.log(recipe.model.classes)
    # In the first epoch an honest start may still weigh on the mean.
    if epoch > 0 and loss >= guessing:
        raise _diverged(f"the loss of epoch {epoch} is {loss:.3g}, no better than guessing ({guessing:.3g})", recipe)


def _diverged(what: str, recipe: Recipe) -> TrainingDiverged:
    return TrainingDiverged(
        f"training diverged: {what}; try a lower --learning-rate than {recipe.train.learning_rate:g}"
    )


def _outcome(
    engine: Engine, recipe: Recipe, data: DataSet, history: list[EpochMetrics], teachers: Sequence[Teacher]
) -> tuple[Result, Model]:
    model = Model(recipe.model, engine.network_state(), metadata_of(data))
    correct = round(history[-1].test_accuracy * len(data.test))
    result = Result(
        recipe=recipe,
        parameters=recipe.model.parameters,
        scored=data.test.name,
        scored_images=len(data.test),
        correct=correct,
        interval=wilson_interval(correct, len(data.test)),
        final=history[-1],
        best=max(history, key=lambda metrics: metrics.test_accuracy),
        seconds=sum(metrics.seconds for metrics in history),
        teachers=tuple(teacher.result for teacher in teachers),
        environment=describe_environment(
            device=recipe.run.device,
            precision=recipe.run.precision,
            engine=recipe.run.engine,
            threads=recipe.run.threads,
        ),
        model_sha256=model.sha256,
    )
    return result, model
