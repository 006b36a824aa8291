"""The images that the network of src/kilonet/data/digits/context.py is trained on, as an NPZ file.

    python benchmarks/digit_context_data.py DATA.npz --fonts FOLDER [--pictures 16000]

Every mark that looks like a digit, found in pictures of the surroundings of tests/surroundings.py, of
tests/found_digits.py and of Fashion-MNIST; class 1 is a mark that looks as the drawn digit alone does, class 0 any
other. The digits, letters and fonts are those of digit_check_data.py.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from kilonet.data.datasets import load_data
from kilonet.data.decode import decode
from kilonet.data.digits.context import views_of
from kilonet.data.digits.layout import lay_out
from kilonet.data.digits.prepare import likely_marks

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from digit_check_data import LIKE, UNLIKE, Bytes, Random, Source, alone, correlation, training_source
from found_digits import distorted, draw_change, found_digit
from marks import touching
from surroundings import KINDS, as_file

SHARES = 16
"""The parts that are drawn side by side."""
CLOTHES = 40_000
"""The images of Fashion-MNIST's training set that are drawn from."""
FAR = 0.4
"""The correlation below which a mark is none although the check takes it for the digit, which may be turned."""
MOST = 6
"""The most marks of one picture, the most probable ones."""


def draw_picture(source: Source, clothes: Bytes, random: Random) -> tuple[bytes, Bytes | None, int]:
    """Draw a picture; return the file, and of a picture of a digit what it looks like alone, with its class."""
    what = random.random()
    height = int(2 ** random.uniform(4.3, 7.7))
    kind = KINDS[str(random.choice(list(KINDS)))]
    if what < 0.65:
        digit, ink = source.digit(height, random)
        return as_file(kind(ink, random)), alone(ink), digit
    if what < 0.75:
        number = int(random.integers(len(source.pixels)))
        pixels, change = source.pixels[number], draw_change(200_000 + int(random.integers(10**6)))
        return found_digit(pixels, change), lay_out(distorted(pixels, change)), int(source.labels[number])
    if what < 0.82:
        ink = source.letter(height, random)
    elif what < 0.88:
        ink = touching([source.digit(int(height * random.uniform(0.85, 1)), random)[1] for _ in range(2)], random)
    elif what < 0.95:
        ink = np.zeros((height, height // 2))
    else:
        return as_file(Image.fromarray(clothes[int(random.integers(len(clothes)))])), None, -1
    return as_file(kind(ink, random)), None, -1


def examples(source: Source, pictures: int, share: int) -> list[tuple[Bytes, int]]:
    """Return one of `SHARES` equal parts of the views with their classes."""
    random = np.random.default_rng([9, share])
    clothes = load_data("fashion-mnist").train.pixels[:CLOTHES, 0].numpy()
    return list(chain.from_iterable(_views(source, clothes, random) for _ in range(pictures // SHARES)))


def _views(source: Source, clothes: Bytes, random: Random) -> Iterator[tuple[Bytes, int]]:
    file, truth, digit = draw_picture(source, clothes, random)
    values = np.asarray(decode(file, "picture").values, np.float32)
    found = sorted(likely_marks(values), key=lambda one: -one.score)[:MOST]
    for one, view in zip(found, views_of([one.mark for one in found], values), strict=True):
        like = -1.0 if truth is None else correlation(one.image.pixels, truth)
        is_digit = one.image.likely is not None and int(one.image.likely.argmax()) == digit
        if like > LIKE and is_digit:
            yield view, 1
        elif like < (FAR if is_digit else UNLIKE):
            yield view, 0


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=16_000)
    flags = parser.parse_args()
    source = training_source(flags.fonts)
    with multiprocessing.get_context("spawn").Pool() as pool:
        drawn = pool.map(partial(examples, source, flags.pictures), range(SHARES), chunksize=1)
    images, labels = zip(*chain.from_iterable(drawn), strict=True)
    # Channels last, as pictures are.
    np.savez_compressed(flags.out, x_train=np.stack(images).transpose(0, 2, 3, 1), y_train=np.array(labels, np.int64))
    print(f"{len(source.fonts)} fonts; views of each class: {np.bincount(labels).tolist()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
