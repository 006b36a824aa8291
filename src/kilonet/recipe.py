"""A recipe holds everything that decides a training run: frozen pydantic models, read from TOML.

The five sections are the tables of the TOML file. Every key is also a flag of `kilonet train` with the same name.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from kilonet.data.section import AugmentSection
from kilonet.network.layers import MAXIMUM_CHANNELS
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_toml
from kilonet.utils.schema import Fraction, ProperFraction, Schema, first_complaint, shortened
from kilonet.utils.terminal import shell_word

MAXIMUM_RECIPE_BYTES = 64 << 10
LARGEST_SHARE = 0.5
"""The most of the training images that may be kept aside to calibrate on."""

ClassWeights = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1e6)], ...], Field(min_length=1, max_length=MAXIMUM_CHANNELS, strict=False)
]
"""What an image of each class counts in the loss."""


class TrainSection(Schema):
    """The optimiser and its schedule."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(15, description="passes over the training images")
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = Field(128, description="images a step")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with Nesterov momentum, or AdamW")
    learning_rate: Annotated[float, Field(gt=0, le=100)] = Field(0.1, description="the highest learning rate")
    momentum: ProperFraction = Field(0.9, description="Nesterov momentum of SGD; the first beta of AdamW")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        5e-4, description="weight decay of convolution weights; batch norm has none"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls to zero after the warm-up"
    )
    warmup: ProperFraction = Field(0.2, description="share of all steps in which the learning rate rises from zero")
    label_smoothing: ProperFraction = Field(0.0, description="share of the target spread evenly over the classes")
    class_weights: ClassWeights | Literal["balanced"] | None = Field(
        None,
        description="what an image counts in the loss: 'balanced' gives every class the same share, numbers are a "
        "weight for each class; 'none' for none",
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        "shuffled",
        description="the images of an epoch: each once, or of every class as many, so that those of a rare class come "
        "several times",
    )
    ema: ProperFraction = Field(
        0.0, description="decay a step of the moving average of the weights that is scored and kept; 0 for none"
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def _one_word_is_no_list(cls, weights: Any) -> Any:
        word = weights[0] if isinstance(weights, list | tuple) and len(weights) == 1 else weights
        if isinstance(word, str) and word not in ("balanced", "none"):
            raise KilonetError(f"class_weights = {shortened(word)}: give 'balanced', 'none' or a number for each class")
        return None if word == "none" else word if isinstance(word, str) else weights


class DistillSection(Schema):
    """Distillation: learning from trained networks, the teachers, and from the labels.

    The loss is (1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || student), the divergence of
    probabilities softened by the temperature. Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a
    neural network", 2015.
    """

    teacher: Annotated[tuple[str, ...], Field(max_length=100)] = Field(
        (), strict=False, description="recipes or models to learn from, whose probabilities are averaged; '' for none"
    )
    teachers: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="how often each recipe among the teachers is trained, with consecutive seeds from its own"
    )
    temperature: Annotated[float, Field(ge=0.1, le=100)] = Field(
        2.0, description="what teachers' and student's logits are divided by before they are compared"
    )
    weight: Fraction = Field(0.9, description="share of the teachers in the loss; the labels have the rest")

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_name_is_a_list_of_one(cls, teacher: Any) -> Any:
        names = (teacher,) if isinstance(teacher, str) else teacher
        return tuple(name for name in names if name != "") if isinstance(names, list | tuple) else names


class RunSection(Schema):
    """The data of a run, its seed, and the engine and device that compute it."""

    data: str = Field("mnist", description="'mnist', 'fashion-mnist', or a folder or file of images, see docs/DATA.md")
    label_pattern: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="a regular expression whose group is the label in the name of an image file"
    )
    negatives: str | None = Field(
        None, description="a folder of images of none of the classes, to calibrate 'none of these' on"
    )
    calibration: Annotated[float, Field(gt=0, le=LARGEST_SHARE)] | None = Field(
        None,
        description="share of the training images that are kept aside to calibrate the model on at the end of the run; "
        "data with images to validate on need none",
    )
    holdout: bool = Field(False, description="hold the last part of the training images out and score those instead")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="seed of every random choice")
    engine: Literal["auto", "native", "torch"] = Field("auto", description="what computes the training steps")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where the torch engine computes; auto is an NVIDIA GPU if torch sees one, else the CPU"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="arithmetic of training; auto takes bfloat16 on a processor that multiplies it, else float32",
    )
    compile: bool = Field(
        False,
        description="fuse the network's operations by torch.compile, on a GPU: half a minute at the start, then faster",
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="processor threads; 0 for all cores")


class Recipe(Schema):
    """A network and everything that decides how it is trained."""

    about: str = Field("", description="the recipe's claim in one line")
    model: ModelSection
    train: TrainSection = TrainSection()
    augment: AugmentSection = AugmentSection()
    distill: DistillSection = DistillSection()
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _every_class_has_a_weight(self) -> "Recipe":
        weights = self.train.class_weights
        if isinstance(weights, tuple) and len(weights) != self.model.classes:
            raise KilonetError(
                f"class_weights has {len(weights)} numbers, but the network has {self.model.classes} classes"
            )
        return self

    @model_validator(mode="after")
    def _every_class_is_balanced_once(self) -> "Recipe":
        if self.train.sampling == "balanced" and self.train.class_weights == "balanced":
            raise KilonetError("sampling and class_weights are both 'balanced', which favours rare classes; choose one")
        return self

    @model_validator(mode="after")
    def _saturation_has_colours(self) -> "Recipe":
        channels = self.model.input_shape[0]
        if self.augment.saturation and channels != 3:
            raise KilonetError(f"saturation changes red, green and blue, but the input's channels are {channels}")
        return self

    def to_toml(self) -> str:
        """Return the recipe as TOML, with every key that has a value."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def replace(self, **changes: Any) -> "Recipe":
        """Return a copy with some keys changed and all keys checked again; keys are named without their section.

        Raises:
            KilonetError: there is no such key, or a value is out of its range.
        """
        return parse_recipe(self.model_dump(mode="json", exclude_none=True), "recipe", changes)


SECTIONS: Mapping[str, type[Schema]] = {
    "model": ModelSection,
    "train": TrainSection,
    "augment": AugmentSection,
    "distill": DistillSection,
    "run": RunSection,
}


def section_of(key: str) -> str:
    """Return the name of the section that holds a key.

    Raises:
        KilonetError: no section has the key.
    """
    for name, section in SECTIONS.items():
        if key in section.model_fields:
            return name
    raise KilonetError(f"a recipe has no key '{key}'")


def packaged_recipes() -> list[str]:
    """Return the names of the recipes in the package, sorted."""
    folder = files("kilonet") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def names_a_recipe(source: str) -> bool:
    """Return whether a name that may be a recipe or a model is a recipe: a packaged one or a TOML file."""
    return source in packaged_recipes() or Path(source).suffix == ".toml"


def recipe_name(source: str) -> str:
    """Return the short name of a recipe: its packaged name, or the stem of its file."""
    return Path(source).stem if source not in packaged_recipes() else source


def load_recipe(source: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe with some keys changed.

    Args:
        source: the name of a packaged recipe or the path of a TOML file.
        changes: new values by key, without the section.

    Raises:
        KilonetError: there is no such recipe, it is not TOML, a key is unknown or a value is out of range; the message
            names the key and the file.
    """
    return parse_recipe(_read_toml(source), source, changes or {})


def _read_toml(source: str) -> dict[str, Any]:
    packaged = source in packaged_recipes()
    path = Path(str(files("kilonet"))) / "recipes" / f"{source}.toml" if packaged else Path(source)
    try:
        if not path.is_file():
            inside = path / "recipe.toml"
            if inside.is_file():
                raise KilonetError(f"{source}: a folder, not a recipe; the recipe in it is {inside}")
            names = ", ".join(packaged_recipes())
            if path.is_dir():
                command = f"kilonet train --data {shell_word(source)}"
                raise KilonetError(f"{source}: a folder, not a recipe ({names}); to train on its images: {command}")
            raise KilonetError(f"no recipe '{source}': neither a file nor a packaged recipe ({names})")
    except OSError as error:
        raise KilonetError(f"{source}: cannot be read: {error}") from None
    return read_toml(path, MAXIMUM_RECIPE_BYTES, "a recipe", source)


def parse_recipe(table: Mapping[str, Any], source: str, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a TOML table with some keys changed.

    Args:
        table: the sections by name.
        source: the name of the recipe in messages.
        changes: new values by key, without the section.

    Raises:
        KilonetError: a key is unknown or a value is out of range; the message names the key and the source.
    """
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in table.items()}
    for key, value in changes.items():
        section = merged.setdefault(section_of(key), {})
        if isinstance(section, dict):
            section[key] = value
    try:
        recipe = Recipe.model_validate(merged)
        # A run keeps its recipe as a file.
        recipe.to_toml().encode()
    except UnicodeEncodeError as error:
        line = error.object[: error.start].rpartition("\n")[2] + error.object[error.start :].partition("\n")[0]
        raise KilonetError(f"{source}: not UTF-8, so no recipe can hold it; rename what this names: {line}") from None
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        blamed = f", with {place[1]} changed" if len(place) > 1 and place[1] in changes else ""
        raise KilonetError(f"{source}{blamed}: {first_complaint(error)}") from None
    except KilonetError as error:
        raise KilonetError(f"{source}: {error}") from None
    return recipe
