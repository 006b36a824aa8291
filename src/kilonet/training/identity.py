"""The identity of a run: everything that decides its weights, kept in its checkpoint.

A run that is resumed by another recipe, on other images or from other teachers would end in weights that no single
training leads to.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kilonet.data.datasets import DataSet, Images
from kilonet.evaluation.negatives import Negatives
from kilonet.models.model import Model
from kilonet.recipe import SECTIONS, Recipe
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import Schema, shortened

_IRRELEVANT: Any = {"about": True, "run": {"seed", "threads", "device"}}


class Identity(Schema):
    """What decides a run's weights, beside Kilonet's version and the machine."""

    recipe: dict[str, Any]
    """`section.key` and its value: the keys that decide the training, and the seed; for the data see `images`."""
    images: str
    """`DataSet.fingerprint` of the images, after holding out."""
    teachers: tuple[str, ...] = ()
    """SHA-256 of each teacher's model file."""
    start: str | None = None
    """SHA-256 of the model whose weights the training began with; None for weights drawn from the seed."""
    calibrated_on: str | None = None
    """SHA-256 of what the model is calibrated on: images kept aside and negatives; None if it is not calibrated."""


def training_keys(recipe: Recipe) -> dict[str, Any]:
    """Return the keys of a recipe that decide the training, flat: `section.key` and its value.

    Runs that agree in all of them are repetitions of one another. Left out are `about` and, from the section `run`, the
    seed, the number of threads and the device. Engine and precision stay in, because they change the numbers.
    """
    sections = recipe.model_dump(mode="json", exclude=_IRRELEVANT)
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def identity_of(
    recipe: Recipe,
    data: DataSet,
    teachers: Sequence[str] = (),
    negatives: Negatives | None = None,
    start: Model | None = None,
) -> Identity:
    """Return the identity of a run.

    Args:
        recipe: the recipe, without `auto`.
        data: the images, after holding out.
        teachers: SHA-256 of each teacher's model file.
        negatives: images of none of the classes, which the model is calibrated on.
        start: the model whose weights the training began with, if any.
    """
    keys = training_keys(recipe) | {"run.seed": recipe.run.seed}
    # Images are the same wherever their folder lies.
    del keys["run.data"], keys["run.negatives"]
    return Identity(
        recipe=keys,
        images=data.fingerprint(),
        teachers=tuple(teachers),
        start=start.sha256 if start else None,
        calibrated_on=_calibration_sha256(data.validation, negatives),
    )


def _calibration_sha256(images: Images | None, negatives: Negatives | None) -> str | None:
    if images is None:
        return None
    fingerprint = DataSet(images, images).fingerprint() + (negatives.sha256() if negatives else "")
    return hashlib.sha256(fingerprint.encode()).hexdigest()


def check_identity(path: Path, saved: Identity, now: Identity) -> None:
    """Check that a run continues as it was begun.

    Args:
        path: its checkpoint, for the message.
        saved: the identity in the checkpoint.
        now: that of the run that would continue.

    Raises:
        KilonetError: they differ; the message names what was changed.
    """
    # A checkpoint of an older version lacks the keys that were added since.
    defaults = {f"{name}.{key}": field.default for name, s in SECTIONS.items() for key, field in s.model_fields.items()}
    changed = _changes(now.recipe, {key: defaults[key] for key in now.recipe} | saved.recipe)
    changed += ["the training images are others"] if now.images != saved.images else []
    changed += ["the images to calibrate on are others"] if now.calibrated_on != saved.calibrated_on else []
    changed += ["a teacher is another one"] if now.teachers != saved.teachers else []
    changed += ["the weights to begin with are others"] if now.start != saved.start else []
    if changed:
        raise KilonetError(
            f"{path} was written by another training: {'; '.join(changed)}; undo the change, or train in a new folder"
        )


def recipe_differences(wanted: Recipe, begun: Recipe) -> list[str]:
    """Return what keeps a recipe from being the one of a run that was begun, a phrase for each key.

    Args:
        wanted: a recipe that may say `auto`, which agrees with whatever it became in the run.
        begun: the run's recipe, without `auto`.
    """
    first, second = (
        training_keys(recipe) | {"run.seed": recipe.run.seed, "run.device": recipe.run.device}
        for recipe in (wanted, begun)
    )
    return _changes({key: second[key] if value == "auto" else value for key, value in first.items()}, second)


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {shortened(now.get(key))}, but was {shortened(before.get(key))}"
        for key in {**now, **before}
        if now.get(key) != before.get(key)
    ]
