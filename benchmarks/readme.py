"""Writes the generated parts of README.md: results tables and what commands print.

    python benchmarks/readme.py [--check]

A generated part stands between `<!-- begin KIND ARGUMENT -->` and `<!-- end -->`. Kinds: `accuracy` (a table of the
named files in docs/results, which `kilonet train RECIPE --seeds N --json` wrote), `corruptions` (a table of the named
models' files corruptions-MODEL.json there, which `kilonet evaluate MODEL --corruptions --json` wrote), `file` (a file
of docs/results as it is), `command` (what a command prints) and `shipping` (what `kilonet export` and `kilonet verify`
said with `--json`, beside public figures). With `--check` nothing is written, and a difference is exit status 1.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from kilonet.evaluation.statistics import mean_and_std

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"

_QUOTED = (
    "| BitNetMCU on a CH32V002, quoted | 99.55 % | 11.0 kB | | at most 4 KB | |",
    "| BitNetMCU on a CH32V002, quoted | 99.28 % | 7.3 kB | | at most 4 KB | |",
    "| TinyMaix, a weaker network, quoted | | | 2.4 KB | 1.4 KB | |",
    "| TensorFlow Lite Micro, quoted | | | hundreds of KB and up | found by trial | |",
)
_PART = re.compile(r"(<!-- begin (?P<kind>\w+) (?P<argument>.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def generate(text: str) -> str:
    """Return the README with every generated part made anew."""
    makers = {
        "accuracy": accuracy_table,
        "corruptions": corruptions_table,
        "file": stored_file,
        "command": command_output,
        "shipping": shipping_table,
    }
    return _PART.sub(lambda part: f"{part[1]}{makers[part['kind']](part['argument'])}\n{part[4]}", text)


def accuracy_table(names: str) -> str:
    """Return a table with a row for each results file."""
    lines = [
        "| recipe | parameters | epochs | test accuracy, final epoch | n | every seed | seconds a run | machine |",
        "|---|---:|---:|---:|---:|---|---:|---|",
    ]
    return "\n".join(lines + [_accuracy_row(name) for name in names.split()])


def _accuracy_row(name: str) -> str:
    runs = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["runs"]
    shares = [100 * run["final"]["test_accuracy"] for run in runs]
    mean, deviation = mean_and_std(shares)
    seconds, _ = mean_and_std([run["seconds"] for run in runs])
    first = runs[0]
    every = ", ".join(f"{share:.2f}" for share in shares)
    accuracy = f"**{mean:.2f} ± {deviation:.2f} %**"
    counts = f"{first['parameters']:,} | {first['recipe']['train']['epochs']}"
    return f"| `{name}` | {counts} | {accuracy} | {len(runs)} | {every} | {seconds:.0f} | {_machine(first)} |"


def _machine(run: dict[str, Any]) -> str:
    environment = run["environment"]
    threads = f"{environment['threads']} thread" + ("s" if environment["threads"] > 1 else "")
    return f"{environment['processor']}, {threads}, {environment['engine']} engine, {environment['precision']}"


def shipping_table(names: str) -> str:
    """Return a table of the C form, from what `export` and `verify` said, and of the quoted figures of others."""
    exported, verified = (json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in names.split())
    (row,) = (row for row in verified["rows"] if row["form"] == "c")
    if (row["flash"], row["ram"]) != (exported["flash"], exported["ram"]):
        raise SystemExit(f"{names}: not of the same export")
    sizes = " | ".join(f"{exported[name]:,} bytes" for name in ("weights", "flash", "ram"))
    ours = (
        f"| **kilonet, `mcu` in C, measured** | {100 * row['accuracy']:.2f} % | {sizes} | {row['microseconds']:.0f} |"
    )
    heads = "| | test accuracy | weights | flash, code included | RAM | us an image on this machine |"
    return "\n".join([heads, "|---|---:|---:|---:|---:|---:|", ours, *_QUOTED])


def corruptions_table(names: str) -> str:
    """Return a table with a row for each corruption and a column for each model."""
    tables = [json.loads((RESULTS / f"corruptions-{name}.json").read_text(encoding="utf-8")) for name in names.split()]
    heads = " | ".join(f"`{name}`" for name in names.split())
    return "\n".join(
        [
            f"| {tables[0]['images']:,} test images | {heads} |",
            "|---|" + "---:|" * len(tables),
            _percent_row("clean", [table["clean"] for table in tables]),
            *(
                _percent_row(name.replace("_", " "), [table["accuracies"][name] for table in tables])
                for name in tables[0]["accuracies"]
            ),
            _percent_row("**mean of the corruptions**", [table["mean"] for table in tables]),
        ]
    )


def _percent_row(name: str, shares: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{100 * share:.2f} %" for share in shares) + " |"


def stored_file(name: str) -> str:
    """Return a results file as it is."""
    return (RESULTS / name).read_text(encoding="utf-8").rstrip()


def command_output(command: str) -> str:
    """Return what a kilonet command prints, with the command, as a block of code."""
    words = shlex.split(command)
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=True, cwd=ROOT)
    return f"```console\n$ {command}\n{done.stdout.rstrip()}\n```"


def main() -> int:
    """Write the README, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    current = README.read_text(encoding="utf-8")
    wanted = generate(current)
    if options.check:
        print("README.md is as generated" if wanted == current else "README.md differs: run benchmarks/readme.py")
        return int(wanted != current)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
