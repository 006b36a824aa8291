"""`kilonet train`."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kilonet.cli.flags import Parser, add_json_flag, add_recipe_flags, named_path, recipe_changes
from kilonet.evaluation.metrics import balanced_line
from kilonet.evaluation.statistics import mean_and_std
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import counted, printable_lines, shell_word

if TYPE_CHECKING:
    from kilonet.recipe import Recipe
    from kilonet.training.run_folder import Result, Run

DEFAULT_RECIPE = "best"
PACKAGED_DATA = "mnist"
"""The data that the default recipe is for."""


def add_flags(parser: Parser) -> None:
    parser.usage = "%(prog)s [RECIPE] [flags]"
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help=f"a packaged recipe (see 'kilonet recipes') or a TOML file (default: {DEFAULT_RECIPE}; "
        "with --data, one proposed for these images as by 'kilonet init')",
    )
    parser.add_argument(
        "--out", type=named_path, metavar="FOLDER", help="the run folder (default: a new one under runs/)"
    )
    parser.add_argument(
        "--resume",
        type=named_path,
        metavar="FOLDER",
        help="continue the interrupted run in this folder, with its own recipe",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="train N times, side by side, with seeds from --seed upwards; prints the mean and standard deviation",
    )
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard's event files")
    add_json_flag(parser)
    add_recipe_flags(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.training import launch
    from kilonet.training.run_records import run_as_json

    changes = recipe_changes(flags)
    if flags.resume is not None:
        if changes or flags.recipe is not None or flags.out is not None or flags.seeds is not None:
            raise KilonetError(
                "--resume continues a run with its own recipe: give no recipe, and no flag but --tensorboard or --json"
            )
        run = launch.resume_run(flags.resume, tensorboard=flags.tensorboard)
        print(json.dumps(run_as_json(run)) if flags.json else printable_lines(run_text(run)))
        return 0
    recipe = _recipe_for(changes) if flags.recipe is None else flags.recipe
    if flags.seeds is None:
        run = launch.train_recipe(recipe, changes, flags.out, tensorboard=flags.tensorboard)
        print(json.dumps(run_as_json(run)) if flags.json else printable_lines(run_text(run)))
    else:
        runs = launch.train_seeds(recipe, changes, flags.out, flags.seeds, tensorboard=flags.tensorboard)
        print(
            json.dumps({"runs": [run_as_json(run) for run in runs]})
            if flags.json
            else printable_lines(seeds_text(runs))
        )
    return 0


def _recipe_for(changes: Mapping[str, Any]) -> "str | Recipe":
    """Return the default recipe, or one proposed for the user's own data, of which some lines are printed."""
    data = changes.get("data", PACKAGED_DATA)
    if data == PACKAGED_DATA:
        return DEFAULT_RECIPE
    from kilonet.training.proposal import propose

    proposal = propose(data, changes=changes)
    print(printable_lines(proposal), file=sys.stderr)
    return proposal.recipe


def run_text(run: "Run") -> str:
    """Return what is printed at the end of a run."""
    result = run.result
    low, high = result.interval
    final, best, scores = 100 * result.final.test_accuracy, result.best, result.balanced_scores
    images = f"{result.scored_images} {result.scored.lower()} images"
    computed = f"{result.environment.engine} engine, {counted(result.environment.threads, 'thread')}"
    lines = [
        f"Final: {final:.2f}% of {images}, 95 % interval {100 * low:.2f} to {100 * high:.2f} %",
        *([balanced_line(*(f"{100 * score:.2f}%" for score in scores))] if scores else []),
        f"Best epoch: {100 * best.test_accuracy:.2f}% (epoch {best.epoch}; picked by looking, no claim)",
        f"Time: {result.seconds:.1f} s of training for {counted(len(run.history), 'epoch')} ({computed})",
        *_teacher_lines(result),
        f"Run folder: {run.folder}",
        f"Next: kilonet evaluate {shell_word(run.folder)}",
    ]
    return "\n".join(lines)


def seeds_text(runs: Sequence["Run"]) -> str:
    """Return what is printed after several seeds: each one's accuracy, their mean and standard deviation."""
    results = [run.result for run in runs]
    lines = [f"seed {result.recipe.run.seed}: {100 * result.final.test_accuracy:.2f}%" for result in results]
    lines += _teacher_lines(results[0])
    images = f"{results[0].scored_images} {results[0].scored.lower()} images"
    seconds = sum(result.seconds for result in results) / len(results)
    accuracy = _mean_text([result.final.test_accuracy for result in results])
    lines.append(f"Final epoch: {accuracy} (mean ± sd, n = {len(runs)}) of {images}; {seconds:.1f} s a run")
    balanced_scores = [result.balanced_scores for result in results if result.balanced_scores]
    if len(balanced_scores) == len(results):
        lines.append(balanced_line(*map(_mean_text, zip(*balanced_scores, strict=True))))
    return "\n".join(lines)


def _mean_text(fractions: Sequence[float]) -> str:
    """Return the mean in percent, with the standard deviation of several."""
    mean, deviation = mean_and_std([100 * fraction for fraction in fractions])
    return f"{mean:.3f}{'' if math.isnan(deviation) else f' ± {deviation:.3f}'} %"


def _teacher_lines(result: "Result") -> list[str]:
    """Return a line for each teacher of a run."""
    lines = []
    for teacher in result.teachers:
        seconds = teacher.seconds
        time = "" if seconds is None else f"; {seconds:.1f} s of training, not counted in the other times"
        images = f"{teacher.scored_images} {teacher.scored.lower()} images"
        lines.append(f"Teacher: {100 * teacher.accuracy:.2f}% of {images}, {teacher.parameters:,} parameters{time}")
    return lines
