"""`kilonet predict`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kilonet.cli.flags import MODEL_OR_EXPORT, Parser, add_json_flag, named, named_path
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable, printable_lines

if TYPE_CHECKING:
    from kilonet.models.prediction import PredictedFiles

_LISTED = 20
"""How many skipped files are printed."""


def add_flags(parser: Parser) -> None:
    parser.add_argument("model", type=named, metavar="MODEL", help=MODEL_OR_EXPORT)
    parser.add_argument(
        "files",
        nargs="+",
        type=named_path,
        metavar="FILE",
        help="images, or one folder of images; a folder's unreadable files are skipped, and the exit status is then 1",
    )
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--line", action="store_true", help="read several digits in a row")
    several.add_argument(
        "--all", action="store_true", help="read all digits of a page or form, row by row, with their boxes"
    )
    parser.add_argument(
        "--show",
        type=named_path,
        metavar="FILE",
        help="write the images that the network saw to a PNG file; with --all the page, with boxes drawn into it",
    )
    parser.add_argument("--csv", type=named_path, metavar="FILE", help="write the predictions to a CSV file")
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.export.loading import load
    from kilonet.models.page_picture import page_as_png
    from kilonet.models.prediction import CSV_MARK, PICTURE_MARK, predict_files
    from kilonet.utils.files import check_replaceable, write_atomically

    if flags.all and flags.show is not None and (len(flags.files) > 1 or flags.files[0].is_dir()):
        raise KilonetError("--show draws the boxes of one page; give one file with --all")
    for path, mark, flag in ((flags.csv, CSV_MARK, "--csv"), (flags.show, PICTURE_MARK, "--show")):
        if path is not None:
            check_replaceable(path, mark, flag)
    predicted = predict_files(load(flags.model), flags.files, line=flags.line, page=flags.all)
    _check_outputs(flags, [*(one.file for one in predicted.files), *(path for path, _ in predicted.skipped)])
    if flags.csv is not None:
        write_atomically(flags.csv, predicted.as_csv().encode())
    if flags.show is not None and predicted.files:
        shown = page_as_png(predicted.files[0]) if flags.all else predicted.inputs_as_png()
        write_atomically(flags.show, shown)
    text = f"Answers: {flags.csv}" if flags.csv is not None else str(predicted)
    print(json.dumps(predicted.as_json()) if flags.json else printable_lines(text))
    _report_skipped(predicted)
    if flags.show is not None and not predicted.files:
        print(f"kilonet: {printable(flags.show)} is not written: there is nothing to show", file=sys.stderr)
    return 1 if predicted.skipped else 0


def _check_outputs(flags: argparse.Namespace, read: Sequence[Path]) -> None:
    """Refuse to write over an image that was read, or two outputs into one file."""
    images = {path.resolve() for path in read}
    outputs = {name: getattr(flags, name) for name in ("csv", "show") if getattr(flags, name) is not None}
    for name, path in outputs.items():
        if path.resolve() in images:
            raise KilonetError(f"--{name} {path} is one of the images; give another file")
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise KilonetError(f"--csv and --show are one file, {flags.csv}; give two")


def _report_skipped(predicted: "PredictedFiles") -> None:
    for _, reason in predicted.skipped[:_LISTED]:
        print(f"kilonet: skipped: {printable(reason)}", file=sys.stderr)
    if len(predicted.skipped) > _LISTED:
        print(f"kilonet: skipped: {len(predicted.skipped) - _LISTED} more; --json lists all", file=sys.stderr)
    if predicted.skipped:
        count = len(predicted.skipped)
        print(f"kilonet: {count} of {count + len(predicted.files)} files could not be read", file=sys.stderr)
