"""`kilonet compare`."""

import argparse
import json

from kilonet.cli.flags import Parser, add_json_flag, named, named_path
from kilonet.evaluation.metrics import METRIC_NAMES
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument(
        "runs",
        type=named,
        nargs="+",
        metavar="RUN",
        help="run folders, folders of several seeds, or files that 'kilonet train --json' printed",
    )
    parser.add_argument(
        "--metric",
        choices=tuple(METRIC_NAMES),
        default="accuracy",
        help="what to compare them by (default: accuracy, which alone is also compared image by image)",
    )
    parser.add_argument(
        "--plot",
        type=named_path,
        metavar="FILE",
        help="draw the metric against parameters into an SVG, PNG or PDF file, accuracy with others' published results",
    )
    parser.add_argument(
        "--distribution",
        type=named_path,
        metavar="FILE",
        help="draw the metric of every run, with the mean and the standard deviation, into an SVG, PNG or PDF file",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    if flags.plot and flags.distribution and flags.plot.resolve() == flags.distribution.resolve():
        raise KilonetError(f"--plot and --distribution are one file, {flags.plot}; give two")
    from kilonet.report.comparison.comparison import compare

    comparison = compare(flags.runs, flags.metric)
    if flags.plot is not None:
        from kilonet.report.comparison.frontier import draw_frontier

        draw_frontier(comparison, flags.plot)
    if flags.distribution is not None:
        from kilonet.report.comparison.distribution import draw_distribution

        draw_distribution(comparison, flags.distribution)
    print(json.dumps(comparison.as_json()) if flags.json else printable_lines(comparison))
    return 0
