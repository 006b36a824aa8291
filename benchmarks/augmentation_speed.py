"""What each random change of the training images costs: the time of an epoch with it beside one without, both engines.

    python benchmarks/augmentation_speed.py [--rounds 7] [--images 2000]

The network and the batch size are those of `photo-8k`; the images are noise, as the time does not depend on what they
show. Every round trains an epoch of each kind, in a random order; its time includes drawing and computing its changes.
Counted is the processor's time of one thread, to which other programs matter little. Printed is the median over the
rounds of the ratio to the same round's epoch without changes.
"""

import argparse
import random
import statistics
import sys
import time
from typing import Any

import torch

from kilonet.data.datasets import Images
from kilonet.engines.contract import Engine
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.network.module import initial_network
from kilonet.recipe import Recipe, load_recipe
from kilonet.training.train import draw_epoch
from kilonet.utils.environment import processor_name

ENGINES = ("native", "torch")
CHANGES: dict[str, dict[str, Any]] = {
    "rotation, scale, shear, shift": {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 2.0},
    "flip": {"flip": True},
    "crop": {"crop": 4},
    "blur": {"blur": 0.5},
    "saturation": {"saturation": 0.3},
    "white_balance": {"white_balance": 0.05},
    "contrast": {"contrast": 0.2},
    "brightness": {"brightness": 0.1},
    "noise": {"noise": 0.05},
    "cutout": {"cutout": 8},
    "mixup": {"mixup": 0.2},
}
NONE, ALL = "none", "all of these"
CASES = {NONE: {}, **CHANGES, ALL: {key: value for keys in CHANGES.values() for key, value in keys.items()}}


def recipe_with(keys: dict[str, Any], engine: str) -> Recipe:
    """Return `photo-8k` with these random changes and no others."""
    recipe = load_recipe("photo-8k").replace(engine=engine, device="cpu", threads=1)
    return resolve_run(recipe.model_copy(update={"augment": type(recipe.augment)(**keys)}), print)


def epoch_seconds(engine: Engine, recipe: Recipe, labels: torch.Tensor) -> float:
    """Train an epoch, its changes drawn anew, and return its seconds of the processor's time."""
    start = time.process_time()
    for step, batch in enumerate(draw_epoch(recipe, labels, 0, engine.device).split(recipe.train.batch_size)):
        engine.train_batch(batch, 0.01, step)
    engine.take_totals()
    return time.process_time() - start


def measure(images: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each round's epochs, by engine and by case."""
    generator = torch.Generator().manual_seed(0)
    recipes = {engine: {name: recipe_with(keys, engine) for name, keys in CASES.items()} for engine in ENGINES}
    model = load_recipe("photo-8k").model
    pixels = torch.randint(256, (images, *model.input_shape), dtype=torch.uint8, generator=generator)
    shown = Images(pixels, torch.randint(model.classes, (images,), generator=generator))
    engines = {
        (engine, name): make_engine(recipe, shown, initial_network(recipe.model, 0))
        for engine, cases in recipes.items()
        for name, recipe in cases.items()
    }
    seconds: dict[str, dict[str, list[float]]] = {engine: {name: [] for name in CASES} for engine in ENGINES}
    # The first round is not counted: memory is touched for the first time.
    for number in range(rounds + 1):
        for (engine, name), trained in random.Random(number).sample(list(engines.items()), len(engines)):
            taken = epoch_seconds(trained, recipes[engine][name], shown.labels)
            seconds[engine][name] += [taken] if number else []
        print(f"round {number} of {rounds}", file=sys.stderr)
    return seconds


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Return the table of the median ratios, with the seconds of an epoch without changes."""

    def cell(engine: str, name: str) -> str:
        plain, changed = seconds[engine][NONE], seconds[engine][name]
        if name == NONE:
            return f"{statistics.median(plain):.2f} s"
        ratios = [one / other for one, other in zip(changed, plain, strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    lines = ["| random change | native engine | torch engine |", "|---|---:|---:|"]
    for name, changes in CASES.items():
        keys = f" ({', '.join('true' if value is True else f'{value:g}' for value in changes.values())})"
        shown = name if name in {NONE, ALL} else f"`{name.replace(', ', '`, `')}`{keys}"
        lines.append(f"| {shown} | {' | '.join(cell(engine, name) for engine in ENGINES)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    seconds = measure(options.images, options.rounds)
    machine = f"{processor_name()}, torch {torch.__version__}, one thread"
    print(f"{machine}; {options.rounds} rounds of {options.images:,} images in colour, 32x32\n")
    print(table(seconds))


if __name__ == "__main__":
    main()
