"""What learning from a teacher costs: epoch seconds of `distilled` without and with `teacher`, and of `teacher` itself.

    python benchmarks/distilling.py [--rounds 5]

Each figure is the median over the rounds of a whole epoch's training part, augmentation included; all cases are
measured in one process, round after round.
"""

import argparse
import os
import statistics

from kilonet.data.datasets import load_data
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.models.model import Model
from kilonet.network.module import initial_network
from kilonet.recipe import load_recipe
from kilonet.utils.environment import processor_name
from scaling import epoch_seconds

CASES = {"`distilled` without a teacher": ("distilled", False), "`distilled`": ("distilled", True)}
CASES["`teacher`"] = ("teacher", False)


def seconds_of(name: str, threads: int, *, taught: bool) -> float:
    """Train an epoch of a recipe by the native engine, from a teacher that knows nothing if it is taught."""
    changes = {"engine": "native", "threads": threads}
    recipe, teacher = (resolve_run(load_recipe(one, changes)) for one in (name, "teacher"))
    model = Model(teacher.model, initial_network(teacher.model, 0).state())
    images = load_data("mnist").train
    engine = make_engine(recipe, images, initial_network(recipe.model, 0), [model] if taught else [])
    return epoch_seconds(engine, recipe, len(images))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[tuple[int, str], list[float]] = {(threads, case): [] for threads in (1, 2) for case in CASES}
    for _ in range(rounds):
        for (threads, case), seconds in found.items():
            name, taught = CASES[case]
            seconds.append(seconds_of(name, threads, taught=taught))
    print(f"{processor_name()}, {os.cpu_count()} cores, {rounds} rounds\n")
    print("| threads | recipe | seconds an epoch (min to max) | against no teacher |")
    print("|---:|---|---:|---:|")
    for (threads, case), seconds in found.items():
        middle, plain = (statistics.median(found[threads, one]) for one in (case, next(iter(CASES))))
        figures = f"{middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {middle / plain:.2f}"
        print(f"| {threads} | {case} | {figures} |")


if __name__ == "__main__":
    main()
