"""The training of a trial in a Ray worker: an ordinary run in the trial's folder that reports its epochs to Tune."""

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from ray import tune

from kilonet.evaluation.metrics import Metric
from kilonet.models.model import Model, load_model
from kilonet.recipe import Recipe, parse_recipe
from kilonet.sweep.inheritance import inherit
from kilonet.sweep.trials import PLAN_FILE, WORST_ERROR, error_of
from kilonet.training.progress import NoProgress, Progress
from kilonet.training.run_folder import RECIPE_FILE, is_finished, read_history
from kilonet.training.train import fit, resume
from kilonet.utils.errors import InUse, KilonetError, TrainingDiverged

_LOCK_WAIT_SECONDS = 60
"""The longest that a lost worker may still hold the lock on the run folder."""


def train(configuration: dict[str, Any]) -> None:
    """Train or resume a trial, and report each epoch once its checkpoint is on the disk.

    A resumed trial is reported from its first epoch on, because Tune counts the reports as epochs. Divergence and
    Kilonet's own errors are reported as results too, because they would come again in any other worker.
    """
    folder = Path(configuration["folder"])
    with contextlib.suppress(OSError):
        # Paths of data in recipes are relative to the folder in which the sweep was started.
        os.chdir(configuration["started_in"])
    reports = _Reports(folder, configuration["objective"])
    try:
        if not is_finished(folder):
            recipe = parse_recipe(json.loads(configuration["recipe"]), "trial", {})
            _train_in(folder, recipe, configuration["parent"], reports)
        reports.catch_up()
    except TrainingDiverged:
        tune.report(_report(WORST_ERROR, diverged=True))
    except KilonetError as error:
        tune.report(_report(WORST_ERROR, failure=str(error)))


def _report(error: float, epoch: int = 0, *, diverged: bool = False, failure: str = "") -> dict[str, Any]:
    """Return a report to Tune: `error` is that of `error_of`; `failure` is why training is impossible."""
    return {"error": error, "epoch": epoch, "diverged": diverged, "failure": failure}


def _train_in(folder: Path, recipe: Recipe, parent: str | None, reports: "_Reports") -> None:
    if not (folder.parent / PLAN_FILE).is_file():
        raise KilonetError(f"{platform.node()} does not see {folder.parent}: all machines must share that folder")
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        try:
            if (folder / RECIPE_FILE).is_file():
                resume(folder, progress=reports)
            else:
                start = _inherited(Path(parent), recipe) if parent else None
                fit(recipe, out=folder, progress=reports, start=start)
        except InUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _inherited(parent: Path, recipe: Recipe) -> Model:
    try:
        return inherit(load_model(parent), recipe.model, recipe.run.seed)
    except KilonetError as error:
        raise KilonetError(
            f"its parent's model cannot be read: {error}; remove {parent} to have the parent trained again"
        ) from None


class _Reports(NoProgress):
    """Reports an epoch once it is on the disk: when the next one begins, and at the end."""

    def __init__(self, folder: Path, objective: Metric) -> None:
        self._folder = folder
        self._objective = objective
        self._reported = 0

    def epoch_started(self, epoch: int, steps: int) -> None:  # noqa: ARG002
        """Report the epochs before this one."""
        if epoch:
            self.catch_up()

    def of_teacher(self) -> Progress:
        # Its epochs are none of the trial's.
        return NoProgress()

    def catch_up(self) -> None:
        """Report all epochs on the disk that were not reported yet."""
        for metrics in read_history(self._folder)[self._reported :]:
            self._reported += 1
            tune.report(_report(error_of(metrics, self._objective, self._folder), metrics.epoch + 1))
