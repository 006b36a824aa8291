"""Starting runs: in run folders named after their recipes, with several seeds side by side, and again after a break."""

import multiprocessing
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

from kilonet.recipe import Recipe, load_recipe, recipe_name
from kilonet.training.progress import LineProgress, Progress, ProgressGroup, progress_on
from kilonet.training.run_folder import EVENTS_FOLDER, Run, is_finished, read_result, read_run, seed_folder
from kilonet.training.train import fit, prepare_teachers, resume
from kilonet.utils.environment import cores
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable

RUNS = Path("runs")
MAXIMUM_SEEDS = 1000


def train_recipe(source: str, changes: Mapping[str, Any], out: Path | None, *, tensorboard: bool = False) -> Run:
    """Train a recipe in a run folder.

    Args:
        source: a packaged recipe or a TOML file.
        changes: keys of the recipe to change, each by its name alone.
        out: the run folder; None for a new one under `RUNS`, named after the recipe and its seed.
        tensorboard: whether to write TensorBoard's event files too.

    Raises:
        KilonetError: the recipe, its changes or the folder cannot be used, or the extra `tensorboard` is missing.
        KeyboardInterrupt: interrupted; its message has the command that resumes the run.
    """
    recipe = load_recipe(source, changes)
    folder = out or _new_folder(f"{recipe_name(source)}-seed{recipe.run.seed}")
    with _resumable([folder]):
        return fit(recipe, out=folder, progress=_with_events(progress_on(), folder, tensorboard=tensorboard))


def train_seeds(
    source: str, changes: Mapping[str, Any], out: Path | None, seeds: int, *, tensorboard: bool = False
) -> list[Run]:
    """Train a recipe with several seeds, from its own seed upwards, side by side on the processor's cores.

    Each seed has a process of its own, with one thread unless the recipe sets their number, so that no process waits
    for another.

    Args:
        source: a packaged recipe or a TOML file.
        changes: keys of the recipe to change, each by its name alone.
        out: the folder of the run folders; None for a new one under `RUNS`.
        seeds: how many.
        tensorboard: whether to write TensorBoard's event files too.

    Raises:
        KilonetError: the recipe, its changes, the number of seeds or the folder cannot be used, or the extra
            `tensorboard` is missing.
        KeyboardInterrupt: interrupted; its message has the commands that resume the runs.
    """
    if not 1 <= seeds <= MAXIMUM_SEEDS:
        raise KilonetError(f"--seeds {seeds}: must be from 1 to {MAXIMUM_SEEDS}")
    recipe = load_recipe(source, changes)
    # The highest seed is checked before anything is made.
    recipe.replace(seed=recipe.run.seed + seeds - 1)
    parent = out or _new_folder(f"{recipe_name(source)}-{seeds}seeds")
    folders = {seed: seed_folder(parent, seed) for seed in range(recipe.run.seed, recipe.run.seed + seeds)}
    threads = recipe.run.threads or 1
    workers = 1 if recipe.run.device == "cuda" else max(1, min(seeds, cores() // threads))
    _prepare_teachers(recipe, parent)
    print(f"{recipe_name(source)}: {seeds} seeds, {workers} at a time, in {printable(parent)}", file=sys.stderr)
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
        command = f"the same command with --out {shlex.quote(str(parent))}"
        raise KeyboardInterrupt(f"interrupted in the teacher's training; saved; go on with {command}") from None


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
        # After an error, seeds that have not begun are not trained; those that are being trained end by themselves.
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when its parent has ended: otherwise a process of the pool would outlive a killed command."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_one(recipe: Recipe, folder: Path, *, tensorboard: bool) -> Path:
    lines = LineProgress(sys.stderr, f"seed {recipe.run.seed}: ")
    fit(recipe, out=folder, progress=_with_events(lines, folder, tensorboard=tensorboard))
    return folder


def _with_events(progress: Progress, folder: Path, *, tensorboard: bool) -> Progress:
    """Return a progress that also writes TensorBoard's event files, if they are wanted."""
    if not tensorboard:
        return progress
    with needed_from("tensorboard", "--tensorboard"):
        from kilonet.training.tensorboard import EventFile  # noqa: PLC0415
    return ProgressGroup(progress, EventFile(folder))


def resume_run(folder: Path, *, tensorboard: bool = False) -> Run:
    """Continue the run in a folder, and its event files if it has any.

    Raises:
        KilonetError: no run folder, or a finished run.
        KeyboardInterrupt: interrupted again; its message has the command that resumes the run.
    """
    if is_finished(folder):
        result = read_result(folder)
        raise KilonetError(f"{folder} is finished: {100 * result.final.test_accuracy:.2f} %; nothing to resume")
    with _resumable([folder]):
        wanted = tensorboard or (folder / EVENTS_FOLDER).is_dir()
        return resume(folder, progress=_with_events(progress_on(), folder, tensorboard=wanted))


def _new_folder(name: str) -> Path:
    """Return a folder under runs/ that does not exist yet."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(RUNS / candidate for candidate in names if not (RUNS / candidate).exists())


@contextmanager
def _resumable(folders: Sequence[Path]) -> Iterator[None]:
    """Give Ctrl-C a message with the commands that resume the runs, whose last whole epochs are on the disk."""
    try:
        yield
    except KeyboardInterrupt:
        begun = [folder for folder in folders if folder.exists() and not is_finished(folder)]
        commands = "; ".join(f"kilonet train --resume {shlex.quote(str(folder))}" for folder in begun)
        raise KeyboardInterrupt(f"interrupted; saved; go on with: {commands}" if begun else "interrupted") from None
