"""Runs sorted into groups of repetitions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.evaluation.metrics import Metric
from kilonet.evaluation.statistics import mean_and_std, mean_interval
from kilonet.training.run_folder import seed_of
from kilonet.training.run_records import RunRecord, group_repetitions, read_runs
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, by rising seed."""

    name: str
    records: tuple[RunRecord, ...]
    metric: Metric = "accuracy"
    """What the runs are compared by."""

    @property
    def seeds(self) -> list[int]:
        return [record.seed for record in self.records]

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each run after its final epoch, fractions."""
        return [record.accuracy for record in self.records]

    @property
    def scores(self) -> list[float]:
        """The metric of each run after its final epoch, fractions."""
        return [record.score(self.metric) for record in self.records]

    @property
    def shortfalls(self) -> list[float]:
        """What the test over seeds compares: each run's errors, or the percentage points its score lacks of 100."""
        if self.metric == "accuracy":
            return [record.errors for record in self.records]
        return [100 * (1 - score) for score in self.scores]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return self.records[0].result.parameters

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean score by Student's t, two fractions; None for a single run."""
        if len(self.records) < 2:
            return None
        return mean_interval(self.scores)

    def as_json(self) -> dict[str, Any]:
        """Return plain lists and numbers; accuracies are fractions, as is the mean of the scores with its interval."""
        mean, deviation = mean_and_std(self.scores)
        return {
            "name": self.name,
            "parameters": self.parameters,
            "n": len(self.records),
            "seeds": self.seeds,
            "accuracies": self.accuracies,
            "scores": self.scores,
            "mean": mean,
            "sd": deviation if len(self.records) > 1 else None,
            "interval": self.interval,
        }


def read_groups(sources: Sequence[str], metric: Metric = "accuracy") -> tuple[Group, ...]:
    """Read runs and sort them into groups, in the order in which they are given.

    Args:
        sources: run folders, folders of run folders, or files that `kilonet train --json` printed. A group has the name
            of the source of its first run.
        metric: what the runs are compared by.

    Raises:
        KilonetError: no run, a damaged file, a run given twice, runs scored on different images, or a run of an older
            version that did not measure the metric.
    """
    read = [(record, _group_name(source)) for source in sources for record in read_runs(source)]
    records = [record for record, _ in read]
    _refuse_twins(records)
    _refuse_other_images(records)
    for record in records:
        record.score(metric)
    name_of = {record.result.model_sha256: name for record, name in read}
    groups = group_repetitions(records)
    names = _told_apart([(name_of[group[0].result.model_sha256], group[0].folder) for group in groups])
    return tuple(
        Group(name, tuple(sorted(group, key=lambda record: record.seed)), metric)
        for name, group in zip(names, groups, strict=True)
    )


def _group_name(source: str) -> str:
    path = Path(source).resolve()
    if path.is_file():
        return printable(path.stem)
    return printable(path.name if seed_of(path) is None else path.parent.name)


def _refuse_twins(records: Sequence[RunRecord]) -> None:
    seen: dict[str, RunRecord] = {}
    for record in records:
        twin = seen.setdefault(record.result.model_sha256, record)
        if twin is not record:
            raise KilonetError(f"{record.name} is given twice: its model is that of {twin.name}")


def _refuse_other_images(records: Sequence[RunRecord]) -> None:
    first = records[0]
    for record in records:
        if _scored_images(record) != _scored_images(first):
            raise KilonetError(
                f"{first.name} was scored on {_scored_images(first)}, {record.name} on {_scored_images(record)}: "
                "only runs scored on the same images can be compared"
            )


def _scored_images(record: RunRecord) -> str:
    result = record.result
    return f"{result.scored_images:,} {result.scored.lower()} images of {result.recipe.run.data}"


def _told_apart(named: Sequence[tuple[str, Path | None]]) -> list[str]:
    """Return the names; to those that occur more than once the names of their run folders are added, or numbers.

    Args:
        named: the name of each group, and the folder of its first run, if any.
    """
    names = [name for name, _ in named]
    longer = [
        f"{name} {folder.name}" if folder and seed_of(folder) is None and names.count(name) > 1 else name
        for name, folder in named
    ]
    places = [longer[:place].count(name) + 1 for place, name in enumerate(longer)]
    return [f"{name} #{place}" if longer.count(name) > 1 else name for name, place in zip(longer, places, strict=True)]
