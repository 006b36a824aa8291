"""Training as the command line does it: run folders with names, several seeds, interruption, and the closing words."""

import math
import multiprocessing
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kilonet.evaluation.statistics import mean_and_std
from kilonet.recipe import Recipe, load_recipe, recipe_name
from kilonet.training.progress import LineProgress, Progress, Together, progress_on
from kilonet.training.run_folder import EVENTS_FOLDER, Result, Run, is_finished, read_result, read_run, seed_folder
from kilonet.training.train import fit, prepare_teachers, resume
from kilonet.utils.environment import cores
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

RUNS = Path("runs")
MAXIMUM_SEEDS = 1000


def train_recipe(source: str, changes: Mapping[str, Any], out: Path | None, *, tensorboard: bool = False) -> Run:
    """Train a recipe in a run folder, with TensorBoard's event files if they are wanted.

    Raises:
        KilonetError: the recipe, its changes or the folder will not do, or the extra `tensorboard` is missing.
        KeyboardInterrupt: interrupted; its message says how to go on.
    """
    recipe = load_recipe(source, changes)
    folder = out or _new_folder(f"{recipe_name(source)}-seed{recipe.run.seed}")
    with _resumable([folder]):
        return fit(recipe, out=folder, progress=_told(progress_on(), folder, tensorboard=tensorboard))


def train_seeds(
    source: str, changes: Mapping[str, Any], out: Path | None, seeds: int, *, tensorboard: bool = False
) -> list[Run]:
    """Train a recipe with several seeds, from the recipe's own upwards, side by side over the processor's cores.

    Each has a process with one thread, unless the recipe says how many: processes never wait for each other.

    Raises:
        KilonetError: the recipe, its changes or the folder will not do.
        KeyboardInterrupt: interrupted; its message says how to go on.
    """
    if not 1 <= seeds <= MAXIMUM_SEEDS:
        raise KilonetError(f"--seeds {seeds}: 1 to {MAXIMUM_SEEDS} can be trained")
    recipe = load_recipe(source, changes)
    recipe.replace(seed=recipe.run.seed + seeds - 1)
    parent = out or _new_folder(f"{recipe_name(source)}-{seeds}seeds")
    folders = {seed: seed_folder(parent, seed) for seed in range(recipe.run.seed, recipe.run.seed + seeds)}
    threads = recipe.run.threads or 1
    workers = 1 if recipe.run.device == "cuda" else max(1, min(seeds, cores() // threads))
    _prepare_teachers(recipe, parent)
    print(f"{recipe_name(source)}: {seeds} seeds, {workers} at a time, in {parent}", file=sys.stderr)
    with _resumable(list(folders.values())):
        recipes = [recipe.replace(seed=seed, threads=threads) for seed in folders]
        return _train_side_by_side(recipes, folders, workers, tensorboard=tensorboard)


def _prepare_teachers(recipe: Recipe, parent: Path) -> None:
    """Train the teachers once for all seeds, with all cores."""
    if not recipe.distill.teacher:
        return
    try:
        prepare_teachers(recipe, parent, progress_on())
    except KeyboardInterrupt:
        way = f"the same command with --out {shlex.quote(str(parent))}"
        raise KeyboardInterrupt(f"interrupted in the teacher's training; saved; go on with {way}") from None


def _train_side_by_side(
    recipes: Sequence[Recipe], folders: Mapping[int, Path], workers: int, *, tensorboard: bool
) -> list[Run]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        runs = [
            pool.submit(_train_one, recipe, folders[recipe.run.seed], tensorboard=tensorboard) for recipe in recipes
        ]
        return [read_run(run.result()) for run in runs]
    finally:
        # After an error, seeds that have not begun never do; those at work end by themselves.
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Watch over the parent from a thread: a process of the pool that is left alone would live on unseen."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_one(recipe: Recipe, folder: Path, *, tensorboard: bool) -> Path:
    """Train one seed, in a process of its own."""
    lines = LineProgress(sys.stderr, f"seed {recipe.run.seed}: ")
    fit(recipe, out=folder, progress=_told(lines, folder, tensorboard=tensorboard))
    return folder


def _told(progress: Progress, folder: Path, *, tensorboard: bool) -> Progress:
    """Add event files to what is told of a run."""
    if not tensorboard:
        return progress
    with needed_from("tensorboard", "--tensorboard"):
        from kilonet.training.tensorboard import EventFile  # noqa: PLC0415
    return Together(progress, EventFile(folder))


def resume_run(folder: Path, *, tensorboard: bool = False) -> Run:
    """Go on with a run, and with its event files if it has some.

    Raises:
        KilonetError: there is nothing to go on with: no run folder, or a finished run.
        KeyboardInterrupt: interrupted again; its message says how to go on.
    """
    if is_finished(folder):
        result = read_result(folder)
        raise KilonetError(f"{folder} is finished: {100 * result.final.test_accuracy:.2f} %; nothing to resume")
    with _resumable([folder]):
        wanted = tensorboard or (folder / EVENTS_FOLDER).is_dir()
        return resume(folder, progress=_told(progress_on(), folder, tensorboard=wanted))


def _new_folder(name: str) -> Path:
    """Return a folder under runs/ that does not exist yet."""
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, 100_000))
    return next(RUNS / candidate for candidate in names if not (RUNS / candidate).exists())


@contextmanager
def _resumable(folders: Sequence[Path]) -> Iterator[None]:
    """Turn Ctrl-C into a message that says how to go on: the last whole epoch is on the disk already."""
    try:
        yield
    except KeyboardInterrupt:
        begun = [folder for folder in folders if folder.exists() and not is_finished(folder)]
        ways = "; ".join(f"kilonet train --resume {shlex.quote(str(folder))}" for folder in begun)
        raise KeyboardInterrupt(f"interrupted; saved; go on with: {ways}" if begun else "interrupted") from None


def summary(run: Run) -> str:
    """Return the closing words of a run."""
    result = run.result
    low, high = result.interval
    share, best = 100 * result.final.test_accuracy, result.best
    images = f"{result.scored_images} {result.scored.lower()} images"
    computed = f"{result.environment.engine} engine, {result.environment.threads} threads"
    lines = [
        f"Final: {share:.2f}% of {images}, 95 % interval {100 * low:.2f} to {100 * high:.2f} %",
        f"Best epoch: {100 * best.test_accuracy:.2f}% (epoch {best.epoch}; picked by looking, no claim)",
        f"Time: {result.seconds:.1f} s of training for {len(run.history)} epochs ({computed})",
        *_teacher_lines(result),
        f"Run folder: {run.folder}",
        f"Next: kilonet evaluate {shlex.quote(str(run.folder))}",
    ]
    return "\n".join(lines)


def _teacher_lines(result: Result) -> list[str]:
    """Say what a run learnt from, a line each."""
    lines = []
    for teacher in result.teachers:
        took = (
            "" if teacher.seconds is None else f"; {teacher.seconds:.1f} s of training, not counted in the other times"
        )
        images = f"{teacher.scored_images} {teacher.scored.lower()} images"
        lines.append(f"Teacher: {100 * teacher.accuracy:.2f}% of {images}, {teacher.parameters:,} parameters{took}")
    return lines


def seeds_summary(runs: Sequence[Run]) -> str:
    """Return the closing words of several seeds: each one's figure, mean and standard deviation."""
    results = [run.result for run in runs]
    lines = [f"seed {result.recipe.run.seed}: {100 * result.final.test_accuracy:.2f}%" for result in results]
    mean, deviation = mean_and_std([100 * result.final.test_accuracy for result in results])
    spread = "" if math.isnan(deviation) else f" ± {deviation:.3f}"
    lines += _teacher_lines(results[0])
    images = f"{results[0].scored_images} {results[0].scored.lower()} images"
    seconds = sum(result.seconds for result in results) / len(results)
    lines.append(f"Final epoch: {mean:.3f}{spread} % (mean ± sd, n = {len(runs)}) of {images}; {seconds:.1f} s a run")
    return "\n".join(lines)
