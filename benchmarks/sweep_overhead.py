"""What a trial of a sweep costs beside the same training by hand.

    python benchmarks/sweep_overhead.py [--trials 8] [--epochs 4]

The candidates are drawn and their kernels compiled beforehand. Then `kilonet sweep` trains them all, and after it
`kilonet train` does, a command a candidate, as many side by side as there are cores. Both are timed as whole commands,
from starting Python to its end. Prints a table for docs/results/sweep_overhead.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kilonet.engines import resolve_run
from kilonet.environment import cores, processor_name
from kilonet.progress import Silence
from kilonet.recipe import parse_recipe
from kilonet.sweep.plan import load_plan
from kilonet.sweep.search import Candidates
from kilonet.sweep.trials import Trials

_PLAN = """
recipe = "best"
out = "{out}"
layers = ["conv {{4..8}}", "maxpool 2", "conv {{6..12}}", "conv {{6..12}}", "gap", "mix 10"]
[search]
trials = {trials}
epochs = {epochs}
grace = {epochs}
[budget]
max_parameters = 2000
"""


def draw(plan: Path, folder: Path) -> list[Path]:
    """Draw a sweep's candidates, compile their kernels, and write each as a recipe; returns the recipes' paths."""
    read = load_plan(str(plan))
    trials = Trials(read)
    trials.begin()
    candidates, paths = Candidates(read, trials), []
    for number in range(read.search.trials):
        configuration = candidates.suggest(str(number))
        recipe = parse_recipe(json.loads(configuration["recipe"]), "candidate", {})
        resolve_run(recipe, Silence())
        paths.append(folder / f"{number}.toml")
        paths[-1].write_text(recipe.to_toml(), encoding="utf-8")
    return paths


def seconds_of(commands: Sequence[Sequence[str | Path]], at_once: int) -> float:
    """Return the seconds that kilonet commands take, so many side by side."""

    def run(words: Sequence[str | Path]) -> None:
        subprocess.run([sys.executable, "-m", "kilonet", *map(str, words)], check=True, capture_output=True)

    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, commands))
    return time.perf_counter() - start


def main() -> None:
    """Time both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = folder / "sweep.toml"
        plan.write_text(
            _PLAN.format(out=folder / "out", trials=options.trials, epochs=options.epochs), encoding="utf-8"
        )
        recipes = draw(plan, folder)
        by_sweep = seconds_of([("sweep", plan)], 1)
        by_hand = seconds_of([("train", recipe, "--out", folder / recipe.stem) for recipe in recipes], cores())
    print(f"{processor_name()}, {cores()} cores, {options.trials} trials of {options.epochs} epochs, whole commands\n")
    print("| | seconds | seconds a trial and core | beside by hand |")
    print("|---|---:|---:|---:|")
    for words, seconds in (("`kilonet train`, a command a trial", by_hand), ("`kilonet sweep`", by_sweep)):
        share = seconds * cores() / options.trials
        print(f"| {words} | {seconds:.1f} | {share:.1f} | {100 * (seconds / by_hand - 1):+.1f} % |")


if __name__ == "__main__":
    main()
