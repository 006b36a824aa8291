"""`kilonet summary`."""

import argparse
import json
from typing import TYPE_CHECKING

from kilonet.cli.flags import DATA, Parser, add_json_flag
from kilonet.utils.terminal import printable_lines

if TYPE_CHECKING:
    from kilonet.network.section import ModelSection


def add_flags(parser: Parser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a packaged recipe or model, a TOML file, a run folder or a model file"
    )
    parser.add_argument(
        "--classic", action="store_true", help="print the table of the ERA homework's README: one row an operation"
    )
    parser.add_argument("--data", help=f"also check that the network takes these images: {DATA}")
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.models.lookup import model_section
    from kilonet.network.cost import classic_table, network_cost
    from kilonet.network.support import support_lines

    section = model_section(flags.recipe)
    cost = network_cost(section)
    text = classic_table(section) if flags.classic else "\n".join([str(cost), *support_lines(section.placed)])
    if flags.data is not None:
        text += f"\n\n{_data_line(section, flags.data)}"
    print(json.dumps(cost.as_json()) if flags.json else printable_lines(text))
    return 0


def _data_line(section: "ModelSection", data: str) -> str:
    """Return a line about a data set that the network takes.

    Raises:
        KilonetError: no such data, or the network does not take them.
    """
    from kilonet.data.datasets import check_fit, load_data
    from kilonet.data.preprocessing import Preprocessing

    images = load_data(data, Preprocessing.of(section))
    check_fit(section, images)
    channels, rows, columns = images.train.pixels.shape[1:]
    counts = f"{len(images.train):,} training and {len(images.test):,} test images"
    classes = int(images.train.labels.max()) + 1 if images.names is None else len(images.names)
    return f"Data: {data}: {counts}, {channels}x{rows}x{columns}, {classes} classes; they fit the network"
