"""The command line: a handler parses, makes one call and prints its result.

Figures go to stdout, progress to stderr. Exit status: 0 done, 1 a check failed, 2 bad input, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from kilonet.flags import Keys, Positional, dispatch, print_answer
from kilonet.shipping import export, serve, verify
from kilonet.showing import card, compare, lr_find, report
from kilonet.utils.errors import CheckFailed, KilonetError, TrainingDiverged

DEFAULT_RECIPE = "best"


def train(
    recipe: Annotated[str | None, tyro.conf.Positional] = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    seeds: int | None = None,
    tensorboard: bool = False,
    json: bool = False,
    recipe_keys: Keys = Keys(),  # noqa: B008
) -> int:
    """Train a network and keep it in a run folder.

    Args:
        recipe: a packaged recipe (see 'kilonet recipes') or a TOML file; 'best' if none is given.
        out: the run folder; by default a new one under runs/.
        resume: go on with the run in this folder, with its own recipe.
        seeds: train so many times, side by side, with seeds from --seed upwards; prints mean and deviation.
        tensorboard: write TensorBoard's event files too, into the run folder.
        json: print one JSON object instead of text.
        recipe_keys: keys of the recipe to change.
    """
    from kilonet.training import sessions
    from kilonet.training.results import as_printed

    changes = recipe_keys.given()
    if seeds is not None and resume is None:
        runs = sessions.train_seeds(recipe or DEFAULT_RECIPE, changes, out, seeds, tensorboard=tensorboard)
        print_answer(json, lambda: {"runs": [as_printed(run) for run in runs]}, lambda: sessions.seeds_summary(runs))
        return 0
    if resume is None:
        run = sessions.train_recipe(recipe or DEFAULT_RECIPE, changes, out, tensorboard=tensorboard)
    elif changes or out or seeds is not None or recipe is not None:
        raise KilonetError(
            "--resume goes on with a run as it was begun: give no recipe and no other flag with it but --tensorboard"
        )
    else:
        run = sessions.resume_run(resume, tensorboard=tensorboard)
    print_answer(json, lambda: as_printed(run), lambda: sessions.summary(run))
    return 0


def evaluate(model: Positional, *, data: str = "mnist", corruptions: bool = False, json: bool = False) -> int:
    """Score a model on the test set.

    Args:
        model: a packaged model, a run folder, a model file or an exported folder.
        data: 'mnist', 'fashion-mnist', a folder of IDX files, or one of class-named folders of images or photos.
        corruptions: score it under the 15 corruptions of MNIST-C instead.
        json: print one JSON object instead of text.
    """
    from kilonet import scoring

    evaluation = scoring.score_corrupted(model, data) if corruptions else scoring.score(model, data)
    print_answer(json, evaluation.as_json, lambda: str(evaluation))
    return 0


def predict(
    model: Positional,
    files: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    line: bool = False,
    show: Path | None = None,
    csv: Path | None = None,
    json: bool = False,
) -> int:
    """Classify PNG or JPEG images.

    Args:
        model: a packaged model, a run folder, a model file or an exported folder.
        files: photos or scans of a digit, or one folder of them, whose unreadable files are skipped (exit status 1).
        line: read several separate digits in a row.
        show: write what the network saw to this PNG file.
        csv: write all answers to this CSV file.
        json: print one JSON object instead of text.
    """
    from kilonet import predicting

    if not files:
        raise KilonetError("no image given; name at least one PNG or JPEG file")
    predicted = predicting.predict(model, files, line=line, show=show, table=csv)
    print_answer(json, predicted.as_json, lambda: f"Answers: {csv}" if csv else str(predicted))
    predicting.say_skipped(predicted)
    return predicted.status


def calibrate(model: Positional, *, by: Path, json: bool = False) -> int:
    """Fit how sure a model may be, and keep it in its file.

    Args:
        model: a run folder or a model file.
        by: a finished run of the same recipe with --holdout, on whose held-out images it is fitted.
        json: print one JSON object instead of text.
    """
    from kilonet import calibrating

    calibration = calibrating.calibrate(model, by)
    print_answer(json, lambda: calibration.model_dump(mode="json"), lambda: calibrating.described(calibration))
    return 0


def summary(recipe: Positional, *, classic: bool = False, data: str | None = None, json: bool = False) -> int:
    """Print a network's layers and its cost.

    Args:
        recipe: a packaged recipe or model, a TOML file, a run folder or a model file.
        classic: print the table of the ERA homework's README instead, one row an operation.
        data: make sure that the network takes these data, named as for train.
        json: print one JSON object instead of text.
    """
    from kilonet.network.cost import classic_table, network_cost
    from kilonet.sources import model_section

    section = model_section(recipe)
    cost = network_cost(section)
    table = classic_table(section) if classic else str(cost)
    if data is not None:
        from kilonet.scoring import described

        table += f"\n\n{described(section, data)}"
    print_answer(json, cost.as_json, lambda: table)
    return 0


def recipes(*, json: bool = False) -> int:
    """List the packaged recipes with their claims.

    Args:
        json: print one JSON object instead of text.
    """
    from kilonet.recipe import load_recipe, packaged_recipes

    found = {name: load_recipe(name) for name in packaged_recipes()}
    width = max(map(len, found))
    rows = [
        f"{name:<{width}} {recipe.model.parameters:>6,} parameters  {recipe.about}" for name, recipe in found.items()
    ]
    print_answer(
        json, lambda: {name: recipe.model_dump(mode="json") for name, recipe in found.items()}, lambda: "\n".join(rows)
    )
    return 0


def sweep(plan: Positional, *, show: bool = False, address: str | None = None, json: bool = False) -> int:
    """Search for networks under a budget, or go on searching.

    Args:
        plan: a SWEEP.toml or a packaged one ('1k', '2k').
        show: only print and draw what was found so far.
        address: join the Ray cluster there, HOST:PORT or 'auto'; without it one is started on this machine.
        json: print one JSON object instead of text.
    """
    from kilonet import sweeping

    front = sweeping.show(plan) if show else sweeping.sweep(plan, address)
    print_answer(json, front.as_json, lambda: str(front))
    return 0


HANDLERS = {
    handler.__name__.replace("_", "-"): handler
    for handler in (
        train,
        evaluate,
        predict,
        calibrate,
        summary,
        recipes,
        lr_find,
        sweep,
        compare,
        report,
        card,
        export,
        verify,
        serve,
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except (TrainingDiverged, CheckFailed) as error:
        return _fail(str(error), 1)
    except KilonetError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output has gone; point stdout elsewhere so that Python's exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # Such as a name that is too long for any file.
        return _fail(str(error), 2)
    return status


def _run(arguments: Sequence[str]) -> int:
    try:
        return dispatch("kilonet", HANDLERS, arguments)
    except SystemExit as stop:
        # Help was asked for; what is printed is flushed like any other output.
        return int(stop.code or 0)


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"kilonet: error: {line}" if status != 130 else f"kilonet: {line}", file=sys.stderr)
    return status
