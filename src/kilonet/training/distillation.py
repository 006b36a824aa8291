"""The teachers of a run that distils: trained first, found, or loaded, and kept in its folder.

    RUN/teacher          what `kilonet.load` reads: a run folder like any other, or a model file alone
    RUN/teacher-1 ...    the same where there are several
    SEEDS/teacher-HASH   the run of a teacher that the seeds beside it share, each of which keeps a copy

A teacher is trained on what its student is trained on, and on nothing else: data, holdout, engine and device are the
student's, everything else its own recipe's.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from kilonet.data.datasets import DataSet, Images
from kilonet.engines.native import library_name
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import MODEL_FILE, Model, load_model, packaged_models
from kilonet.network.section import ModelSection
from kilonet.recipe import DistillSection, Recipe, load_recipe, names_a_recipe
from kilonet.training.progress import Progress
from kilonet.training.run_folder import (
    METRICS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    Result,
    Run,
    TeacherResult,
    is_finished,
    read_result,
)
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import make_folder, write_atomically

_NAME = "teacher"

TrainTeacher = Callable[[Recipe, Path | None], Run]
"""Trains a resolved recipe, or goes on with it, in a folder or without one."""


@dataclass(frozen=True)
class FoundModel:
    """A model that is there already."""

    model: Model
    run: Path | None
    """The run folder that it came with, if it did."""


Wanted = Recipe | FoundModel
"""A teacher that a recipe asks for, checked: a resolved recipe to train, or a model."""


@dataclass(frozen=True)
class Teacher:
    """A teacher at hand."""

    model: Model
    result: TeacherResult


def wanted_teachers(recipe: Recipe, progress: Progress) -> list[Wanted]:
    """Find out what the teachers of a resolved recipe are, without training any.

    Raises:
        KilonetError: nothing there, another input or other classes than the student's, one that distils itself, or one
            that has seen the images that are held out.
    """
    wanted: list[Wanted] = []
    for source in recipe.distill.teacher:
        wanted += _recipes(source, recipe) if names_a_recipe(source) else [_model(source, recipe, progress)]
    return wanted


def _recipes(source: str, student: Recipe) -> list[Recipe]:
    own = load_recipe(source, student.run.model_dump(exclude={"seed"}))
    if own.distill.teacher:
        raise KilonetError(
            f"the teacher {source} has a teacher itself; train it, and name its run folder as the teacher"
        )
    _check_fit(source, own.model, student.model)
    return [own.replace(seed=own.run.seed + number) for number in range(student.distill.teachers)]


def _model(source: str, student: Recipe, progress: Progress) -> FoundModel:
    if source not in packaged_models() and not Path(source).exists():
        raise KilonetError(f"no teacher '{source}': neither a recipe nor a run folder or a model file")
    model = load_model(source)
    _check_fit(source, model.section, student.model)
    found = FoundModel(model, _run_of(source, model))
    if student.run.holdout:
        _check_holdout(source, found, student, progress)
    return found


def _run_of(source: str, model: Model) -> Path | None:
    """Return the run folder that a model is named by or lies in, if it is still the one of that run."""
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    return folder if is_finished(folder) and read_result(folder).model_sha256 == model.sha256 else None


def _check_fit(source: str, teacher: ModelSection, student: ModelSection) -> None:
    found, expected = ((section.input_shape, section.classes) for section in (teacher, student))
    if found != expected:
        raise KilonetError(
            f"the teacher {source} takes {found[0]} and tells {found[1]} classes apart, "
            f"but the network takes {expected[0]} and tells {expected[1]}"
        )
    if not teacher.parameters:
        raise KilonetError(f"the teacher {source} has no weights, so there is nothing to learn from it")


def _check_holdout(source: str, found: FoundModel, student: Recipe, progress: Progress) -> None:
    trained = read_result(found.run).recipe.run if found.run else None
    packaged = found.model.sha256 in (load_model(name).sha256 for name in packaged_models())
    if packaged or (trained and (trained.data, trained.holdout) != (student.run.data, True)):
        raise KilonetError(f"the teacher {source} has seen the images held out; name a recipe, or a run with --holdout")
    if trained is None:
        progress.message(f"whether the teacher {source} has seen the images held out cannot be told from its file")


def gather_teachers(
    wanted: Sequence[Wanted], data: DataSet, train: TrainTeacher, progress: Progress, folder: Path | None
) -> list[Teacher]:
    """Have every teacher at hand, in the run's folder if it has one.

    Args:
        wanted: the teachers of the student's recipe.
        data: what the student is trained on and scored by, after holding out.
        train: trains the recipes that are neither there nor found.
        progress: is told where a teacher was found.
        folder: the run's.
    """
    if folder is None:
        return [_at_hand(one, data, train) for one in wanted]
    places = _places(len(wanted), folder)
    for one, place in zip(wanted, places, strict=True):
        if not _is_ready(place):
            _settle(one, data, place, train, progress)
    return [_kept(place, data) for place in places]


def kept_teachers(distill: DistillSection, folder: Path, data: DataSet) -> list[Teacher]:
    """Load the teachers that a run has gathered, whatever has become of where they came from.

    Raises:
        KilonetError: one is missing or damaged.
    """
    count = sum(distill.teachers if names_a_recipe(source) else 1 for source in distill.teacher)
    return [_kept(place, data) for place in _places(count, folder)]


def train_shared(wanted: Sequence[Wanted], data: DataSet, parent: Path, train: TrainTeacher) -> None:
    """Train the teachers that are recipes in folders named by their hash, where the runs in `parent` find them."""
    for recipe in wanted:
        if isinstance(recipe, Recipe) and not is_finished(place := parent / _shared_name(recipe, data.train)):
            train(recipe, place)


def _places(count: int, folder: Path) -> list[Path]:
    return [folder / (_NAME if count == 1 else f"{_NAME}-{number}") for number in range(1, count + 1)]


def _is_ready(place: Path) -> bool:
    """Tell whether a teacher's folder is complete; the result of a run is written, or copied, last."""
    return is_finished(place) or ((place / MODEL_FILE).is_file() and not (place / RECIPE_FILE).exists())


def _settle(wanted: Wanted, data: DataSet, place: Path, train: TrainTeacher, progress: Progress) -> None:
    """Bring a teacher into its folder."""
    run = _found(wanted, data.train, place.parent.parent) if isinstance(wanted, Recipe) else wanted.run
    if run is not None:
        progress.message(f"the teacher is that of {run}")
        _copy_run(run, place)
    elif isinstance(wanted, Recipe):
        train(wanted, place)
    else:
        make_folder(place)
        wanted.model.save(place / MODEL_FILE)


def _found(recipe: Recipe, images: Images, parent: Path) -> Path | None:
    """Return the finished run of a teacher that lies beside the run that wants it."""
    if not any(parent.glob(f"{_NAME}-*")):
        return None
    place = parent / _shared_name(recipe, images)
    return place if is_finished(place) else None


def _shared_name(recipe: Recipe, images: Images) -> str:
    """Name a teacher by all that decides its weights, but for the number of threads."""
    native = recipe.run.engine == "native"
    built = library_name(recipe.model, recipe.run.precision) if native else torch.__version__
    digest = hashlib.sha256()
    for part in (recipe.replace(threads=0).to_toml(), version("kilonet"), built):
        digest.update(part.encode() + b"\0")
    for tensor in (images.pixels, images.labels):
        digest.update(tensor.contiguous().numpy().data)
    return f"{_NAME}-{digest.hexdigest()[:16]}"


def _copy_run(run: Path, place: Path) -> None:
    make_folder(place)
    for name in (RECIPE_FILE, METRICS_FILE, MODEL_FILE, RESULT_FILE):
        write_atomically(place / name, (run / name).read_bytes())


def _at_hand(wanted: Wanted, data: DataSet, train: TrainTeacher) -> Teacher:
    if isinstance(wanted, Recipe):
        run = train(wanted, None)
        return _described(run.model, run.result, None, data.test)
    return _described(wanted.model, read_result(wanted.run) if wanted.run else None, None, data.test)


def _kept(place: Path, data: DataSet) -> Teacher:
    return _described(load_model(place), read_result(place) if is_finished(place) else None, place.name, data.test)


def _described(model: Model, trained: Result | None, folder: str | None, images: Images) -> Teacher:
    """Score a teacher only if no run has done so: a large one takes seconds."""
    scored = (trained.scored, trained.scored_images) if trained else (images.name, len(images))
    result = TeacherResult(
        folder=folder,
        parameters=model.section.parameters,
        scored=scored[0],
        scored_images=scored[1],
        accuracy=trained.final.test_accuracy if trained else evaluate(model, images).accuracy,
        seconds=trained.seconds if trained else None,
        model_sha256=model.sha256,
    )
    return Teacher(model, result)
