"""How the native engine's cost grows: epoch seconds against images, batch size, channels and threads.

    python benchmarks/scaling.py [--rounds 3]

Each figure is the median over the rounds of a whole epoch's training part, augmentation included, measured with the
rest of the table in one process, round after round. The plain case is `fast`: 60,000 images, batch 128, channels as
they are, two threads; each block changes one thing.
"""

import argparse
import os
import statistics
import time
from dataclasses import dataclass

import torch

from kilonet.data.augment import Batch, draw_transforms
from kilonet.data.datasets import Images, load_data
from kilonet.engines.contract import Engine
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.network.cost import network_cost
from kilonet.network.module import initial_network
from kilonet.recipe import Recipe, load_recipe
from kilonet.utils.environment import processor_name


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    images: int = 60_000
    batch: int = 128
    widening: int = 1
    threads: int = 2


BLOCKS = {
    "images": [Case(images=count) for count in (15_000, 30_000, 60_000, 120_000, 240_000)],
    "batch": [Case(batch=size) for size in (16, 32, 64, 128, 256, 512, 1024)],
    "widening": [Case(widening=factor) for factor in (1, 2, 4)],
    "threads": [Case(threads=count) for count in (1, 2)],
}


def recipe_of(case: Case) -> Recipe:
    """Return `fast` for the native engine with its hidden channels widened and the case's batch and threads."""
    recipe = load_recipe("fast")
    *hidden, last = recipe.model.layers
    layers = [" ".join([kind, *_widened(words, case.widening)]) for kind, *words in map(str.split, hidden)]
    changes = {"layers": [*layers, last], "max_parameters": 10**6, "batch_size": case.batch, "threads": case.threads}
    return recipe.replace(engine="native", **changes)


def _widened(words: list[str], factor: int) -> list[str]:
    # A pool's number is its size, not its channels, and stands alone at 2.
    return words if words in ([], ["2"]) else [str(int(words[0]) * factor), *words[1:]]


def images_of(case: Case) -> Images:
    """Return as many training images as the case asks for, MNIST's over and over."""
    train = load_data("mnist").train
    return train.select(torch.arange(case.images) % len(train), "Train")


def epoch_seconds(engine: Engine, recipe: Recipe, images: int) -> float:
    """Train one epoch and return its seconds."""
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    transforms = draw_transforms(recipe.augment, images, generator)
    epoch = Batch(torch.randperm(images, generator=generator), transforms)
    for step, batch in enumerate(epoch.split(recipe.train.batch_size)):
        engine.train_batch(batch, 0.01, step)
    engine.take_totals()
    return time.perf_counter() - start


def main() -> None:
    """Measure all blocks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cases = list(dict.fromkeys(case for block in BLOCKS.values() for case in block))
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            recipe, images = resolve_run(recipe_of(case)), images_of(case)
            engine = make_engine(recipe, images, initial_network(recipe.model, 0))
            seconds[case].append(epoch_seconds(engine, recipe, case.images))
    print(f"{processor_name()}, {os.cpu_count()} cores, {options.rounds} rounds\n")
    print("| changed | to | parameters | seconds an epoch | microseconds an image | MMAC an image |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, block in BLOCKS.items():
        for case in block:
            middle = statistics.median(seconds[case])
            cost = network_cost(recipe_of(case).model)
            figures = f"{middle:.2f} | {1e6 * middle / case.images:.1f} | {cost.macs / 1e6:.2f}"
            print(f"| {name} | {getattr(case, name):,} | {cost.parameters:,} | {figures} |")


if __name__ == "__main__":
    main()
