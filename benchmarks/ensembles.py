"""How accurate several trained networks are together, as the teachers of a smaller one.

    python benchmarks/ensembles.py RUN RUN ... [--test]

Each run is scored alone, then with those before it, their probabilities averaged, as those of several teachers are. The
images are those that the runs were scored on, the same for all: with `--holdout` in the training, those held out;
`--test` takes the test images instead. Seconds are of the training alone, as its run states them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import correct_predictions
from kilonet.training.run_folder import Run, read_run
from kilonet.training.train import prepare_data
from kilonet.utils.environment import processor_name
from kilonet.utils.errors import KilonetError


@dataclass(frozen=True)
class Score:
    """The figures of probabilities on labelled images."""

    errors: int
    loss: float
    """Mean cross-entropy in nats."""


def probabilities_of(run: Run, images: Images) -> Tensor:
    """Return the probabilities of a run's network, float32 (N, classes)."""
    return run.model.logits(images.pixels).softmax(1)


def score(probabilities: Tensor, labels: Tensor) -> Score:
    """Return the figures of probabilities, float32 (N, classes), for labels, int64 (N,)."""
    errors = len(labels) - int(correct_predictions(probabilities, labels).sum())
    return Score(errors, float(functional.nll_loss(probabilities.clamp_min(1e-30).log(), labels)))


def together(probabilities: Sequence[Tensor], labels: Tensor) -> list[Score]:
    """Return the figures of the first, of the mean of the first two, and so on."""
    sums = torch.stack(list(probabilities)).cumsum(0)
    return [score(total / number, labels) for number, total in enumerate(sums, 1)]


def scored_images(runs: Sequence[Run], *, test: bool) -> Images:
    """Return the images that all runs were scored on, or the test images of their data.

    Raises:
        KilonetError: the runs were not trained on the same data with the same images held out.
    """
    kept = {(run.result.recipe.run.data, run.result.recipe.run.holdout) for run in runs}
    if len(kept) > 1:
        told = ", ".join(f"{data} with --holdout" if holdout else data for data, holdout in sorted(kept))
        raise KilonetError(f"the runs were not trained on the same images: {told}")
    recipe = runs[0].result.recipe
    return prepare_data(recipe.replace(holdout=False) if test else recipe).test


def report(runs: Sequence[Run], images: Images) -> str:
    """Return a table of the runs, each alone and with those before it."""
    probabilities = [probabilities_of(run, images) for run in runs]
    labels = images.labels
    lines = [
        "| run | parameters | errors | cross-entropy | seconds | errors with those above | cross-entropy |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run, own, mean in zip(runs, probabilities, together(probabilities, labels), strict=True):
        alone, result = score(own, labels), run.result
        name = run.folder.name if run.folder else ""
        lines.append(
            f"| {name} | {result.parameters:,} | {alone.errors} | {alone.loss:.4f} | {result.seconds:.0f} | "
            f"{mean.errors} | {mean.loss:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Score the runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", type=Path)
    parser.add_argument("--test", action="store_true", help="score the test images")
    options = parser.parse_args()
    try:
        runs = [read_run(path) for path in options.run]
        images = scored_images(runs, test=options.test)
    except KilonetError as error:
        raise SystemExit(str(error)) from None
    print(f"{processor_name()}; {len(images):,} {images.name.lower()} images\n")
    print(report(runs, images))


if __name__ == "__main__":
    main()
