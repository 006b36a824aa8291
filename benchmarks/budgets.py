"""Trains a network within each budget of parameters on each data set, and writes what it is worth as integers in C.

    python benchmarks/budgets.py CELL [CELL ...] [--data SET=FOLDER] [--seeds 3] [--runs FOLDER]
    python benchmarks/budgets.py fashion-mnist:8k --finished RUN [RUN ...]

A CELL is a data set and a budget, `mnist:1k`, or a data set alone for all of its budgets. `meter` and `cifar-10` are
folders of pictures, for which --data is needed. A cell's recipe is the packaged one that `PACKAGED` names, or the file
in benchmarks/budgets of the cell's name. Its seeds are trained side by side; a second call goes on with the runs in the
folder. --finished takes runs that were trained elsewhere, such as on a GPU, by the cell's recipe.

Each model is quantised and exported to C, scored as integers on all test images, and run on a Cortex-M0 under its
emulator (docs/CHIP.md), which counts instructions, flash and RAM. The result is docs/results/budgets/SET-BUDGET.json,
from which `make results` makes the table of docs/RESULTS.md.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilonet.data.datasets import DataSet, Images
from kilonet.export.c.bindings import CompiledC
from kilonet.export.c.targets import TARGETS, TargetResult, run_target
from kilonet.export.exporter import export_model
from kilonet.export.manifest import read_manifest
from kilonet.network.cost import network_cost
from kilonet.recipe import Recipe, load_recipe
from kilonet.training.launch import train_seeds
from kilonet.training.run_folder import Run, read_run
from kilonet.training.train import prepare_data
from kilonet.utils.errors import KilonetError
from own_images import distances, readings_of

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "benchmarks" / "budgets"
OUT = ROOT / "docs" / "results" / "budgets"
SETS = ("mnist", "fashion-mnist", "meter", "cifar-10")
BUDGETS = {"half-k": 500, "1k": 1000, "2k": 2000, "4k": 4000, "8k": 8000, "32k": 32000}
PACKAGED = {
    "mnist:half-k": "half-k",
    "mnist:1k": "1k",
    "mnist:2k": "2k",
    "mnist:4k": "4k",
    "mnist:8k": "best",
    "fashion-mnist:8k": "fashion",
    "cifar-10:8k": "photo-8k",
}
"""The cells whose recipe is a packaged one."""
CHIP = "cortex-m0"
COUNTED_IMAGES = 20


def cells(wanted: Sequence[str]) -> list[str]:
    """Return the cells that are asked for, a data set's name standing for all of its budgets."""
    known = [f"{name}:{budget}" for name in SETS for budget in BUDGETS]
    found = []
    for word in wanted:
        some = [cell for cell in known if word in (cell, cell.split(":")[0])]
        if not some:
            raise SystemExit(
                f"no cell '{word}': not a data set ({', '.join(SETS)}), or one with a budget, such as {known[0]}"
            )
        found += some
    return found


def recipe_of(cell: str) -> str:
    """Return the packaged name or the file of a cell's recipe."""
    return PACKAGED.get(cell) or str(RECIPES / f"{cell.replace(':', '-')}.toml")


def checked(run: Run, recipe: Recipe) -> Run:
    """Return a run that was trained elsewhere, if it is one of a recipe, its data and teachers' places aside."""
    theirs = run.result.recipe
    for section in ("model", "train", "augment"):
        if getattr(theirs, section) != getattr(recipe, section):
            raise SystemExit(f"{run.folder}: its [{section}] is not that of the cell's recipe")
    taught = [(bool(one.teacher), one.temperature, one.weight) for one in (theirs.distill, recipe.distill)]
    if taught[0] != taught[1] or theirs.run.holdout:
        raise SystemExit(f"{run.folder}: a run that was distilled otherwise, or with --holdout")
    return run


def counted(exported: Path, images: Images) -> TargetResult:
    """Return what an image takes on the chip, by an exported folder.

    Raises:
        SystemExit: no compiler or emulator, or a logit that differs from the integer reference's.
    """
    target = next(target for target in TARGETS if target.name == CHIP)
    files = {path.name: path.read_bytes() for path in exported.iterdir() if path.suffix in (".c", ".h")}
    shown = run_target(target, read_manifest(exported).network, files, images.pixels[:COUNTED_IMAGES].numpy())
    if shown.not_run or not shown.passed:
        raise SystemExit(f"{CHIP}: {shown.not_run or f'{shown.differing_logits} logits differ'}")
    return shown


def figures(run: Run, data: DataSet) -> dict[str, Any]:
    """Return the figures of one seed."""
    images, result = data.test, run.result
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_model("c", run.model, data, folder, str(run.folder))
        compiled = CompiledC(folder, run.model.section.input_shape, run.model.section.classes)
        predicted = compiled.logits(images.pixels.numpy()).argmax(1)
        shown = counted(folder, images)
    labels = images.labels.numpy()
    readings = readings_of(data.names)
    near = (
        {}
        if readings is None or len(readings) <= 10
        else {"within_one_step": float((distances(predicted, labels, readings) < 1.5).mean())}
    )
    return {
        "seed": result.recipe.run.seed,
        "test_accuracy": result.final.test_accuracy,
        "integer_accuracy": float((predicted == labels).mean()),
        **near,
        "instructions": shown.instructions,
        "flash": shown.flash,
        "ram": shown.ram,
        "stack": shown.stack,
        "seconds": round(result.seconds, 1),
        "model_sha256": result.model_sha256,
    }


def written(cell: str, runs: Sequence[Run], data: DataSet, out: Path = OUT) -> Path:
    """Write the file of a cell into a folder, and return its path."""
    first = runs[0].result
    recipe, environment = first.recipe, first.environment
    name = recipe_of(cell)
    content = {
        "cell": cell,
        "recipe": name if cell in PACKAGED else Path(name).relative_to(ROOT).as_posix(),
        "command": " ".join(["python benchmarks/budgets.py", cell, f"--seeds {len(runs)}"]),
        "layers": list(recipe.model.layers),
        "parameters": first.parameters,
        "macs": network_cost(recipe.model).macs,
        "epochs": recipe.train.epochs,
        "test_images": len(data.test),
        "teachers": [
            {"parameters": one.parameters, "accuracy": one.accuracy, "scored": one.scored} for one in first.teachers
        ],
        "environment": {
            key: getattr(environment, key) for key in ("processor", "threads", "engine", "precision", "torch")
        },
        "chip": CHIP,
        "runs": [figures(run, data) for run in runs],
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{cell.replace(':', '-')}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Train, score and write the cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", metavar="CELL")
    parser.add_argument("--data", action="append", default=[], metavar="SET=FOLDER")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--finished", nargs="+", type=Path, metavar="RUN")
    options = parser.parse_args()
    folders = dict(pair.split("=", 1) for pair in options.data)
    wanted = cells(options.cells)
    if options.finished and len(wanted) > 1:
        raise SystemExit("--finished takes the runs of one cell")
    for cell in wanted:
        source, name = recipe_of(cell), cell.split(":")[0]
        changes = {"data": folders.get(name, name)}
        try:
            recipe = load_recipe(source, changes)
            if options.finished:
                runs = [checked(read_run(folder), recipe) for folder in options.finished]
            else:
                runs = train_seeds(source, changes, options.runs / cell.replace(":", "-"), options.seeds)
            path = written(cell, runs, prepare_data(recipe))
        except KilonetError as error:
            raise SystemExit(f"{cell}: {error}") from None
        shares = ", ".join(f"{100 * one['integer_accuracy']:.2f}" for one in json.loads(path.read_text())["runs"])
        print(f"{cell}: {shares} % as integers", flush=True)


if __name__ == "__main__":
    main()
