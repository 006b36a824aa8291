"""Training: `fit` trains a recipe's network on images; `resume` continues a run that was interrupted.

The order of the images, their augmentation and the dropout of every step depend only on the run's seed and on the
number of the epoch or step. So a checkpoint holds the engine's state and nothing else, and a resumed run ends in the
same weights, bit for bit, as a run without a break.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kilonet.data.augment import Batch, draw_changes
from kilonet.data.datasets import DataSet, check_fit
from kilonet.engines.class_weights import check_balance, class_weights, effective_images
from kilonet.engines.contract import Engine, Totals
from kilonet.engines.selection import make_engine, resolve_device, resolve_run
from kilonet.evaluation.calibration import LEAST_IMAGES, CalibrationReport, calibrate_on, least_share
from kilonet.evaluation.negatives import Negatives, read_negatives
from kilonet.evaluation.scoring import class_counts
from kilonet.evaluation.statistics import wilson_interval
from kilonet.models.metadata import metadata_of
from kilonet.models.model import Model, check_storable, load_model
from kilonet.network.memory import check_training_memory
from kilonet.network.module import initial_network
from kilonet.recipe import LARGEST_SHARE, Recipe, RunSection, TrainSection, load_recipe
from kilonet.training.distillation import (
    Teacher,
    TeacherSource,
    load_or_train_teachers,
    load_teachers,
    resolve_teachers,
    train_shared_teachers,
)
from kilonet.training.identity import Identity, check_identity, identity_of
from kilonet.training.progress import NoProgress, Progress
from kilonet.training.run_data import check_negatives, divided, load_run_data
from kilonet.training.run_folder import (
    CHECKPOINT_FILE,
    LARGEST_LOSS,
    RECIPE_FILE,
    Checkpoint,
    EpochMetrics,
    Result,
    Run,
    RunFolder,
)
from kilonet.utils.environment import describe_environment, torch_threads_kept
from kilonet.utils.errors import KilonetError, TrainingDiverged
from kilonet.utils.schema import shortened
from kilonet.utils.terminal import counted

_STEPS_BETWEEN_LOSS_CHECKS = 50
"""On an asynchronous device: reading the loss waits for the device."""
_LEAST_STEPS_JUDGED = 30
_LEAST_IMAGES_JUDGED = 1000
"""The least steps and images whose mean loss shows that a run has diverged."""


def fit(
    recipe: Recipe | str | Path | None = None,
    data: DataSet | str | Path | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    *,
    start: Model | Path | str | None = None,
) -> Run:
    """Train a recipe's network.

    Args:
        recipe: the network and how to train it, or the name or the file of a recipe; without it one is proposed for
            the data that are named.
        data: the images to train on and to score, or the name of data; by default what the recipe names.
        out: a new or empty folder for the run's files; without it no files are written.
        progress: receives the events of the run.
        start: a model of the recipe's layers, or the name, the file or the run folder of one, with whose weights
            training begins; without it they are drawn from the recipe's seed.

    Raises:
        KilonetError: the recipe, the images, the start or the folder cannot be used, or there is not enough memory.
        TrainingDiverged: the loss is not a number, or no better than guessing.
    """
    if recipe is None:
        if not isinstance(data, str | Path):
            raise KilonetError("without a recipe, name the data to propose one for: fit(data='photos')")
        # Only who names no recipe waits for these modules.
        from kilonet.training.proposal import propose  # noqa: PLC0415

        recipe = propose(str(data)).recipe
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(str(recipe))
    if isinstance(data, str | Path):
        recipe, data = recipe.replace(data=str(data)), None
    if isinstance(start, str | Path):
        start = load_model(start)
    return _fit(recipe, data, None if out is None else Path(out), progress, start)


def _fit(
    recipe: Recipe, images: DataSet | None, out: Path | None, progress: Progress | None, start: Model | None
) -> Run:
    progress = progress or NoProgress()
    check_storable(recipe.model)
    _check_start(start, recipe)
    recipe, data = prepare_run(recipe, images, progress)
    negatives = _read_negatives(recipe, data)
    if data.preparation is not None:
        progress.message(data.preparation)
    sources = resolve_teachers(recipe, data, progress)
    if out is None:
        teachers = _obtain_teachers(sources, data, None, progress)
        return _train(recipe, data, None, progress, teachers, negatives=negatives, start=start)
    with RunFolder.create(out, recipe, start) as folder:
        teachers = _obtain_teachers(sources, data, out, progress)
        # Nothing is reported earlier, so that the error for bad input is the only line.
        progress.message(f"{recipe.model.parameters:,} parameters, in {out}")
        return _train(recipe, data, folder, progress, teachers, negatives=negatives, start=start)


def resume(path: Path, images: DataSet | None = None, progress: Progress | None = None) -> Run:
    """Continue the run in a folder. It ends in the same weights, bit for bit, as a run without a break.

    Raises:
        KilonetError: not a run folder, a damaged checkpoint, or another process trains in it; or recipe, images or
            teachers are not those that the run was begun with.
        TrainingDiverged: the loss is not a number, or no better than guessing.
    """
    progress = progress or NoProgress()
    with RunFolder.open(path) as folder:
        start = folder.load_start()
        _check_start(start, folder.recipe)
        recipe, data = prepare_run(folder.recipe, images, progress)
        negatives = _read_negatives(recipe, data)
        if data.preparation is not None:
            progress.message(data.preparation)
        teachers = _teachers_in(folder, recipe, data, progress)
        return _train(recipe, data, folder, progress, teachers, negatives=negatives, start=start)


def prepare_teachers(recipe: Recipe, parent: Path, progress: Progress) -> None:
    """Train the teachers of a recipe once for all runs in the folder `parent`, or resume their training.

    Raises:
        KilonetError: the recipe or a teacher cannot be used.
        TrainingDiverged: a teacher's loss is not a number, or no better than guessing.
    """
    check_storable(recipe.model)
    recipe, data = prepare_run(recipe, None, progress)
    train = partial(_train_teacher, data=data, progress=progress)
    train_shared_teachers(resolve_teachers(recipe, data, progress), data, parent, train)


def prepare_run(recipe: Recipe, images: DataSet | None, progress: Progress) -> tuple[Recipe, DataSet]:
    """Return a recipe with a definite engine, device and number of threads, and the images of its run.

    The images come first: what is wrong with them is said before the native engine is compiled, which takes seconds.

    Args:
        recipe: the recipe, whose `run` section may say `auto`.
        images: as in `prepare_data`.
        progress: gets a line if another engine or number of threads is used than asked for.

    Raises:
        KilonetError: the network has no weights, the recipe asks for a device or an engine that this machine does not
            have, the images cannot be used, or there is not enough memory to train on them.
    """
    if not recipe.model.parameters:
        raise KilonetError("the network has no weights to train; give it a convolution")
    resolve_device(recipe.run)
    data = prepare_data(recipe, images)
    recipe = resolve_run(recipe, progress.message)
    _check_memory(recipe, data)
    return recipe, data


def prepare_data(recipe: Recipe, images: DataSet | None = None) -> DataSet:
    """Return the training and scoring images of a run: the given ones, or the data that the recipe names.

    With `holdout` the scoring images are the last part of the training images, which are not trained on. With
    `calibration` a share of the training images is kept aside, too.

    Args:
        recipe: the recipe.
        images: the given images.

    Raises:
        KilonetError: the data do not exist or do not fit the network, a model file cannot hold what they say, a class
            to be balanced has no training images, or too few images are kept aside to calibrate on.
    """
    data = images or load_run_data(recipe)
    check_fit(recipe.model, data)
    # What is written at the end is checked before the start.
    check_storable(recipe.model, metadata_of(data))
    brings_some = data.validation is not None
    data = divided(data, recipe.run)
    if not brings_some:
        _check_kept_aside(recipe.run, data)
    check_balance(recipe, data.train.labels)
    return data


def _read_negatives(recipe: Recipe, data: DataSet) -> Negatives | None:
    """Read the images of none of the classes that a recipe names, before anything is trained.

    Raises:
        KilonetError: there is no such folder, it is that of the data, too few images can be read, or no images are kept
            aside.
    """
    if recipe.run.negatives is None:
        return None
    check_negatives(recipe.run.negatives, recipe.run.data)
    if data.validation is None:
        raise KilonetError(
            "negatives are told from images that are kept out of training: set calibration, such as --calibration 0.1"
        )
    # Pictures are prepared by a network's input and its metadata; the weights do not matter.
    untrained = Model(recipe.model, initial_network(recipe.model, seed=0).state(), metadata_of(data))
    return read_negatives(Path(recipe.run.negatives), untrained)


def _check_kept_aside(run: RunSection, data: DataSet) -> None:
    """Refuse a calibration on too few images, which would be left out once all is trained."""
    if run.calibration is None or data.validation is None or len(data.validation) >= LEAST_IMAGES:
        return
    kept, images = len(data.validation), len(data.train) + len(data.validation)
    share = least_share(images)
    larger = f"give it at least {share:g}, or leave it out" if share <= LARGEST_SHARE else "leave it out"
    raise KilonetError(
        f"calibration = {run.calibration:g}: {counted(kept, 'image')} of {images:,} would be kept aside, and it takes "
        f"at least {LEAST_IMAGES}; {larger}"
    )


def _check_memory(recipe: Recipe, data: DataSet) -> None:
    if recipe.run.device == "cpu":
        batch = min(recipe.train.batch_size, len(data.train))
        check_training_memory(recipe.model.placed, batch, native=recipe.run.engine == "native")


def _check_start(start: Model | None, recipe: Recipe) -> None:
    if start is None:
        return
    for key in ("input", "layers", "mean", "std"):
        given, needed = getattr(start.section, key), getattr(recipe.model, key)
        if given != needed:
            raise KilonetError(
                f"the weights to begin with are of another network: its {key} is {shortened(given)}, the recipe's "
                f"{shortened(needed)}"
            )


def _obtain_teachers(
    sources: Sequence[TeacherSource], data: DataSet, folder: Path | None, progress: Progress
) -> list[Teacher]:
    train = partial(_train_teacher, data=data, progress=progress)
    return load_or_train_teachers(sources, data, train, progress, folder)


def _train_teacher(recipe: Recipe, path: Path | None, data: DataSet, progress: Progress) -> Run:
    """Train a teacher, or resume its training, on its student's data, from which the holdout is already removed."""
    progress = progress.of_teacher()
    # Only the student is calibrated: nobody is shown a teacher's predictions.
    data = replace(data, validation=None)
    check_balance(recipe, data.train.labels)
    where = f", in {path}" if path else ""
    about = f"the teacher: {recipe.model.parameters:,} parameters, seed {recipe.run.seed}{where}"
    _check_memory(recipe, data)
    begun = path is not None and (path / RECIPE_FILE).is_file()
    opened = nullcontext() if path is None else RunFolder.open(path) if begun else RunFolder.create(path, recipe)
    with opened as folder:
        recipe = folder.recipe if folder else recipe
        teachers = _teachers_in(folder, recipe, data, progress)
        progress.message(about)
        try:
            return _train(recipe, data, folder, progress, teachers)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"the teacher's {error} in its own recipe") from None


def _teachers_in(folder: RunFolder | None, recipe: Recipe, data: DataSet, progress: Progress) -> list[Teacher]:
    """Return the teachers of a run that may have been begun; those that are not trained yet are trained now."""
    if folder and (folder.path / CHECKPOINT_FILE).exists():
        # They are in the folder already; the recipes or models that they came from may be gone.
        return load_teachers(recipe.distill, folder.path, data)
    path = folder.path if folder else None
    return _obtain_teachers(resolve_teachers(recipe, data, progress), data, path, progress)


def _train(
    recipe: Recipe,
    data: DataSet,
    folder: RunFolder | None,
    progress: Progress,
    teachers: Sequence[Teacher] = (),
    *,
    negatives: Negatives | None = None,
    start: Model | None = None,
) -> Run:
    """Train the epochs that are left, with a checkpoint after each if there is a folder; return the finished run."""
    identity = None
    if folder:
        identity = identity_of(recipe, data, [teacher.result.model_sha256 for teacher in teachers], negatives, start)
    with torch_threads_kept():
        network = initial_network(recipe.model, recipe.run.seed)
        if start is not None:
            network.load(start.network.state())
        engine = make_engine(recipe, data.train, network, [teacher.model for teacher in teachers])
        history = _train_epochs(engine, recipe, data, folder, progress, identity=identity)
        model = Model(recipe.model, engine.network_state(), metadata_of(data))
        model, report = _calibrate(model, data, negatives, progress)
    result = _make_result(recipe, data, history, teachers, model, calibration=report, start=start)
    if folder:
        folder.finish(result, model)
    return Run(result, tuple(history), model, folder.path if folder else None)


def _calibrate(
    model: Model, data: DataSet, negatives: Negatives | None, progress: Progress
) -> tuple[Model, CalibrationReport | None]:
    """Calibrate a trained model on the images that were kept aside, if there are enough of them."""
    images = data.validation
    if images is None:
        return model, None
    if len(images) < LEAST_IMAGES:
        progress.message(f"not calibrated: {len(images)} images were kept aside, and it takes at least {LEAST_IMAGES}")
        return model, None
    calibration, report = calibrate_on(model, images, negatives)
    progress.message(str(report))
    return model.with_metadata(model.metadata.model_copy(update={"calibration": calibration})), report


def _train_epochs(
    engine: Engine,
    recipe: Recipe,
    data: DataSet,
    folder: RunFolder | None,
    progress: Progress,
    *,
    identity: Identity | None,
) -> list[EpochMetrics]:
    """Train the epochs that the checkpoint in the folder, if there is one, does not have; return all metrics.

    The identity of the run is that of its checkpoints; None without a folder.
    """
    history: list[EpochMetrics] = []
    if folder and identity:
        if checkpoint := folder.load_checkpoint():
            check_identity(checkpoint.path, checkpoint.identity, identity)
            _restore(engine, checkpoint)
            history += checkpoint.history
            progress.message(f"resuming after {len(history)} of {recipe.train.epochs} epochs")
        # When resuming too: `metrics.jsonl` may lack the last epoch of the checkpoint.
        folder.save_checkpoint(engine.state(), history, identity)
    try:
        while len(history) < recipe.train.epochs:
            history.append(_run_epoch(engine, recipe, data, history, progress))
            if folder and identity:
                folder.save_checkpoint(engine.state(), history, identity)
    finally:
        progress.stopped()
    return history


def _restore(engine: Engine, checkpoint: Checkpoint) -> None:
    own, saved = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
        for state in (engine.state(), checkpoint.state)
    )
    if own != saved:
        raise KilonetError(f"{checkpoint.path}: not a checkpoint of the recipe and the engine of its run")
    engine.load_state(checkpoint.state)


def _run_epoch(
    engine: Engine, recipe: Recipe, data: DataSet, history: Sequence[EpochMetrics], progress: Progress
) -> EpochMetrics:
    """Train the epoch that follows those of `history`, score the network, and return the figures."""
    epoch = len(history)
    start = time.perf_counter()
    learning_rate, totals = _train_epoch(engine, recipe, data.train.labels, epoch, progress)
    seconds = time.perf_counter() - start
    losses = [*(metrics.train_loss for metrics in history), totals.loss / totals.images]
    _check_training_loss(losses, recipe, data.train.labels)
    logits = engine.logits(data.test.pixels)
    test_loss = mean_loss(logits, data.test.labels)
    _check_finite(test_loss, f"the loss on the {data.test.name.lower()} set", f"epoch {epoch}", recipe)
    counts = class_counts(logits, data.test.labels)
    metrics = EpochMetrics(
        epoch=epoch,
        train_loss=totals.loss / totals.images,
        train_accuracy=totals.correct / totals.images,
        test_loss=test_loss,
        test_accuracy=sum(counts.correct) / len(data.test),
        learning_rate=learning_rate,
        seconds=seconds,
        images_per_second=totals.images / seconds,
        test_balanced_accuracy=counts.balanced_accuracy,
        test_macro_f1=counts.macro_f1,
    )
    progress.epoch_trained(metrics, data.test.name, len(data.test))
    return metrics


def _train_epoch(
    engine: Engine, recipe: Recipe, labels: Tensor, epoch: int, progress: Progress
) -> tuple[float, Totals]:
    """Train one epoch; return the learning rate of its last step, and its totals."""
    batches = list(draw_epoch(recipe, labels, epoch, engine.device).split(recipe.train.batch_size))
    check_every = 1 if engine.device == "cpu" else _STEPS_BETWEEN_LOSS_CHECKS
    total, learning_rate = Totals(0.0, 0, 0), 0.0
    progress.epoch_started(epoch, len(batches))
    for number, batch in enumerate(batches):
        step = epoch * len(batches) + number
        learning_rate = scheduled_rate(recipe.train, step, recipe.train.epochs * len(batches))
        engine.train_batch(batch, learning_rate, step)
        if number % check_every == check_every - 1 or number == len(batches) - 1:
            latest = engine.take_totals()
            _check_finite(latest.loss / latest.images, "the loss", f"epoch {epoch}, batch {number}", recipe)
            total = Totals(total.loss + latest.loss, total.correct + latest.correct, total.images + latest.images)
            progress.batch_trained(number, total.correct / total.images, latest.loss / latest.images)
    return learning_rate, total


def draw_epoch(recipe: Recipe, labels: Tensor, epoch: int, device: str) -> Batch:
    """Draw the images of an epoch in their order, and their changes, from the run's seed and the number of the epoch.

    Args:
        recipe: the recipe.
        labels: the classes of the training images, int64 (N,).
        epoch: the number of the epoch, from 0.
        device: the torch device of the result.
    """
    entropy = np.random.SeedSequence([recipe.run.seed, epoch]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    if recipe.train.sampling == "balanced":
        order = _balanced_order(labels, recipe.model.classes, generator)
    else:
        order = torch.randperm(len(labels), generator=generator)
    augment = recipe.augment
    mixed = max(0.0, 1 - epoch / (augment.mixup_until * recipe.train.epochs))
    changes = draw_changes(augment, order, recipe.model.input_shape, recipe.model.means, generator, mixed=mixed)
    return changes.to(device)


def _balanced_order(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Return as many images as there are, int64 (N,), of each class as many: a rare class's come several times.

    Within a class, no image comes once more before all others have come as often.
    """
    shares = torch.full((classes,), len(labels) // classes)
    shares[torch.randperm(classes, generator=generator)[: len(labels) % classes]] += 1
    chosen: list[Tensor] = []
    for label, share in enumerate(shares.tolist()):
        own = (labels == label).nonzero().flatten()
        rounds = [own[torch.randperm(len(own), generator=generator)] for _ in range(math.ceil(share / len(own)))]
        chosen += [torch.cat(rounds)[:share]] if share else []
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]


def scheduled_rate(train: TrainSection, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0: a linear warm-up, then the schedule.

    Source of the cosine schedule: I. Loshchilov and F. Hutter, "SGDR", 2017, without restarts.
    """
    warmup_steps = round(train.warmup * steps)
    if step < warmup_steps:
        return train.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (steps - warmup_steps)
    factors = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}
    return train.learning_rate * factors[train.schedule]


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy in nats of float32 logits (N, classes); NaN if any logit is NaN or infinite."""
    return functional.cross_entropy(logits, labels).item() if bool(logits.isfinite().all()) else math.nan


def _check_training_loss(losses: Sequence[float], recipe: Recipe, labels: Tensor) -> None:
    """Stop a run whose loss is no better than guessing, and does not fall.

    The mean loss of an epoch is judged, or of as many epochs as make enough steps and images for a mean that tells
    something: on a small set an epoch may be a single step, and with class weights a few images may decide the mean. As
    many epochs before them are not judged, because the loss may be high at first although training goes well. A loss
    below that of those is falling: a small network with many classes may need several epochs to pass guessing.

    Args:
        losses: the mean training loss of each epoch so far.
        recipe: the recipe.
        labels: the classes of the training images, int64 (N,).
    """
    images = effective_images(class_weights(recipe, labels), labels)
    steps = math.ceil(len(labels) / recipe.train.batch_size)
    judged = max(math.ceil(_LEAST_STEPS_JUDGED / steps), math.ceil(_LEAST_IMAGES_JUDGED / images))
    if len(losses) < 2 * judged:
        return
    before, loss = sum(losses[-2 * judged : -judged]) / judged, sum(losses[-judged:]) / judged
    guessing = math.log(recipe.model.classes)
    if loss >= max(guessing, before):
        last = len(losses) - 1
        epochs = f"epoch {last}" if judged == 1 else f"epochs {last - judged + 1} to {last}"
        raise _diverged(f"the loss of {epochs} is {loss:.3g}, no better than guessing ({guessing:.3g})", recipe)


def _check_finite(loss: float, what: str, when: str, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        raise _diverged(f"{what} is not a number in {when}", recipe)
    if loss > LARGEST_LOSS:
        raise _diverged(f"{what} is {loss:.1g} in {when}", recipe)


def _diverged(reason: str, recipe: Recipe) -> TrainingDiverged:
    return TrainingDiverged(
        f"training diverged: {reason}; try a lower --learning-rate than {recipe.train.learning_rate:g}"
    )


def _make_result(
    recipe: Recipe,
    data: DataSet,
    history: Sequence[EpochMetrics],
    teachers: Sequence[Teacher],
    model: Model,
    *,
    calibration: CalibrationReport | None,
    start: Model | None,
) -> Result:
    correct = round(history[-1].test_accuracy * len(data.test))
    return Result(
        recipe=recipe,
        parameters=recipe.model.parameters,
        scored=data.test.name,
        scored_images=len(data.test),
        class_images=tuple(data.test.labels.bincount(minlength=recipe.model.classes).tolist()),
        correct=correct,
        interval=wilson_interval(correct, len(data.test)),
        final=history[-1],
        best=max(history, key=lambda metrics: metrics.test_accuracy),
        start_sha256=start.sha256 if start else None,
        seconds=sum(metrics.seconds for metrics in history),
        teachers=tuple(teacher.result for teacher in teachers),
        environment=describe_environment(
            device=recipe.run.device,
            precision=recipe.run.precision,
            engine=recipe.run.engine,
            threads=recipe.run.threads,
        ),
        model_sha256=model.trained_sha256,
        data_sha256=data.fingerprint(),
        calibration=calibration,
    )
