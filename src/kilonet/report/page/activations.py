"""Figures of the network's inside: receptive fields, the filters of the first layer, the activations of all layers."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from kilonet.network.operations import Convolution
from kilonet.report.page.figures import TIMES, PageFigure, Row, Table, percent
from kilonet.report.page.measurements import Measurements
from kilonet.report.page.pixels import ink, photo, sheet, signed
from kilonet.report.subject import Subject

_MOST_FILTERS = 64
_MOST_MAPS = 60
_MAPS_A_ROW = 10

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReceptiveField:
    """The square of pixels on which one output in the middle of a layer depends."""

    layer: str
    left: int
    top: int
    side: int


def receptive_fields(subject: Subject) -> list[ReceptiveField]:
    """Return the receptive field of each layer, first to last; padding lets it reach beyond the image."""
    found, start, jump = [], 0, 1
    for placed, cost in zip(subject.model.section.placed, subject.cost.layers, strict=True):
        padding = max((part.padding for part in placed.operations if isinstance(part, Convolution)), default=0)
        start -= padding * jump
        jump = cost.jump
        _, rows, columns = placed.output_shape
        top, left = (start + jump * ((length - 1) // 2) for length in (rows, columns))
        found.append(ReceptiveField(placed.text, left, top, cost.receptive_field))
    return found


def receptive_field_figure(subject: Subject) -> PageFigure:
    """Draw the receptive field of each layer that enlarges it over an image."""
    every = receptive_fields(subject)
    growing = every[:1] + [after for before, after in itertools.pairwise(every) if before.side < after.side]
    pixels = subject.images.pixels[subject.image_index].numpy()
    panels = Markup().join(_panel(field, pixels) for field in growing)
    sides = ", ".join(str(field.side) for field in growing)
    _, rows, columns = subject.model.section.input_shape
    thing = "a digit" if subject.model.reads_digits else "an image"
    last = "the whole image" if every[-1].side >= max(rows, columns) else f"{every[-1].side} pixels across"
    caption = (
        f"Receptive fields over {thing}: one output in the middle of a layer depends on a square of pixels whose side "
        f"grows from layer to layer: {sides}. Layers that do not enlarge it are left out. The last layer sees {last}."
    )
    table = Table(
        "Receptive field of every layer",
        ("layer", "kernel", "field", "jump"),
        [
            (cost.layer, f"{cost.kernel} {TIMES} {cost.kernel}", f"{cost.receptive_field}", f"{cost.jump}")
            for cost in subject.cost.layers
        ],
    )
    return PageFigure("field", Markup('<div class="fields">{}</div>').format(panels), caption, table)


def _panel(field: ReceptiveField, pixels: NDArray[np.uint8]) -> Markup:
    _, rows, columns = pixels.shape
    kind = "ink" if len(pixels) != 3 else "photo"
    words = f"{field.layer}: one output depends on {field.side} by {field.side} pixels"
    picture = Markup(
        '<svg class="panel" viewBox="-1 -1 {} {}" role="img" aria-label="{}">'
        '<image class="{} pixels" href="{}" width="{}" height="{}"/><rect class="edge" width="{}" height="{}"/>'
        '<rect class="window" x="{}" y="{}" width="{}" height="{}"/></svg>'
    ).format(
        columns + 2, rows + 2, words, kind, photo(pixels), columns, rows, columns, rows,
        *_within(field, rows, columns),
    )  # fmt: skip
    return Markup('<div class="card">{}<p>{}<br><b>{} {} {}</b></p></div>').format(
        picture, field.layer, field.side, TIMES, field.side
    )


def _within(field: ReceptiveField, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Return the part of a receptive field that lies within the image: left, top, width, height."""
    left, top = max(field.left, 0), max(field.top, 0)
    return left, top, min(field.left + field.side, columns) - left, min(field.top + field.side, rows) - top


def filter_figure(subject: Subject) -> PageFigure | None:
    """Show the kernels of the first convolution, and their weights; None for a network without one."""
    weights = _first_weights(subject)
    if weights is None:
        return None
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
        "The filters of the first layer: blue weights are positive, red ones negative, and larger ones have a stronger "
        f"colour. The largest magnitude is {strongest:.2f}.{some}"
    )
    heads = ("filter", *(f"{row}, {column}" for row, column in np.ndindex(*kernels.shape[1:])))
    rows = [(str(number), *(f"{weight:.3f}" for weight in kernel.ravel())) for number, kernel in enumerate(shown)]
    table = Table("Weights of the first layer, by row and column", heads, rows, words=0)
    return PageFigure("filters", Markup('<div class="filters">{}</div>').format(images), caption, table)


def _first_weights(subject: Subject) -> Floats | None:
    """Return the weights of the first convolution: (channels_out, channels_in / groups, kernel, kernel)."""
    parts = subject.model.network.modules()
    weights = next((part.weight for part in parts if isinstance(part, torch.nn.Conv2d)), None)
    return None if weights is None else np.asarray(weights.detach().numpy(), np.float32)


def map_figure(subject: Subject, measured: Measurements) -> PageFigure | None:
    """Show the maps that each layer makes of the image; None where no layer has an output larger than one pixel."""
    layers = [(name, values) for name, values in activations(subject) if values.shape[1] > 1 or values.shape[2] > 1]
    if not layers:
        return None
    sheets = Markup().join(_sheet(name, values) for name, values in layers)
    image, (answer, share) = measured.closeup, measured.closeup.top_classes[0]
    names = subject.class_names
    caption = (
        f"Activations of every layer for image {image.index}, labelled {names[image.label]}: one map for each channel, "
        f"from its lowest value to its highest. The network's answer is {names[answer]} ({percent(share)})."
    )
    rows: list[Row] = []
    for name, values in layers:
        rows += [(name, str(number), *_summary(channel)) for number, channel in enumerate(values[:_MOST_MAPS])]
    table = Table("Values of every map", ("layer", "channel", "lowest", "mean", "highest"), rows)
    return PageFigure("maps", Markup('<div class="maps">{}</div>').format(sheets), caption, table)


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
    """Return the text of each layer and its output for the image, float32 (channels, rows, columns)."""
    found: list[Floats] = []

    def keep(_: torch.nn.Module, __: object, values: torch.Tensor) -> None:
        found.append(np.array(values[0].numpy(), np.float32))

    network = subject.model.network
    hooks = [layer.register_forward_hook(keep) for layer in network.layers]
    subject.model.logits(subject.images.pixels[subject.image_index : subject.image_index + 1])
    for hook in hooks:
        hook.remove()
    return zip((placed.text for placed in subject.model.section.placed), found, strict=True)
