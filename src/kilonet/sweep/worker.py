"""A trial as a worker of the cluster trains it: an ordinary run in its folder, whose epochs are reported."""

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from ray import tune

from kilonet.recipe import Recipe, parse_recipe
from kilonet.sweep.trials import PLAN_FILE, WORST_ERROR
from kilonet.training.progress import Silence
from kilonet.training.run_folder import RECIPE_FILE, is_finished, read_history
from kilonet.training.train import fit, resume
from kilonet.utils.errors import InUse, KilonetError, TrainingDiverged

_SECONDS_TO_DIE = 60
"""So long a predecessor that was given up for dead may still hold the run folder."""


def train(configuration: dict[str, Any]) -> None:
    """Train a trial, or go on with it, and report each epoch that is on the disk.

    A trial that was begun before is reported from its first epoch on: Tune counts reports, and they are to be epochs.

    What another worker would not mend is reported too: training that diverges, and errors of Kilonet's own.
    """
    folder = Path(configuration["folder"])
    with contextlib.suppress(OSError):
        # Names of data in recipes are relative to where the sweep was started.
        os.chdir(configuration["started_in"])
    reports = _Reports(folder)
    try:
        if not is_finished(folder):
            _train_in(folder, parse_recipe(json.loads(configuration["recipe"]), "trial", {}), reports)
        reports.catch_up()
    except TrainingDiverged:
        tune.report(_report(WORST_ERROR, diverged=True))
    except KilonetError as error:
        tune.report(_report(WORST_ERROR, failure=str(error)))


def _report(error: float, epoch: int = 0, *, diverged: bool = False, failure: str = "") -> dict[str, Any]:
    """Return what is told of a trial; `error` is a fraction, `failure` says why it cannot be trained."""
    return {"error": error, "epoch": epoch, "diverged": diverged, "failure": failure}


def _train_in(folder: Path, recipe: Recipe, reports: "_Reports") -> None:
    if not (folder.parent / PLAN_FILE).is_file():
        raise KilonetError(f"{platform.node()} does not see {folder.parent}: all machines must share that folder")
    patience = time.monotonic() + _SECONDS_TO_DIE
    while True:
        try:
            if (folder / RECIPE_FILE).is_file():
                resume(folder, progress=reports)
            else:
                fit(recipe, out=folder, progress=reports)
        except InUse:
            if time.monotonic() > patience:
                raise
            time.sleep(0.2)
        else:
            return


class _Reports(Silence):
    """Reports epochs once they are on the disk: as the next one begins, and at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reported = 0

    def epoch_started(self, epoch: int, steps: int) -> None:  # noqa: ARG002
        """Report the epochs before this one."""
        if epoch:
            self.catch_up()

    def catch_up(self) -> None:
        """Report what is on the disk and was not reported yet."""
        for metrics in read_history(self._folder)[self._reported :]:
            self._reported += 1
            tune.report(_report(1 - metrics.test_accuracy, metrics.epoch + 1))
