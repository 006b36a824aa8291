"""Train the network of src/kilonet/data/digits/row_reader.py, which reads digits that touch.

    python benchmarks/row_reader.py WEIGHTS.safetensors --fonts FOLDER [--rows 100000] [--epochs 7]

Its rows are of one to six digits that touch, overlap a little or nearly touch: MNIST's training images without the
holdout, a font, or a pen; a tenth are letters and signs, which it is to read as no digit at all. It prints how many of
2,000 rows that it was not trained on are read whole. The fonts are those of digit_check_data.py.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import safetensors.torch
import scipy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from kilonet.data.digits.row_reader import BLANK, PADDING, ROWS, STRIDE, row_network, scaled_row

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from digit_check_data import Source, training_source
from marks import Ink, font_mark, mnist_mark, stroke_mark

Bytes = NDArray[np.uint8]
Random = np.random.Generator
Row = tuple[Bytes, list[int]]
"""Ink as the network takes it, uint8 (28, columns), and its digits."""

HELD = 2_000
BATCH = 64
RATE, DECAY = 4e-3, 1e-2
LENGTHS = (0.12, 0.32, 0.30, 0.14, 0.08, 0.04)
"""The share of rows of one digit, of two, and so on."""
NO_DIGITS = 0.1
SLANT, STRETCH, TURN = 0.2, 0.15, 0.12
MOST_COLUMNS = 200


def slanted(pixels: Bytes, random: Random) -> Bytes:
    """Return an image of MNIST, uint8 (28, 28), sheared, stretched and turned a little."""
    turn, stretch = random.uniform(-TURN, TURN), random.uniform(1 - STRETCH, 1 + STRETCH)
    sine, cosine = np.sin(turn), np.cos(turn)
    matrix = np.array([[1, random.uniform(-SLANT, SLANT)], [0, 1]]) @ np.array([[cosine, -sine], [sine, cosine]])
    matrix[0] /= stretch
    shift = 14 - matrix @ (14, 14)
    values = (*matrix[0], shift[0], *matrix[1], shift[1])
    changed = Image.fromarray(pixels).transform((28, 28), Image.Transform.AFFINE, values, Image.Resampling.BICUBIC)
    result = np.asarray(changed)
    return result if result.max() > 128 else pixels


def push(row: Ink, mark: Ink, random: Random) -> Ink:
    """Move a mark to the right end of a row: a little into it, until it touches it, or nearly."""
    offset = int(random.normal(0, 0.06) * len(mark)) if random.random() < 0.5 else 0
    height = max(len(row), len(mark))
    parts = [np.pad(one, ((height - len(one), 0), (0, 0))) for one in (row, mark)]
    parts = [
        np.pad(one, ((max(way, 0), max(-way, 0)), (0, 0))) for one, way in zip(parts, (offset, -offset), strict=True)
    ]
    left, right = (one > 0.5 for one in parts)
    free = np.where(left.any(1), left[:, ::-1].argmax(1), 10**6) + np.where(right.any(1), right.argmax(1), 10**6)
    closest = int(free.min()) if free.min() < 10**6 else 0
    low, high = ((0, 0.03), (0.02, 0.07), (0.06, 0.12), (-0.08, 0))[random.choice(4, p=(0.25, 0.6, 0.08, 0.07))]
    start = max(0, left.shape[1] - closest - round(random.uniform(low, high) * len(left)))
    whole = np.zeros((len(left), max(left.shape[1], start + right.shape[1])))
    whole[:, : left.shape[1]] = parts[0]
    place = whole[:, start : start + right.shape[1]]
    np.maximum(place, parts[1], out=place)
    return whole


def blurred(ink: Ink, random: Random) -> Ink:
    """Return ink as a camera may see it: blurred, fainter or fuller, with thinner or wider strokes."""
    if random.random() < 0.4:
        ink = scipy.ndimage.gaussian_filter(ink, random.uniform(0.2, 0.03 * len(ink)))
    if random.random() < 0.3:
        ink = np.clip(ink, 0, 1) ** random.uniform(0.75, 1.5)
    if random.random() < 0.2:
        size = 1 + max(1, round(0.025 * len(ink)))
        way = scipy.ndimage.grey_dilation if random.random() < 0.6 else scipy.ndimage.grey_erosion
        changed = way(ink, (size, size))
        ink = changed if changed.max() > 0.6 else ink
    return ink


def draw_row(source: Source, random: Random) -> Row:
    """Draw a row of one hand, font or pen."""
    count = 1 + int(random.choice(len(LENGTHS), p=LENGTHS))
    height = int(random.choice((28, 40, 60, 90)))
    lowest = 0.75 if random.random() < 0.7 else 1.0
    heights = [int(height * random.uniform(lowest, 1)) for _ in range(count)]
    if random.random() < NO_DIGITS:
        marks = [source.letter(one, random) for one in heights]
        digits = []
    else:
        kind = random.choice(3, p=(0.72, 0.12, 0.16))
        font, wide = str(random.choice(source.fonts)), random.uniform(0.06, 0.17)
        numbers = random.integers(len(source.pixels), size=count)
        digits = source.labels[numbers].tolist() if kind == 0 else random.integers(10, size=count).tolist()
        if kind == 0:
            images = [source.pixels[number] for number in numbers]
            images = [slanted(one, random) if random.random() < 0.5 else one for one in images]
            marks = [mnist_mark(image, one) for image, one in zip(images, heights, strict=True)]
        elif kind == 1:
            marks = [font_mark(str(digit), font, height) for digit in digits]
        else:
            marks = [
                stroke_mark(str(digit), one, random, wide=wide) for digit, one in zip(digits, heights, strict=True)
            ]
    row = marks[0]
    for mark in marks[1:]:
        row = push(row, mark, random)
    return scaled_row(np.asarray(np.clip(blurred(row, random), 0, 1), np.float32)), digits


def draw_rows(count: int, source: Source, seed: int) -> list[Row]:
    """Draw rows; those in which a digit has too few columns to be told from the next are left out."""
    random = np.random.default_rng([31, seed])
    rows = [draw_row(source, random) for _ in range(count)]
    return [(ink, digits) for ink, digits in rows if ink.shape[1] < MOST_COLUMNS and columns_of(ink) > 2 * len(digits)]


def columns_of(ink: Bytes) -> int:
    """Return the columns of the network's output for a row."""
    return int(ink.shape[1] + 2 * PADDING) // STRIDE


def logarithms(network: nn.Module, rows: Sequence[Row]) -> torch.Tensor:
    """Return the logarithms of the probabilities, float32 (columns, N, 11)."""
    widest = max(ink.shape[1] for ink, _ in rows) + 2 * PADDING
    batch = np.zeros((len(rows), 1, ROWS, widest), np.float32)
    for place, (ink, _) in zip(batch, rows, strict=True):
        place[0, :, PADDING : PADDING + ink.shape[1]] = ink
    logits: torch.Tensor = network(torch.from_numpy(batch) / 255)[:, :, 0]
    return logits.log_softmax(1).permute(2, 0, 1)


def read_whole(network: nn.Module, rows: Sequence[Row]) -> str:
    """Say which share of rows of each length is read whole."""
    right: Counter[int] = Counter()
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            best = logarithms(network, part).argmax(2).T
            for columns, (ink, digits) in zip(best, part, strict=True):
                said = columns[: columns_of(ink)].unique_consecutive()
                right[len(digits)] += said[said != BLANK].tolist() == digits
    counts = Counter(len(digits) for _, digits in rows)
    return ", ".join(f"{length}: {100 * right[length] / count:.1f} %" for length, count in sorted(counts.items()))


def train(rows: Sequence[Row], held: Sequence[Row], epochs: int) -> nn.Module:
    """Return a network that was trained on rows, with the mean of its weights over the last steps."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    network = row_network(normalised=True)
    mean = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999), use_buffers=True
    )
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * (len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps + 1, pct_start=0.15)
    widths = np.array([ink.shape[1] for ink, _ in rows])
    start = time.monotonic()
    for epoch in range(epochs):
        order = np.argsort(widths + random.uniform(-6, 6, len(rows)))
        for number in random.permutation(len(rows) // BATCH):
            part = [rows[one] for one in order[number * BATCH : (number + 1) * BATCH]]
            loss = nn.functional.ctc_loss(
                logarithms(network, part),
                torch.tensor([digit for _, digits in part for digit in digits], dtype=torch.int64),
                torch.tensor([columns_of(ink) for ink, _ in part]),
                torch.tensor([len(digits) for _, digits in part]),
                BLANK,
            )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            mean.update_parameters(network)
        mean.eval()
        print(f"epoch {epoch + 1}, {time.monotonic() - start:.0f} s: {read_whole(mean, held)}", flush=True)
    return mean.module


def folded(network: nn.Module) -> nn.Module:
    """Return the network with its batch normalisation folded into the convolutions, as the package has it."""
    plain, layers = row_network(normalised=False), list(network.children())
    convolutions = [layer for layer in plain if isinstance(layer, nn.Conv2d)]
    trained = [
        (layer, following) for layer, following in zip_longest(layers, layers[1:]) if isinstance(layer, nn.Conv2d)
    ]
    for convolution, (layer, following) in zip(convolutions, trained, strict=True):
        whole = nn.utils.fuse_conv_bn_eval(layer, following) if isinstance(following, nn.BatchNorm2d) else layer
        convolution.load_state_dict(whole.state_dict())
    return plain.eval()


def main() -> int:
    """Write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=7)
    flags = parser.parse_args()
    source = training_source(flags.fonts)
    shares = 16
    with multiprocessing.get_context("spawn").Pool() as pool:
        drawn = pool.map(partial(draw_rows, flags.rows // shares, source), range(shares))
    rows = [row for share in drawn for row in share]
    print(f"{len(source.fonts)} fonts, {len(rows):,} rows", flush=True)
    network = folded(train(rows[HELD:], rows[:HELD], flags.epochs).eval())
    print(f"folded: {read_whole(network, rows[:HELD])}")
    weights = {name: values.half().contiguous() for name, values in network.state_dict().items()}
    safetensors.torch.save_file(weights, flags.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
