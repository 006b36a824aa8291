"""How long it takes to find the digit of a photo, on one core, beside the time to decode its file.

    python benchmarks/photo_speed.py > docs/results/photo-speed.md

Each photo is a JPEG file of a test image of MNIST, a third as high as the photo, in dark ink on paper lit from one
side, with noise. A time is the median of several runs; the table has the median and the mean over the photos.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kilonet.data.datasets import load_data
from kilonet.data.decode import decode
from kilonet.data.digits.prepare import PreparedImage, prepare_digit
from kilonet.utils.environment import processor_name

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from marks import mnist_mark

SIZES = ((640, 480, 40), (4000, 3000, 10))
"""Columns, rows, and the number of photos."""
RUNS = 7


def photo(digit: NDArray[np.uint8], columns: int, rows: int, random: np.random.Generator) -> bytes:
    """Return a JPEG file of a digit, uint8 (28, 28) light on black."""
    paper = np.broadcast_to(200 - 40 * np.linspace(0, 1, columns), (rows, columns)).copy()
    ink = mnist_mark(digit, rows // 3)
    top, left = rows // 3, columns // 3
    paper[top : top + ink.shape[0], left : left + ink.shape[1]] -= 150 * ink
    colours = paper[:, :, None] * (1, 0.95, 0.9) + random.normal(0, 3, (rows, columns, 3))
    content = io.BytesIO()
    Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def prepared(content: bytes) -> PreparedImage:
    """Return the network's input for a photo."""
    return prepare_digit(decode(content, "photo"))


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median time of a function over some runs, after one that is not counted."""
    times = []
    for run in range(RUNS + 1):
        start = time.perf_counter()
        work()
        times += [1000 * (time.perf_counter() - start)] * (run > 0)
    return float(np.median(times))


def main() -> int:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    pixels = load_data("mnist").test.pixels[:, 0].numpy()
    print(f"{processor_name()}, one thread, milliseconds\n")
    print("| photo | photos | decoded and found, median | mean | slowest | decoding alone, median |")
    print("|---|---:|---:|---:|---:|---:|")
    for columns, rows, count in SIZES:
        whole, decoding = [], []
        for number in range(count):
            content = photo(pixels[number], columns, rows, np.random.default_rng(number))
            whole.append(milliseconds(partial(prepared, content)))
            decoding.append(milliseconds(partial(decode, content, "photo")))
        figures = (np.median(whole), np.mean(whole), max(whole), np.median(decoding))
        print(f"| {columns}x{rows} | {count} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
