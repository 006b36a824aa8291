"""`kilonet verify`."""

import argparse
import json
from pathlib import Path

from kilonet.cli.flags import DATA, Parser, add_json_flag


def add_flags(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what 'kilonet export' wrote")
    parser.add_argument("--data", default="mnist", help=f"the test images to classify: {DATA} (default: mnist)")
    parser.add_argument(
        "--run-foreign-code",
        action="store_true",
        help="compile and run the folder even if its files are not what 'kilonet export' writes; only if you trust it",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.data.datasets import load_data
    from kilonet.export.verify import verify

    verification = verify(flags.folder, load_data(flags.data).test, run_foreign_code=flags.run_foreign_code)
    print(json.dumps(verification.as_json()) if flags.json else verification)
    return 0 if verification.passed else 1
