"""Ideas that might make a network of its size more accurate, against its recipe as it is, in pairs over seeds.

    python benchmarks/ideas.py RECIPE IDEA [IDEA ...] [--seeds 6] [--epochs N] [--judge best]

Every seed trains the recipe and then with each idea, on five sixths of the training images; scored are the others. Each
core trains one seed at a time with one thread. A difference is to the recipe's own training with the same seed and by
the same engine, with the p-value of the paired t-test. The ideas:

- `mixup`: images are mixed with one another by shares from Beta(0.2, 0.2), less and less often;
- `unaveraged`, `longer-average`: the last weights themselves, or a moving average over four times as many steps;
- `expanded`: every pointwise layer is the product of two with four times as many channels between, which make one
  pointwise layer afterwards (S. Guo and others, "ExpandNets", 2018);
- `branches`: every other convolution is the sum of four of its kind, of a 1x1 convolution and, where it has the same
  shape, of its input, each with a factor for every channel; they make one convolution afterwards (A. Kundu and others,
  "RepCNN", 2024, arXiv 2406.02652; without the branches' batch norms, as no bias stands before the ReLU here);
- `augmented`: the network is also trained as part of one with three times as many channels, whose loss is added (H. Cai
  and others, "Network augmentation for tiny deep learning", 2022, arXiv 2110.08890; with one width);
- `dropped`, `relabelled`: images whose label has a probability under 1 % by a network of the recipe `--judge` that was
  not trained on them, one of four, are left out or have the class that this network gives them;
- `four-bit`: the trained weights are trained for a third of the epochs more while they are rounded to 4 bits, -7 to 7
  times a step of each output channel's own, with the straight-through estimator (B. Jacob and others, "Quantization and
  training of neural networks for efficient integer-arithmetic-only inference", 2018); activations stay floats.

`branches`, `augmented` and `four-bit` are trained by the torch engine, and the recipe beside them too.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from idea_networks import engine_of, expanded
from kilonet.data.datasets import DataSet, Images, load_data
from kilonet.evaluation.statistics import mean_and_std
from kilonet.models.model import Model
from kilonet.recipe import Recipe, load_recipe
from kilonet.training.train import fit
from kilonet.utils.capacity import cores
from kilonet.utils.environment import processor_name

KEYS: Mapping[str, Callable[[Recipe], Recipe]] = {
    "mixup": lambda recipe: recipe.replace(mixup=0.2),
    "unaveraged": lambda recipe: recipe.replace(ema=0.0),
    "longer-average": lambda recipe: recipe.replace(ema=1 - (1 - recipe.train.ema) / 4),
    "expanded": lambda recipe: recipe.replace(layers=expanded(recipe.model.layers), max_parameters=None),
}
"""Ideas that change the recipe's keys."""
LABELS = ("dropped", "relabelled")
"""Ideas that change the training images."""
BY_TORCH = ("branches", "augmented", "four-bit")
"""Ideas that change how a network is trained."""
FOLDS = 4
DOUBTED = 0.01
"""The probability of its label under which an image is doubted."""


@dataclass(frozen=True)
class Doubts:
    """The training images whose labels are doubted."""

    places: Tensor
    """int64 (N,), in their order."""
    classes: Tensor
    """What a network that was not trained on them calls them, int64 (N,)."""


@dataclass(frozen=True)
class Score:
    """What a training came to among the images held out."""

    errors: int
    loss: float
    seconds: float


def prepared(name: str, epochs: int | None = None) -> tuple[Recipe, DataSet]:
    """Return a recipe for one thread, and its images without those of the test."""
    recipe = load_recipe(name).replace(calibration=None, threads=1)
    if epochs is not None:
        recipe = recipe.replace(epochs=epochs)
    return recipe, load_data(recipe.run.data).hold_out()


def judged(judge: str, fold: int) -> Tensor:
    """Return the probabilities, (N, classes), of every fourth training image by a network trained on the others."""
    recipe, data = prepared(judge)
    inside = torch.arange(len(data.train)) % FOLDS == fold
    judges = replace(data, train=data.train.select((~inside).nonzero().flatten(), "Training"))
    run = fit(recipe, judges)
    return run.model.logits(data.train.pixels[inside]).softmax(1)


def doubts(judge: str, labels: Tensor, pool: Executor) -> Doubts:
    """Return the training images whose label has a small probability by networks that were not trained on them."""
    parts = list(pool.map(judged, [judge] * FOLDS, range(FOLDS)))
    probabilities = torch.empty(len(labels), parts[0].shape[1])
    for fold, part in enumerate(parts):
        probabilities[fold::FOLDS] = part
    places = (probabilities.gather(1, labels[:, None]).flatten() < DOUBTED).nonzero().flatten()
    return Doubts(places, probabilities[places].argmax(1))


def mended(images: Images, found: Doubts, idea: str) -> Images:
    """Return training images without the doubted ones, or with other labels for these."""
    labels = images.labels.clone()
    labels[found.places] = found.classes
    relabelled = Images(images.pixels, labels, images.name)
    if idea == "relabelled":
        return relabelled
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[found.places] = False
    return images.select(kept.nonzero().flatten(), images.name)


def trained(recipe: Recipe, data: DataSet, start: Model | None = None, idea: str | None = None) -> tuple[Score, Model]:
    """Train, with a network of an idea's if there is one."""
    begun = time.perf_counter()
    if idea is None:
        run = fit(recipe, data, start=start)
    else:
        with patch("kilonet.training.train.make_engine", partial(engine_of, idea)):
            run = fit(recipe, data, start=start)
    last = run.history[-1]
    errors = round((1 - last.test_accuracy) * len(data.test))
    return Score(errors, last.test_loss, time.perf_counter() - begun), run.model


def seed_scores(
    name: str, ideas: Sequence[str], epochs: int | None, found: Doubts | None, seed: int
) -> dict[str, Score]:
    """Train the recipe and every idea with one seed; the recipe's scores are under its engines' names."""
    recipe, data = prepared(name, epochs)
    recipe = recipe.replace(seed=seed)
    native, by_torch = (recipe.replace(engine=engine) for engine in ("native", "torch"))
    scores, models = dict[str, Score](), dict[str, Model]()
    if any(idea not in BY_TORCH for idea in ideas):
        scores["native"], _ = trained(native, data)
    if any(idea in BY_TORCH for idea in ideas):
        scores["torch"], models["torch"] = trained(by_torch, data)
    for idea in ideas:
        if idea in KEYS:
            scores[idea], _ = trained(KEYS[idea](native), data)
        elif idea in LABELS and found is not None:
            changed = replace(data, train=mended(data.train, found, idea))
            scores[idea], _ = trained(native, changed)
        elif idea == "four-bit":
            more = by_torch.replace(
                epochs=max(1, recipe.train.epochs // 3), learning_rate=recipe.train.learning_rate / 10
            )
            after, _ = trained(more, data, models["torch"], idea)
            scores[idea] = replace(after, seconds=scores["torch"].seconds + after.seconds)
        else:
            scores[idea], _ = trained(by_torch, data, None, idea)
    return scores


def table(scores: Sequence[Mapping[str, Score]], ideas: Sequence[str]) -> str:
    """Return the means with standard deviations, and the differences to the recipe as it is."""
    # Takes half a second or more to import, for tests of the ideas, too.
    from scipy import stats  # noqa: PLC0415

    lines = [
        "| | errors | cross-entropy | more errors than the recipe | p | time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for way in [name for name in ("native", "torch") if name in scores[0]] + list(ideas):
        errors = [one[way].errors for one in scores]
        losses = [one[way].loss for one in scores]
        cells = ["{:.1f} ± {:.1f}".format(*mean_and_std(errors)), f"{np.mean(losses):.4f}"]
        if way not in ideas:
            lines.append(f"| the recipe, {way} engine | {' | '.join(cells)} | | | |")
            continue
        base = "torch" if way in BY_TORCH else "native"
        differences = np.array([one[way].errors - one[base].errors for one in scores])
        ratio = np.median([one[way].seconds / one[base].seconds for one in scores])
        p = stats.ttest_rel(errors, [one[base].errors for one in scores]).pvalue
        more = f"{differences.mean():+.1f}, fewer in {(differences < 0).sum()} of {len(scores)}"
        lines.append(f"| `{way}` | {' | '.join(cells)} | {more} | {p:.2g} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("ideas", nargs="+", choices=[*KEYS, *LABELS, *BY_TORCH], metavar="IDEA")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, help="as many as the recipe has by default")
    parser.add_argument("--judge", default="best", help="the recipe by which labels are doubted")
    options = parser.parse_args()
    recipe, data = prepared(options.recipe, options.epochs)
    print(f"{processor_name()}; `{options.recipe}`, {recipe.train.epochs} epochs, {options.seeds} seeds", end="; ")
    print(f"of {len(data.test):,} images held out\n", flush=True)
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        found = None
        if any(idea in LABELS for idea in options.ideas):
            found = doubts(options.judge, data.train.labels, pool)
            print(f"Doubted: {len(found.places)} of {len(data.train):,} training images.\n", flush=True)
        train = partial(seed_scores, options.recipe, options.ideas, options.epochs, found)
        print(table(list(pool.map(train, range(options.seeds))), options.ideas))


if __name__ == "__main__":
    main()
