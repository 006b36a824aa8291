"""Class weights and balanced sampling against neither, on little and unbalanced data, in pairs over seeds.

    python benchmarks/class_balance.py DATA [--counts 240:48:12] [--seeds 10] [--classes NAME NAME NAME]
        [--set KEY=VALUE ...]

Each seed takes so many training images of as many classes, both drawn by the seed unless the classes are named, and
trains on them three times with the recipe that `kilonet init` proposes for the first seed's images: with every image
counting the same, with `class_weights = "balanced"`, and with `sampling = "balanced"`. Scored are all test images of
these classes. A difference is to the training of the same seed that does neither, with the p-value of the paired
t-test. Keys of the recipe can be changed. The pictures of DATA must all be of one size.
"""

import argparse
import math
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kilonet.data.datasets import DataSet, Images, load_data
from kilonet.evaluation.scoring import class_counts
from kilonet.evaluation.statistics import mean_and_std
from kilonet.recipe import Recipe
from kilonet.training.proposal import propose
from kilonet.training.train import fit
from kilonet.utils.environment import processor_name
from kilonet.utils.errors import TrainingDiverged

WAYS: dict[str, dict[str, Any]] = {
    "neither": {"class_weights": None, "sampling": "shuffled"},
    '`class_weights = "balanced"`': {"class_weights": "balanced", "sampling": "shuffled"},
    '`sampling = "balanced"`': {"class_weights": None, "sampling": "balanced"},
}


@dataclass(frozen=True)
class Scores:
    """Percentages of a way of training, a number for each seed."""

    balanced: list[float]
    accuracy: list[float]


def draw(data: DataSet, counts: Sequence[int], seed: int, names: Sequence[str] = ()) -> DataSet:
    """Return so many training images of each of some classes, and all test images of these.

    Args:
        data: the images.
        counts: how many training images of each class.
        seed: decides which images, and which classes unless they are named.
        names: of the classes, in the order of the counts.
    """
    random = np.random.RandomState(seed)
    known = data.names or tuple(str(number) for number in range(int(data.train.labels.max()) + 1))
    available = np.bincount(data.train.labels.numpy(), minlength=len(known))
    if names:
        classes = [known.index(name) for name in names]
    else:
        enough = [number for number in random.permutation(len(known)) if available[number] >= counts[0]]
        classes = enough[: len(counts)]
    if len(classes) < len(counts) or any(available[one] < count for one, count in zip(classes, counts, strict=True)):
        raise SystemExit(f"{data.source} has too few images of a class for {':'.join(map(str, counts))}")
    chosen = [
        torch.from_numpy(random.permutation((data.train.labels == label).nonzero().flatten().numpy())[:count])
        for label, count in zip(classes, counts, strict=True)
    ]
    tested = [(data.test.labels == label).nonzero().flatten() for label in classes]
    return DataSet(
        _relabelled(data.train, chosen), _relabelled(data.test, tested), names=tuple(known[one] for one in classes)
    )


def _relabelled(images: Images, by_class: Sequence[torch.Tensor]) -> Images:
    labels = torch.repeat_interleave(torch.arange(len(by_class)), torch.tensor([len(one) for one in by_class]))
    return Images(images.pixels[torch.cat(list(by_class))], labels, images.name)


def proposed_recipe(data: DataSet, changes: dict[str, Any]) -> Recipe:
    """Return the recipe that `kilonet init` proposes for the training images, with some keys changed."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (pixels, label) in enumerate(zip(data.train.pixels.numpy(), data.train.labels, strict=True)):
            file = Path(folder) / (data.names or ())[label] / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(file)
        return propose(folder, changes=changes).recipe.replace(calibration=None, threads=1)


def scores(data: DataSet, counts: Sequence[int], options: argparse.Namespace, recipe: Recipe) -> dict[str, Scores]:
    """Train every way with every seed."""
    found = {way: Scores([], []) for way in WAYS}
    for seed in range(options.seeds):
        images = draw(data, counts, seed, options.classes)
        # After each epoch a run scores its test images, but only the last weights are wanted: it is given one a class.
        few = replace(
            images,
            test=images.test.select(images.test.labels.diff(prepend=torch.tensor([-1])).nonzero().flatten(), "Few"),
        )
        for way, keys in WAYS.items():
            try:
                model = fit(recipe.replace(**keys, seed=seed), few).model
                counted = class_counts(model.logits(images.test.pixels), images.test.labels)
                balanced, accuracy = counted.balanced_accuracy, sum(counted.correct) / len(images.test)
            except TrainingDiverged as error:
                print(f"seed {seed}, {way}: {error}", file=sys.stderr)
                balanced = accuracy = math.nan
            found[way].balanced.append(100 * balanced)
            found[way].accuracy.append(100 * accuracy)
        latest = ", ".join(f"{way} {one.balanced[-1]:.2f} %" for way, one in found.items())
        print(f"seed {seed}, balanced accuracy: {latest}", file=sys.stderr)
    return found


def table(found: dict[str, Scores]) -> str:
    """Return the means with standard deviations, and the differences to doing neither."""
    neither = found["neither"].balanced
    lines = [
        "| | balanced accuracy | accuracy | difference of the balanced | p |",
        "|---|---:|---:|---:|---:|",
    ]
    for way, one in found.items():
        cells = ["{:.2f} ± {:.2f} %".format(*mean_and_std(shares)) for shares in (one.balanced, one.accuracy)]
        if one.balanced is neither:
            cells += ["", ""]
        else:
            differences = np.subtract(one.balanced, neither)
            # Takes half a second or more to import, for tests of what is drawn, too.
            from scipy import stats  # noqa: PLC0415

            p = stats.ttest_rel(one.balanced, neither).pvalue
            cells += [f"{differences.mean():+.2f}, {(differences > 0).sum()} of {len(neither)} above", f"{p:.2g}"]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Draw the images, train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--counts", default="240:48:12")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the recipe, as in TOML")
    options = parser.parse_args()
    counts = [int(count) for count in options.counts.split(":")]
    data = load_data(options.data)
    recipe = proposed_recipe(draw(data, counts, 0, options.classes), tomllib.loads("\n".join(options.set)))
    found = scores(data, counts, options, recipe)
    train, classes = recipe.train, ", ".join(options.classes) or "drawn by the seed"
    changed = f", changed: {', '.join(options.set)}" if options.set else ""
    drawn = f"{options.counts} images of {Path(options.data).name}"
    print(f"{processor_name()}; {drawn}, {options.seeds} seeds, classes {classes}")
    print(f"{recipe.model.parameters:,} parameters, {train.epochs} epochs in batches of {train.batch_size}{changed}\n")
    print(table(found))


if __name__ == "__main__":
    main()
