"""`kilonet export`."""

import argparse
import json

from kilonet.cli.flags import (
    DATA,
    MODEL,
    Parser,
    add_json_flag,
    add_label_pattern_flag,
    check_label_pattern,
    named,
    named_path,
)
from kilonet.utils.terminal import printable_lines


def add_flags(parser: Parser) -> None:
    parser.add_argument("model", type=named, metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--to",
        choices=("c", "arduino", "platformio", "esp-idf", "zephyr", "cmake", "html", "onnx"),
        metavar="FORM",
        required=True,
        help="'c': C99 without floats, for a microcontroller; 'arduino', 'platformio', 'esp-idf', 'zephyr', 'cmake': "
        "the same as a library of theirs with an example; 'html': one page to draw digits on or give pictures to; "
        "'onnx': a float and an int8 ONNX file",
    )
    parser.add_argument(
        "--out",
        type=named_path,
        required=True,
        metavar="FOLDER",
        help="the folder to write; it may hold other forms of the same model",
    )
    parser.add_argument(
        "--data",
        type=named,
        help=f"the training data, to choose scales on: {DATA} (default: the model's own)",
    )
    add_label_pattern_flag(parser)
    parser.add_argument(
        "--max-flash", type=int, metavar="N", help="fail if the C takes more flash on a Cortex-M0, in bytes"
    )
    parser.add_argument("--max-ram", type=int, metavar="N", help="fail if the C takes more RAM, in bytes")
    parser.add_argument(
        "--prefix",
        metavar="NAME",
        help="what all names of the C begin with, so that several networks fit into one program (default: kilonet)",
    )
    parser.add_argument(
        "--target",
        choices=("generic", "cortex-m0", "cortex-m4", "cortex-m55", "rv32", "avr"),
        metavar="NAME",
        help="for which processor the C has its weights in order: 'cortex-m0', 'cortex-m4', 'cortex-m55', 'rv32' or "
        "'avr'; it runs on any, but fast only there (default: 'generic', for all of them, whose files are larger, "
        "but not the flash)",
    )
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.data.datasets import load_data
    from kilonet.data.preprocessing import Preprocessing
    from kilonet.evaluation.scoring import matched_data
    from kilonet.export.exporter import export_model
    from kilonet.export.training_data import data_of
    from kilonet.models.model import load_model

    check_label_pattern(flags)
    model = load_model(flags.model)
    if flags.data is None:
        data = data_of(flags.model, model)
    else:
        named = load_data(flags.data, Preprocessing.of(model.section), label_pattern=flags.label_pattern)
        data = matched_data(model, named)
    exported = export_model(
        flags.to,
        model,
        data,
        flags.out,
        flags.model,
        max_flash=flags.max_flash,
        max_ram=flags.max_ram,
        prefix=flags.prefix,
        family=flags.target,
    )
    print(json.dumps(exported.as_json()) if flags.json else printable_lines(exported))
    return 0
