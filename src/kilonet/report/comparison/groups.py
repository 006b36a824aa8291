"""Runs as they are given, and the groups they form: runs whose recipes differ in nothing but the seed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.evaluation.statistics import mean_and_std, mean_interval
from kilonet.training.results import read_printed
from kilonet.training.run_folder import RESULT_FILE, Result, read_result, seed_of
from kilonet.utils.errors import KilonetError


@dataclass(frozen=True)
class Entry:
    """A run, and where its model is, if that is known."""

    name: str
    result: Result
    folder: Path | None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.result.recipe.run.seed

    @property
    def errors(self) -> int:
        """Wrong answers after the final epoch."""
        return self.result.scored_images - self.result.correct

    def recipe_but_the_seed(self) -> dict[str, Any]:
        """Return what makes runs alike, flat: `section.key` and its value."""
        sections = self.result.recipe.model_dump(mode="json", exclude={"about": True, "run": {"seed"}})
        return {
            f"{name}.{key}": value
            for name, section in sections.items()
            if isinstance(section, dict)
            for key, value in section.items()
        }


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, by rising seed."""

    name: str
    entries: tuple[Entry, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return [entry.seed for entry in self.entries]

    @property
    def accuracies(self) -> list[float]:
        """The final epochs' accuracies, fractions."""
        return [entry.result.final.test_accuracy for entry in self.entries]

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return self.entries[0].result.parameters

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean accuracy by Student's t, two fractions; None for a single run."""
        return mean_interval(self.accuracies) if len(self.entries) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain lists and numbers; accuracies are fractions."""
        mean, deviation = mean_and_std(self.accuracies)
        known = len(self.entries) > 1
        return {
            "name": self.name,
            "parameters": self.parameters,
            "n": len(self.entries),
            "seeds": self.seeds,
            "accuracies": self.accuracies,
            "mean": mean,
            "sd": deviation if known else None,
            "interval": self.interval,
        }


def read_groups(sources: Sequence[str]) -> tuple[Group, ...]:
    """Read runs, and sort them into groups in the order in which they are given.

    Args:
        sources: run folders, folders of run folders, or files that `kilonet train --json` printed.

    Raises:
        KilonetError: nothing there, a damaged file, a run given twice, or runs scored on different images.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in (entry for source in sources for entry in _read(source)):
        groups.setdefault(json.dumps(entry.recipe_but_the_seed(), sort_keys=True), []).append(entry)
    entries = [entry for group in groups.values() for entry in group]
    _refuse_twins(entries)
    _refuse_other_images(entries)
    names = _told_apart([group[0].name for group in groups.values()])
    return tuple(
        Group(name, tuple(sorted(group, key=lambda entry: entry.seed)))
        for name, group in zip(names, groups.values(), strict=True)
    )


def _read(source: str) -> Iterator[Entry]:
    path = Path(source)
    if path.is_file():
        yield from (Entry(path.stem, run.result, None) for run in read_printed(path))
    elif (path / RESULT_FILE).is_file():
        yield Entry(_name_of(path), read_result(path), path)
    elif path.is_dir():
        folders = sorted(folder for folder in path.iterdir() if (folder / RESULT_FILE).is_file())
        if not folders:
            raise KilonetError(f"{path}: no finished run in this folder or one below; has its training finished?")
        yield from (Entry(path.resolve().name, read_result(folder), folder) for folder in folders)
    else:
        raise KilonetError(f"no runs '{source}': neither a run folder, a folder of them nor a file of results")


def _name_of(folder: Path) -> str:
    """Return a run folder's name; of one among seeds its parent's."""
    folder = folder.resolve()
    return folder.name if seed_of(folder) is None else folder.parent.name


def _refuse_twins(entries: Sequence[Entry]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        twin = seen.setdefault(entry.result.model_sha256, entry)
        if twin is not entry:
            raise KilonetError(f"{entry.name}, seed {entry.seed}, is given twice: it is the model of {twin.name}")


def _refuse_other_images(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for entry in entries:
        if _images_of(entry) != _images_of(first):
            raise KilonetError(
                f"{first.name} was scored on {_images_of(first)}, {entry.name} on {_images_of(entry)}: "
                "only runs scored on the same images can be compared"
            )


def _images_of(entry: Entry) -> str:
    result = entry.result
    return f"{result.scored_images:,} {result.scored.lower()} images of {result.recipe.run.data}"


def _told_apart(names: Sequence[str]) -> list[str]:
    """Number the names that are not alone."""
    counts: dict[str, int] = {}
    told = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        told.append(name if names.count(name) == 1 else f"{name} #{counts[name]}")
    return told
