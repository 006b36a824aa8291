"""The learning-rate range test as the command line does it: with its curve in a file, if that is wanted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kilonet.recipe import load_recipe
from kilonet.training.lr_finder import RangeTest, find_rate
from kilonet.training.progress import progress_on
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from


def find(
    source: str, changes: Mapping[str, Any], *, lowest: float, highest: float, steps: int, plot: Path | None
) -> RangeTest:
    """Test a recipe's rates, and draw the curve into a file.

    Raises:
        KilonetError: the recipe, the range or the file will not do, or the extra `report` is missing for the drawing.
    """
    draw = _drawing(plot) if plot else None
    recipe = load_recipe(source, changes)
    found = find_rate(recipe, lowest=lowest, highest=highest, steps=steps, progress=progress_on())
    if draw and plot:
        draw(found.rates, found.losses, found.smoothed, found.suggestion, plot)
    return found


def _drawing(plot: Path) -> Any:
    """Return what draws, having made sure, before anything is trained, that it can."""
    with needed_from("report", "--plot"):
        from kilonet.report.lr_plot import ENDINGS, draw_rates  # noqa: PLC0415
    if plot.suffix.lower() not in ENDINGS or not plot.parent.is_dir():
        raise KilonetError(f"--plot {plot}: name a file that ends in {', '.join(ENDINGS)}, in a folder that is there")
    return draw_rates
