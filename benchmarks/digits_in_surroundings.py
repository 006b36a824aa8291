"""How a packaged model reads a digit in each kind of surroundings, and what is no digit.

    python benchmarks/digits_in_surroundings.py [--model best] [--each 36] > docs/results/surroundings.md

The surroundings are those of tests/surroundings.py, the digits those of tests/marks.py: held-out images of MNIST, fonts
and pen strokes in turn, each at three sizes. All go the way of `kilonet predict`.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kilonet.data.datasets import load_data
from kilonet.data.decode import decode
from kilonet.models.model import Model, load_model
from kilonet.models.prediction import Prediction, predictions_of, prepare_images

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from marks import any_digit, any_letter, touching
from surroundings import HEIGHTS, KINDS, as_file

SOURCES = ("mnist", "font", "pen")
LETTERS, EMPTY, PAIRS, CLOTHES = 1000, 1000, 300, 2000


@dataclass(frozen=True)
class Held:
    """The images that stand for people's digits: MNIST's holdout, which `best` was not chosen on."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def digit(self, number: int, random: np.random.Generator, height: int) -> tuple[int, NDArray[np.float64]]:
        """Draw a digit from a source that follows from its number; returns its class and its ink."""
        digit = int(random.integers(10))
        return digit, any_digit(digit, SOURCES[number % 3], self.pixels[self.labels == digit], height, random)


def read(model: Model, files: Sequence[bytes]) -> list[Prediction]:
    """Return the model's prediction for each file."""
    images = [prepare_images(decode(content, "picture"), model)[0] for content in files]
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).unsqueeze(1)
    return predictions_of(model.logits(pixels).numpy(), images, model.metadata, digits=True)


def outcome(said: Prediction, digit: int) -> str:
    """Name what became of a digit."""
    if said.label is None:
        return "no digit"
    doubt = "uncertain" if said.uncertain else "sure"
    return f"{'right' if said.label == digit else 'wrong'}, {doubt}"


OUTCOMES = ("right, sure", "right, uncertain", "no digit", "wrong, uncertain", "wrong, sure")


def pictures(kind: str, held: Held, each: int) -> Iterator[tuple[int, bytes]]:
    """Yield digits in surroundings of a kind, with their classes."""
    for number in range(each):
        random = np.random.default_rng([21, list(KINDS).index(kind), number])
        digit, ink = held.digit(number, random, HEIGHTS[number // 3 % 3])
        yield digit, as_file(KINDS[kind](ink, random))


def empty(number: int) -> bytes:
    """Return an empty surface of a kind that follows from the number."""
    random = np.random.default_rng([22, number])
    height = HEIGHTS[number // len(KINDS) % 3]
    # An empty ring is a 0.
    kinds = [kind for name, kind in KINDS.items() if name != "ring_around"]
    kind = kinds[number % len(kinds)]
    return as_file(kind(np.zeros((height, int(0.7 * height))), random))


def letter(number: int) -> bytes:
    """Return a letter or a sign on paper, light or dark."""
    random = np.random.default_rng([23, number])
    ink = any_letter(HEIGHTS[number % 3], random)
    return as_file(KINDS["light_on_dark" if number % 4 == 0 else "plain"](ink, random))


def pair(number: int, held: Held) -> bytes:
    """Return two digits that touch."""
    random = np.random.default_rng([24, number])
    marks = [held.digit(0, random, HEIGHTS[number % 3])[1] for _ in range(2)]
    return as_file(KINDS["plain"](touching(marks, random), random))


def garment(pixels: NDArray[np.uint8]) -> bytes:
    return as_file(Image.fromarray(pixels))


def sheet(model: Model, held: Held) -> Image.Image:
    """Draw a picture of each kind, what the network saw in it, and its answer."""
    across, side = 6, 150
    names = list(KINDS)
    whole = Image.new("RGB", (across * (side + 10), -(-len(names) // across) * (side + 34)), "white")
    draw = ImageDraw.Draw(whole)
    for place, name in enumerate(names):
        random = np.random.default_rng([25, place])
        digit, ink = held.digit(place, random, 60)
        picture = KINDS[name](ink, random)
        (said,) = read(model, [as_file(picture)])
        left, top = place % across * (side + 10) + 5, place // across * (side + 34) + 4
        shown = Image.new("RGBA", picture.size, "#d0e0ff")
        shown.alpha_composite(picture.convert("RGBA"))
        shown.thumbnail((side - 62, side))
        whole.paste(shown, (left, top))
        whole.paste(Image.fromarray(said.pixels).resize((56, 56)), (left + side - 58, top))
        draw.text(
            (left + side - 58, top + 60), "-" if said.label is None else f"{said.name}{'?' * said.uncertain}", "black"
        )
        draw.text((left, top + side + 2), f"{name.replace('_', ' ')}: {digit}", "black")
    return whole


def negatives_line(name: str, said: Sequence[Prediction]) -> str:
    sure = sum(one.label is not None and not one.uncertain for one in said)
    none = sum(one.label is None for one in said)
    return f"| {name} | {len(said):,} | {100 * none / len(said):.1f} % | {100 * sure / len(said):.1f} % |"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best")
    parser.add_argument("--each", type=int, default=36, help="pictures of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="kinds of surroundings")
    parser.add_argument("--picture", type=Path, help="draw a picture of each kind into a PNG file, and stop")
    flags = parser.parse_args()
    model = load_model(flags.model)
    part = load_data("mnist").hold_out().test
    held = Held(part.pixels[:, 0].numpy(), part.labels.numpy())
    if flags.picture:
        # Few colours keep the file small.
        sheet(model, held).quantize(128).save(flags.picture, optimize=True)
        return 0
    total: Counter[str] = Counter()
    print(f"| kind of surroundings ({flags.each} pictures each) | {' | '.join(OUTCOMES)} |")
    print(f"|---|{'---:|' * len(OUTCOMES)}")
    for kind in flags.kinds:
        digits, files = zip(*pictures(kind, held, flags.each), strict=True)
        counts = Counter(outcome(said, digit) for said, digit in zip(read(model, files), digits, strict=True))
        total += counts
        print(f"| {kind.replace('_', ' ')} | {' | '.join(str(counts[name]) for name in OUTCOMES)} |", flush=True)
    shares = [f"**{100 * total[name] / sum(total.values()):.2f} %**" for name in OUTCOMES]
    print(f"| **all kinds** | {' | '.join(shares)} |")
    print("\n| what is no digit | pictures | no digit | a sure digit |\n|---|---:|---:|---:|")
    print(negatives_line("letters and signs", read(model, [letter(number) for number in range(LETTERS)])), flush=True)
    print(negatives_line("empty surfaces", read(model, [empty(number) for number in range(EMPTY)])), flush=True)
    print(negatives_line("two digits that touch", read(model, [pair(number, held) for number in range(PAIRS)])))
    clothes = load_data("fashion-mnist").test.pixels[:CLOTHES, 0].numpy()
    print(negatives_line("Fashion-MNIST", read(model, [garment(image) for image in clothes])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
