"""`kilonet evaluate`."""

import argparse
import json
import sys

from kilonet.cli.flags import (
    DATA,
    MODEL_OR_EXPORT,
    Parser,
    add_json_flag,
    add_label_pattern_flag,
    check_label_pattern,
    named,
)
from kilonet.utils.extras import needed_from
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument("model", type=named, metavar="MODEL", help=MODEL_OR_EXPORT)
    parser.add_argument("--data", type=named, help=f"{DATA} or photos (default: the model's own)")
    add_label_pattern_flag(parser)
    parser.add_argument(
        "--corruptions", action="store_true", help="score the model under the 15 corruptions of MNIST-C instead"
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.evaluation.hints import hint
    from kilonet.evaluation.scoring import evaluate
    from kilonet.export.loading import load
    from kilonet.export.training_data import scored_images

    check_label_pattern(flags)
    model = load(flags.model)
    images = scored_images(flags.model, model, flags.data, flags.label_pattern)
    if flags.corruptions:
        with needed_from("corruptions", "--corruptions"):
            from kilonet.evaluation.corruptions import evaluate_corrupted

        corrupted = evaluate_corrupted(model, images)
        print(json.dumps(corrupted.as_json()) if flags.json else printable_lines(corrupted))
    else:
        evaluation = evaluate(model, images)
        print(json.dumps(evaluation.as_json()) if flags.json else printable_lines(evaluation))
        if advice := hint(model, images, evaluation.accuracy):
            print(f"kilonet: {advice}", file=sys.stderr)
    return 0
