"""Writes docs/RESULTS.md and its picture from the runs in docs/results.

    python benchmarks/results.py [--check]

The files in docs/results/budgets (benchmarks/budgets.py) are a table of their own. Every other file that
`kilonet train ... --seeds N --json` printed is a row of the second. Runs with `--holdout` have no row of their
own; their accuracy stands as a prediction in the row of the same recipe. With `--check` nothing is written, and a
difference gives exit status 1.
"""

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import budget_tables
from kilonet.evaluation.statistics import MOST_LISTED, listed, mean_and_std, mean_interval
from kilonet.network.cost import network_cost
from kilonet.recipe import Recipe, load_recipe, packaged_recipes
from kilonet.training.identity import training_keys

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "RESULTS.md"
PICTURE = ROOT / "docs" / "pictures" / "budgets.svg"

_HEAD = """# Results

Made from the files in [results/](results) by `make results`; nothing here is written by hand.

{budgets}
## The packaged recipes

Accuracies are those of the final epoch: mean ± standard deviation over n seeds, all of which are listed. No epoch and
no seed is picked. "Predicted" is the accuracy of the same recipe on 10,000 held-out training images, where such runs
exist. Parameters include those of batch norm. Seconds are the training time of one run on the named machine, without
its teachers, whose times stand beside them. A command prints the file after which its row is named; on a machine that
chooses another device or precision than the row's, it takes `--device` and `--precision`. "Course's rule" is the goal
of the course from which the first network comes: 99.4 % in each of the last five of at most 15 epochs. The column
counts the seeds that reach it, where the accuracy of every epoch is kept.
"""
_RULE_EPOCHS, _RULE_LAST, _RULE_SHARE = 15, 5, 0.994
_MAY_DIFFER = {"run.holdout", "run.engine", "run.precision"}
"""Keys of a recipe in which a row and its prediction may differ."""
_WITHOUT_FLAG = {"seed", "holdout", "engine", "device", "precision", "threads"}
"""Keys that may differ from those of the packaged recipe without a flag in the command."""


@dataclass(frozen=True)
class Row:
    """The runs of one file."""

    name: str
    runs: tuple[dict[str, Any], ...]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the first run."""
        return Recipe.model_validate_json(json.dumps(self.runs[0]["recipe"]))

    @property
    def accuracies(self) -> list[float]:
        """Percent, a figure a run, by rising seed."""
        ordered = sorted(self.runs, key=lambda run: int(run["recipe"]["run"]["seed"]))
        return [100 * run["final"]["test_accuracy"] for run in ordered]

    @property
    def is_prediction(self) -> bool:
        """Whether the runs were scored on held-out images."""
        return self.recipe.run.holdout

    @property
    def kind(self) -> str:
        """What a row has in common with the row of runs with --holdout that predicts it."""
        keys = training_keys(self.recipe)
        return json.dumps({key: keys[key] for key in keys if key not in _MAY_DIFFER}, sort_keys=True)


def read_rows(folder: Path) -> list[Row]:
    """Read the files of runs, MNIST first, by falling parameters; other files in the folder are skipped."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        # Without --seeds the command prints the run itself.
        runs = [content] if "final" in content else content.get("runs")
        if runs:
            rows.append(Row(path.stem, tuple(runs)))
    return sorted(rows, key=lambda row: (row.recipe.run.data != "mnist", -row.recipe.model.parameters, row.name))


def page(folder: Path) -> str:
    """Return the page of a folder of results, whose folder `budgets` holds the cells."""
    rows = read_rows(folder)
    predictions = {row.kind: row for row in rows if row.is_prediction}
    heads = (
        "runs",
        "data",
        "parameters",
        "MACs",
        "epochs",
        "test accuracy",
        "n",
        "every seed",
        "predicted",
        "course's rule",
        "teachers",
        "seconds a run",
        "machine",
        "command",
    )
    lines = [f"| {' | '.join(heads)} |", "|---|---|---:|---:|---:|---:|---:|---|---:|---|---|---:|---|---|"]
    lines += [_line(row, predictions) for row in rows if not row.is_prediction]
    budgets = budget_tables.section(budget_tables.read_cells(folder / "budgets"))
    many = [_seeds_section(row) for row in rows if len(row.runs) > MOST_LISTED]
    return "\n".join([_HEAD.format(budgets=budgets), *lines, "", *many])


def _seeds_section(row: Row) -> str:
    """Return a section on a row of many seeds: how far one may lie from their mean, with a picture of all."""
    shares, name, rule = row.accuracies, row.name, _rule(row)
    mean, deviation = mean_and_std(shares)
    lowest, highest = (100 * bound for bound in mean_interval([share / 100 for share in shares]))
    inside = sum(abs(share - mean) <= deviation for share in shares)
    return f"""\
## {len(shares)} seeds of `{_nearest(row)[0]}`

Mean {mean:.3f} %, 95 % interval {lowest:.3f} to {highest:.3f}. Standard deviation {deviation:.3f}; {inside} seeds lie
within one of the mean. The lowest has {min(shares):.2f}, the highest {max(shares):.2f} %.
{f"The course's rule is kept by {rule}." if rule else ""}
Drawn by `kilonet compare docs/results/{name}.json --distribution docs/pictures/{name}.svg`:

![The accuracy of each of {len(shares)} seeds, with their mean and standard deviation](pictures/{name}.svg)
"""


def _line(row: Row, predictions: Mapping[str, Row]) -> str:
    first = row.runs[0]
    predicted = predictions.get(row.kind)
    seconds, _ = mean_and_std([run["seconds"] for run in row.runs])
    cells = (
        f"`{row.name}`",
        row.recipe.run.data,
        f"{first['parameters']:,}",
        f"{network_cost(row.recipe.model).macs:,}",
        str(row.recipe.train.epochs),
        f"**{budget_tables.spread(row.accuracies)}**",
        str(len(row.runs)),
        _every_seed(row),
        f"{budget_tables.spread(predicted.accuracies)} (n = {len(predicted.runs)})" if predicted else "",
        _rule(row),
        "; ".join(map(_teacher, first.get("teachers", []))),
        f"{seconds:.0f}",
        budget_tables.machine(first["environment"]),
        f"`{command_of(row)}`",
    )
    return f"| {' | '.join(cells)} |"


def _every_seed(row: Row) -> str:
    shares = row.accuracies
    more = f", all in [results/{row.name}.json](results/{row.name}.json)" if len(shares) > MOST_LISTED else ""
    return listed(shares, ".2f") + more


def _rule(row: Row) -> str:
    """Return how many runs reach the course's rule, or nothing where the rule does not apply."""
    histories = [run.get("history", []) for run in row.runs]
    if row.recipe.train.epochs > _RULE_EPOCHS or row.recipe.run.data != "mnist" or not all(histories):
        return ""
    lasts = [[epoch["test_accuracy"] for epoch in history[-_RULE_LAST:]] for history in histories]
    kept = sum(len(shares) == _RULE_LAST and min(shares) >= _RULE_SHARE for shares in lasts)
    return f"{kept} of {len(lasts)}"


def _teacher(teacher: Mapping[str, Any]) -> str:
    seconds = "" if teacher["seconds"] is None else f", {teacher['seconds']:.0f} s"
    share = f"{100 * teacher['accuracy']:.2f} % of {teacher['scored'].lower()}"
    return f"{teacher['parameters']:,} parameters, {share}{seconds}"


def command_of(row: Row) -> str:
    """Return the command that trains such runs, from the packaged recipe that takes the fewest flags."""
    name, flags = _nearest(row)
    words = ["kilonet", "train", name, *(word for flag in flags for word in flag)]
    words += ["--seeds", str(len(row.runs))] if len(row.runs) > 1 else []
    return shlex.join([*words, "--json"])


def _nearest(row: Row) -> tuple[str, list[list[str]]]:
    """Return the packaged recipe that takes the fewest flags to train such runs, and these flags."""
    options = {name: list(_flags(load_recipe(name), row.recipe)) for name in packaged_recipes()}
    name = min(options, key=lambda name: (len(options[name]), name != row.name, name))
    return name, options[name]


def _flags(base: Recipe, wanted: Recipe) -> Iterator[list[str]]:
    """Yield the flags that turn one recipe into another, each as its words."""
    for section, keys in wanted.model_dump(mode="json", exclude={"about"}).items():
        theirs = base.model_dump(mode="json")[section]
        for key, value in keys.items():
            if key not in _WITHOUT_FLAG and value is not None and value != theirs[key]:
                flag = key.replace("_", "-")
                if isinstance(value, bool):
                    yield [f"--{flag}" if value else f"--no-{flag}"]
                else:
                    yield [f"--{flag}", *(map(str, value) if isinstance(value, list) else [str(value)])]


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    cells = budget_tables.read_cells()
    wanted = {PAGE: page(RESULTS), PICTURE: budget_tables.picture(cells)}
    if parser.parse_args().check:
        differing = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
        print(f"{' and '.join(differing)} differ: make results" if differing else "all is as generated")
        return int(bool(differing))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
