"""How a packaged model reads pictures that are not MNIST's: found digits, and clothes, which are no digits.

    python benchmarks/own_digits.py [--model best] > docs/results/own-digits.md

The found digits are those of tests/found_digits.py, made of the first test images; the clothes are the first test
images of Fashion-MNIST, from Debian's package dataset-fashion-mnist; tests/marks.py makes the rows of test images.
All go the way of `kilonet predict`.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.datasets import load_data
from kilonet.data.decode import decode
from kilonet.data.digits.prepare import PreparedImage, prepare_digit, prepare_row
from kilonet.models.model import Model, load_model
from kilonet.models.prediction import Prediction, predictions_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from found_digits import draw_change, found_digit
from marks import mnist_mark, touching
from surroundings import as_file, plain

FOUND, CLOTHES, ROWS = 600, 2000, 200


def read_back(pixels: NDArray[np.uint8]) -> PreparedImage:
    """Return the network's input for an image that comes as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return prepare_digit(decode(content.getvalue(), "image"))


def read(model: Model, images: Sequence[PreparedImage]) -> list[Prediction]:
    """Return the model's prediction for each image."""
    pixels = torch.from_numpy(np.stack([sight.pixels for sight in images])).unsqueeze(1)
    return predictions_of(model.logits(pixels).numpy(), images, model.metadata, digits=True)


def found_line(model: Model) -> str:
    """Say how found digits are read, beside the same digits clean."""
    test = load_data("mnist").test
    labels = test.labels[:FOUND].tolist()
    pictures = [found_digit(test.pixels[number, 0].numpy(), draw_change(number)) for number in range(FOUND)]
    said = read(model, [prepare_digit(decode(picture, "digit")) for picture in pictures])
    right = np.mean([answer.label == label for answer, label in zip(said, labels, strict=True)])
    clean = (model.predict(test.pixels[:FOUND]).classes == labels).mean()
    objected = sum(answer.objection is not None for answer in said)
    return (
        f"- {FOUND} found digits: {100 * right:.2f} % right, of the same digits clean {100 * clean:.2f} %; "
        f'{objected} answered "no digit", {100 * np.mean([answer.uncertain for answer in said]):.1f} % uncertain'
    )


def clothes_line(model: Model) -> str:
    """Say how many clothes are taken for digits."""
    pixels = load_data("fashion-mnist").test.pixels[:CLOTHES, 0].numpy()
    said = read(model, [read_back(image) for image in pixels])
    objected = np.array([answer.objection is not None for answer in said])
    doubted = np.array([answer.uncertain for answer in said]) & ~objected
    return (
        f'- {CLOTHES:,} images of Fashion-MNIST: {100 * objected.mean():.0f} % answered "no digit", '
        f"another {100 * doubted.mean():.0f} % uncertain"
    )


def clean_line(model: Model) -> str:
    """Say how many answers on the test set are uncertain, and how many of the others are right."""
    test = load_data("mnist").test
    said = read(model, [read_back(image) for image in test.pixels[:, 0].numpy()])
    sure = np.array([not answer.uncertain for answer in said])
    right = np.array([answer.label == label for answer, label in zip(said, test.labels.tolist(), strict=True)])
    return (
        f"- the {len(test):,} test images: {100 * (1 - sure.mean()):.1f} % uncertain, "
        f"{100 * right[sure].mean():.2f} % of the others right"
    )


def touching_line(model: Model, count: int) -> str:
    """Say how digits that touch are read as a row."""
    test, heights = load_data("mnist").test, (24, 60, 120)
    right = sure = wrong = 0
    for number in range(ROWS):
        random = np.random.default_rng([91, number])
        chosen = random.integers(len(test), size=count)
        marks = [mnist_mark(test.pixels[one, 0].numpy(), heights[number % 3]) for one in chosen]
        said = read(model, prepare_row(decode(as_file(plain(touching(marks, random), random)), "row")))
        is_right = [answer.label for answer in said] == test.labels[chosen].tolist()
        is_sure = not any(answer.uncertain for answer in said)
        right, sure, wrong = right + is_right, sure + (is_right and is_sure), wrong + (is_sure and not is_right)
    return (
        f"- {ROWS} rows of {count} test images that touch, by `--line`: {100 * right / ROWS:.1f} % read whole, "
        f"{100 * sure / ROWS:.1f} % surely; {100 * wrong / ROWS:.1f} % sure and wrong"
    )


def main() -> int:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best")
    model = load_model(parser.parse_args().model)
    lines = [found_line(model), clothes_line(model), clean_line(model)]
    print("\n".join([*lines, touching_line(model, 2), touching_line(model, 3)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
