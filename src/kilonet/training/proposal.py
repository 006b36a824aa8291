"""A recipe for one's own images: read off what an inspection found, within budgets of parameters and RAM.

Nothing is tried out: each value follows from the data by a rule, so that the same data always give the same recipe.
docs/INIT.md has the rules, docs/log/own-images.md what they were measured on.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.data.inspection.inspection import UNBALANCED, Inspection, Kind, inspect
from kilonet.data.inspection.survey import Survey, survey
from kilonet.data.preprocessing import Preprocessing, Resize
from kilonet.evaluation.calibration import least_share
from kilonet.network.family import Member, largest_member, smallest_members
from kilonet.network.operations import Shape
from kilonet.recipe import LARGEST_SHARE, Recipe, load_recipe, parse_recipe, recipe_name
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import counted, printable

PARAMETERS = 8000
"""The budget of parameters if none is given and there are at most `_FEW_CLASSES`."""
RAM = 15_000
"""The budget of RAM in bytes if none is given and there are at most `_FEW_LOGITS` classes."""
SMALLEST_SIDE, LARGEST_SIDE = 8, 128
MAXIMUM_CLASSES = 1000

_FEW_CLASSES = 20
_PARAMETERS_A_CLASS = 40
"""More parameters for each class over `_FEW_CLASSES`: about what the last layer takes for it."""
_FEW_LOGITS = 100
_RAM_A_CLASS = 8
"""More bytes for each class over `_FEW_LOGITS`: a logit, and the sum that it is computed in."""
_USUAL_SIDE = 32
_KEPT_SIDE = 48
"""Images of one size whose longer side is at most this are not resized."""
_ENOUGH = 0.6
"""The share of the parameters' budget that RAM should leave room for; else the input is made smaller."""
_SMALLER = 0.8

_MACS_OF_A_RUN = 1.1e12
"""MACs of the forward passes of all epochs: about three minutes on two cores."""
_MOST_EPOCHS = 200
_EMA_SHARE = 0.035
"""Share of all steps over which the weights are averaged; `best` averages over about 500 of 14,000."""
_CALIBRATION_SHARE, _FEW_IMAGES = 0.1, 500
_LEAST_STEPS = 20
"""Of an epoch; for fewer, batches are made smaller."""


@dataclass(frozen=True)
class Limits:
    """What the user demands. A budget that is not given has a default, which is raised where the data need more."""

    parameters: int | None = None
    ram: int | None = None
    """Bytes of RAM of the C form."""
    size: tuple[int, int] | None = None
    """Columns and rows of the input."""
    channels: int | None = None

    def __post_init__(self) -> None:
        """Check the size and the budgets.

        Raises:
            KilonetError: a side is too short or too long, or a budget is not positive.
        """
        for flag, budget in (("--max-parameters", self.parameters), ("--max-ram", self.ram)):
            if budget is not None and budget < 1:
                raise KilonetError(f"{flag} {budget}: a budget is 1 or more")
        if self.size is not None and not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in self.size):
            columns, rows = self.size
            raise KilonetError(f"an input of {columns}x{rows}: sides must be from {SMALLEST_SIDE} to {LARGEST_SIDE}")


@dataclass(frozen=True)
class NetworkChoice:
    """The input and the layers that fit the budgets."""

    preprocessing: Preprocessing
    member: Member
    parameters: int
    """The budget of parameters."""
    ram: int
    """The budget of RAM, bytes."""
    reasons: Mapping[str, str]
    """Why each key of the recipe has its value."""
    recipe: Recipe | None = None
    """The recipe whose layers it has, if one was named; its training is taken too."""
    name: str = ""
    """The name of that recipe."""


@dataclass(frozen=True)
class Proposal:
    """A proposed recipe."""

    recipe: Recipe
    reasons: Mapping[str, str]
    """Why each key has its value."""
    inspection: Inspection

    def __str__(self) -> str:
        """Return in a few lines what was found and chosen."""
        recipe, found = self.recipe, self.inspection
        channels, rows, columns = recipe.model.input
        augmented = ", ".join(recipe.augment.model_dump(exclude_defaults=True)) or "nothing"
        images = f"{sum(found.train_counts):,} training and {sum(found.test_counts):,} test images"
        cost = self.reasons.get("layers", f"{recipe.model.parameters:,} parameters")
        epochs = counted(recipe.train.epochs, "epoch")
        lines = [
            f"{found.source}: {images}, {len(found.classes):,} classes, {found.kind}",
            f"input {columns}x{rows} {'in colour' if channels == 3 else 'grey'}; {cost}",
            f"{epochs} in batches of {recipe.train.batch_size}; random changes: {augmented}",
        ]
        return "\n".join([*lines, *(f"note: {line.strip()}" for line in found.warnings())])


def propose(
    source: str, limits: Limits = Limits(), changes: Mapping[str, Any] | None = None, *, like: str | None = None
) -> Proposal:
    """Inspect data and propose a recipe for them.

    Args:
        source: the data, as `kilonet.data.datasets.load_data` takes them.
        limits: what the recipe must keep to.
        changes: keys of the recipe to change, each by its name alone.
        like: a recipe whose layers and training are taken, with another input and other classes.

    Raises:
        KilonetError: the data cannot be read, have too many or too few classes, or no network fits the budgets; or a
            change is not a key or out of its range.
    """
    model_of = None if like is None else load_recipe(like)
    changes = dict(changes or {})
    changes.pop("data", None)
    limits = _limits(limits, changes)
    found = survey(source, changes.get("label_pattern"))
    if model_of is None or like is None:
        choice = choose_network(found, limits, changes.get("resize"))
    else:
        choice = network_like(model_of, recipe_name(like), found, limits, changes.get("resize"))
    return propose_recipe(inspect(found, choice.preprocessing), choice, changes)


def _limits(limits: Limits, changes: Mapping[str, Any]) -> Limits:
    """Return the limits with those that a change of the recipe sets."""
    channels, rows, columns = changes.get("input", (limits.channels, None, None))
    return Limits(
        changes.get("max_parameters", limits.parameters),
        limits.ram,
        limits.size if rows is None else (columns, rows),
        channels,
    )


# The network


def choose_network(found: Survey, limits: Limits, resize: Resize | None = None) -> NetworkChoice:
    """Choose the size of the input and the largest network of the family that fits the budgets.

    Args:
        found: the sizes and classes of the images.
        limits: what the network must keep to.
        resize: how pictures become the input; None to choose by their shapes.

    Raises:
        KilonetError: there are too few or too many classes, or no network fits; the message has the least that does.
    """
    classes = _checked_classes(found)
    channels = limits.channels or found.channels
    parameters, why_parameters = _parameter_budget(classes, limits.parameters)
    ram, why_ram = _ram_budget(classes, limits.ram)
    wanted, why_size = (limits.size, "as asked for") if limits.size else _wanted_size(found)
    best: tuple[Member, tuple[int, int]] | None = None
    for size in [wanted] if limits.size else _smaller_sizes(wanted):
        shape = channels, size[1], size[0]
        tried = largest_member(shape, classes, parameters, ram)
        if tried is not None and (best is None or tried.parameters > best[0].parameters):
            best = tried, size
        if best is not None and best[0].parameters >= _ENOUGH * parameters:
            break
    if limits.size and limits.ram is None and (best is None or best[0].parameters < _ENOUGH * parameters):
        # The size was asked for, the budget was not.
        roomy = largest_member((channels, wanted[1], wanted[0]), classes, parameters, 1 << 40)
        if roomy is not None:
            best, ram = (roomy, wanted), roomy.c_ram_bytes
            why_ram = f"bytes of RAM, over the usual {RAM:,}, as the size was asked for"
    if best is None:
        raise _nothing_fits(channels, wanted if limits.size else None, classes, parameters, ram)
    member, size = best
    if size != wanted:
        why_size += f"; made smaller so that the C form takes at most {ram:,} bytes of RAM"
    chosen, why_resize = _chosen_resize(found, size)
    shape = channels, size[1], size[0]
    return NetworkChoice(
        Preprocessing(shape, resize or chosen),
        member,
        parameters,
        ram,
        {
            "input": f"channels, rows, columns: {found.colours()}; {why_size}",
            "layers": f"{member.parameters:,} parameters, {member.macs:,} MACs; in C {member.c_ram_bytes:,} "
            f"bytes of RAM, with a budget of {ram:,} {why_ram}",
            "max_parameters": why_parameters,
            "resize": why_resize,
        },
    )


def network_like(
    recipe: Recipe, name: str, found: Survey, limits: Limits, resize: Resize | None = None
) -> NetworkChoice:
    """Return the network of a recipe for other images: with their channels, their size and their number of classes.

    Args:
        recipe: the recipe.
        name: its name, for reasons and messages.
        found: the sizes and classes of the images.
        limits: what the network must keep to.
        resize: how pictures become the input; None to choose by their shapes.

    Raises:
        KilonetError: there are too few or too many classes, the recipe does not end in a `pointwise` layer, the images
            are too small for its layers, or the network is over a budget.
    """
    classes = _checked_classes(found)
    entries = recipe.model.layers
    if not entries[-1].startswith("pointwise "):
        raise KilonetError(
            f"{name} ends in '{entries[-1]}', not in 'pointwise CLASSES': it cannot be given other classes"
        )
    size, why_size = (limits.size, "as asked for") if limits.size else _wanted_size(found)
    shape = limits.channels or found.channels, size[1], size[0]
    layers = (*entries[:-1], f"pointwise {classes}")
    try:
        member = Member.of(shape, layers)
    except KilonetError as error:
        raise KilonetError(f"{name} does not take images of {size[0]}x{size[1]}: {error}; see --size") from None
    for budget, taken, flag in (
        (limits.parameters, member.parameters, "--max-parameters"),
        (limits.ram, member.c_ram_bytes, "--max-ram"),
    ):
        if budget is not None and taken > budget:
            raise KilonetError(
                f"{name} for {classes:,} classes of {size[0]}x{size[1]} images is over {flag} {budget}: {taken:,}"
            )
    chosen, why_resize = _chosen_resize(found, size)
    return NetworkChoice(
        Preprocessing(shape, resize or chosen),
        member,
        limits.parameters or member.parameters,
        member.c_ram_bytes,
        {
            "input": f"channels, rows, columns: {found.colours()}; {why_size}",
            "layers": f"those of {name}: {member.parameters:,} parameters, {member.macs:,} MACs; in C "
            f"{member.c_ram_bytes:,} bytes of RAM",
            "max_parameters": "the budget, as asked for" if limits.parameters else "what they take",
            "resize": why_resize,
        },
        recipe,
        name,
    )


def _checked_classes(found: Survey) -> int:
    """Return the number of classes.

    Raises:
        KilonetError: there are too few or too many.
    """
    classes = len(found.classes)
    if not 2 <= classes <= MAXIMUM_CLASSES:
        raise KilonetError(
            f"{found.source}: a recipe is proposed for 2 to {MAXIMUM_CLASSES:,} classes, not {classes:,}"
        )
    return classes


def _parameter_budget(classes: int, given: int | None) -> tuple[int, str]:
    if given is not None:
        return given, "the budget, as asked for"
    if classes <= _FEW_CLASSES:
        return PARAMETERS, "the usual budget"
    budget = PARAMETERS + _PARAMETERS_A_CLASS * (classes - _FEW_CLASSES)
    return budget, f"the usual budget of {PARAMETERS:,}, and {_PARAMETERS_A_CLASS} for each class over {_FEW_CLASSES}"


def _ram_budget(classes: int, given: int | None) -> tuple[int, str]:
    if given is not None:
        return given, "as asked for"
    if classes <= _FEW_LOGITS:
        return RAM, "as usual"
    return RAM + _RAM_A_CLASS * (
        classes - _FEW_LOGITS
    ), f"as usual, and {_RAM_A_CLASS} for each class over {_FEW_LOGITS}"


def _wanted_size(found: Survey) -> tuple[tuple[int, int], str]:
    """Return columns and rows of the input that the images ask for, and why."""
    columns, rows = found.median
    longer, shorter = max(columns, rows), min(columns, rows)
    if found.uniform and longer <= _KEPT_SIDE and shorter >= SMALLEST_SIDE:
        return (columns, rows), "the size of the images"
    scale = max(min(_USUAL_SIDE / longer, 1.0), SMALLEST_SIDE / shorter)
    size = _side(columns * scale), _side(rows * scale)
    one = "the images are" if found.uniform else "the median image is"
    return size, f"{one} {columns}x{rows}; {max(size)} on the longer side, in that shape"


def _side(length: float) -> int:
    return min(LARGEST_SIDE, max(SMALLEST_SIDE, round(length)))


def _smaller_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return a size and ever smaller ones of about its shape."""
    sizes, scale = [size], _SMALLER
    while max(sizes[-1]) > SMALLEST_SIDE:
        smaller = _side(size[0] * scale), _side(size[1] * scale)
        sizes += [smaller] if smaller != sizes[-1] else []
        scale *= _SMALLER
    return sizes


def _chosen_resize(found: Survey, size: tuple[int, int]) -> tuple[Resize, str]:
    """Return how pictures of other shapes become the input, and why."""
    distortion = found.distortion(size)
    if distortion <= 1.1:
        return "crop", "pictures of another shape lose their edges; here it is less than a tenth of nine in ten"
    if distortion <= 2:
        return (
            "squash",
            f"pictures differ in shape: nine in ten by at most a factor of {distortion:.2f}; nothing is cut off",
        )
    return "pad", f"pictures differ much in shape: one in ten by over a factor of {distortion:.2f}; nothing is cut off"


def _nothing_fits(channels: int, size: tuple[int, int] | None, classes: int, parameters: int, ram: int) -> KilonetError:
    """Return the error with the least budgets that work."""
    columns, rows = size or (SMALLEST_SIDE, SMALLEST_SIDE)
    members = smallest_members((channels, rows, columns), classes)
    least_parameters = min(member.parameters for member in members)
    least_ram = min((member.c_ram_bytes for member in members if member.parameters <= parameters), default=0)
    at = f"{classes:,} classes of {columns}x{rows} images"
    if least_parameters > parameters:
        least = f"the least is --max-parameters {least_parameters}"
        return KilonetError(f"no network of at most {parameters:,} parameters for {at}; {least}")
    return KilonetError(f"no network within {ram:,} bytes of RAM for {at}; the least is --max-ram {least_ram}")


# Training


def propose_recipe(inspection: Inspection, choice: NetworkChoice, changes: Mapping[str, Any] | None = None) -> Proposal:
    """Propose a recipe for inspected data and a network, with some keys changed.

    Raises:
        KilonetError: a change is not a key or out of its range.
    """
    changes = changes or {}
    images = sum(inspection.train_counts)
    share = 0.0 if inspection.has_validation else _calibration_share(images, negatives=bool(changes.get("negatives")))
    trained = round(images * (1 - share))
    # What follows from batches and epochs follows from those that are asked for, too; the recipe checks their ranges.
    batch = changes.get("batch_size", _batch_size(trained))
    steps = math.ceil(trained / max(1, batch))
    epochs = changes.get("epochs", _epochs(trained, choice.member.macs))
    shape = choice.preprocessing.shape
    augmentation = _augmentation(inspection, shape)
    table: dict[str, dict[str, Any]] = {
        "model": {
            "input": shape,
            "layers": choice.member.layers,
            "resize": choice.preprocessing.resize,
            "mean": inspection.mean,
            "std": inspection.std,
            "max_parameters": choice.parameters,
        },
        "train": {
            "epochs": epochs,
            "batch_size": batch,
            "learning_rate": _learning_rate(batch),
            "weight_decay": 4e-4,
            "ema": _ema(epochs * steps),
        },
        "augment": augmentation,
        "run": {"data": inspection.source},
    }
    training_reasons = {
        "epochs": f"{trained:,} images to train on, {steps:,} steps an epoch; a few minutes on two cores at most",
        "ema": "averages the weights over the last 3.5 % of the steps",
    }
    like = choice.recipe
    if like is not None:
        own = like.train.model_dump(mode="json", exclude_unset=True, exclude={"class_weights", "sampling"})
        # Few images: smaller steps, as for any other recipe.
        few = {"batch_size", "learning_rate", "ema"} if trained < _LEAST_STEPS * like.train.batch_size else set()
        table["train"] |= {key: value for key, value in own.items() if key not in few}
        training_reasons = {"epochs": f"as in {choice.name}" + (", in smaller batches" if few else "")}
        if inspection.kind == "photos":
            mirrored = set() if inspection.mirrored else {"flip", "flip_vertical"}
            augmentation = like.augment.model_dump(mode="json", exclude_unset=True, exclude=mirrored) or augmentation
            table["augment"] = augmentation
    reasons = {
        **choice.reasons,
        **training_reasons,
        "mean": f"mean of each channel of {images:,} training images, 0 to 1",
        "std": "their standard deviation",
        next(iter(augmentation)): _why_augmented(inspection),
    }
    if inspection.label_pattern is not None:
        table["run"]["label_pattern"] = inspection.label_pattern
    if share:
        table["run"]["calibration"] = share
        reasons["calibration"] = "of the training images, kept aside to fit probabilities and thresholds on"
    smallest, largest = min(inspection.train_counts), max(inspection.train_counts)
    # Whoever sets weights decides about the balance. A class without images cannot be drawn as often as the others.
    if largest > UNBALANCED * smallest > 0 and not changes.get("class_weights"):
        table["train"]["sampling"] = "balanced"
        reasons["sampling"] = f"the largest class has {largest:,} training images, the smallest {smallest:,}"
    if "layers" in changes:
        del table["model"]["max_parameters"]
    recipe = parse_recipe({**table, "about": _about(inspection)}, inspection.source, changes)
    return Proposal(recipe, {key: reason for key, reason in reasons.items() if key not in changes}, inspection)


def _about(inspection: Inspection) -> str:
    return printable(f"proposed for {len(inspection.classes):,} classes of {inspection.kind}")


def _calibration_share(images: int, *, negatives: bool) -> float:
    """Return the share of the training images to keep aside: none of a few, unless there are negatives to tell from."""
    if images >= _FEW_IMAGES:
        return _CALIBRATION_SHARE
    needed = max(_CALIBRATION_SHARE, least_share(max(1, images)))
    return needed if negatives and needed <= LARGEST_SHARE else 0.0


def _batch_size(images: int) -> int:
    """Return the images a step: 64, fewer where an epoch would have under 20 steps, and at least 8."""
    return next((size for size in (64, 32, 16) if images >= _LEAST_STEPS * size), 8)


def _learning_rate(batch: int) -> float:
    """Return 0.1, and less for batches of under 64 images by the square root of their share."""
    return round(0.1 * math.sqrt(min(64, max(1, batch)) / 64), 3)


def _epochs(images: int, macs: int) -> int:
    return max(1, round(min(_MACS_OF_A_RUN / (images * macs), _MOST_EPOCHS)))


def _ema(steps: int) -> float:
    return round(max(0.0, 1 - 1 / (_EMA_SHARE * steps)), 4) if steps > 2 / _EMA_SHARE else 0.0


def _augmentation(inspection: Inspection, shape: Shape) -> dict[str, Any]:
    """Return the table `augment`. Shifts are in pixels, so they follow the shorter side of the input."""
    shorter = min(shape[1:])
    shift = round(shorter / 14, 1)
    centred = {"rotation": 10.0, "shift": shift, "scale": 0.1, "shear": 0.1}
    tables: Mapping[Kind, dict[str, Any]] = {
        "characters": centred,
        "drawings": centred if inspection.framed else {"shift": round(shorter / 28, 1)},
        "readings": {"rotation": 2.0, "shift": round(shorter / 40, 1)},
        "photos": {"rotation": 5.0, "shift": shift, "scale": 0.1},
    }
    table = dict(tables[inspection.kind])
    if inspection.kind == "photos" and inspection.mirrored:
        table["flip"] = True
    return table


def _why_augmented(inspection: Inspection) -> str:
    framed = "drawings with background around them: moved, turned, scaled and sheared, never mirrored"
    return {
        "characters": "characters: moved, turned, scaled and sheared, never mirrored",
        "drawings": framed if inspection.framed else "drawings that fill the picture: moved a little, never mirrored",
        "readings": "names that are readings of a scale: little, as a place or an angle may be what is read",
        "photos": "photos: moved, turned and scaled",
    }[inspection.kind]


def data_name(source: str) -> str:
    """Return a short name of data for files: that of a folder, or of a file without its suffix."""
    path = Path(source)
    name = path.resolve().name if path.is_dir() else path.name.partition(".")[0]
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "data"
