"""Training as the command line does it: run folders with names, several seeds, interruption, and the closing words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kilonet.errors import KilonetError
from kilonet.progress import progress_on
from kilonet.recipe import load_recipe, recipe_name
from kilonet.runs import Run, is_finished, read_result
from kilonet.statistics import mean_and_deviation
from kilonet.train import fit, resume

RUNS = Path("runs")


def train_seeds(source: str, changes: Mapping[str, Any], out: Path | None, seeds: int) -> list[Run]:
    """Train a recipe with one seed or several, each in a run folder of its own.

    Raises:
        KilonetError: the recipe, its changes or the folder will not do.
        KeyboardInterrupt: interrupted; its message says how to go on.
    """
    if not 1 <= seeds <= 1000:
        raise KilonetError(f"--seeds {seeds}: 1 to 1000 can be trained")
    recipe = load_recipe(source, changes)
    first = recipe.run.seed
    progress = progress_on()
    runs = []
    for seed in range(first, first + seeds):
        folder = _run_folder(recipe_name(source), seed, out, seeds)
        progress.message(f"{recipe_name(source)}: {recipe.model.parameters:,} parameters, seed {seed}, in {folder}")
        with _resumable(folder):
            runs.append(fit(recipe.replace(seed=seed), out=folder, progress=progress))
    return runs


def resume_run(folder: Path) -> Run:
    """Go on with a run.

    Raises:
        KilonetError: there is nothing to go on with: no run folder, or a finished run.
        KeyboardInterrupt: interrupted again; its message says how to go on.
    """
    if is_finished(folder):
        result = read_result(folder)
        raise KilonetError(f"{folder} is finished: {100 * result.final.test_accuracy:.2f} %; nothing to resume")
    with _resumable(folder):
        return resume(folder, progress=progress_on())


def _run_folder(name: str, seed: int, out: Path | None, seeds: int) -> Path:
    if out is not None:
        return out if seeds == 1 else out / f"seed{seed}"
    base = RUNS / f"{name}-seed{seed}"
    candidates = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in range(1, 100_000))
    return next(folder for folder in candidates if not folder.exists())


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C into a message that says how to go on: the last whole epoch is on the disk already."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; saved; go on with: kilonet train --resume {folder}") from None


def summary(runs: Sequence[Run]) -> str:
    """Return the closing words of one run or of several."""
    return _one_summary(runs[0]) if len(runs) == 1 else _seeds_summary(runs)


def _one_summary(run: Run) -> str:
    result = run.result
    low, high = result.interval
    share, best = 100 * result.final.test_accuracy, result.best
    images = f"{result.scored_images} {result.scored.lower()} images"
    computed = f"{result.environment.engine} engine, {result.environment.threads} threads"
    lines = [
        f"Final: {share:.2f}% of {images}, 95 % interval {100 * low:.2f} to {100 * high:.2f} %",
        f"Best epoch: {100 * best.test_accuracy:.2f}% (epoch {best.epoch}; picked by looking, no claim)",
        f"Time: {result.seconds:.1f} s of training for {len(run.history)} epochs ({computed})",
        f"Run folder: {run.folder}",
        f"Next: kilonet evaluate {run.folder}",
    ]
    return "\n".join(lines)


def _seeds_summary(runs: Sequence[Run]) -> str:
    results = [run.result for run in runs]
    lines = [f"seed {result.recipe.run.seed}: {100 * result.final.test_accuracy:.2f}%" for result in results]
    mean, deviation = mean_and_deviation([100 * result.final.test_accuracy for result in results])
    spread = "" if math.isnan(deviation) else f" ± {deviation:.3f}"
    images = f"{results[0].scored_images} {results[0].scored.lower()} images"
    seconds = sum(result.seconds for result in results) / len(results)
    lines.append(f"Final epoch: {mean:.3f}{spread} % (mean ± sd, n = {len(runs)}) of {images}; {seconds:.1f} s a run")
    return "\n".join(lines)
