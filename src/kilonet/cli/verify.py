"""`kilonet verify`."""

import argparse
import json

from kilonet.cli.flags import (
    DATA,
    Parser,
    add_json_flag,
    add_label_pattern_flag,
    check_label_pattern,
    named,
    named_path,
)
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument("folder", type=named_path, metavar="FOLDER", help="what 'kilonet export' wrote")
    parser.add_argument(
        "--data", type=named, help=f"the test images to classify: {DATA} (default: those of the export)"
    )
    add_label_pattern_flag(parser)
    parser.add_argument(
        "--targets",
        action="store_true",
        help="also build the C form for each microcontroller whose compiler and emulator are here, and count what an "
        "image takes",
    )
    parser.add_argument(
        "--run-foreign-code",
        action="store_true",
        help="compile and run the folder even if its files are not what 'kilonet export' writes; only if you trust it",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.export.training_data import verification_images
    from kilonet.export.verify import verify

    check_label_pattern(flags)
    images = verification_images(flags.folder, flags.data, flags.label_pattern)
    verification = verify(flags.folder, images, run_foreign_code=flags.run_foreign_code, targets=flags.targets)
    print(json.dumps(verification.as_json()) if flags.json else printable_lines(verification))
    return 0 if verification.passed else 1
