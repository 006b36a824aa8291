"""`kilonet report`."""

import argparse
import json
from pathlib import Path

from kilonet.cli.flags import Parser, add_json_flag, add_measurement_flags, named, named_path
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument(
        "runs",
        type=named,
        nargs="+",
        metavar="RUN",
        help="run folders, or folders of several seeds; the first, which may be any model, is shown in full",
    )
    parser.add_argument(
        "--out",
        type=named_path,
        default=Path("report.html"),
        metavar="FILE",
        help="the HTML file to write (default: %(default)s)",
    )
    add_measurement_flags(parser)
    parser.add_argument(
        "--exported",
        type=named_path,
        metavar="FOLDER",
        help="what 'kilonet export' wrote, for the sizes (default: exported in the run folder)",
    )
    parser.add_argument(
        "--digit",
        type=int,
        default=0,
        metavar="N",
        help="index of the test image that is shown in detail (default: %(default)s)",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.report.sources import ExtraFiles
    from kilonet.report.writing import write_report

    extra = ExtraFiles(flags.results, flags.corruptions, flags.exported)
    written = write_report(flags.runs, flags.out, extra, flags.digit)
    print(json.dumps(written.as_json()) if flags.json else printable_lines(written))
    return 0
