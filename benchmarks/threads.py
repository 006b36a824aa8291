"""Epochs of `best` by the native engine with 1, 2, 4, 8 and 16 threads, alone and beside a busy process.

    python benchmarks/threads.py [--rounds 3] [--epochs 2]

Threads are tried up to the cores that a process may use. Each contender trains in a process of its own, in turns, and
gives the median of its epochs; the table shows medians over the rounds, and ratios to one thread in the same round and
beside the same neighbour. The busy neighbour is a process that counts without end: with it on a machine of two cores,
two threads have the time of one and a half.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

from kilonet.utils.capacity import cores
from kilonet.utils.environment import processor_name
from train_speed import BATCHES, Contender, epoch_seconds

THREADS = (1, 2, 4, 8, 16)
NEIGHBOURS = ("none", "one")


@contextlib.contextmanager
def beside(neighbour: str) -> Iterator[None]:
    """Run a busy process meanwhile, if `neighbour` is `one`."""
    if neighbour == "none":
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    counts = [count for count in THREADS if count <= cores()]
    trained = Contender("best", "best", "native")
    seconds: dict[tuple[str, int], list[float]] = {(one, count): [] for one in NEIGHBOURS for count in counts}
    for _ in range(options.rounds):
        for (neighbour, count), values in seconds.items():
            with beside(neighbour):
                values.append(epoch_seconds(trained, options.epochs, count))
            print(f"{count} threads, busy neighbour: {neighbour}: {values[-1]:.2f} s", file=sys.stderr, flush=True)
    print(f"{processor_name()}, {cores()} cores, {options.rounds} rounds; `best`, batch {BATCHES['best']}\n")
    print("| busy neighbour | threads | seconds an epoch (min to max) | times as fast as one thread |")
    print("|---|---:|---:|---:|")
    for (neighbour, count), values in seconds.items():
        ratio = statistics.median(one / own for one, own in zip(seconds[neighbour, 1], values, strict=True))
        spread = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        print(f"| {neighbour} | {count} | {spread} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
