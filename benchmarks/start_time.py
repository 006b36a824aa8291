"""How long it takes until training begins: from a process's start to the end of its first training step.

    python benchmarks/start_time.py [--rounds 5]

The recipes are `best` and `fast`. Cold is with an empty compile cache, warm with the network's kernels compiled before.
Of a process's time the import of torch is named apart, as it is the same whatever is trained.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time

from kilonet.utils.environment import processor_name

RECIPES = ("best", "fast")
STEP = """
import sys, time
start, imported = float(sys.argv[1]), time.time()
import torch
imported = time.time() - imported
from kilonet.data.augment import Batch, draw_transforms
from kilonet.data.datasets import load_data
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.network.module import initial_network
from kilonet.recipe import load_recipe
recipe = resolve_run(load_recipe(sys.argv[2]).replace(engine="native"))
engine = make_engine(recipe, load_data("mnist").train, initial_network(recipe.model, 0))
size = recipe.train.batch_size
engine.train_batch(Batch(torch.arange(size), draw_transforms(recipe.augment, size, torch.Generator())), 0.1, 0)
print(time.time() - start, imported)
"""


def first_step(cache: str, recipe: str) -> tuple[float, float]:
    """Return the seconds to the end of the first step, and those of importing torch, in a new process."""
    command = [sys.executable, "-c", STEP, str(time.time()), recipe]
    environment = os.environ | {"KILONET_CACHE": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    whole, imported = map(float, done.stdout.split())
    return whole, imported


def main() -> None:
    """Measure cold and warm starts and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    starts: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _, recipe in itertools.product(range(options.rounds), RECIPES):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                starts.setdefault((recipe, state), []).append(first_step(cache, recipe))
    print(f"{processor_name()}, {options.rounds} rounds\n")
    print("| recipe | compile cache | seconds to the end of the first step | of them importing torch | the rest |")
    print("|---|---|---:|---:|---:|")
    for (recipe, state), pairs in starts.items():
        figures = [statistics.median(values) for values in zip(*pairs, strict=True)]
        rest = statistics.median(whole - imported for whole, imported in pairs)
        print(f"| `{recipe}` | {state} | {figures[0]:.2f} | {figures[1]:.2f} | {rest:.2f} |")


if __name__ == "__main__":
    main()
