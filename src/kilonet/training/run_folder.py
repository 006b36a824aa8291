"""The run folder: the files of one training run, which every other command reads.

    recipe.toml              the recipe, with every key written out and no `auto`
    start.safetensors        the weights that training began with, if they were given
    metrics.jsonl            one JSON object an epoch
    checkpoint.safetensors   the state after the last finished epoch, and the metrics so far
    model.safetensors        the trained network, written at the end
    result.json              the result, written last: a run with this file is finished
    tensorboard/             TensorBoard's event files, if they were requested

Every file is replaced atomically. A process that trains holds the folder's lock, which the system frees if it dies.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import safetensors.torch
from filelock import FileLock, Timeout
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator
from safetensors import SafetensorError
from torch import Tensor

from kilonet.evaluation.calibration import CalibrationReport
from kilonet.evaluation.metrics import METRIC_NAMES, Metric, are_unequal
from kilonet.models.model import MODEL_FILE, Model, load_model
from kilonet.recipe import Recipe, load_recipe
from kilonet.training.identity import Identity
from kilonet.utils.environment import Environment
from kilonet.utils.errors import InUse, KilonetError
from kilonet.utils.files import is_temporary, read_bounded, write_atomically
from kilonet.utils.schema import Fraction, Schema, first_complaint
from kilonet.utils.terminal import shell_word

RECIPE_FILE = "recipe.toml"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.safetensors"
START_FILE = "start.safetensors"
RESULT_FILE = "result.json"
EVENTS_FOLDER = "tensorboard"

_LOCK_FILE = ".lock"
_MAXIMUM_CHECKPOINT_BYTES = 1 << 30
_MAXIMUM_RESULT_BYTES = 16 << 20

LARGEST_LOSS = 1e30
"""A network with a larger one has diverged, and no plot has an axis for it."""
Loss = Annotated[float, Field(ge=0, le=LARGEST_LOSS)]


class EpochMetrics(Schema):
    """The figures of one epoch. Accuracies are fractions, losses are mean cross-entropies in nats."""

    epoch: NonNegativeInt
    train_loss: Loss
    train_accuracy: Fraction
    test_loss: Loss
    test_accuracy: Fraction
    learning_rate: NonNegativeFloat
    """The learning rate of the epoch's last step."""
    seconds: NonNegativeFloat
    """Time of the training steps, with augmentation, without scoring."""
    images_per_second: NonNegativeFloat
    test_balanced_accuracy: Fraction | None = None
    """None in files of older versions, as `test_macro_f1`."""
    test_macro_f1: Fraction | None = None

    def score(self, metric: Metric, run: str) -> float:
        """Return a metric of the scored images, a fraction.

        Raises:
            KilonetError: an older version trained the run, which is named `run`, and did not measure the metric.
        """
        found: float | None = getattr(self, f"test_{metric}")
        if found is None:
            raise KilonetError(
                f"{run} has no {METRIC_NAMES[metric]}: an older version of Kilonet trained it; train it again, "
                "or use its accuracy"
            )
        return found


class TeacherResult(Schema):
    """A teacher of a run."""

    folder: str | None
    """The name of its folder in the run folder; None for a run without a folder."""
    parameters: NonNegativeInt
    scored: str
    scored_images: PositiveInt
    accuracy: Fraction
    """A fraction of the images named by `scored`: images of its own run, or of this run for a model without a run."""
    seconds: NonNegativeFloat | None
    """Time of its own training and of its teachers', which is not in the run's `seconds`; None for a model without a
    run.
    """
    model_sha256: str


class Result(Schema):
    """The result of a run. `test_*` figures are of the images named by `scored`."""

    format_version: Literal[1] = 1
    recipe: Recipe
    parameters: NonNegativeInt
    scored: str
    """`Test`, or `Holdout` for images that were held out of the training images."""
    scored_images: PositiveInt
    class_images: tuple[NonNegativeInt, ...] | None = None
    """How many of the scored images are of each class; None for runs of older versions."""
    correct: NonNegativeInt
    """Images that the final network classifies correctly."""
    interval: tuple[Fraction, Fraction]
    """95 % interval of the final accuracy (Wilson), two fractions."""
    final: EpochMetrics
    best: EpochMetrics
    """The epoch with the highest accuracy. Not a claim, because it was chosen on the scored images."""
    seconds: NonNegativeFloat
    """Time of the training steps of all epochs."""
    teachers: tuple[TeacherResult, ...] = ()
    environment: Environment
    model_sha256: str
    """SHA-256 of the model's file as it is without a calibration."""
    start_sha256: str | None = None
    """SHA-256 of the model whose weights training began with; None for weights drawn from the seed."""
    data_sha256: str | None = None
    """The fingerprint of the images that were trained on and scored; None for runs of older versions."""
    calibration: CalibrationReport | None = None
    """How the model was calibrated at the end of its run; None if no images were kept aside, or too few."""

    @model_validator(mode="after")
    def _check_counts(self) -> "Result":
        if self.correct > self.scored_images:
            raise ValueError(f"correct is {self.correct}, over scored_images, {self.scored_images}")
        found = self.final.test_accuracy
        if self.correct != round(found * self.scored_images):
            raise ValueError(f"correct is {self.correct} of {self.scored_images}, but final.test_accuracy is {found}")
        if not self.interval[0] <= self.correct / self.scored_images <= self.interval[1]:
            raise ValueError("the interval is not around the final accuracy")
        if self.class_images is not None and sum(self.class_images) != self.scored_images:
            raise ValueError(f"class_images sum to {sum(self.class_images)}, not scored_images, {self.scored_images}")
        return self

    @property
    def balanced_scores(self) -> tuple[float, float] | None:
        """The final balanced accuracy and macro F1, fractions.

        None for classes of about one size, for which they say what the accuracy says, and for runs of older versions.
        """
        found = self.final.test_balanced_accuracy, self.final.test_macro_f1
        if found[0] is None or found[1] is None or not self.class_images or not are_unequal(self.class_images):
            return None
        return found[0], found[1]


def seed_folder(parent: Path, seed: int) -> Path:
    """Return the run folder of one of several seeds."""
    return parent / f"seed{seed}"


def seed_of(folder: Path) -> int | None:
    """Return the seed in the name of a run folder that `seed_folder` made, or None."""
    found = re.fullmatch(r"seed([0-9]+)", folder.name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Run:
    """A finished run."""

    result: Result
    history: tuple[EpochMetrics, ...]
    model: Model
    folder: Path | None
    """None for a run that was trained without a folder."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of the engine after a whole number of epochs, with their metrics."""

    path: Path
    state: Mapping[str, Tensor]
    history: tuple[EpochMetrics, ...]
    identity: Identity


class _CheckpointHead(Schema):
    """What a checkpoint holds beside the tensors."""

    format_version: Literal[1] = 1
    identity: Identity
    history: tuple[EpochMetrics, ...]


class RunFolder:
    """A run folder whose lock this process holds; a context manager that releases it."""

    def __init__(self, path: Path, recipe: Recipe, lock: FileLock) -> None:
        self.path = path
        self.recipe = recipe
        self._lock = lock

    @classmethod
    def create(cls, path: Path, recipe: Recipe, start: Model | None = None) -> "RunFolder":
        """Make a folder for a new run of a resolved recipe, which begins with the weights of `start`, if given.

        Raises:
            KilonetError: the folder is not empty, or cannot be made.
            InUse: another process trains in it.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            # A run killed before its recipe was written leaves its lock file, and perhaps its start.
            occupied = any(not _is_leftover(entry.name) for entry in path.iterdir())
        except OSError as error:
            raise KilonetError(f"{path} cannot be made a run folder: {error.strerror}") from None
        if is_finished(path):
            raise KilonetError(f"{path} holds a finished run; choose another folder")
        if occupied:
            resume = f"; continue it with: kilonet train --resume {shell_word(path)}"
            hint = resume if (path / RECIPE_FILE).exists() else ""
            raise KilonetError(f"{path} is not empty{hint}")
        folder = cls(path, recipe, lock_folder(path))
        # Before the recipe, with which a run is begun.
        if start is None:
            (path / START_FILE).unlink(missing_ok=True)
        else:
            start.save(path / START_FILE)
        write_atomically(path / RECIPE_FILE, recipe.to_toml().encode())
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises:
            KilonetError: it is not a run folder.
            InUse: another process trains in it.
        """
        if not (path / RECIPE_FILE).is_file():
            raise KilonetError(f"{path} is not a run folder: it has no {RECIPE_FILE}")
        return cls(path, load_recipe(str(path / RECIPE_FILE)), lock_folder(path))

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def save_checkpoint(self, state: Mapping[str, Tensor], history: Sequence[EpochMetrics], identity: Identity) -> None:
        """Write the state after an epoch with the metrics so far, and then `metrics.jsonl`."""
        head = _CheckpointHead(identity=identity, history=tuple(history))
        packed = safetensors.torch.save(dict(state), {"kilonet": head.model_dump_json()})
        write_atomically(self.path / CHECKPOINT_FILE, packed)
        lines = [metrics.model_dump_json() + "\n" for metrics in history]
        write_atomically(self.path / METRICS_FILE, "".join(lines).encode())

    def load_start(self) -> Model | None:
        """Return the model whose weights training began with, or None if they were drawn from the seed.

        Raises:
            KilonetError: its file is damaged.
        """
        path = self.path / START_FILE
        return load_model(path) if path.exists() else None

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint, or None if there is none yet.

        Raises:
            KilonetError: the checkpoint is damaged, or it is missing though epochs were trained.
        """
        path, metrics = self.path / CHECKPOINT_FILE, self.path / METRICS_FILE
        if path.exists():
            return read_checkpoint(path)
        # A checkpoint is written before the metrics, so someone removed it.
        if metrics.exists() and (history := read_history(self.path)):
            raise KilonetError(
                f"{path} is gone, so the {len(history):,} epochs of {METRICS_FILE} cannot be continued; train in a new "
                f"folder, or remove {metrics} to begin anew in this one"
            )
        return None

    def finish(self, result: Result, model: Model) -> None:
        """Write the model and then the result, which marks the run as finished."""
        model.save(self.path / MODEL_FILE)
        write_atomically(self.path / RESULT_FILE, (result.model_dump_json(indent=2) + "\n").encode())


def _is_leftover(name: str) -> bool:
    """Return whether a file may lie in the folder of a run that was killed before its recipe was written."""
    return name in (_LOCK_FILE, START_FILE) or is_temporary(name, RECIPE_FILE) or is_temporary(name, START_FILE)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        KilonetError: it is damaged.
    """
    content = read_bounded(path, _MAXIMUM_CHECKPOINT_BYTES, "a checkpoint")
    try:
        state = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        head = _CheckpointHead.model_validate_json(json.loads(content[8 : 8 + length])["__metadata__"]["kilonet"])
        return Checkpoint(path, state, head.history, head.identity)
    except (SafetensorError, ValidationError, ValueError, KeyError, TypeError, RecursionError):
        raise KilonetError(f"{path}: not a usable checkpoint; the run cannot be resumed from it") from None


def is_finished(folder: Path) -> bool:
    """Return whether a run folder has a result."""
    return (folder / RESULT_FILE).is_file()


def read_result(folder: Path) -> Result:
    """Read the result of a finished run.

    Raises:
        KilonetError: there is no result, or it is damaged or of another version.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        raise KilonetError(f"{folder}: no {RESULT_FILE}; is it a run folder, and has its training finished?")
    try:
        return Result.model_validate_json(read_bounded(path, _MAXIMUM_RESULT_BYTES, "a result"))
    except ValidationError as error:
        raise KilonetError(f"{path}: {first_complaint(error)}") from None


def read_run(folder: Path) -> Run:
    """Read a finished run with its model.

    Raises:
        KilonetError: the run is not finished, one of its files is damaged, or the model is not the one that it trained.
    """
    result, model = read_result(folder), load_model(folder)
    check_model(folder, result, model)
    return Run(result, read_history(folder), model, folder)


def check_model(folder: Path, result: Result, model: Model) -> None:
    """Check that the model in a run folder is the one that the run trained, calibrated or not.

    Raises:
        KilonetError: its file was exchanged.
    """
    if model.trained_sha256 != result.model_sha256:
        raise KilonetError(
            f"{folder / MODEL_FILE} is not the model that this run trained (model_sha256, {RESULT_FILE})"
        )


def read_history(folder: Path) -> tuple[EpochMetrics, ...]:
    """Read the metrics of each epoch of a run.

    Raises:
        KilonetError: there are no metrics, or a line is damaged.
    """
    path = folder / METRICS_FILE
    content = read_bounded(path, _MAXIMUM_RESULT_BYTES, "metrics")
    try:
        return tuple(EpochMetrics.model_validate_json(line) for line in content.splitlines())
    except ValidationError:
        raise KilonetError(f"{path}: a line is damaged") from None


def lock_folder(path: Path) -> FileLock:
    """Take the lock of a folder. The system releases it when the process ends.

    Raises:
        InUse: another process holds the lock.
        KilonetError: the folder cannot be written.
    """
    lock = FileLock(path / _LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InUse(f"{path} is in use: another process trains in it") from None
    except OSError as error:
        raise KilonetError(f"{path} cannot be locked: {error.strerror}") from None
    return lock
