"""Finished runs as they are read from run folders, folders of seeds and files that `kilonet train --json` printed.

A printed run needs no run folder. Which runs are repetitions of one another is decided here, for the report and for the
comparison of runs alike.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kilonet.evaluation.metrics import Metric
from kilonet.training.identity import training_keys
from kilonet.training.run_folder import (
    RECIPE_FILE,
    EpochMetrics,
    Result,
    Run,
    is_finished,
    read_history,
    read_result,
    seed_of,
)
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded
from kilonet.utils.schema import first_complaint

_MAXIMUM_BYTES = 16 << 20


@dataclass(frozen=True)
class RunRecord:
    """A finished run without its model."""

    name: str
    result: Result
    history: tuple[EpochMetrics, ...] = ()
    """One entry per epoch; empty where only the result is known."""
    folder: Path | None = None
    """The run folder, which holds the model; None for a printed run."""

    @property
    def seed(self) -> int:
        return self.result.recipe.run.seed

    @property
    def accuracy(self) -> float:
        """The accuracy after the final epoch, a fraction."""
        return self.result.final.test_accuracy

    def score(self, metric: Metric) -> float:
        """Return a metric after the final epoch, a fraction.

        Raises:
            KilonetError: the run is of an older version, which did not measure it; names the run.
        """
        return self.result.final.score(metric, self.name)

    @property
    def errors(self) -> int:
        """The number of wrong answers after the final epoch."""
        return self.result.scored_images - self.result.correct


def repetition_keys(result: Result) -> dict[str, Any]:
    """Return what runs that are repetitions of one another agree in: the keys of the recipe, and the weights given."""
    begun = {} if result.start_sha256 is None else {"run.started from": result.start_sha256[:12]}
    return training_keys(result.recipe) | begun


def group_repetitions(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Sort runs into groups with equal `repetition_keys`, in the order in which each group first appears."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(json.dumps(repetition_keys(record.result), sort_keys=True), []).append(record)
    return list(groups.values())


def run_name(folder: Path) -> str:
    """Return the name of a run: its folder's, or that of the folder of seeds with the seed."""
    seed = seed_of(folder)
    return folder.name if seed is None else f"{folder.parent.name}, seed {seed}"


def run_folders(folder: Path) -> list[Path]:
    """Return a run folder itself, or the run folders in a folder that holds several.

    Seeds come in rising order, unfinished ones included, so that no seed that failed is left out unnoticed. A folder
    without seeds gives its finished runs by name. The list is empty where there is no run.
    """
    if (folder / RECIPE_FILE).is_file() or is_finished(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    seeds = {seed: path for path in inside if (seed := seed_of(path)) is not None}
    return [seeds[seed] for seed in sorted(seeds)] or [path for path in inside if is_finished(path)]


def read_run_folder(folder: Path) -> RunRecord:
    """Read the result and the metrics of a finished run.

    Raises:
        KilonetError: the run is not finished, or a file in the folder is damaged.
    """
    return RunRecord(run_name(folder.resolve()), read_result(folder), read_history(folder), folder)


def read_runs(source: str) -> list[RunRecord]:
    """Read a run folder, a folder of run folders, or a file that `kilonet train --json` printed.

    Raises:
        KilonetError: there is no finished run, or a file is damaged.
    """
    path = Path(source)
    if path.is_file():
        return read_printed_runs(path)
    if not path.is_dir():
        raise KilonetError(f"no runs '{source}': neither a run folder, a folder of run folders nor a file of results")
    folders = run_folders(path)
    if not folders:
        raise KilonetError(f"{path}: no finished run in this folder or one below; has its training finished?")
    return [read_run_folder(folder) for folder in folders]


def run_as_json(run: Run) -> dict[str, Any]:
    """Return a run as `kilonet train --json` prints it."""
    history = [epoch.model_dump(mode="json") for epoch in run.history]
    return {"folder": str(run.folder), **run.result.model_dump(mode="json"), "history": history}


def read_printed_runs(path: Path) -> list[RunRecord]:
    """Read what `kilonet train --json` printed for one run or for several seeds.

    Raises:
        KilonetError: the file holds something else.
    """
    try:
        table = json.loads(read_bounded(path, _MAXIMUM_BYTES, "results"))
        runs = table.get("runs", [table])
        if not runs:
            raise ValueError("no runs")
        return [_parse_run(dict(run)) for run in runs]
    except ValidationError as error:
        raise KilonetError(f"{path}: no results of 'kilonet train --json': {first_complaint(error)}") from None
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise KilonetError(f"{path}: no results of 'kilonet train --json'") from None


def _parse_run(run: dict[str, Any]) -> RunRecord:
    name, history = run_name(Path(str(run.pop("folder", "run")))), run.pop("history", [])
    epochs = tuple(EpochMetrics.model_validate_json(json.dumps(epoch)) for epoch in history)
    return RunRecord(name, Result.model_validate_json(json.dumps(run)), epochs)
