"""What is inside: the receptive field over a digit, the first filters, the maps of every layer."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from kilonet.network.operations import Convolution
from kilonet.report.page.figures import TIMES, Figure, Row, Table, percent
from kilonet.report.page.measurements import Measured
from kilonet.report.page.pixels import ink, photo, sheet, signed
from kilonet.report.subject import Subject

_MOST_FILTERS = 64
_MOST_MAPS = 60
_MAPS_A_ROW = 10

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sight:
    """What one output in the middle of a layer sees of the image, pixels."""

    layer: str
    left: int
    top: int
    side: int


def sights(subject: Subject) -> list[Sight]:
    """Return what each layer's middle sees, first to last; it may reach beyond the image where a layer pads."""
    found, start, jump = [], 0, 1
    for placed, cost in zip(subject.model.section.placed, subject.cost.layers, strict=True):
        padding = max((part.padding for part in placed.operations if isinstance(part, Convolution)), default=0)
        start -= padding * jump
        jump = cost.jump
        _, rows, columns = placed.output_shape
        top, left = (start + jump * ((length - 1) // 2) for length in (rows, columns))
        found.append(Sight(placed.text, left, top, cost.receptive_field))
    return found


def receptive_field(subject: Subject) -> Figure:
    """Draw, over a digit, the window that one output of each layer sees, where it grows."""
    every = sights(subject)
    growing = every[:1] + [after for before, after in itertools.pairwise(every) if before.side < after.side]
    pixels = subject.images.pixels[subject.digit].numpy()
    panels = Markup().join(_panel(sight, pixels) for sight in growing)
    sides = ", ".join(str(sight.side) for sight in growing)
    _, rows, columns = subject.model.section.input_shape
    thing = "a digit" if subject.model.reads_digits else "an image"
    whole = "sees the whole image" if every[-1].side >= max(rows, columns) else f"sees {every[-1].side} pixels across"
    caption = (
        f"The receptive field grows over {thing}: the window of pixels that one output, in the middle of a layer, "
        f"depends on is {sides} pixels wide. Layers that do not widen it are left out. The last layer {whole}."
    )
    table = Table(
        "Receptive field of every layer",
        ("layer", "kernel", "field", "jump"),
        [
            (cost.layer, f"{cost.kernel} {TIMES} {cost.kernel}", f"{cost.receptive_field}", f"{cost.jump}")
            for cost in subject.cost.layers
        ],
    )
    return Figure("field", Markup('<div class="fields">{}</div>').format(panels), caption, table)


def _panel(sight: Sight, pixels: NDArray[np.uint8]) -> Markup:
    _, rows, columns = pixels.shape
    kind = "ink" if len(pixels) != 3 else "photo"
    words = f"{sight.layer}: one output sees {sight.side} by {sight.side} pixels"
    picture = Markup(
        '<svg class="panel" viewBox="-1 -1 {} {}" role="img" aria-label="{}">'
        '<image class="{} pixels" href="{}" width="{}" height="{}"/><rect class="edge" width="{}" height="{}"/>'
        '<rect class="window" x="{}" y="{}" width="{}" height="{}"/></svg>'
    ).format(
        columns + 2, rows + 2, words, kind, photo(pixels), columns, rows, columns, rows,
        *_within(sight, rows, columns),
    )  # fmt: skip
    return Markup('<div class="card">{}<p>{}<br><b>{} {} {}</b></p></div>').format(
        picture, sight.layer, sight.side, TIMES, sight.side
    )


def _within(sight: Sight, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Return the part of a window that the image has: left, top, width, height. Beyond it there is nothing to see."""
    left, top = max(sight.left, 0), max(sight.top, 0)
    return left, top, min(sight.left + sight.side, columns) - left, min(sight.top + sight.side, rows) - top


def filters(subject: Subject) -> Figure:
    """Show the kernels of the first convolution, and their weights."""
    weights = _first_weights(subject)
    kernels = weights.reshape(-1, *weights.shape[2:])
    shown = kernels[:_MOST_FILTERS]
    strongest = float(np.abs(shown).max()) or 1.0
    images = Markup().join(
        Markup('<div class="card"><img class="pixels" src="{}" alt="Filter {}"><p>{}</p></div>').format(
            signed(kernel / strongest), number, number
        )
        for number, kernel in enumerate(shown)
    )
    some = f" Shown are {len(shown)} of {len(kernels)}." if len(shown) < len(kernels) else ""
    caption = (
        "The filters of the first layer: blue weights look for ink, red ones for its absence, the stronger the colour "
        f"the more; the strongest weight is {strongest:.2f}.{some}"
    )
    heads = ("filter", *(f"{row}, {column}" for row, column in np.ndindex(*kernels.shape[1:])))
    rows = [(str(number), *(f"{weight:.3f}" for weight in kernel.ravel())) for number, kernel in enumerate(shown)]
    table = Table("Weights of the first layer, by row and column", heads, rows, words=0)
    return Figure("filters", Markup('<div class="filters">{}</div>').format(images), caption, table)


def _first_weights(subject: Subject) -> Floats:
    """Return the weights of the first convolution: (channels_out, channels_in / groups, kernel, kernel)."""
    weights = next(part.weight for part in subject.model.network.modules() if isinstance(part, torch.nn.Conv2d))
    return np.asarray(weights.detach().numpy(), np.float32)


def maps(subject: Subject, measured: Measured) -> Figure | None:
    """Show what each layer makes of the digit, as long as it is a map; None where no layer gives one."""
    layers = [(name, values) for name, values in activations(subject) if values.shape[1] > 1 or values.shape[2] > 1]
    if not layers:
        return None
    sheets = Markup().join(_sheet(name, values) for name, values in layers)
    answer, share = measured.answer.thoughts[0]
    names = subject.class_names
    caption = (
        f"What each layer makes of image {subject.digit}, a {names[measured.answer.label]}: the map of every channel, "
        f"from its lowest value to its highest. In the end the network says {names[answer]} ({percent(share)})."
    )
    rows: list[Row] = []
    for name, values in layers:
        rows += [(name, str(number), *_summary(channel)) for number, channel in enumerate(values[:_MOST_MAPS])]
    table = Table("Values of every map", ("layer", "channel", "lowest", "mean", "highest"), rows)
    return Figure("maps", Markup('<div class="maps">{}</div>').format(sheets), caption, table)


def _summary(channel: Floats) -> tuple[str, str, str]:
    return f"{channel.min():.3f}", f"{channel.mean():.3f}", f"{channel.max():.3f}"


def _sheet(name: str, values: Floats) -> Markup:
    shown = values[:_MOST_MAPS]
    low, high = (edge(shown, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    scaled = (shown - low) / np.maximum(high - low, 1e-12)
    picture = ink(sheet(scaled, min(len(shown), _MAPS_A_ROW)))
    rows, columns = values.shape[1:]
    some = f", {len(shown)} shown" if len(shown) < len(values) else ""
    words = Markup("<p><b>{}</b><br>{} of {} {} {}{}</p>").format(name, len(values), rows, TIMES, columns, some)
    alternative = f"{len(shown)} maps of {name}, {rows} by {columns} values each"
    width = "wide" if len(shown) > _MAPS_A_ROW // 2 else "narrow"
    return Markup('<div class="layer {}">{}<img class="ink pixels" src="{}" alt="{}"></div>').format(
        width, words, picture, alternative
    )


def activations(subject: Subject) -> Iterator[tuple[str, Floats]]:
    """Give the output of each layer for the digit: its text and float32 (channels, rows, columns)."""
    found: list[Floats] = []

    def keep(_: torch.nn.Module, __: object, values: torch.Tensor) -> None:
        found.append(np.array(values[0].numpy(), np.float32))

    network = subject.model.network
    hooks = [layer.register_forward_hook(keep) for layer in network.layers]
    subject.model.logits(subject.images.pixels[subject.digit : subject.digit + 1])
    for hook in hooks:
        hook.remove()
    return zip((placed.text for placed in subject.model.section.placed), found, strict=True)
