"""The images that the check "digit or none" of src/kilonet/data/digits is trained on, as an NPZ file.

    python benchmarks/digit_check_data.py DATA.npz --fonts FOLDER [--scenes 12000]

Digits of MNIST's training images without the holdout, of fonts and of pen strokes, laid out as MNIST's; in the
surroundings of tests/surroundings.py whatever `find_marks` finds there, which is a digit if it looks as the digit alone
does; letters, signs, touching pairs, parts of digits and Fashion-MNIST as class 10, none. The fonts are those of
Debian's packages in the folder; the twenty of tests/marks.py are not among them, so that they can be measured with.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

from kilonet.data.datasets import load_data
from kilonet.data.decode import decode
from kilonet.data.digits.layout import lay_out
from kilonet.data.digits.marks import find_marks

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from found_digits import distorted, draw_change
from marks import FONTS, LETTERS, SIGNS, STROKED, Ink, font_mark, mnist_mark, side_by_side, stroke_mark, touching
from surroundings import KINDS, as_file

Bytes = NDArray[np.uint8]
Random = np.random.Generator
NONE = 10
ALIKE = "SZbcgqsz"
"""Letters that look like digits in some fonts: a few of them only."""
LIKE, UNLIKE = 0.9, 0.78
"""Correlations with the digit alone above which a mark is that digit, and below which it is none."""


def fonts_in(folder: Path) -> list[str]:
    """Name the fonts of a folder that have all digits and letters."""
    usable = []
    for path in sorted({path.name: path for path in folder.rglob("*") if path.suffix in (".ttf", ".otf")}.values()):
        if path.stem in FONTS or path.stat().st_size > 400_000:
            continue
        try:
            face = ImageFont.truetype(path, 40)
            masks = {bytes(face.getmask(text)) for text in "0123456789AKM"}
        except OSError:
            continue
        if len(masks) == 13 and not any(
            word in path.stem.lower() for word in ("symbol", "ding", "marlett", "d050000l")
        ):
            usable.append(str(path))
    return usable


def alone(ink: Ink) -> Bytes:
    return lay_out(np.pad(ink, 1).astype(np.float32))


def correlation(one: Bytes, other: Bytes) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


class Source:
    """Digits and other marks to draw from."""

    def __init__(self, fonts: list[str], pixels: Bytes, labels: NDArray[np.int64]) -> None:
        self.fonts, self.pixels, self.labels = fonts, pixels, labels

    def digit(self, height: int, random: Random) -> tuple[int, Ink]:
        kind = random.integers(3)
        if kind == 0:
            number = int(random.integers(len(self.pixels)))
            return int(self.labels[number]), mnist_mark(self.pixels[number], height)
        digit = int(random.integers(10))
        if kind == 1:
            return digit, font_mark(str(digit), str(random.choice(self.fonts)), height)
        return digit, stroke_mark(str(digit), height, random)

    def letter(self, height: int, random: Random) -> Ink:
        if random.integers(4) == 0:
            return stroke_mark(str(random.choice(STROKED)), height, random)
        while True:
            text = str(random.choice(list(LETTERS + LETTERS + SIGNS + ALIKE)))
            ink = font_mark(text, str(random.choice(self.fonts)), height)
            if ink.max() > 0.5:
                return ink

    def pair(self, height: int, random: Random) -> Ink:
        left, right = (self.digit(int(height * random.uniform(0.85, 1)), random)[1] for _ in range(2))
        if random.integers(3):
            return touching([left, right], random)
        return side_by_side(left, right, gap=int(random.integers(0, 5)))

    def part(self, random: Random) -> Ink | None:
        """Return a digit of which a half or a third is cut off, but for those that look like another digit."""
        digit, ink = self.digit(60, random)
        if digit == 1:
            return None
        keep = random.uniform(0.35, 0.65)
        rows, columns = ink.shape
        side = int(random.integers(4))
        cut = (
            ink[: int(keep * rows)],
            ink[int((1 - keep) * rows) :],
            ink[:, : int(keep * columns)],
            ink[:, int((1 - keep) * columns) :],
        )[side]
        cut = cut[np.flatnonzero(cut.max(1) > 0.3)][:, np.flatnonzero(cut.max(0) > 0.3)] if cut.max() > 0.3 else cut
        return cut if min(cut.shape) > 0.3 * max(cut.shape) else None


def training_source(fonts: Path) -> Source:
    """Return MNIST's training images without the holdout, and the fonts of a folder."""
    part = load_data("mnist").hold_out().train
    return Source(fonts_in(fonts), part.pixels[:, 0].numpy(), part.labels.numpy())


def scene(source: Source, random: Random) -> Iterator[tuple[Bytes, int]]:
    """Yield the marks of a digit in surroundings; now and then of a letter, or of nothing."""
    names = list(KINDS)
    name = names[int(random.integers(len(names)))]
    height = int(2 ** random.uniform(4.3, 7))
    what = random.integers(10)
    digit, ink = NONE, np.zeros((height, height // 2))
    if what < 8:
        digit, ink = source.digit(height, random)
    elif what == 8:
        ink = source.letter(height, random)
    truth = alone(ink) if what < 8 else None
    picture = decode(as_file(KINDS[name](ink, random)), name)
    junk: list[Bytes] = []
    for mark in find_marks(np.asarray(picture.values, np.float32)):
        pixels = lay_out(mark.ink)
        thin = min(mark.ink.shape) < 0.28 * max(mark.ink.shape)
        ringed = max(mark.box.height, mark.box.width) > 1.2 * max(ink.shape)
        if truth is None:
            if not thin and not ringed:
                junk.append(pixels)
            continue
        like = correlation(pixels, truth)
        if like > LIKE:
            yield pixels, digit
        elif like < UNLIKE and not thin and not (ringed and name in {"ring_around", "box_around"}):
            junk.append(pixels)
    for number in random.permutation(len(junk))[:6]:
        yield junk[number], NONE


def examples(source: Source, scenes: int) -> Iterator[tuple[Bytes, int]]:
    """Yield laid-out images with their classes: digits, and as `NONE` what is no digit."""
    random = np.random.default_rng(7)
    for _ in range(scenes):
        yield from scene(source, random)
        height = int(random.integers(24, 80))
        digit, ink = source.digit(height, random)
        yield alone(ink), digit
        for _ in range(3):
            yield alone(source.letter(height, random)), NONE
        if (pair := source.pair(height, random)).shape[1] < 2.2 * height:
            yield alone(pair), NONE
        if (half := source.part(random)) is not None:
            yield alone(half), NONE
    yield from zip(source.pixels, source.labels.tolist(), strict=True)
    for number, (pixels, label) in enumerate(zip(source.pixels, source.labels.tolist(), strict=True)):
        change = draw_change(100_000 + number)
        if change.stroke != "plain" or number % 2:
            yield lay_out(distorted(pixels, change)), label
    for garment in load_data("fashion-mnist").train.pixels[:scenes, 0].numpy():
        for mark in find_marks(garment.astype(np.float32)[:, :, None])[:3]:
            yield lay_out(mark.ink), NONE


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=12_000)
    flags = parser.parse_args()
    source = training_source(flags.fonts)
    images, labels = zip(*examples(source, flags.scenes), strict=True)
    np.savez_compressed(flags.out, x_train=np.stack(images), y_train=np.array(labels, np.int64))
    print(f"{len(source.fonts)} fonts; images of each class: {np.bincount(labels).tolist()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
