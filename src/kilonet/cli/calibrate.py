"""`kilonet calibrate`."""

import argparse
import json
from pathlib import Path

from kilonet.cli.flags import Parser, add_json_flag
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder or a model file, which is changed")
    parser.add_argument(
        "--by",
        type=Path,
        required=True,
        metavar="RUN",
        help="a finished run of the same recipe with --holdout, whose held-out images are used",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.training.calibrate import calibrate

    calibration = calibrate(flags.model, flags.by)
    text = [
        f"Temperature: {calibration.temperature:.4f}",
        f"Uncertain below a probability of {100 * calibration.sure_from:.2f}%",
        f"Unlike the training images below an energy of {calibration.energy_from:.3f}",
    ]
    print(json.dumps(calibration.model_dump(mode="json")) if flags.json else printable_lines("\n".join(text)))
    return 0
