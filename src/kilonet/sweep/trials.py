"""The folder of a sweep, which holds all of its state.

    sweep.toml   the plan as the sweep was started
    base.toml    the base recipe as the sweep was started
    0001/        a trial: an ordinary run folder
    0001.json    the values drawn for the trial, its parent, and whether it was stopped early or diverged
    teacher-...  the run of a teacher that all trials share

Every file is replaced atomically.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from kilonet.evaluation.metrics import Metric
from kilonet.network.graph import MAXIMUM_LAYERS
from kilonet.recipe import Recipe, load_recipe
from kilonet.sweep.costs import Cost, Target, costs_of
from kilonet.sweep.plan import Plan, Value, load_plan
from kilonet.training.distillation import TEACHER
from kilonet.training.identity import recipe_differences
from kilonet.training.run_folder import (
    METRICS_FILE,
    RECIPE_FILE,
    EpochMetrics,
    Result,
    is_finished,
    read_history,
    read_result,
)
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded, write_atomically
from kilonet.utils.schema import Schema

PLAN_FILE = "sweep.toml"
BASE_FILE = "base.toml"
WORST_ERROR = 1.0
"""The shortfall that is reported of a trial that diverged."""

_MAXIMUM_RECORD_BYTES = 1 << 20


class TrialRecord(Schema):
    """The file beside a trial's run folder."""

    number: int
    draws: dict[str, Value]
    """Optuna's names of the drawn values, and the values."""
    layers: Annotated[tuple[str, ...], Field(max_length=MAXIMUM_LAYERS, strict=False)] | None = None
    """The layers that evolution made; None for layers that were drawn, or are the base recipe's."""
    parent: PositiveInt | None = None
    """The trial that they were made from, if any."""
    end: Literal["stopped", "diverged"] | None = None
    """None for a trial that had all its epochs or is unfinished."""


class Trials:
    """The trials of a sweep in its folder, in the order in which they were drawn."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = Path(plan.out).resolve()
        self._finished: dict[int, FinishedTrial] = {}

    @property
    def objective(self) -> Metric:
        """What a trial is better by, beside its costs."""
        return self.plan.search.objective

    def started_plan(self) -> Plan | None:
        """Return the plan with which the sweep in the folder was started; None if there is none.

        Raises:
            KilonetError: the file is damaged.
        """
        path = self.folder / PLAN_FILE
        return load_plan(str(path)) if path.is_file() else None

    def check(self) -> None:
        """Check that the folder, if there is one, belongs to this plan.

        Raises:
            KilonetError: it belongs to another plan, or is not a folder of a sweep.
        """
        # Where nothing was trained there is nothing to mix up.
        started = self.started_plan() if self.records else None
        for key in ("objective", "costs") if started else ():
            theirs, mine = (_words(getattr(plan.search, key)) for plan in (started, self.plan) if plan)
            if theirs != mine:
                raise KilonetError(
                    f"{self.folder} holds a sweep with the {key} {theirs}, not {mine}: "
                    f"continue it with --{key} {theirs}, or choose another 'out'"
                )
        if started and (others := self.plan.other_settings(started)):
            raise KilonetError(
                f"{self.folder} holds a sweep with other settings ({', '.join(others)}); "
                "only search.trials may change: undo the change, or choose another 'out'"
            )
        if not started and self.folder.is_dir() and any(map(self._is_foreign, self.folder.glob("[!.]*"))):
            raise KilonetError(f"{self.folder} is not empty, and is no folder of a sweep; choose another 'out'")
        base = self.folder / BASE_FILE
        if started and base.is_file() and load_recipe(str(base)) != self.plan.base:
            raise KilonetError(
                f"{self.folder} holds a sweep around another recipe: {self.plan.recipe} has changed since"
            )

    def _is_foreign(self, path: Path) -> bool:
        """Return whether a file in the folder is none of those that a sweep has before its first trial."""
        known = path.name in (PLAN_FILE, BASE_FILE) or path.name.startswith(f"{TEACHER}-")
        return not (known and (self.folder / PLAN_FILE).is_file())

    def begin(self) -> None:
        """Check the folder, which exists, and write the plan into it; by the process that has the folder's lock.

        Raises:
            KilonetError: as `check`, or a file cannot be written.
        """
        self.check()
        write_atomically(self.folder / BASE_FILE, self.plan.base.to_toml().encode())
        write_atomically(self.folder / PLAN_FILE, self.plan.to_toml().encode())

    @cached_property
    def records(self) -> dict[int, TrialRecord]:
        """The records of all trials, by number."""
        found = sorted(map(_read_record, self.folder.glob("[0-9]*.json")), key=lambda record: record.number)
        return {record.number: record for record in found}

    @property
    def next_number(self) -> int:
        """The number that the next new trial gets: no earlier one's, even if its record was removed."""
        folders = (int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdecimal())
        return max(max(self.records, default=0), max(folders, default=0)) + 1

    def check_run(self, number: int, recipe: Recipe) -> None:
        """Check that the run folder of a trial, if it is begun, is that of its record.

        Raises:
            KilonetError: its recipe is another one.
        """
        path = self.path(number) / RECIPE_FILE
        if path.is_file() and (found := recipe_differences(recipe, load_recipe(str(path)))):
            raise KilonetError(
                f"{path} is not the recipe of {self.record_path(number)}: {found[0]}; {self.how_to_drop(number)}"
            )

    def how_to_drop(self, number: int) -> str:
        """Return what to do so that a trial no longer belongs to the sweep."""
        return _how_to_drop(self.record_path(number))

    def add(
        self, draws: dict[str, Any], layers: tuple[str, ...] | None = None, parent: int | None = None
    ) -> TrialRecord:
        """Write the record of a new trial."""
        record = TrialRecord(number=self.next_number, draws=draws, layers=layers, parent=parent)
        self._write(record)
        return record

    def end(self, number: int, how: Literal["stopped", "diverged"]) -> None:
        """Record that a trial ended before its last epoch."""
        self._write(self.records[number].model_copy(update={"end": how}))

    def _write(self, record: TrialRecord) -> None:
        self.records[record.number] = record
        write_atomically(self.record_path(record.number), record.model_dump_json().encode())

    def record_path(self, number: int) -> Path:
        """Return the file with the record of a trial."""
        return self.folder / f"{number:04}.json"

    def path(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.folder / f"{number:04}"

    def is_done(self, number: int) -> bool:
        """Return whether a trial needs no more training."""
        return self.records[number].end is not None or is_finished(self.path(number))

    def history(self, number: int) -> tuple[EpochMetrics, ...]:
        """Return the metrics of a trial's epochs so far."""
        folder = self.path(number)
        return read_history(folder) if (folder / METRICS_FILE).is_file() else ()

    def error(self, number: int) -> float:
        """Return a trial's error after its last epoch, as `error_of` does."""
        history = self.history(number)
        diverged = self.records[number].end == "diverged" or not history
        return WORST_ERROR if diverged else error_of(history[-1], self.objective, self.path(number))

    def as_json(self) -> Iterator[dict[str, Any]]:
        """Yield each trial that was begun as plain values: how it ended, its last epoch on the holdout, what it is.

        Raises:
            KilonetError: a file of a trial is damaged.
        """
        for number, record in self.records.items():
            folder = self.path(number)
            if not (folder / RECIPE_FILE).is_file():
                continue
            history, recipe = self.history(number), load_recipe(str(folder / RECIPE_FILE))
            end = "finished" if is_finished(folder) else record.end or "unfinished"
            scores = _scores(history[-1]) if history else {}
            made = {"parent": record.parent, "end": end, "epochs": len(history), "draws": record.draws}
            costs = costs_of(recipe.model, self.plan.budget.target)
            yield {"trial": number, **made, **scores, **_plain(costs), "layers": list(recipe.model.layers)}

    def finished(self) -> Iterator["FinishedTrial"]:
        """Yield the trials that had all their epochs."""
        for number in self.records:
            folder = self.path(number)
            # A live table asks after every trial.
            if number not in self._finished and is_finished(folder):
                result = read_result(folder)
                self._finished[number] = FinishedTrial(number, folder, result, self.objective, self.plan.budget.target)
            if number in self._finished:
                yield self._finished[number]


def error_of(metrics: EpochMetrics, objective: Metric, folder: Path) -> float:
    """Return the error that a sweep minimises: one minus the objective on the holdout, a fraction.

    Args:
        metrics: the figures of an epoch.
        objective: what a trial is better by.
        folder: the trial's run folder, which an error names.

    Raises:
        KilonetError: the epoch was trained by an older version, which did not measure the objective.
    """
    return 1 - metrics.score(objective, str(folder))


def _plain(costs: Mapping[Cost, int]) -> dict[str, Any]:
    return {str(cost): value for cost, value in costs.items()}


def _scores(metrics: EpochMetrics) -> dict[str, float | None]:
    return {
        "accuracy": metrics.test_accuracy,
        "balanced_accuracy": metrics.test_balanced_accuracy,
        "macro_f1": metrics.test_macro_f1,
    }


def _words(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ",".join(value) or "none"


def _how_to_drop(record: Path) -> str:
    return f"remove the files {record.name} and {record.stem} to drop the trial"


def _read_record(path: Path) -> TrialRecord:
    try:
        record = TrialRecord.model_validate_json(read_bounded(path, _MAXIMUM_RECORD_BYTES, "a trial's record"))
        if record.number < 1 or path.name != f"{record.number:04}.json":
            raise ValueError(f"the record of trial {record.number}")
        return record
    except ValueError:
        raise KilonetError(f"{path}: not a trial's record; {_how_to_drop(path)}") from None


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that had all its epochs."""

    number: int
    folder: Path
    result: Result
    objective: Metric
    target: Target

    @property
    def error(self) -> float:
        """What the trials are ranked by, beside their costs: see `error_of`."""
        return error_of(self.result.final, self.objective, self.folder)

    @property
    def errors(self) -> int:
        """The number of wrong answers on the holdout after the final epoch."""
        return self.result.scored_images - self.result.correct

    @cached_property
    def costs(self) -> Mapping[Cost, int]:
        """All costs of the network: see `costs_of`."""
        return costs_of(self.result.recipe.model, self.target)

    def as_json(self) -> dict[str, Any]:
        """Return the trial as plain values."""
        layers = list(self.result.recipe.model.layers)
        found = {"errors": self.errors, "images": self.result.scored_images, "layers": layers}
        return {
            "trial": self.number,
            **_plain(self.costs),
            **found,
            **_scores(self.result.final),
            "folder": str(self.folder),
        }
