"""Accuracy of trained models as floats and as integers, on the test set: a line a model, and the mean.

    python benchmarks/quantisation.py mcu baseline runs/mcu-seed1

Each is a packaged model, a run folder or a model file. Scales are chosen on the training images alone.
"""

import argparse

import torch

from kilonet.data.datasets import load_data
from kilonet.evaluation.scoring import accuracy_of
from kilonet.evaluation.statistics import mean_and_std
from kilonet.export.integer import integer_logits
from kilonet.export.quantisation import quantise
from kilonet.models.model import load_model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    data, drops, reached = load_data("mnist"), list[float](), list[float]()
    print("| model | float32 | int8 | other predictions | fine-tuned |\n|---|---:|---:|---:|---|")
    for name in parser.parse_args().models:
        model = load_model(name)
        quantised = quantise(model, data.train)
        real = model.logits(data.test.pixels)
        whole = torch.from_numpy(integer_logits(quantised.network, data.test.pixels.numpy()))
        before, after = (100 * accuracy_of(scores, data.test.labels) for scores in (real, whole))
        others = int((real.argmax(1) != whole.argmax(1)).sum())
        tuned = "no" if quantised.finetuned_accuracy is None else "yes"
        print(f"| {name} | {before:.2f} % | {after:.2f} % | {others} | {tuned} |", flush=True)
        drops.append(before - after)
        reached.append(after)
    for what, figures in (("int8, percent", reached), ("Lost, points", drops)):
        mean, deviation = mean_and_std(figures)
        print(f"\n{what}: {mean:.3f} ± {deviation:.3f} (n = {len(figures)})")


if __name__ == "__main__":
    main()
