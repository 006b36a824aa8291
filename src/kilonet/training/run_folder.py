"""The run folder: the record of one training run, which every other command reads.

    recipe.toml         the recipe, every key resolved
    metrics.jsonl       one JSON object an epoch
    checkpoint.safetensors   the whole state after the last finished epoch
    model.safetensors   the trained network, written at the end
    result.json         the result, written last: where it is, the run is finished
    tensorboard/        TensorBoard's event files, if they were asked for

Every file is replaced atomically. One process at a time holds the folder's lock, which the system frees when it dies.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from kilonet.models.model import MODEL_FILE, Model, load_model
from kilonet.recipe import Recipe, load_recipe
from kilonet.utils.environment import Environment
from kilonet.utils.errors import InUse, KilonetError
from kilonet.utils.files import read_bounded, remove_leftovers, write_atomically
from kilonet.utils.schema import Schema, first_complaint

RECIPE_FILE = "recipe.toml"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.safetensors"
RESULT_FILE = "result.json"
EVENTS_FOLDER = "tensorboard"

_LOCK_FILE = ".lock"
_MAXIMUM_CHECKPOINT_BYTES = 1 << 30
_MAXIMUM_RESULT_BYTES = 16 << 20


class EpochMetrics(Schema):
    """One epoch's figures. Accuracies are fractions, losses mean cross-entropies in nats."""

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    learning_rate: float
    """Of the epoch's last step."""
    seconds: float
    """The training part of the epoch, augmentation included, scoring not."""
    images_per_second: float


class TeacherResult(Schema):
    """What a run has learnt from, and what that took."""

    folder: str | None
    """Its name in the run folder; None for a run without one."""
    parameters: int
    scored: str
    scored_images: int
    accuracy: float
    """A fraction of the images named by `scored`: those of its own run, or of this one for a model without its run."""
    seconds: float | None
    """Of its own training, which the run's seconds do not count; None for a model that came without its run."""
    model_sha256: str


class Result(Schema):
    """What a run came to. `test_*` figures are of the images named by `scored`."""

    format_version: Literal[1] = 1
    recipe: Recipe
    parameters: int
    scored: str
    """`Test`, or `Holdout` when the test set was left alone."""
    scored_images: int
    correct: int
    """Of the final epoch."""
    interval: tuple[float, float]
    """95 % interval of the final accuracy, two fractions."""
    final: EpochMetrics
    best: EpochMetrics
    """The epoch with the highest scored accuracy. Not a claim: it was picked by looking."""
    seconds: float
    """The training parts of all epochs."""
    teachers: tuple[TeacherResult, ...] = ()
    environment: Environment
    model_sha256: str


def seed_folder(parent: Path, seed: int) -> Path:
    """Return the run folder of one of several seeds."""
    return parent / f"seed{seed}"


def seed_of(folder: Path) -> int | None:
    """Return the seed that a run folder is named after, if it is one of several seeds'."""
    found = re.fullmatch(r"seed([0-9]+)", folder.name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Run:
    """A finished run."""

    result: Result
    history: tuple[EpochMetrics, ...]
    model: Model
    folder: Path | None
    """None when it was trained without one."""


@dataclass(frozen=True)
class Checkpoint:
    """The state after a whole number of epochs."""

    path: Path
    state: Mapping[str, Tensor]
    history: tuple[EpochMetrics, ...]


class RunFolder:
    """A run folder that this process holds the lock of."""

    def __init__(self, path: Path, recipe: Recipe, lock: FileLock) -> None:
        self.path = path
        self.recipe = recipe
        self._lock = lock
        for name in (RECIPE_FILE, METRICS_FILE, CHECKPOINT_FILE, MODEL_FILE, RESULT_FILE):
            remove_leftovers(path / name)

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> "RunFolder":
        """Make a new folder for a run of a resolved recipe.

        Raises:
            KilonetError: it exists with something in it, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            # A run killed before it had a recipe leaves its lock and, at most, a piece of the recipe.
            leftovers = (_LOCK_FILE, f".{RECIPE_FILE}.")
            occupied = any(not entry.name.startswith(leftovers) for entry in path.iterdir())
        except OSError as error:
            raise KilonetError(f"{path} cannot be made a run folder: {error.strerror}") from None
        if occupied:
            way = f"; continue it with: kilonet train --resume {shlex.quote(str(path))}"
            hint = way if (path / RECIPE_FILE).exists() else ""
            raise KilonetError(f"{path} is not empty{hint}")
        folder = cls(path, recipe, locked(path))
        write_atomically(path / RECIPE_FILE, recipe.to_toml().encode())
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Take over an existing folder.

        Raises:
            KilonetError: it is no run folder, or another process trains in it.
        """
        if not (path / RECIPE_FILE).is_file():
            raise KilonetError(f"{path} is no run folder: it has no {RECIPE_FILE}")
        return cls(path, load_recipe(str(path / RECIPE_FILE)), locked(path))

    def __enter__(self) -> "RunFolder":
        """Hold the folder for a while."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let other processes have the folder."""
        self._lock.release()

    def save_checkpoint(self, state: Mapping[str, Tensor], history: Sequence[EpochMetrics]) -> None:
        """Keep the state after an epoch, then the metrics; the metrics in the checkpoint are those that count."""
        lines = [metrics.model_dump_json() for metrics in history]
        packed = safetensors.torch.save(dict(state), {"kilonet": json.dumps(lines)})
        write_atomically(self.path / CHECKPOINT_FILE, packed)
        write_atomically(self.path / METRICS_FILE, "".join(line + "\n" for line in lines).encode())

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the last state that was kept, or None before the first.

        Raises:
            KilonetError: the checkpoint is damaged.
        """
        path = self.path / CHECKPOINT_FILE
        if not path.exists():
            return None
        content = read_bounded(path, _MAXIMUM_CHECKPOINT_BYTES, "a checkpoint")
        try:
            state = safetensors.torch.load(content)
            length = int.from_bytes(content[:8], "little")
            lines = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["kilonet"])
            return Checkpoint(path, state, tuple(EpochMetrics.model_validate_json(line) for line in lines))
        except (SafetensorError, ValidationError, ValueError, KeyError, TypeError, RecursionError):
            raise KilonetError(f"{path}: not a usable checkpoint; the run cannot be resumed from it") from None

    def finish(self, result: Result, model: Model) -> None:
        """Write the model and then the result, which marks the run as finished."""
        model.save(self.path / MODEL_FILE)
        write_atomically(self.path / RESULT_FILE, (result.model_dump_json(indent=2) + "\n").encode())


def is_finished(folder: Path) -> bool:
    """Tell whether a run folder holds a result."""
    return (folder / RESULT_FILE).is_file()


def read_result(folder: Path) -> Result:
    """Read the result of a finished run.

    Raises:
        KilonetError: there is none, or it is damaged or of another version.
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
        KilonetError: it is not finished, or a file of it is damaged.
    """
    return Run(read_result(folder), read_history(folder), load_model(folder), folder)


def read_history(folder: Path) -> tuple[EpochMetrics, ...]:
    """Read the metrics of a run, an epoch each.

    Raises:
        KilonetError: there are none, or a line is damaged.
    """
    path = folder / METRICS_FILE
    content = read_bounded(path, _MAXIMUM_RESULT_BYTES, "metrics")
    try:
        return tuple(EpochMetrics.model_validate_json(line) for line in content.splitlines())
    except ValidationError:
        raise KilonetError(f"{path}: a line of it is damaged") from None


def locked(path: Path) -> FileLock:
    """Take the lock of a folder, which is let go of when the process ends.

    Raises:
        KilonetError: another process holds it, or the folder cannot be written.
    """
    lock = FileLock(path / _LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InUse(f"{path} is in use: another process trains in it") from None
    except OSError as error:
        raise KilonetError(f"{path} cannot be locked: {error.strerror}") from None
    return lock
