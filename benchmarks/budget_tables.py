"""The tables and the picture of docs/RESULTS.md that show what each budget reaches on each data set."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from budgets import BUDGETS, OUT, SETS
from kilonet.evaluation.statistics import mean_and_std

TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "meter": "meter digits", "cifar-10": "CIFAR-10 as JPEG"}
_MARKS = dict(zip(SETS, "os^D", strict=True))
_HEAD = """## What a budget buys

How accurate a network of so many parameters is on four data sets: integers in C, on all test images, the final epoch,
mean ± standard deviation over seeds. "Meter digits" are photos of the digits of water meters in 100 classes, tenths of
a step, whose outputs alone take three fifths of the smallest network's parameters. CIFAR-10 is of JPEG files. MNIST
within 8,000 is `best`, in 15 epochs and without a teacher; `8k`, with both, is among the packaged recipes below.
"""
_DETAILS = """### Every cell

Bytes and instructions are of a Cortex-M0, counted under an emulator: flash with code, RAM with the pixels of an image
and the logits, instructions an image, all of the first seed. A command trains, exports and counts; a data set that is a
folder takes `--data SET=FOLDER` besides. A recipe is a packaged one or a file in
[benchmarks/budgets](../benchmarks/budgets); the figures are in [results/budgets](results/budgets). No layout was
searched for each data set: those of MNIST and of CIFAR-10 were fitted to the others, so that most cells can be
improved. Seconds say little: the runs shared two cores with up to five others, and some waited for minutes.
"""


@dataclass(frozen=True)
class Cell:
    """A file of docs/results/budgets."""

    data: str
    budget: str
    content: Mapping[str, Any]

    @property
    def runs(self) -> Sequence[Mapping[str, Any]]:
        """The figures of each seed."""
        runs: list[Mapping[str, Any]] = self.content["runs"]
        return runs

    def spread(self, figure: str) -> str:
        """Return mean and standard deviation of a share over the seeds, in percent."""
        return spread([100 * run[figure] for run in self.runs])


def spread(percents: Sequence[float]) -> str:
    """Return mean and standard deviation as text; one value stands alone."""
    mean, deviation = mean_and_std(percents)
    return f"{mean:.2f} %" if len(percents) == 1 else f"{mean:.2f} ± {deviation:.2f} %"


def machine(environment: Mapping[str, Any]) -> str:
    """Return processor, threads, engine and precision of a run's environment as text."""
    threads = f"{environment['threads']} thread" + ("s" if environment["threads"] > 1 else "")
    return f"{environment['processor']}, {threads}, {environment['engine']} engine, {environment['precision']}"


def read_cells(folder: Path = OUT) -> list[Cell]:
    """Read the files that there are, by data set and budget."""
    paths = {(name, budget): folder / f"{name}-{budget}.json" for name in SETS for budget in BUDGETS}
    return [
        Cell(*place, json.loads(path.read_text(encoding="utf-8"))) for place, path in paths.items() if path.is_file()
    ]


def section(cells: Sequence[Cell]) -> str:
    """Return the part of the page about budgets, without the picture's file."""
    known = {(cell.data, cell.budget): cell for cell in cells}
    lines = [f"| at most | {' | '.join(TITLES[name] for name in SETS)} |", f"|---:|{'---:|' * len(SETS)}"]
    for budget, limit in BUDGETS.items():
        shown = (known.get((name, budget)) for name in SETS)
        lines.append(f"| {limit:,} | {' | '.join(cell.spread('integer_accuracy') if cell else '' for cell in shown)} |")
    picture = "![Errors of networks of 500 to 32,000 parameters on four data sets](pictures/budgets.svg)"
    columns: dict[str, Callable[[Cell], str]] = {
        "data": lambda cell: TITLES[cell.data],
        "recipe": lambda cell: f"`{Path(cell.content['recipe']).stem}`",
        "parameters": lambda cell: f"{cell.content['parameters']:,}",
        "MACs": lambda cell: f"{cell.content['macs']:,}",
        "epochs": lambda cell: str(cell.content["epochs"]),
        "float": lambda cell: cell.spread("test_accuracy"),
        "integers": lambda cell: f"**{cell.spread('integer_accuracy')}**",
        "within one step": lambda cell: cell.spread("within_one_step") if "within_one_step" in cell.runs[0] else "",
        "integers, every seed": _every_seed,
        "flash": lambda cell: f"{cell.runs[0]['flash']:,}",
        "RAM": lambda cell: f"{cell.runs[0]['ram']:,}",
        "instructions": lambda cell: f"{cell.runs[0]['instructions']:,}",
        "teacher": _teacher,
        "seconds a run": lambda cell: f"{mean_and_std([run['seconds'] for run in cell.runs])[0]:.0f}",
        "machine": lambda cell: machine(cell.content["environment"]),
        "command": lambda cell: f"`{cell.content['command']}`",
    }
    details = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    details += [f"| {' | '.join(text(cell) for text in columns.values())} |" for cell in cells]
    return "\n".join([_HEAD, *lines, "", picture, "", _DETAILS, *details, ""])


def _every_seed(cell: Cell) -> str:
    return ", ".join(f"{100 * run['integer_accuracy']:.2f}" for run in cell.runs)


def _teacher(cell: Cell) -> str:
    return "; ".join(
        f"{one['parameters']:,} parameters, {100 * one['accuracy']:.2f} %" for one in cell.content["teachers"]
    )


def picture(cells: Sequence[Cell]) -> str:
    """Return the errors against the parameters as SVG, the same text for the same cells."""
    style = {"svg.hashsalt": "budgets", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for name in SETS:
            mine = [cell for cell in cells if cell.data == name]
            spreads = [mean_and_std([100 - 100 * run["integer_accuracy"] for run in cell.runs]) for cell in mine]
            axes.errorbar(
                [cell.content["parameters"] for cell in mine],
                [mean for mean, _ in spreads],
                [deviation for _, deviation in spreads],
                fmt=f"{_MARKS[name]}-",
                capsize=3,
                label=TITLES[name],
            )
        axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="error of the integers, % of test images")
        axes.set_xticks(list(BUDGETS.values()), [f"{limit:,}" for limit in BUDGETS.values()])
        axes.minorticks_off()
        axes.set_yticks([0.4, 1, 2, 5, 10, 20, 50, 100], ["0.4", "1", "2", "5", "10", "20", "50", "100"])
        axes.grid(alpha=0.3)
        axes.legend()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())
