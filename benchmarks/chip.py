"""Counts what an image takes on microcontrollers, under emulators: instructions, flash, RAM and stack.

    python benchmarks/chip.py [--models mcu best] [--levels=-Os,-O2] [--targets cortex-m0 cortex-m4]

Counts are the same on every machine. Each target needs its compiler and its emulator (docs/CHIP.md).
"""

import argparse
import tempfile
from pathlib import Path

from kilonet.data.datasets import load_data
from kilonet.export.c.codegen import sources
from kilonet.export.c.targets import HEADS, TARGETS, run_target
from kilonet.export.exporter import export_model
from kilonet.export.manifest import read_manifest
from kilonet.models.model import load_model
from kilonet.utils.text_tables import aligned


def main() -> int:
    """Print a table for each model; return 1 if a logit differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mcu", "best"])
    parser.add_argument("--levels", default="-Os,-O2", help="levels of optimisation")
    parser.add_argument("--targets", nargs="+", choices=[target.name for target in TARGETS])
    flags = parser.parse_args()
    data = load_data("mnist")
    wanted = [target for target in TARGETS if not flags.targets or target.name in flags.targets]
    passed = True
    for name in flags.models:
        model = load_model(name)
        with tempfile.TemporaryDirectory() as folder:
            export_model("c", model, data, Path(folder) / "c", name)
            network = read_manifest(Path(folder) / "c").network
        texts = {file: text.encode() for file, text in sources(network, model.section, model.metadata).items()}
        rows, notes = [("", *HEADS)], []
        for target in wanted:
            for level in flags.levels.split(","):
                found = run_target(target, network, texts, data.test.pixels.numpy(), level=level)
                passed = passed and found.passed
                if found.not_run:
                    notes.append(f"{target.name} {level}: not run: {found.not_run}")
                else:
                    rows.append((level, *found.cells()))
        print("\n".join([f"{name}:", *aligned(rows, (0, 1)), *notes, ""]))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
