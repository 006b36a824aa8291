"""Counts what cppcheck's MISRA addon finds in the exported C, by rule.

    python benchmarks/misra.py > docs/results/misra.md

The C is that of `mcu` in plain C, with every part of the runtime. The addon knows the rules of MISRA C:2012 by their
numbers; their texts are MISRA's. docs/MISRA.md says which are deviated from, and why.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from kilonet.data.datasets import Images, load_data
from kilonet.export.c import codegen
from kilonet.export.c.prefix import C_FILES
from kilonet.export.quantisation import choose_scales
from kilonet.export.unrounded_steps import to_integer_network
from kilonet.models.model import load_model

CATEGORIES = {
    **dict.fromkeys(("5.5", "8.4", "10.1", "10.3", "10.4", "10.5", "10.6", "10.7", "10.8", "11.8", "11.9"), "required"),
    **dict.fromkeys(("14.2", "14.4", "15.6", "15.7", "16.4", "20.7", "21.1", "21.2"), "required"),
    **dict.fromkeys(("2.3", "2.4", "2.5", "8.7", "8.9", "11.4", "11.5", "12.1", "12.3", "13.3", "13.4"), "advisory"),
    **dict.fromkeys(("15.5", "17.8", "18.4", "20.5", "20.10"), "advisory"),
}
"""Those of MISRA C:2012 for the rules that were ever found here."""
KERNELS = "kilonet_kernels.h"
_FOUND = re.compile(r"^(\w+\.[ch]):\d+:\d+: .*\[misra-c2012-([\d.]+)\]$", re.MULTILINE)


def write_sources(folder: Path) -> list[str]:
    """Write the C files of `mcu` with every part of the runtime, and return those to compile on a microcontroller."""
    model, train = load_model("mcu"), load_data("mnist").train
    network = to_integer_network(model.section, choose_scales(model, Images(train.pixels[:100], train.labels[:100])))
    for name, text in codegen.sources(network, model.section, model.metadata).items():
        (folder / name).write_text(re.sub(r"(KILONET_HAS_\w+) 0", r"\1 1", text), encoding="utf-8")
    return [name for name in C_FILES if name.endswith(".c") and name not in ("main.c", "kilonet_vectors.c")]


def violations(folder: Path, files: list[str]) -> Counter[tuple[str, str]]:
    """Return how many violations there are of each rule in each file, by (rule, file)."""
    command = ["cppcheck", "--addon=misra", "--std=c99", "--enable=style", "--quiet", "-DKILONET_PLAIN"]
    done = subprocess.run(
        [*command, "--suppress=missingIncludeSystem", *files], cwd=folder, capture_output=True, text=True, check=True
    )
    return Counter((rule, file) for file, rule in _FOUND.findall(done.stderr))


def report() -> str:
    """Return the table."""
    with tempfile.TemporaryDirectory() as name:
        found = violations(Path(name), write_sources(Path(name)))
    version = subprocess.run(["cppcheck", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    lines = [
        f"{version}, `python benchmarks/misra.py`:",
        "",
        "| rule | category | in the innermost loops | elsewhere |",
        "|---|---|---:|---:|",
    ]
    for rule in sorted({rule for rule, _ in found}, key=lambda rule: [int(part) for part in rule.split(".")]):
        inner = found[rule, KERNELS]
        every = sum(count for (other, _), count in found.items() if other == rule)
        lines.append(f"| {rule} | {CATEGORIES.get(rule, 'unknown')} | {inner} | {every - inner} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
