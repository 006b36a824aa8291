"""How accurate recipes are on a data set as integers in C, over seeds, beside TFLite models on the same images.

    python benchmarks/own_images.py DATA [--recipe FILE ...] [--seeds 3] [--runs FOLDER] [--holdout] [--tflite FILE ...]

Each recipe is trained with consecutive seeds, `--seeds` runs side by side; a second call goes on with the runs in the
folder. Then each model is exported to C, compiled for this machine, and run on the test images, or with `--holdout` on
those held out of the training. Bytes are of flash on a Cortex-M0 with code where a cross compiler is installed, and of
the file for a TFLite model; microseconds are a single thread's for one image after another, the median of five rounds.
Where the classes are numbers, such as readings of a dial, the share within one step of the label is given too; the
scale goes round, as a dial does. TFLite models need `pip install ai-edge-litert`; their output's order must be that of
the classes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.datasets import DataSet, Images, load_data
from kilonet.evaluation.statistics import mean_and_std
from kilonet.export.c.bindings import CompiledC
from kilonet.export.exporter import export_c
from kilonet.recipe import load_recipe, recipe_name
from kilonet.training.launch import train_seeds
from kilonet.training.run_folder import Run
from kilonet.training.train import prepare_data
from kilonet.utils.environment import processor_name

ROUNDS = 5
TIMED_IMAGES = 500

Pixels = NDArray[np.uint8]
Classify = Callable[[Pixels], NDArray[Any]]


@dataclass(frozen=True)
class Score:
    """The figures of one model."""

    exact: float
    """The share of images whose class is right."""
    near: float | None
    """The share within one step of the label; None if the classes are no numbers."""
    microseconds: float
    size: int
    """Bytes."""


def distances(predicted: NDArray[Any], labels: NDArray[Any], readings: NDArray[Any]) -> NDArray[Any]:
    """Return how many steps predictions lie from the labels on a scale that goes round, float64 (N,).

    Args:
        predicted: classes, int64 (N,).
        labels: classes, int64 (N,).
        readings: the number that each class stands for, float64 (classes,).
    """
    in_order = np.sort(readings)
    step = float(np.diff(in_order).min())
    around = float(in_order[-1] - in_order[0]) + step
    apart = np.abs(readings[predicted] - readings[labels])
    nearer: NDArray[Any] = np.minimum(apart, around - apart) / step
    return nearer


def readings_of(names: Sequence[str] | None) -> NDArray[Any] | None:
    """Return the numbers that classes are named after, or None if one is no number or the classes have no names."""
    try:
        return np.array([float(name) for name in names or ()]) if names else None
    except ValueError:
        return None


def score(classify: Classify, images: Images, names: Sequence[str] | None, size: int) -> Score:
    """Return the figures of what classifies uint8 (N, C, H, W) to scores (N, classes)."""
    pixels, labels = images.pixels.numpy(), images.labels.numpy()
    predicted = classify(pixels).argmax(1)
    readings = readings_of(names)
    near = None if readings is None else float((distances(predicted, labels, readings) < 1.5).mean())
    few = pixels[:TIMED_IMAGES]
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        classify(few)
        times.append((time.perf_counter() - start) / len(few) * 1e6)
    return Score(float((predicted == labels).mean()), near, statistics.median(times), size)


def score_in_c(run: Run, data: DataSet) -> Score:
    """Export a run's model to C, compile it, and return its figures on the scoring images."""
    with tempfile.TemporaryDirectory() as name:
        # Integers are fine-tuned with the random changes of the run's recipe.
        exported = export_c(run.model, data, Path(name), augment=run.result.recipe.augment)
        compiled = CompiledC(Path(name), run.model.section.input_shape, run.model.section.classes)
        return score(compiled.logits, data.test, data.names, int(str(exported.figures["flash"])))


def tflite(path: Path) -> Classify:
    """Return what classifies images one after another by a TFLite model, with one thread.

    A float input is given pixels from 0 to 255, an int8 one pixels minus 128.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    offset = 128 if taken["dtype"] == np.int8 else 0

    def classify(pixels: Pixels) -> NDArray[Any]:
        shown = (pixels.transpose(0, 2, 3, 1).astype(np.int16) - offset).astype(taken["dtype"])
        scores = []
        for image in shown:
            interpreter.set_tensor(taken["index"], image[None])
            interpreter.invoke()
            scores.append(interpreter.get_tensor(given["index"])[0].copy())
        return np.stack(scores)

    return classify


def row(name: str, parameters: str, scores: Sequence[Score]) -> str:
    """Return a row of the table for the models of several seeds, or for one model."""

    def cell(shares: Sequence[float | None]) -> str:
        known = [100 * share for share in shares if share is not None]
        if len(known) < 2:
            return "".join(f"{share:.2f} %" for share in known)
        mean, deviation = mean_and_std(known)
        return f"{mean:.2f} ± {deviation:.2f} %"

    exact, near = cell([one.exact for one in scores]), cell([one.near for one in scores])
    microseconds = statistics.median(one.microseconds for one in scores)
    return f"| {name} | {parameters} | {scores[0].size:,} | {exact} | {near} | {len(scores)} | {microseconds:.0f} |"


def main() -> None:
    """Train, export and score the recipes, then the TFLite models, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", action="append", default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/own_images"))
    parser.add_argument("--holdout", action="store_true")
    parser.add_argument("--tflite", action="append", type=Path, default=[], metavar="FILE")
    options = parser.parse_args()
    rows: list[str] = []
    if not options.recipe:
        scored = load_data(options.data, holdout=options.holdout)
    for source in options.recipe:
        changes = {"data": options.data, "holdout": options.holdout}
        name = recipe_name(source)
        runs = train_seeds(source, changes, options.runs / name, options.seeds)
        scored = prepare_data(load_recipe(source, changes))
        scores = [score_in_c(run, scored) for run in runs]
        rows.append(row(f"`{name}`", f"{runs[0].result.parameters:,}", scores))
    images, names = scored.test, scored.names
    rows += [row(path.name, "", [score(tflite(path), images, names, path.stat().st_size)]) for path in options.tflite]
    print(f"{processor_name()}; {len(images):,} {images.name.lower()} images of {Path(options.data).name}\n")
    print("| model | parameters | bytes | right | within one step | n | us an image |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
