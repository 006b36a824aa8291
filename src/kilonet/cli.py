"""The command line: a handler parses, makes one call and prints its result.

Figures go to stdout, progress to stderr. Exit status: 0 done, 1 a check failed, 2 bad input, 130 interrupted.
"""

import json as json_module
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from kilonet.errors import CheckFailed, KilonetError, TrainingDiverged
from kilonet.flags import Positional, RecipeFlags, dispatch, recipe_flags

if TYPE_CHECKING:
    from kilonet.runs import Run

if TYPE_CHECKING:
    Keys = RecipeFlags
else:
    Keys = recipe_flags()

DEFAULT_RECIPE = "best"


def train(
    recipe: Annotated[str | None, tyro.conf.Positional] = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    seeds: int | None = None,
    json: bool = False,
    recipe_keys: Keys = Keys(),  # noqa: B008
) -> int:
    """Train a network and keep it in a run folder.

    Args:
        recipe: a packaged recipe (see 'kilonet recipes') or a TOML file; 'best' if none is given.
        out: the run folder; by default a new one under runs/.
        resume: go on with the run in this folder, with its own recipe.
        seeds: train so many times, side by side, with seeds from --seed upwards; prints mean and deviation.
        json: print one JSON object instead of text.
        recipe_keys: keys of the recipe to change.
    """
    from kilonet import sessions

    changes = recipe_keys.given()
    if seeds is not None and resume is None:
        runs = sessions.train_seeds(recipe or DEFAULT_RECIPE, changes, out, seeds)
        _print(json, lambda: {"runs": [_run_as_json(run) for run in runs]}, lambda: sessions.seeds_summary(runs))
        return 0
    if resume is None:
        run = sessions.train_recipe(recipe or DEFAULT_RECIPE, changes, out)
    elif changes or out or seeds is not None or recipe is not None:
        raise KilonetError("--resume goes on with a run as it was begun: give no recipe and no other flag with it")
    else:
        run = sessions.resume_run(resume)
    _print(json, lambda: _run_as_json(run), lambda: sessions.summary(run))
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
    _print(json, evaluation.as_json, lambda: str(evaluation))
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
    _print(json, predicted.as_json, lambda: f"Answers: {csv}" if csv else str(predicted))
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
    _print(json, lambda: calibration.model_dump(mode="json"), lambda: calibrating.described(calibration))
    return 0


def summary(recipe: Positional, *, classic: bool = False, data: str | None = None, json: bool = False) -> int:
    """Print a network's layers and its budget.

    Args:
        recipe: a packaged recipe or model, a TOML file, a run folder or a model file.
        classic: print the table of the seed's document instead, one row an operation.
        data: make sure that the network takes these data, named as for train.
        json: print one JSON object instead of text.
    """
    from kilonet.budget import budget_of, classic_table
    from kilonet.sources import model_section

    section = model_section(recipe)
    budget = budget_of(section)
    table = classic_table(section) if classic else str(budget)
    if data is not None:
        from kilonet.scoring import described

        table += f"\n\n{described(section, data)}"
    _print(json, budget.as_json, lambda: table)
    return 0


def recipes(*, json: bool = False) -> int:
    """List the packaged recipes with their claims.

    Args:
        json: print one JSON object instead of text.
    """
    from kilonet.recipe import load_recipe, packaged_recipes

    found = {name: load_recipe(name) for name in packaged_recipes()}
    rows = [f"{name:<8} {recipe.model.parameters:>6,} parameters  {recipe.about}" for name, recipe in found.items()]
    _print(
        json, lambda: {name: recipe.model_dump(mode="json") for name, recipe in found.items()}, lambda: "\n".join(rows)
    )
    return 0


def export(
    model: Positional,
    *,
    to: Literal["c", "html", "onnx"],
    out: Path,
    data: str = "mnist",
    max_flash: int | None = None,
    max_ram: int | None = None,
    json: bool = False,
) -> int:
    """Write a model as integers in a form that ships.

    Args:
        model: a packaged model, a run folder or a model file.
        to: the form: 'c' for C99 without floats, for a microcontroller; 'html' for one page to draw digits on;
            'onnx' for a float and an int8 ONNX file.
        out: the folder to write; one that holds other forms of the same model gets this one too.
        data: 'mnist', or a folder with four IDX files: what the model was trained on, to choose scales on.
        max_flash: fail if the C takes more bytes of flash on a Cortex-M0.
        max_ram: fail if the C takes more bytes of RAM.
        json: print one JSON object instead of text.
    """
    from kilonet.datasets import load_data
    from kilonet.model import load
    from kilonet.ship.export import export_as

    exported = export_as(to, load(model), load_data(data), out, model, max_flash=max_flash, max_ram=max_ram)
    _print(json, exported.as_json, lambda: str(exported))
    return 0


def verify(folder: Annotated[Path, tyro.conf.Positional], *, data: str = "mnist", json: bool = False) -> int:
    """Hold every form in an exported folder against the integers.

    Args:
        folder: what 'kilonet export' wrote; its code is compiled and run.
        data: 'mnist', or a folder with four IDX files, whose test images are classified.
        json: print one JSON object instead of text.
    """
    from kilonet.datasets import load_data
    from kilonet.ship.verify import verify as replay

    verification = replay(folder, load_data(data).test)
    _print(json, verification.as_json, lambda: str(verification))
    return 0 if verification.passed else 1


def serve(
    model: Positional,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_bytes: int = 8 << 20,
    max_pixels: int = 16_000_000,
    max_images: int = 32,
    max_requests: int = 128,
    max_seconds: float = 10.0,
) -> int:
    """Serve a model over HTTP, with a page to draw on.

    Args:
        model: a packaged model, a run folder, a model file or an exported folder.
        host: the address to listen on; by default only this machine's own processes reach it.
        port: the port; 0 for a free one.
        max_bytes: of a request's body.
        max_pixels: of an image, rows times columns, looked at before it is decoded.
        max_images: in a batch.
        max_requests: at once; further ones are told to come back.
        max_seconds: for a request's head, for its body, for its answer and for a client to read it, each.
    """
    from kilonet.loading import load
    from kilonet.serve.limits import Limits
    from kilonet.serve.server import serve

    limits = Limits(max_bytes, max_pixels, max_images, max_requests, max_seconds)
    serve(load(model), model, (host, port), limits, lambda line: print(line, flush=True))
    return 0


def _print(json: bool, as_json: Callable[[], Any], as_text: Callable[[], str]) -> None:
    print(json_module.dumps(as_json()) if json else as_text())


def _run_as_json(run: "Run") -> dict[str, Any]:
    return {"folder": str(run.folder), **run.result.model_dump(mode="json")}


HANDLERS = {
    handler.__name__: handler
    for handler in (train, evaluate, predict, calibrate, summary, recipes, export, verify, serve)
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
