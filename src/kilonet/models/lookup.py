"""The network behind a name that may be a recipe's or a model's."""

from pathlib import Path
from typing import TYPE_CHECKING

from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe, names_a_recipe, packaged_recipes
from kilonet.utils.errors import KilonetError

if TYPE_CHECKING:
    from kilonet.models.model import Model

_RECIPE_IN_RUN = "recipe.toml"


def model_section(source: str) -> ModelSection:
    """Return the description of a network.

    Args:
        source: a packaged recipe or model, a TOML file, a run folder or a model file. A recipe wins over a model.

    Raises:
        KilonetError: no such recipe or model, or it cannot be read.
    """
    path = Path(source)
    if names_a_recipe(source):
        return load_recipe(source).model
    if (path / _RECIPE_IN_RUN).is_file():
        return load_recipe(str(path / _RECIPE_IN_RUN)).model
    # Torch takes a second to import, and a recipe does not need it.
    from kilonet.models.model import load_model  # noqa: PLC0415

    try:
        return load_model(source).section
    except KilonetError:
        if path.exists():
            raise
        names = ", ".join(packaged_recipes())
        raise KilonetError(
            f"no recipe or model '{source}': neither a file, a run folder nor packaged ({names})"
        ) from None


def trained_model(source: str) -> "Model | None":
    """Return the model of a name that `model_section` takes; None for a recipe and a run that is not finished.

    Raises:
        KilonetError: the model cannot be read.
    """
    from kilonet.models.model import MODEL_FILE, load_model  # noqa: PLC0415

    folder = Path(source)
    unfinished = (folder / _RECIPE_IN_RUN).is_file() and not (folder / MODEL_FILE).is_file()
    return None if names_a_recipe(source) or unfinished else load_model(source)
