"""Several seeds at once: a process a core with one thread each, or one process after another with all threads.

    python benchmarks/side_by_side.py [--rounds 3] [--seeds 4] [--epochs 2]

Both ways train the same seeds by the same command, in turn, and are timed as whole commands; `kilonet train --seeds N`
takes the first way by itself.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time

from kilonet.utils.environment import processor_name
from peak import run


def command_seconds(threads: int, seeds: int, epochs: int) -> float:
    """Train the seeds and return the seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        changes = {"seeds": seeds, "epochs": epochs, "threads": threads, "out": f"{folder}/runs"}
        words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
        start = time.perf_counter()
        run([sys.executable, "-m", "kilonet", "train", "fast", *words])
        return time.perf_counter() - start


def main() -> None:
    """Time both ways in turn and print medians and the median of the rounds' ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    apart, inside = [], []
    for _ in range(options.rounds):
        apart.append(command_seconds(1, options.seeds, options.epochs))
        inside.append(command_seconds(cores, options.seeds, options.epochs))
    ratio = statistics.median(one / other for one, other in zip(inside, apart, strict=True))
    extent = f"{options.rounds} rounds of {options.seeds} seeds, {options.epochs} epochs each"
    print(f"{processor_name()}, {cores} cores, {extent}")
    print(f"- a process a core, one thread each: {statistics.median(apart):.1f} s")
    print(f"- one process after another, {cores} threads: {statistics.median(inside):.1f} s, {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
