"""Handlers of the commands that show: what rate to train at, a run as a page, a model as a card."""

from pathlib import Path
from typing import Annotated

import tyro

from kilonet.flags import Keys, Positional, print_answer


def lr_find(
    recipe: Positional,
    *,
    lowest: float = 1e-4,
    highest: float = 10.0,
    steps: int = 300,
    plot: Path | None = None,
    json: bool = False,
    recipe_keys: Keys = Keys(),  # noqa: B008
) -> int:
    """Find a learning rate by training a few hundred steps at rising ones.

    Args:
        recipe: a packaged recipe or a TOML file.
        lowest: the first step's learning rate.
        highest: the last step's, if the loss does not break before.
        steps: how many steps.
        plot: draw the curve into this PNG, SVG or PDF file.
        json: print one JSON object instead of text.
        recipe_keys: keys of the recipe to change.
    """
    from kilonet import finding

    changes = recipe_keys.given()
    found = finding.find(recipe, changes, lowest=lowest, highest=highest, steps=steps, plot=plot)
    print_answer(json, found.as_json, lambda: str(found))
    return 0


def report(
    runs: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    out: Path = Path("report.html"),
    results: Path | None = None,
    corruptions: Path | None = None,
    exported: Path | None = None,
    digit: int = 0,
    json: bool = False,
) -> int:
    """Write one page that shows a run, with others beside it.

    Args:
        runs: run folders, or what 'train --seeds' wrote; the first, which may be any model, is shown in full.
        out: the HTML file to write.
        results: what 'train --json' printed, where the first is a model whose run folder is not at hand.
        corruptions: what 'evaluate --corruptions --json' printed; by default corruptions.json in the run folder.
        exported: a folder that 'export' wrote, for the sizes; by default exported in the run folder.
        digit: the index of the image that is looked at closely.
        json: print one JSON object instead of text.
    """
    from kilonet.report import writing as reporting
    from kilonet.report.gathering import Evidence

    written = reporting.report(runs, out, Evidence(results, corruptions, exported, digit))
    print_answer(json, written.as_json, lambda: str(written))
    return 0


def card(
    model: Positional,
    *,
    out: Path = Path("README.md"),
    results: Path | None = None,
    corruptions: Path | None = None,
    license: str | None = None,  # noqa: A002 - the flag is to be called as on the Hub
    json: bool = False,
) -> int:
    """Write the card that a model is published with, in Hugging Face's style.

    Args:
        model: a packaged model, a run folder or a model file.
        out: the Markdown file to write, or a folder, which gets the model's file too.
        results: what 'train --json' printed, where the model's run folder is not at hand.
        corruptions: what 'evaluate --corruptions --json' printed; by default corruptions.json in the run folder.
        license: the model's licence, as the Hub names it, such as 'mit'; MIT for a packaged model.
        json: print one JSON object instead of text.
    """
    from kilonet.report import writing as reporting
    from kilonet.report.gathering import Evidence

    written = reporting.card(model, out, Evidence(results, corruptions), license)
    print_answer(json, written.as_json, lambda: str(written))
    return 0


def compare(
    runs: Annotated[tuple[str, ...], tyro.conf.Positional], *, plot: Path | None = None, json: bool = False
) -> int:
    """Compare runs over seeds and image by image.

    Args:
        runs: run folders, folders of seeds, or files that 'kilonet train --seeds N --json' printed.
        plot: draw accuracy against parameters into this file (.svg, .png, .pdf), with what others have published.
        json: print one JSON object instead of text.
    """
    from kilonet.report.comparison import comparison as comparing

    comparison = comparing.compare(runs)
    if plot is not None:
        from kilonet.report.comparison.frontier import draw

        draw(comparison, plot)
    print_answer(json, comparison.as_json, lambda: str(comparison))
    return 0
