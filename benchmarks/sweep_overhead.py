"""Measures what `kilonet sweep` costs beyond training the same recipes by `kilonet train`.

    python benchmarks/sweep_overhead.py [--trials 8] [--epochs 4] [--rounds 5]

The candidates are drawn and their kernels compiled first. Then, in every round, `kilonet sweep` trains all of them, and
so does `kilonet train`, one command a candidate and as many at once as there are cores; the two take turns at being the
first. Both are timed as whole commands, including the start of Python. The cost of a sweep is the median of the rounds'
ratios. Prints a table for docs/results/sweep_overhead.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kilonet.engines.selection import resolve_run
from kilonet.recipe import parse_recipe
from kilonet.sweep.plan import load_plan
from kilonet.sweep.sampler import CandidateSampler
from kilonet.sweep.trials import Trials
from kilonet.utils.capacity import cores
from kilonet.utils.environment import processor_name
from kilonet.utils.files import make_folder

_PLAN = """
recipe = "baseline"
out = "{out}"
layers = ["conv {{4..8}}", "maxpool 2", "conv {{6..12}}", "conv {{6..12}}", "gap", "pointwise 10"]
[search]
trials = {trials}
epochs = {epochs}
grace = {epochs}
[budget]
max_parameters = 2000
"""


def draw(plan_file: Path, folder: Path) -> list[Path]:
    """Draw a sweep's candidates, compile their kernels, write each as a recipe, and return the recipes' paths."""
    plan = load_plan(str(plan_file))
    trials = Trials(plan)
    make_folder(trials.folder)
    trials.begin()
    sampler, paths = CandidateSampler(plan, trials), []
    for number in range(plan.search.trials):
        configuration = sampler.suggest(str(number))
        recipe = parse_recipe(json.loads(configuration["recipe"]), "candidate", {})
        resolve_run(recipe)
        paths.append(folder / f"{number}.toml")
        paths[-1].write_text(recipe.to_toml(), encoding="utf-8")
    return paths


def seconds_of(commands: Sequence[Sequence[str | Path]], at_once: int) -> float:
    """Return the seconds that kilonet commands take, `at_once` of them in parallel."""

    def run(words: Sequence[str | Path]) -> None:
        subprocess.run([sys.executable, "-m", "kilonet", *map(str, words)], check=True, capture_output=True)

    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, commands))
    return time.perf_counter() - start


def write_plan(folder: Path, trials: int, epochs: int) -> Path:
    """Write the plan of a sweep into a new folder, which the sweep uses too, and return the plan's path."""
    folder.mkdir()
    plan = folder / "sweep.toml"
    plan.write_text(_PLAN.format(out=folder / "out", trials=trials, epochs=epochs), encoding="utf-8")
    return plan


def timed_round(plan: Path, recipes: Sequence[Path], *, sweep_first: bool) -> tuple[float, float]:
    """Train all candidates by hand and by a sweep, in the plan's folder; return the seconds of both."""
    by_hand = [("train", recipe, "--out", plan.parent / recipe.stem) for recipe in recipes]
    if sweep_first:
        swept = seconds_of([("sweep", plan)], 1)
        return seconds_of(by_hand, cores()), swept
    return seconds_of(by_hand, cores()), seconds_of([("sweep", plan)], 1)


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = options.trials, options.epochs
        recipes = draw(write_plan(folder / "drawn", *size), folder)
        rounds = [
            timed_round(write_plan(folder / f"round{number}", *size), recipes, sweep_first=number % 2 == 1)
            for number in range(options.rounds)
        ]
    by_hand, by_sweep = zip(*rounds, strict=True)
    work = f"{options.trials} trials of {options.epochs} epochs, whole commands, rounds: {options.rounds}"
    print(f"{processor_name()}, {cores()} cores, {work}\n")
    print("| | seconds (min to max) | seconds a trial and core | beside by hand (min to max) |")
    print("|---|---:|---:|---:|")
    for command, seconds in (("`kilonet train`, a command a trial", by_hand), ("`kilonet sweep`", by_sweep)):
        middle = statistics.median(seconds)
        more = sorted(100 * (own / other - 1) for own, other in zip(seconds, by_hand, strict=True))
        beside = f"{statistics.median(more):+.1f} % ({more[0]:+.1f} to {more[-1]:+.1f})"
        spread = f"{middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        print(f"| {command} | {spread} | {middle * cores() / options.trials:.1f} | {beside} |")


if __name__ == "__main__":
    main()
