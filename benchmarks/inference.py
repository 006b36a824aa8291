"""How long classifying an image takes, one at a time and in batches, by one thread, through all that runs `baseline`.

    pip install '.[onnx]'
    python benchmarks/inference.py [--rounds 7] [--images 1000] > docs/results/inference.md

The model is exported to C and ONNX first. Each round times every contender in turn on the same test images; figures are
the median over the rounds of a round's mean, as Python callers see them: what a call from Python costs is included.
The C takes one image after another in either case. No contender's time is shown unless its predictions are the trained
model's, but for one image in a thousand, as rounding to integers may turn one.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from kilonet.data.datasets import Images, load_data
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.export.c.bindings import CompiledC
from kilonet.export.exporter import export_c, export_onnx
from kilonet.export.manifest import read_manifest
from kilonet.models.model import Model, load_model
from kilonet.recipe import Recipe
from kilonet.utils.environment import processor_name

ALLOWED = 1e-3
_MICROSECONDS = 1e6

Pixels = NDArray[np.uint8]
Classify = Callable[[Pixels], NDArray[Any]]


def open_contenders(model: Model, folder: Path, images: Images) -> dict[str, Classify]:
    """Return what classifies uint8 (N, 1, 28, 28) to logits (N, 10), by name, each with one thread.

    Args:
        model: a trained model.
        folder: its C and ONNX forms.
        images: any, which the native engine must be given.
    """
    export = read_manifest(folder)
    return {
        "exported C": CompiledC(folder, export.section.input_shape, export.section.classes).logits,
        "onnxruntime, float": _onnx(folder / "model.onnx"),
        "onnxruntime, int8": _onnx(folder / "model-int8.onnx"),
        "torch eager": lambda pixels: model.logits(torch.from_numpy(pixels)).numpy(),
        "native engine": _native(model, images),
    }


def _onnx(path: Path) -> Classify:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()

    def classify(pixels: Pixels) -> NDArray[Any]:
        logits: NDArray[Any] = session.run([given.name], {taken.name: pixels})[0]
        return logits

    return classify


def _native(model: Model, images: Images) -> Classify:
    recipe = resolve_run(Recipe(model=model.section).replace(engine="native", threads=1))
    engine = make_engine(recipe, images, model.network)
    return lambda pixels: engine.logits(torch.from_numpy(pixels)).numpy()


def check(contenders: dict[str, Classify], model: Model, pixels: Pixels) -> None:
    """Hold every contender's predictions against the trained model's.

    Raises:
        SystemExit: one classifies more than one image in a thousand otherwise.
    """
    wanted = model.logits(torch.from_numpy(pixels)).numpy().argmax(1)
    for name, classify in contenders.items():
        differing = int((classify(pixels).argmax(1) != wanted).sum())
        if differing > ALLOWED * len(pixels):
            raise SystemExit(f"{name}: {differing} of {len(pixels)} predictions are not the trained model's")


def microseconds(classify: Classify, pixels: Pixels, batch: int) -> float:
    """Classify all images once, in batches, and return the microseconds an image."""
    batches = [pixels[first : first + batch] for first in range(0, len(pixels), batch)]
    start = time.perf_counter()
    for one in batches:
        classify(one)
    return (time.perf_counter() - start) * _MICROSECONDS / len(pixels)


def measure(
    contenders: dict[str, Classify], pixels: Pixels, batch: int, rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Return each contender's microseconds of every round: one at a time, and in batches."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in contenders}
    for _ in range(rounds):
        for name, classify in contenders.items():
            for size, kept in zip((1, batch), times[name], strict=True):
                kept.append(microseconds(classify, pixels, size))
    return times


def table(times: dict[str, tuple[list[float], list[float]]], batch: int) -> str:
    """Return a markdown table, a row a contender."""
    lines = [
        f"| `baseline`, one thread | us an image, one at a time (min to max) | in batches of {batch} (min to max) |",
        "|---|---:|---:|",
    ]
    for name, columns in times.items():
        cells = (f"{statistics.median(one):.1f} ({min(one):.1f} to {max(one):.1f})" for one in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Export, check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = load_model("baseline"), load_data("mnist")
    pixels = data.test.pixels[: options.images].numpy()
    with tempfile.TemporaryDirectory(prefix="kilonet-") as name:
        export_c(model, data, Path(name))
        export_onnx(model, data, Path(name))
        contenders = open_contenders(model, Path(name), data.train)
    check(contenders, model, pixels)
    times = measure(contenders, pixels, options.batch, options.rounds)
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"
    print(f"{processor_name()}, {versions}, {options.rounds} rounds of {options.images} images\n")
    print(table(times, options.batch))


if __name__ == "__main__":
    main()
