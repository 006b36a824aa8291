"""`kilonet calibrate`."""

import argparse
import json

from kilonet.cli.flags import Parser, add_json_flag, named, named_path
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument("model", type=named, metavar="MODEL", help="a run folder or a model file, which is changed")
    parser.add_argument(
        "--by",
        type=named_path,
        metavar="RUN",
        help="a finished run of the same recipe, whose images kept aside (--calibration) or held out (--holdout) are "
        "used (default: the model's own run)",
    )
    parser.add_argument(
        "--negatives",
        type=named_path,
        metavar="FOLDER",
        help="images of none of the classes, which the model will answer with 'none of these'; unreadable files are "
        "skipped, and the exit status is then 1",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.training.calibrate import calibrate

    calibrated = calibrate(flags.model, flags.by, flags.negatives)
    print(json.dumps(calibrated.as_json()) if flags.json else printable_lines(calibrated))
    return 0
