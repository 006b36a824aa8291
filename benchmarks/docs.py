"""Writes the generated parts of README.md and of every page in docs/: tables of results and what commands print.

    python benchmarks/docs.py [--check]

A generated part stands between `<!-- begin KIND ARGUMENT -->` and `<!-- end -->`. With `--check` nothing is written,
and a page that differs is exit status 1. The kinds, whose files are in docs/results:

- `accuracy NAME...`: a row for each file that `kilonet train RECIPE --seeds N --json` wrote, with every seed, or with
  the lowest and the highest of more than twelve. A file that has not its recipe's name is written `RECIPE=NAME`.
- `claims NAME...`: the same files in the few columns that the front page has room for.
- `command COMMAND`: what the command prints now; `| head -N` behind it keeps the first N lines.
- `corruptions MODEL...`: what `kilonet evaluate MODEL --corruptions --json` wrote to corruptions-MODEL.json.
- `file NAME`: the file as it is.
- `keys SECTION`: a row for each key of this section of a recipe.
- `shipping EXPORT VERIFY`: what `kilonet export` and `kilonet verify` wrote with `--json`, beside the figures of others
  that are quoted in quoted-shipping.json.
"""

import argparse
import contextlib
import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kilonet.cli import main as main_of_kilonet
from kilonet.evaluation.statistics import listed, mean_and_std
from kilonet.recipe import SECTIONS, load_recipe

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
# RESULTS.md is written whole by results.py; docs/results holds data.
PAGES = (
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if RESULTS not in page.parents),
)

_PART = re.compile(r"(<!-- begin (?P<kind>\w+) (?P<argument>.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def generate(text: str) -> str:
    """Return a page with every generated part made anew."""
    return _PART.sub(lambda part: f"{part[1]}{_MAKERS[part['kind']](part['argument'])}\n{part[4]}", text)


def accuracy_table(names: str) -> str:
    """Return a table with a row for each results file."""
    lines = [
        "| recipe | parameters | epochs | test accuracy, final epoch | n | every seed | seconds a run | machine |",
        "|---|---:|---:|---:|---:|---|---:|---|",
    ]
    return "\n".join(lines + [_accuracy_row(name) for name in names.split()])


def _accuracy_row(word: str) -> str:
    name, runs = _recipe_and_runs(word)
    seconds, _ = mean_and_std([run["seconds"] for run in runs])
    every = listed([100 * run["final"]["test_accuracy"] for run in runs], ".2f")
    counts = f"{runs[0]['parameters']:,} | {runs[0]['recipe']['train']['epochs']}"
    return f"| `{name}` | {counts} | {_claim(runs)} | {len(runs)} | {every} | {seconds:.0f} | {_machine(runs[0])} |"


def claims_table(names: str) -> str:
    """Return a table with a row for each results file: what it is, how accurate, over how many seeds."""
    lines = ["| recipe | parameters | test accuracy | seeds | the recipe |", "|---|---:|---:|---:|---|"]
    for word in names.split():
        name, runs = _recipe_and_runs(word)
        counts = f"{runs[0]['parameters']:,} | {_claim(runs)} | {len(runs)}"
        lines.append(f"| `{name}` | {counts} | {load_recipe(name).about} |")
    return "\n".join(lines)


def _recipe_and_runs(word: str) -> tuple[str, list[dict[str, Any]]]:
    """Return a recipe's name and its runs, for the name of the file or both as RECIPE=NAME."""
    recipe, _, name = word.partition("=")
    runs: list[dict[str, Any]] = json.loads((RESULTS / f"{name or recipe}.json").read_text(encoding="utf-8"))["runs"]
    return recipe, runs


def _claim(runs: list[dict[str, Any]]) -> str:
    mean, deviation = mean_and_std([100 * run["final"]["test_accuracy"] for run in runs])
    return f"**{mean:.2f} ± {deviation:.2f} %**"


def _machine(run: dict[str, Any]) -> str:
    environment = run["environment"]
    threads = f"{environment['threads']} thread" + ("s" if environment["threads"] > 1 else "")
    return f"{environment['processor']}, {threads}, {environment['engine']} engine, {environment['precision']}"


def shipping_table(names: str) -> str:
    """Return a table of the C form, from what `export` and `verify` wrote, and of the quoted figures of others."""
    exported, verified = (json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in names.split())
    (row,) = (row for row in verified["rows"] if row["form"] == "c")
    if (row["flash"], row["ram"]) != (exported["flash"], exported["ram"]):
        raise SystemExit(f"{names}: not of the same export")
    sizes = " | ".join(f"{exported[name]:,} bytes" for name in ("weights", "flash", "ram"))
    ours = (
        f"| **kilonet, `mcu` in C, measured** | {100 * row['accuracy']:.2f} % | {sizes} | | {row['microseconds']:.0f} |"
    )
    quoted = [
        f"| {other['name']}, {other['how']} | "
        f"{' | '.join(other[name] for name in ('accuracy', 'weights', 'flash', 'ram', 'time'))} | |"
        for other in json.loads((RESULTS / "quoted-shipping.json").read_text(encoding="utf-8"))["quoted"]
    ]
    heads = "| | test accuracy | weights | flash, code included | RAM | on the chip | us on this machine |"
    return "\n".join([heads, "|---|---:|---:|---:|---:|---:|---:|", ours, *quoted])


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


def keys_table(name: str) -> str:
    """Return a table of a section's keys: their defaults, their values and what they mean."""
    section = SECTIONS[name]
    schemas = section.model_json_schema()["properties"]
    lines = ["| key | default | values | is |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        default = "required" if field.is_required() else _default(schemas[key]["default"])
        # A bar would end the cell.
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{key}` | {default} | {_values(schemas[key])} | {meaning} |")
    return "\n".join(lines)


def _default(value: Any) -> str:
    # JSON and TOML write booleans, numbers, texts and lists of them alike; TOML has no null.
    return "none" if value is None else f"`{json.dumps(value)}`"


def _values(schema: Mapping[str, Any], ending: str = "") -> str:
    """Return which values a part of a JSON schema allows, in words; `ending` is that of several."""
    if "anyOf" in schema:
        return ", or ".join(_values(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "prefixItems" in schema:
        parts = schema["prefixItems"]
        return f"{len(parts)} whole numbers: {', '.join(map(_range, parts))}"
    kind = schema.get("type")
    # pydantic writes a single choice as "const".
    choices = [True, False] if kind == "boolean" else schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        return ", ".join(f"`{json.dumps(word)}`" for word in choices)
    if kind == "array":
        most = f"up to {schema['maxItems']:,} " if "maxItems" in schema else ""
        return f"list of {most}{_values(schema['items'], 's')}"
    if kind == "string":
        return f"text{ending} of up to {schema['maxLength']:,} characters" if "maxLength" in schema else f"text{ending}"
    return f"{'whole ' if kind == 'integer' else ''}number{ending}, {_range(schema)}"


def _range(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a number in words; a section's numbers all have a lower one."""
    above, most, below = (schema.get(name) for name in ("exclusiveMinimum", "maximum", "exclusiveMaximum"))
    low = f"{schema['minimum']:,}" if above is None else f"above {above:,}"
    if most is not None:
        return f"{low} to {int(most) if most == int(most) else most:,}"
    if below is not None:
        return f"{low} to {below - 1:,}" if schema["type"] == "integer" else f"{low} to below {below:,}"
    return f"{low} or more"


def command_output(command: str) -> str:
    """Return what a kilonet command prints, with the command, as a block of code.

    `| head -N` behind the command keeps the first N lines, as it would in a shell.
    """
    words, _, head = command.partition(" | head -")
    program, *arguments = shlex.split(words)
    if program != "kilonet":
        raise SystemExit(f"'{command}' is not a kilonet command")
    # In this process: importing torch takes longer than most of the commands.
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.chdir(ROOT):
        status = main_of_kilonet(arguments)
    if status:
        raise SystemExit(f"'{command}' failed with status {status}")
    lines = printed.getvalue().rstrip().splitlines()[: int(head) if head else None]
    return "\n".join(["```console", f"$ {command}", *lines, "```"])


_MAKERS: Mapping[str, Callable[[str], str]] = {
    "accuracy": accuracy_table,
    "claims": claims_table,
    "command": command_output,
    "corruptions": corruptions_table,
    "file": stored_file,
    "keys": keys_table,
    "shipping": shipping_table,
}


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    differing = []
    for page in PAGES:
        current = page.read_text(encoding="utf-8")
        wanted = generate(current)
        if wanted != current:
            differing.append(str(page.relative_to(ROOT)))
            if not options.check:
                page.write_text(wanted, encoding="utf-8")
    if options.check:
        print(f"{', '.join(differing)}: run make docs" if differing else f"{len(PAGES)} pages are as generated")
        return int(bool(differing))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
