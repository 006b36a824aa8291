"""`kilonet init`."""

import argparse
import json
import re
from pathlib import Path

from kilonet.cli.flags import DATA, Parser, add_json_flag, named, named_path
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument("data", type=named, metavar="DATA", help=DATA)
    parser.add_argument(
        "--out",
        type=named_path,
        metavar="FILE",
        help="the TOML file to write (default: one named after the data, in the current folder)",
    )
    parser.add_argument(
        "--max-parameters",
        type=int,
        metavar="N",
        help="the most trainable parameters (default: 8000, and 40 for each class over 20)",
    )
    parser.add_argument(
        "--max-ram",
        type=int,
        metavar="N",
        help="the most bytes of RAM of the C form, without the stack (default: 15000, and 8 for each class over 100)",
    )
    parser.add_argument(
        "--size",
        type=input_size,
        metavar="COLUMNSxROWS",
        help="the size of the network's input, such as 32x32 (default: the images' own if small, or about 32)",
    )
    parser.add_argument(
        "--like",
        metavar="RECIPE",
        help="take the layers and the training of this recipe, such as photo-8k, for these images and their classes",
    )
    parser.add_argument(
        "--label-pattern",
        metavar="TEXT",
        help="a regular expression whose group is the label in the name of an image file",
    )
    parser.add_argument(
        "--show", type=named_path, metavar="FILE", help="also write some images of each class to this PNG file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_json_flag(parser)


def input_size(text: str) -> tuple[int, int]:
    """Return columns and rows of a text such as 32x32.

    Raises:
        KilonetError: it is no such text.
    """
    found = re.fullmatch(r"([0-9]{1,4})[xX]([0-9]{1,4})", text)
    if not found:
        raise KilonetError(f"init: --size '{text[:20]}': write columns and rows as 32x32")
    return int(found[1]), int(found[2])


def run(flags: argparse.Namespace) -> int:
    from kilonet.training.proposal import Limits, data_name
    from kilonet.training.recipe_file import write_recipe

    written = write_recipe(
        flags.data,
        flags.out if flags.out is not None else Path(f"{data_name(flags.data)}.toml"),
        Limits(flags.max_parameters, flags.max_ram, flags.size),
        label_pattern=flags.label_pattern,
        like=flags.like,
        sheet=flags.show,
        overwrite=flags.overwrite,
    )
    print(json.dumps(written.as_json()) if flags.json else printable_lines(written))
    return 0
