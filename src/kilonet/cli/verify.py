"""`kilonet verify`."""

import argparse
import json
from pathlib import Path

from kilonet.cli.flags import DATA, Parser, add_json_flag
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="what 'kilonet export' wrote; its code is compiled and run"
    )
    parser.add_argument("--data", help=f"the test images to classify: {DATA} (default: those of the export)")
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.export.training_data import verification_data
    from kilonet.export.verify import verify

    verification = verify(flags.folder, verification_data(flags.folder, flags.data).test)
    print(json.dumps(verification.as_json()) if flags.json else printable_lines(verification))
    return 0 if verification.passed else 1
