"""What a name on the command line stands for, where a recipe and a model will both do."""

from pathlib import Path

from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe, names_a_recipe, packaged_recipes
from kilonet.utils.errors import KilonetError

_RECIPE_IN_RUN = "recipe.toml"


def model_section(source: str) -> ModelSection:
    """Return the network that a packaged recipe, a TOML file, a run folder, a packaged model or a model file describes.

    Raises:
        KilonetError: there is nothing of the kind.
    """
    path = Path(source)
    if names_a_recipe(source):
        return load_recipe(source).model
    if (path / _RECIPE_IN_RUN).is_file():
        return load_recipe(str(path / _RECIPE_IN_RUN)).model
    # Only now: it brings torch along.
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
