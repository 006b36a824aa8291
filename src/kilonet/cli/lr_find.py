"""`kilonet lr-find`."""

import argparse
import json

from kilonet.cli.flags import Parser, add_json_flag, add_recipe_flags, named, named_path, recipe_changes
from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.usage = "%(prog)s RECIPE [flags]"
    parser.add_argument("recipe", type=named, metavar="RECIPE", help="a packaged recipe or a TOML file")
    # The defaults are those of kilonet.training.lr_finder, which is slow to import.
    parser.add_argument(
        "--lowest", type=float, default=1e-4, metavar="X", help="the first step's learning rate (default: %(default)g)"
    )
    parser.add_argument(
        "--highest",
        type=float,
        default=10.0,
        metavar="X",
        help="the last step's learning rate, unless the loss diverges before (default: %(default)g)",
    )
    parser.add_argument(
        "--steps", type=int, default=300, metavar="N", help="the number of steps (default: %(default)s)"
    )
    parser.add_argument("--plot", type=named_path, metavar="FILE", help="draw the curve into a PNG, SVG or PDF file")
    add_json_flag(parser)
    add_recipe_flags(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.recipe import load_recipe
    from kilonet.training.lr_finder import find_rate
    from kilonet.training.progress import progress_on

    if flags.plot is not None:
        with needed_from("plot", "--plot"):
            from kilonet.report.lr_plot import check_plot_path, draw_range_test

        # Before anything is trained.
        check_plot_path(flags.plot)
    recipe = load_recipe(flags.recipe, recipe_changes(flags))
    found = find_rate(recipe, lowest=flags.lowest, highest=flags.highest, steps=flags.steps, progress=progress_on())
    if flags.plot is not None:
        draw_range_test(found, flags.plot)
    print(json.dumps(found.as_json()) if flags.json else printable_lines(found))
    return 0
