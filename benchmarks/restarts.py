"""The best of several trainings, chosen on held-out images: what the choice gains on the test images.

    python benchmarks/restarts.py RECIPE [--of 4] [--repetitions 6]

Trains the recipe with `of * repetitions` seeds from 0 on, all on the same five sixths of the training images, a process
a core with one thread each. A repetition is a group of consecutive seeds, of which the one with the fewest errors among
the held-out images is chosen, the lower cross-entropy first where they are equal. Its test accuracy is that of a choice
and not of the recipe: the mean over all seeds is printed beside it. The last lines say how well the held-out
images tell early in a training which seed will end well.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from kilonet.data.datasets import load_data
from kilonet.evaluation.scoring import evaluate
from kilonet.evaluation.statistics import mean_and_std
from kilonet.recipe import load_recipe
from kilonet.training.train import fit
from kilonet.utils.capacity import cores
from kilonet.utils.environment import processor_name

EARLY = (0.1, 0.25, 0.5)
"""Shares of a training after which its errors are compared with those at its end."""


@dataclass(frozen=True)
class Training:
    """What one seed came to."""

    seed: int
    held_out: tuple[float, ...]
    """The share of errors among the held-out images after each epoch."""
    loss: float
    """The cross-entropy of the held-out images at the end."""
    test_accuracy: float


def train(name: str, seed: int) -> Training:
    """Train a recipe on all but the held-out images, and score both these and the test images."""
    recipe = load_recipe(name).replace(holdout=True, calibration=None, threads=1, seed=seed)
    data = load_data(recipe.run.data)
    run = fit(recipe, data)
    errors = tuple(1 - epoch.test_accuracy for epoch in run.history)
    return Training(seed, errors, run.history[-1].test_loss, evaluate(run.model, data.test).accuracy)


def chosen(trainings: Sequence[Training], of: int) -> list[Training]:
    """Return the best on the held-out images of each group of `of` consecutive trainings."""
    groups = [trainings[first : first + of] for first in range(0, len(trainings), of)]
    return [min(group, key=lambda one: (one.held_out[-1], one.loss)) for group in groups]


def report(trainings: Sequence[Training], of: int) -> str:
    """Return a table of the trainings and what the choice gains."""
    # Takes half a second or more to import, for tests of what is chosen, too.
    from scipy.stats import spearmanr, ttest_1samp  # noqa: PLC0415

    best = chosen(trainings, of)
    lines = ["| seed | held out | test | chosen |", "|---:|---:|---:|---|"]
    for one in trainings:
        mark = "yes" if one in best else ""
        lines.append(
            f"| {one.seed} | {100 * (1 - one.held_out[-1]):.2f} % | {100 * one.test_accuracy:.2f} % | {mark} |"
        )
    tested, selected = ([100 * one.test_accuracy for one in group] for group in (trainings, best))
    gains = [
        one - mean_and_std(tested[first : first + of])[0]
        for one, first in zip(selected, range(0, len(tested), of), strict=True)
    ]
    lines += [
        "",
        "All seeds: {:.2f} ± {:.2f} % of the test images, n = {}.".format(*mean_and_std(tested), len(tested)),
        "The best of {} by the held-out images: {:.2f} ± {:.2f} %, n = {}, against the mean of its own {}: {:+.2f} ± "
        "{:.2f}, p = {:.2g}.".format(
            of, *mean_and_std(selected), len(selected), of, *mean_and_std(gains), ttest_1samp(gains, 0).pvalue
        ),
    ]
    ends = [one.held_out[-1] for one in trainings]
    epochs = len(trainings[0].held_out)
    for share in EARLY:
        after = max(1, round(share * epochs))
        rho = spearmanr([one.held_out[after - 1] for one in trainings], ends).statistic
        lines.append(
            f"Rank correlation of held-out errors after {after} of {epochs} epochs with those at the end: {rho:.2f}."
        )
    rho = spearmanr(ends, [-share for share in tested]).statistic
    lines.append(f"Of held-out errors at the end with test errors: {rho:.2f}.")
    return "\n".join(lines)


def main() -> None:
    """Train all seeds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--of", type=int, default=4, help="trainings of which one is chosen")
    parser.add_argument("--repetitions", type=int, default=6, help="how often")
    options = parser.parse_args()
    seeds = range(options.of * options.repetitions)
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        trainings = list(pool.map(train, [options.recipe] * len(seeds), seeds))
    epochs = load_recipe(options.recipe).train.epochs
    print(f"{processor_name()}; `{options.recipe}`, {epochs} epochs on five sixths of the training images\n")
    print(report(trainings, options.of))


if __name__ == "__main__":
    main()
