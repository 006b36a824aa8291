"""The teachers of a run: trained, found or loaded before the run, and kept in its folder.

    RUN/teacher          a run folder like any other, or only a model file
    RUN/teacher-1 ...    the same for several teachers
    SEEDS/teacher-HASH   the run of a teacher that several seeds share; each seed's run folder has a copy

A teacher is trained on the same data as its student, with the same holdout, engine and device; everything else is
given by the teacher's own recipe. That may name teachers, too, which lie in the teacher's folder as they do in a run's.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import kilonet
from kilonet.data.datasets import DataSet, Images
from kilonet.engines.native import library_name
from kilonet.evaluation.scoring import evaluate
from kilonet.models.model import MAXIMUM_BYTES, MODEL_FILE, Model, check_storable, load_model, packaged_models
from kilonet.network.section import ModelSection
from kilonet.recipe import DistillSection, Recipe, load_recipe, names_a_recipe
from kilonet.training.progress import NoProgress, Progress
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
from kilonet.utils.files import make_folder, read_bounded, write_atomically

TEACHER = "teacher"
"""The name of a teacher's folder, to which a number or a hash is added where there are several."""

_LONGEST_CHAIN = 10
"""The most recipes of which each is the teacher of the one before."""

TrainTeacher = Callable[[Recipe, Path | None], Run]
"""Trains a resolved recipe, or resumes its training, in a folder or without one."""


@dataclass(frozen=True)
class TrainedModel:
    """A teacher that is already trained."""

    model: Model
    run_folder: Path | None
    """The folder of the run that trained it, if it is known."""


TeacherSource = Recipe | TrainedModel
"""A teacher to train by a resolved recipe, or a trained one."""


@dataclass(frozen=True)
class Teacher:
    """A trained teacher with what a run's result says about it."""

    model: Model
    result: TeacherResult


def resolve_teachers(recipe: Recipe, data: DataSet, progress: Progress) -> list[TeacherSource]:
    """Load the recipes and models that a resolved recipe names as its teachers, and check them; trains nothing.

    What these recipes name as their teachers is checked, too, but not returned.

    Args:
        recipe: the student's.
        data: the student's images, whose classes the teachers must have in the same order.
        progress: gets what cannot be checked.

    Raises:
        KilonetError: a teacher does not exist, has another input or other classes than the student, is among its own
            teachers, or was trained on the images that the student holds out.
    """
    named = _all_named(recipe, data, progress)
    sources: list[TeacherSource] = []
    for name in recipe.distill.teacher:
        source = named[name]
        if isinstance(source, Recipe):
            seeds = range(source.run.seed, source.run.seed + recipe.distill.teachers)
            sources += [source.replace(seed=seed) for seed in seeds]
        else:
            sources.append(source)
    return sources


def _all_named(recipe: Recipe, data: DataSet, progress: Progress) -> dict[str, TeacherSource]:
    """Return what a resolved recipe names as its teachers, and what these name, each once, by name."""
    found: dict[str, TeacherSource] = {}

    def visit(student: Recipe, chain: Sequence[str]) -> None:
        for name in student.distill.teacher:
            if name in chain:
                raise KilonetError(
                    f"the teacher {name} is among its own teachers: {' learns from '.join((*chain, name))}"
                )
            if name in found:
                continue
            if len(chain) == _LONGEST_CHAIN:
                raise KilonetError(f"the teacher {name} ends a chain of teachers over {_LONGEST_CHAIN} long")
            try:
                if names_a_recipe(name):
                    found[name] = _resolve_recipe(name, student)
                else:
                    found[name] = _resolve_model(name, student, data, NoProgress() if chain else progress)
            except KilonetError as error:
                if not chain:
                    raise
                # The user's own recipe does not name it.
                raise KilonetError(f"{error} (a teacher of {chain[-1]})") from None
            source = found[name]
            if isinstance(source, Recipe):
                visit(source, (*chain, name))

    visit(recipe, ())
    return found


def _resolve_recipe(name: str, student: Recipe) -> Recipe:
    """Return the teacher's recipe with the data, engine and device of the student."""
    own = load_recipe(name, student.run.model_dump(exclude={"seed"}))
    _check_fit(name, own.model, student.model)
    check_storable(own.model)
    return own


def _resolve_model(name: str, student: Recipe, data: DataSet, progress: Progress) -> TrainedModel:
    if name not in packaged_models() and not Path(name).exists():
        raise KilonetError(f"no teacher '{name}': neither a recipe nor a run folder or a model file")
    model = load_model(name)
    _check_fit(name, model.section, student.model)
    _check_classes(name, model, data)
    trained = TrainedModel(model, _run_folder_of(name, model))
    if student.run.holdout or student.run.calibration is not None:
        _check_unseen(name, trained, student, progress)
    return trained


def _run_folder_of(name: str, model: Model) -> Path | None:
    """Return the run folder that a model is named by or lies in, if that run trained this model."""
    folder = Path(name) if Path(name).is_dir() else Path(name).parent
    return folder if is_finished(folder) and read_result(folder).model_sha256 == model.trained_sha256 else None


def _check_fit(name: str, teacher: ModelSection, student: ModelSection) -> None:
    found, expected = ((section.input_shape, section.classes) for section in (teacher, student))
    if found != expected:
        raise KilonetError(
            f"the teacher {name} takes {found[0]} and tells {found[1]} classes apart, "
            f"but the network takes {expected[0]} and tells {expected[1]}"
        )
    if not teacher.parameters:
        raise KilonetError(f"the teacher {name} has no weights, so there is nothing to learn from it")


def _check_classes(name: str, teacher: Model, data: DataSet) -> None:
    """Check that a teacher's classes are those of the data, as its probabilities are taken class by class."""
    theirs, ours = teacher.metadata.names, data.names
    if theirs is None or ours is None or list(theirs) == list(ours):
        return
    pairs = zip(theirs, ours, strict=True)
    number, (its, own) = next((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
    raise KilonetError(f"the teacher {name} has other classes than the data: class {number} is '{its}', not '{own}'")


def _check_unseen(name: str, teacher: TrainedModel, student: Recipe, progress: Progress) -> None:
    """Check that a trained teacher has not seen the images that its student keeps out of training."""
    own = student.run
    run = read_result(teacher.run_folder).recipe.run if teacher.run_folder else None
    packaged = teacher.model.sha256 in (load_model(name).sha256 for name in packaged_models())
    aside = own.calibration is not None and run is not None and run.calibration != own.calibration
    if packaged or (run and (aside or (run.data, run.holdout) != (own.data, own.holdout))):
        flags = "--holdout" if own.holdout else ""
        flags += "" if own.calibration is None else f" --calibration {own.calibration:g}"
        raise KilonetError(
            f"the teacher {name} has seen the images held out; name a recipe, or a run with {flags.strip()}"
        )
    if run is None:
        progress.message(f"whether the teacher {name} has seen the images held out cannot be told from its file")


def load_or_train_teachers(
    sources: Sequence[TeacherSource], data: DataSet, train: TrainTeacher, progress: Progress, folder: Path | None
) -> list[Teacher]:
    """Return the teachers of a run; those that are not trained yet are trained now.

    Args:
        sources: from `resolve_teachers`.
        data: the student's training and scoring images, after holding out.
        train: trains a teacher's recipe.
        progress: gets a message for each teacher that was found trained.
        folder: the run folder in which the teachers are kept, or None.
    """
    if folder is None:
        return [_teacher_without_folder(source, data, train) for source in sources]
    places = _teacher_folders(folder, len(sources))
    for source, place in zip(sources, places, strict=True):
        if not _is_complete(place):
            _fill_teacher_folder(place, source, data, train, progress)
    return [_load_teacher(place, data) for place in places]


def load_teachers(distill: DistillSection, folder: Path, data: DataSet) -> list[Teacher]:
    """Load the teachers that are kept in a run folder. The recipes and models that were their source are not needed.

    Raises:
        KilonetError: a teacher is missing or damaged.
    """
    count = sum(distill.teachers if names_a_recipe(name) else 1 for name in distill.teacher)
    return [_load_teacher(place, data) for place in _teacher_folders(folder, count)]


def train_shared_teachers(sources: Sequence[TeacherSource], data: DataSet, parent: Path, train: TrainTeacher) -> None:
    """Train the teachers that are recipes in folders of `parent`, where the runs in `parent` find them."""
    for source in sources:
        if isinstance(source, Recipe):
            place = parent / _shared_name(source, data)
            if not is_finished(place):
                train(source, place)


def _teacher_folders(run_folder: Path, count: int) -> list[Path]:
    return [run_folder / (TEACHER if count == 1 else f"{TEACHER}-{number}") for number in range(1, count + 1)]


def _is_complete(place: Path) -> bool:
    """Return whether a teacher's folder is complete: the result of a run is written, or copied, last."""
    return is_finished(place) or ((place / MODEL_FILE).is_file() and not (place / RECIPE_FILE).exists())


def _fill_teacher_folder(
    place: Path, source: TeacherSource, data: DataSet, train: TrainTeacher, progress: Progress
) -> None:
    """Copy a trained teacher into its folder, or train it there."""
    if isinstance(source, Recipe):
        run_folder = _find_shared_run(source, data, place.parent.parent)
    else:
        run_folder = source.run_folder
    if run_folder is not None:
        progress.message(f"the teacher is that of {run_folder}")
        _copy_run(run_folder, place)
    elif isinstance(source, Recipe):
        train(source, place)
    else:
        make_folder(place)
        source.model.save(place / MODEL_FILE)


def _find_shared_run(recipe: Recipe, data: DataSet, parent: Path) -> Path | None:
    """Return the folder of a finished run of the teacher that `train_shared_teachers` made."""
    if not any(parent.glob(f"{TEACHER}-*")):
        return None
    place = parent / _shared_name(recipe, data)
    return place if is_finished(place) else None


def _shared_name(recipe: Recipe, data: DataSet) -> str:
    """Name a teacher by a hash of everything that decides its weights; the number of threads does not."""
    native = recipe.run.engine == "native"
    built = library_name(recipe.model, recipe.run.precision) if native else torch.__version__
    digest = hashlib.sha256()
    for part in (recipe.replace(threads=0).to_toml(), kilonet.__version__, built):
        digest.update(part.encode() + b"\0")
    for name, source in _all_named(recipe, data, NoProgress()).items():
        content = source.replace(threads=0).to_toml() if isinstance(source, Recipe) else source.model.sha256
        digest.update(name.encode() + b"\0" + content.encode() + b"\0")
    for tensor in (data.train.pixels, data.train.labels):
        digest.update(tensor.contiguous().numpy().data)
    return f"{TEACHER}-{digest.hexdigest()[:16]}"


def _copy_run(run_folder: Path, place: Path) -> None:
    make_folder(place)
    # The result comes last: it marks the copy as complete.
    for name in (RECIPE_FILE, METRICS_FILE, MODEL_FILE, RESULT_FILE):
        write_atomically(place / name, read_bounded(run_folder / name, MAXIMUM_BYTES, "a file of a run"))


def _teacher_without_folder(source: TeacherSource, data: DataSet, train: TrainTeacher) -> Teacher:
    if isinstance(source, Recipe):
        run = train(source, None)
        return _make_teacher(run.model, run.result, None, data.test)
    result = read_result(source.run_folder) if source.run_folder else None
    return _make_teacher(source.model, result, None, data.test)


def _load_teacher(place: Path, data: DataSet) -> Teacher:
    result = read_result(place) if is_finished(place) else None
    return _make_teacher(load_model(place), result, place.name, data.test)


def _make_teacher(model: Model, own_result: Result | None, folder: str | None, images: Images) -> Teacher:
    """Take the accuracy from the teacher's own run if there is one: scoring a large teacher takes seconds."""
    result = TeacherResult(
        folder=folder,
        parameters=model.section.parameters,
        scored=own_result.scored if own_result else images.name,
        scored_images=own_result.scored_images if own_result else len(images),
        accuracy=own_result.final.test_accuracy if own_result else evaluate(model, images).accuracy,
        seconds=_seconds_with_teachers(own_result) if own_result else None,
        model_sha256=model.sha256,
    )
    return Teacher(model, result)


def _seconds_with_teachers(result: Result) -> float:
    """Return the time of a run's training and of its teachers', as far as it is known."""
    return result.seconds + sum(teacher.seconds or 0.0 for teacher in result.teachers)
