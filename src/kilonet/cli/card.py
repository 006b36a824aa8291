"""`kilonet card`."""

import argparse
import json
import re
from pathlib import Path

from kilonet.cli.flags import MODEL, Parser, add_json_flag, add_measurement_flags, named, named_path
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument("model", type=named, metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--out",
        type=named_path,
        default=Path("README.md"),
        metavar="PATH",
        help="the Markdown file to write, or a folder, which gets the model's file too (default: %(default)s)",
    )
    add_measurement_flags(parser)
    parser.add_argument(
        "--license",
        type=_licence,
        metavar="NAME",
        help="the model's licence as the Hub names it, such as 'mit' (default: mit for a packaged model)",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.report.sources import ExtraFiles
    from kilonet.report.writing import write_card

    written = write_card(flags.model, flags.out, ExtraFiles(flags.results, flags.corruptions), flags.license)
    print(json.dumps(written.as_json()) if flags.json else printable_lines(written))
    return 0


def _licence(text: str) -> str:
    """Return a licence's identifier, as a type of an argument."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no identifier of a licence, such as 'mit' or 'apache-2.0'")
    return text
