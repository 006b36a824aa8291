"""How a packaged model reads whole pages by `kilonet predict --all`.

    python benchmarks/whole_pages.py [--model best] [--each 20] > docs/results/whole-pages.md

The pages are those of tests/digit_pages.py, the handwritten digits images of MNIST's test set.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kilonet.data.datasets import load_data
from kilonet.data.decode import decode
from kilonet.data.digits.page import PAGE_SIDE
from kilonet.models.model import Model, load_model
from kilonet.models.prediction import predictions_of, prepare_images

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from digit_pages import DigitPage, Digits, form, page_of_rows, sudoku
from surroundings import as_file

KINDS: dict[str, Callable[[Digits, np.random.Generator], DigitPage]] = {
    "100 digits in rows, with noise and slope": page_of_rows,
    "Sudoku grid, turned a little": sudoku,
    "form of boxes, some of them empty": form,
}


def counts(model: Model, page: DigitPage) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Count digits, those found and right, found and wrong surely, what else was read, and pages in the right order."""
    picture = decode(as_file(page.picture), "page", side=PAGE_SIDE)
    images = prepare_images(picture, model, page=True)
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).unsqueeze(1)
    said = predictions_of(model.logits(pixels).numpy(), images, model.metadata, digits=True)
    boxes = [(box.left, box.top, box.right, box.bottom) for box in (image.box for image in images) if box]
    numbers = page.numbers(boxes)
    found = [number for number in numbers if number is not None]
    pairs = [(said[number], one) for number, one in zip(numbers, page.digits, strict=True) if number is not None]
    right = sum(answer.label == one.digit for answer, one in pairs)
    wrong = sum(answer.label not in {one.digit, None} and not answer.uncertain for answer, one in pairs)
    return np.array([len(page.digits), right, wrong, len(boxes) - len(found), found == sorted(found)])


def line(model: Model, digits: Digits, name: str, each: int) -> str:
    """Return a row of the table."""
    place = list(KINDS).index(name)
    pages = [KINDS[name](digits, np.random.default_rng([71, place, number])) for number in range(each)]
    total, right, wrong, more, ordered = np.sum([counts(model, page) for page in pages], axis=0).tolist()
    shares = f"{100 * right / total:.1f} % | {100 * wrong / total:.1f} %"
    return f"| {name} | {each} | {total:,} | {shares} | {more} | {ordered} |"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best")
    parser.add_argument("--each", type=int, default=20, help="pages of each kind")
    flags = parser.parse_args()
    model, test = load_model(flags.model), load_data("mnist").test
    digits = Digits(test.pixels[:, 0].numpy(), test.labels.numpy())
    print("| page | pages | digits | found and right | found, surely wrong | read where none is | pages in order |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in KINDS:
        print(line(model, digits, name, flags.each), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
