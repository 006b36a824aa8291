"""`kilonet summary`."""

import argparse
import json
from typing import TYPE_CHECKING

from kilonet.cli.flags import DATA, Parser, add_json_flag, named
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable_lines

if TYPE_CHECKING:
    from kilonet.network.section import ModelSection


def add_flags(parser: Parser) -> None:
    parser.add_argument(
        "recipe",
        type=named,
        metavar="RECIPE",
        help="a packaged recipe or model, a TOML file, a run folder or a model file",
    )
    parser.add_argument(
        "--classic", action="store_true", help="print the table of the ERA homework's README: one row an operation"
    )
    parser.add_argument(
        "--target",
        choices=("cortex-m0", "cortex-m4", "cortex-m55", "rv32imac", "avr"),
        help="also estimate what the C form takes on a microcontroller: instructions or cycles, time, flash and RAM",
    )
    parser.add_argument(
        "--megahertz", type=float, metavar="N", help="the clock for that time (default: 48, of an AVR 16)"
    )
    parser.add_argument("--data", type=named, help=f"also check that the network takes these images: {DATA}")
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.models.lookup import model_section
    from kilonet.network.chip_cost import chip_cost
    from kilonet.network.cost import classic_table, network_cost
    from kilonet.network.support import support_lines

    clock = _clock(flags)
    if flags.classic and flags.json:
        raise KilonetError("--classic is a table of text, and --json has none; leave one of them out")
    section = model_section(flags.recipe)
    cost = network_cost(section)
    text = classic_table(section) if flags.classic else "\n".join([str(cost), *support_lines(section.placed)])
    if flags.target is not None:
        text += f"\n\n{chip_cost(section, flags.target, clock)}"
    if flags.data is not None:
        text += f"\n\n{_data_line(flags.recipe, section, flags.data)}"
    table = cost.as_json()
    if flags.target is not None:
        table["target"] = chip_cost(section, flags.target, clock).as_json()
    print(json.dumps(table) if flags.json else printable_lines(text))
    return 0


def _clock(flags: argparse.Namespace) -> float:
    """Return the megahertz of the target.

    Raises:
        KilonetError: there is no target, or no clock is as slow or as fast.
    """
    if flags.megahertz is None:
        return 16.0 if flags.target == "avr" else 48.0
    if flags.target is None:
        raise KilonetError("--megahertz is the clock of a --target; name one")
    if not 0.001 <= flags.megahertz <= 100_000:
        raise KilonetError(f"--megahertz must be from 0.001 to 100000, not {flags.megahertz:g}")
    return float(flags.megahertz)


def _data_line(source: str, section: "ModelSection", data: str) -> str:
    """Return a line about a data set that the network takes; a trained one also by the names of its classes.

    Raises:
        KilonetError: no such data, or the network does not take them.
    """
    from kilonet.data.datasets import check_fit, load_data
    from kilonet.data.preprocessing import Preprocessing
    from kilonet.evaluation.scoring import matched_data
    from kilonet.models.lookup import trained_model
    from kilonet.network.operations import check_pixels

    images = load_data(data, Preprocessing.of(section))
    if (model := trained_model(source)) is None:
        check_fit(section, images)
    else:
        check_pixels(images.train.pixels, section.input_shape)
        matched_data(model, images)
    channels, rows, columns = images.train.pixels.shape[1:]
    counts = f"{len(images.train):,} training and {len(images.test):,} test images"
    classes = int(images.train.labels.max()) + 1 if images.names is None else len(images.names)
    return f"Data: {data}: {counts}, {channels}x{rows}x{columns}, {classes} classes; they fit the network"
