"""Starting runs: in run folders named after their recipes, with several seeds side by side, and again after a break."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from kilonet.data.listing import PACKAGED
from kilonet.data.notices import be_quiet
from kilonet.engines.selection import resolve_device
from kilonet.recipe import Recipe, load_recipe, recipe_name
from kilonet.training.distillation import TEACHER
from kilonet.training.identity import recipe_differences
from kilonet.training.progress import LineProgress, Progress, ProgressGroup, progress_on
from kilonet.training.proposal import data_name
from kilonet.training.run_data import divided, load_run_data
from kilonet.training.run_folder import (
    EVENTS_FOLDER,
    RECIPE_FILE,
    Run,
    is_finished,
    lock_folder,
    read_result,
    read_run,
    seed_folder,
)
from kilonet.training.train import fit, prepare_teachers, resume
from kilonet.utils.capacity import cores
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable, shell_word

RUNS = Path("runs")
MAXIMUM_SEEDS = 1000
START_METHOD = "spawn"
"""How the processes of seeds are started: a fork would copy the threads' locks of this process."""


def train_recipe(
    source: str | Recipe, changes: Mapping[str, Any], out: Path | None, *, tensorboard: bool = False
) -> Run:
    """Train a recipe in a run folder, or go on with its run there that was interrupted or killed.

    Args:
        source: a packaged recipe, a TOML file, or a proposed recipe, which is named after its data.
        changes: keys of the recipe to change, each by its name alone.
        out: the run folder; None for one under `RUNS`, named after the recipe and its seed: the last one, if its run
            is an unfinished one of the same recipe, or else a new one.
        tensorboard: whether to write TensorBoard's event files too.

    Raises:
        KilonetError: the recipe, its changes or the folder cannot be used, the folder holds the run of another recipe
            or a finished run, or the extra `tensorboard` is missing.
        KeyboardInterrupt: interrupted; its message has the command that resumes the run.
    """
    name, recipe = _named(source, changes)
    folder = out or _default_folder(f"{name}-seed{recipe.run.seed}", [recipe], lambda path, _: path)
    with _resumable(folder):
        return _begin_or_go_on(recipe, folder, progress_on(), tensorboard=tensorboard)


def _named(source: str | Recipe, changes: Mapping[str, Any]) -> tuple[str, Recipe]:
    """Return the short name of a recipe, and the recipe with some keys changed."""
    if isinstance(source, Recipe):
        return data_name(source.run.data), source.replace(**changes) if changes else source
    return recipe_name(source), load_recipe(source, changes)


def _begin_or_go_on(recipe: Recipe, folder: Path, progress: Progress, *, tensorboard: bool) -> Run:
    """Train a recipe in a new folder, or go on with the unfinished run of the same recipe in it."""
    if is_finished(folder):
        accuracy = 100 * read_result(folder).final.test_accuracy
        raise KilonetError(f"{folder} holds a finished run ({accuracy:.2f} %); choose another --out")
    if not (folder / RECIPE_FILE).is_file():
        return fit(recipe, out=folder, progress=_with_events(progress, folder, tensorboard=tensorboard))
    _check_same_recipe(recipe, folder)
    progress.message(f"going on with the unfinished run in {folder}")
    return _go_on(folder, progress, tensorboard=tensorboard)


def _go_on(folder: Path, progress: Progress, *, tensorboard: bool) -> Run:
    """Resume a run, with event files if they are wanted or were when it was begun."""
    wanted = tensorboard or (folder / EVENTS_FOLDER).is_dir()
    return resume(folder, progress=_with_events(progress, folder, tensorboard=wanted))


def _check_same_recipe(recipe: Recipe, folder: Path) -> None:
    if different := recipe_differences(recipe, load_recipe(str(folder / RECIPE_FILE))):
        resume = "" if is_finished(folder) else f", or continue it with: kilonet train --resume {shell_word(folder)}"
        raise KilonetError(
            f"{folder} holds the run of another recipe: {'; '.join(different)}; choose another --out{resume}"
        )


def train_seeds(
    source: str | Recipe, changes: Mapping[str, Any], out: Path | None, seeds: int, *, tensorboard: bool = False
) -> list[Run]:
    """Train a recipe with several seeds, from its own seed upwards, side by side on the processor's cores.

    What an interrupted or killed call left goes on: finished seeds are kept, and those that had begun are resumed.
    Each seed has a process of its own, with one thread unless the recipe sets their number, so that no process waits
    for another.

    Args:
        source: a packaged recipe, a TOML file, or a proposed recipe, which is named after its data.
        changes: keys of the recipe to change, each by its name alone.
        out: the folder of the run folders; None for one under `RUNS`, which is the last one if it holds an unfinished
            run of the same recipe and number of seeds, or else a new one.
        seeds: how many.
        tensorboard: whether to write TensorBoard's event files too.

    Raises:
        KilonetError: the recipe, its changes, the number of seeds or the folder cannot be used, the folder holds runs
            of another recipe or other data, the extra `tensorboard` is missing, or the process of a seed was killed.
        KeyboardInterrupt: interrupted; its message says how to go on.
    """
    if not 1 <= seeds <= MAXIMUM_SEEDS:
        raise KilonetError(f"--seeds {seeds}: must be from 1 to {MAXIMUM_SEEDS}")
    name, recipe = _named(source, changes)
    # The highest seed is checked before anything is made.
    recipe.replace(seed=recipe.run.seed + seeds - 1)
    threads = recipe.run.threads or 1
    recipes = [recipe.replace(seed=recipe.run.seed + number, threads=threads) for number in range(seeds)]
    parent = out or _default_folder(f"{name}-{seeds}seeds", recipes, seed_folder)
    folders = [seed_folder(parent, recipe.run.seed) for recipe in recipes]
    for one, folder in zip(recipes, folders, strict=True):
        if (folder / RECIPE_FILE).is_file():
            _check_same_recipe(one, folder)
    waiting = {folder: one for one, folder in zip(recipes, folders, strict=True) if not is_finished(folder)}
    _check_same_images(recipe, [folder for folder in folders if folder not in waiting])
    if waiting:
        if recipe.run.data not in PACKAGED:
            # The processes of the seeds then find its pictures in the cache, and need not each report on it.
            load_run_data(recipe)
        # One GPU has room for one process.
        workers = max(1, min(len(waiting), cores() // threads)) if resolve_device(recipe.run) == "cpu" else 1
        _prepare_teachers(recipe, parent)
        kept = f", {seeds - len(waiting)} of them finished before" if len(waiting) < seeds else ""
        print(f"{printable(name)}: {seeds} seeds{kept}, {workers} at a time, in {printable(parent)}", file=sys.stderr)
        try:
            _train_side_by_side(waiting, workers, tensorboard=tensorboard)
        except KeyboardInterrupt:
            begun = any((folder / RECIPE_FILE).is_file() for folder in folders)
            raise KeyboardInterrupt(f"interrupted{'; saved' * begun}; the same command goes on") from None
    return [read_run(folder) for folder in folders]


def _check_same_images(recipe: Recipe, finished: Sequence[Path]) -> None:
    """Check that finished seeds, which are kept, were trained on the images that the others will be trained on."""
    images = divided(load_run_data(recipe), recipe.run).fingerprint() if finished else ""
    for folder in finished:
        if read_result(folder).data_sha256 != images:
            raise KilonetError(
                f"{folder} was trained on other images than {recipe.run.data} has now; choose another --out"
            )


def _prepare_teachers(recipe: Recipe, parent: Path) -> None:
    """Train the teachers once for all seeds, with all cores."""
    if not recipe.distill.teacher:
        return
    try:
        prepare_teachers(recipe, parent, progress_on())
    except KeyboardInterrupt:
        command = f"the same command with --out {shell_word(parent)}"
        raise KeyboardInterrupt(f"interrupted in the teacher's training; saved; go on with {command}") from None


def _train_side_by_side(recipes: Mapping[Path, Recipe], workers: int, *, tensorboard: bool) -> None:
    """Train recipes in their folders, so many at a time.

    Every worker is a pool of one process, so that it is known which seed a process was training when it was killed.
    """
    context = multiprocessing.get_context(START_METHOD)
    free = [ProcessPoolExecutor(1, context, _begin_worker) for _ in range(workers)]
    pools, waiting = list(free), list(recipes.items())[::-1]
    running: dict[Future[None], tuple[ProcessPoolExecutor, int]] = {}
    others = multiprocessing.active_children()
    try:
        while waiting or running:
            while waiting and free:
                folder, recipe = waiting.pop()
                pool = free.pop()
                with _interrupts_blocked():
                    future = pool.submit(_train_one, recipe, folder, tensorboard=tensorboard)
                running[future] = pool, recipe.run.seed
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                pool, seed = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool:
                    raise KilonetError(
                        f"the process that trained seed {seed} was killed, perhaps for want of memory; "
                        "the same command goes on"
                    ) from None
                free.append(pool)
    except KeyboardInterrupt:
        # One that started after Ctrl-C was pressed has no signal of it, and would train to its end.
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        # After an error, seeds that have not begun are not trained; those that are being trained end by themselves.
        for pool in pools:
            pool.shutdown()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from this thread, and from a process that it starts until `_begin_worker`.

    That process would otherwise print where it stood, among others in the import of torch, which takes a second.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows has no masks of signals.
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Let Ctrl-C end this process, quietly if it was pressed meanwhile, and end it when its parent has ended."""
    _end_with_parent()
    if hasattr(signal, "pthread_sigmask"):
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        except KeyboardInterrupt:
            os._exit(1)


def _end_with_parent() -> None:
    """End this process when its parent has ended: otherwise a process of the pool would outlive a killed command."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_one(recipe: Recipe, folder: Path, *, tensorboard: bool) -> None:
    be_quiet()
    _begin_or_go_on(recipe, folder, LineProgress(sys.stderr, f"seed {recipe.run.seed}: "), tensorboard=tensorboard)


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
    with _resumable(folder):
        return _go_on(folder, progress_on(), tensorboard=tensorboard)


def _default_folder(name: str, recipes: Sequence[Recipe], place: Callable[[Path, int], Path]) -> Path:
    """Return the last folder of a name under runs/ if recipes can go on in it, or else one that does not exist yet.

    Args:
        name: the folder's name, to which a number is added from the second one on.
        recipes: one for each run.
        place: gives the run folder for such a folder and a seed.
    """
    last, new = None, RUNS / name
    for number in count(2):
        if not new.exists():
            break
        last, new = new, RUNS / f"{name}-{number}"
    if last is None or not _can_go_on(last, [(recipe, place(last, recipe.run.seed)) for recipe in recipes]):
        return new
    return last


def _can_go_on(parent: Path, runs: Sequence[tuple[Recipe, Path]]) -> bool:
    """Return whether a folder holds runs of the recipes, at least one of them unfinished and none in use."""
    begun = [(recipe, folder) for recipe, folder in runs if (folder / RECIPE_FILE).is_file()]
    shared_teachers = [folder for folder in parent.glob(f"{TEACHER}-*") if folder.is_dir()]
    if (not begun and not shared_teachers) or all(is_finished(folder) for _, folder in runs):
        return False
    try:
        for folder in [*(folder for _, folder in begun), *shared_teachers]:
            lock_folder(folder).release()
        return not any(recipe_differences(recipe, load_recipe(str(folder / RECIPE_FILE))) for recipe, folder in begun)
    except KilonetError:
        # A run that another process trains, or a damaged recipe.
        return False


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Give Ctrl-C a message with the command that resumes the run, whose last whole epoch is on the disk."""
    try:
        yield
    except KeyboardInterrupt:
        begun = folder.exists() and not is_finished(folder)
        command = f"kilonet train --resume {shell_word(folder)}"
        raise KeyboardInterrupt(f"interrupted; saved; go on with: {command}" if begun else "interrupted") from None
