"""Figures of the mistakes: the confusion matrix, the accuracy of each class, the worst images."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from kilonet.evaluation.statistics import wilson_interval
from kilonet.report.page.charts import ACCENT, FAINT, INK, PAPER, SECOND, chart
from kilonet.report.page.figures import PageFigure, Table, count, percent, span
from kilonet.report.page.measurements import Measurements, ScoredImage
from kilonet.report.page.pixels import photo
from kilonet.report.subject import Subject

_MOST_NUMBERED = 20
"""A matrix of more classes has no numbers in its cells."""
_MOST_NAMED = 30
"""A matrix of more classes has the names of some of them, evenly spread, at its sides."""
_MOST_IN_TABLE = 100
"""Of more classes the table has the most frequent confusions alone; a full one of 1,000 would have a million cells."""
_MOST_BY_CLASS = 100
"""Of more classes the chart has those of the lowest accuracy."""


def confusion_figure(subject: Subject, measured: Measurements) -> PageFigure:
    """Draw the confusion matrix; a darker cell holds more mistakes."""
    matrix, names = measured.evaluation.confusion, subject.class_names
    wrong = [(row[column], label, column) for label, row in enumerate(matrix) for column in _others(label, row)]
    most = max((entry for entry, _, _ in wrong), default=0)
    _, label, answer = max(wrong, default=(0, 0, 0))
    worst = f" Most often, {count(most, 'time')}, {names[label]} is read as {names[answer]}." if most else ""
    alternative = f"Matrix of {len(names)} classes: {measured.evaluation.correct:,} right on the diagonal.{worst}"
    with chart("confusion", 310, 300, alternative) as drawing:
        axes = drawing.axes()
        cells, colours = [], []
        for row, entries in enumerate(matrix):
            for column, entry in enumerate(entries):
                if row == column or entry:
                    cells.append(_square(row, column))
                    colours.append((FAINT, 0.16) if row == column else (SECOND, 0.15 + 0.85 * entry / most))
                if entry and len(names) <= _MOST_NUMBERED:
                    strong = row != column and entry > 0.5 * most
                    axes.text(column, row, f"{entry}", ha="center", va="center", color=PAPER if strong else INK)
        # At once: of a thousand classes each alone takes seconds.
        axes.add_collection(PolyCollection(cells, facecolors=colours, linewidths=0))
        _name_sides(axes, names)
    caption = (
        "Confusion matrix: a row for each label, a column for each answer. Right answers are on the diagonal." + worst
    )
    return PageFigure("confusion", drawing.svg, caption, _confusion_table(subject, measured))


def _square(row: int, column: int) -> list[tuple[float, float]]:
    left, right, top, bottom = column - 0.5, column + 0.5, row - 0.5, row + 0.5
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _others(label: int, row: Sequence[int]) -> list[int]:
    return [column for column, entry in enumerate(row) if column != label and entry]


def _name_sides(axes: Axes, names: list[str]) -> None:
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_aspect("equal")
    places = range(0, len(names), -(-len(names) // _MOST_NAMED))
    short = [name if len(name) <= 11 else f"{name[:10]}…" for name in (names[place] for place in places)]
    turned = {"rotation": 90} if max(map(len, short)) > 2 else {}
    axes.set_xticks(places, short, **turned)  # type: ignore[arg-type]
    axes.set_yticks(places, short)
    axes.tick_params(length=0)
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    for side in axes.spines.values():
        side.set_visible(False)


def _confusion_table(subject: Subject, measured: Measurements) -> Table:
    matrix, names = measured.evaluation.confusion, subject.class_names
    if len(names) > _MOST_IN_TABLE:
        return _confusions_table(matrix, names)
    rows = [(name, *map(str, row), f"{sum(row):,}") for name, row in zip(names, matrix, strict=True)]
    columns = [sum(column) for column in zip(*matrix, strict=True)]
    total = ("all", *(f"{entry:,}" for entry in columns), f"{sum(columns):,}")
    return Table("Images by label (rows) and answer (columns)", ("label", *names, "all"), rows, total)


def _confusions_table(matrix: Sequence[Sequence[int]], names: list[str]) -> Table:
    wrong = [(row[column], label, column) for label, row in enumerate(matrix) for column in _others(label, row)]
    wrong.sort(key=lambda entry: (-entry[0], entry[1:]))
    rows = [
        (names[label], names[answer], f"{entry:,}", f"{sum(matrix[label]):,}")
        for entry, label, answer in wrong[:_MOST_IN_TABLE]
    ]
    title = f"The most frequent of {count(len(wrong), 'confusion')}"
    return Table(title, ("label", "answer", "images", "of the label's"), rows, words=2)


def class_figure(subject: Subject, measured: Measurements) -> PageFigure:
    """Draw each class's accuracy with its interval."""
    shares = [_share(row, label) for label, row in enumerate(measured.evaluation.confusion)]
    names = subject.class_names
    known = [(right / images, name) for (right, images), name in zip(shares, names, strict=True) if images]
    (least, hardest), (best, easiest) = min(known), max(known)
    extremes = f"hardest is {hardest} with {percent(least)}, easiest {easiest} with {percent(best)}"
    shown = list(range(len(names)))
    if len(shown) > _MOST_BY_CLASS:
        tested = [label for label in shown if shares[label][1]]
        shown = sorted(tested, key=lambda label: shares[label][0] / shares[label][1])[:_MOST_BY_CLASS]
    of = "Each class" if len(shown) == len(names) else f"The {len(shown)} classes of the lowest accuracy, each"
    with chart("classes", 310, 55 + 14 * len(shown), f"{of} with its accuracy and interval: {extremes}.") as drawing:
        axes = drawing.axes()
        for row, (right, images) in enumerate(shares[label] for label in shown):
            if images:
                low, high = wilson_interval(right, images)
                axes.plot([100 * low, 100 * high], [row, row], color=ACCENT, linewidth=1, solid_capstyle="butt")
                axes.plot([100 * right / images], [row], "o", color=ACCENT, markersize=4.5)
        everything = 100 * measured.evaluation.accuracy
        axes.axvline(everything, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.set_yticks(range(len(shown)), [names[label] for label in shown])
        axes.invert_yaxis()
        axes.set_xlabel("right, %")
        axes.grid(axis="x")
    caption = f"{of} with its 95 % interval (Wilson); dashed, all images together. The {extremes}."
    return PageFigure("classes", drawing.svg, caption, _class_table(subject, measured))


def _share(row: Sequence[int], label: int) -> tuple[int, int]:
    return row[label], sum(row)


def _class_table(subject: Subject, measured: Measurements) -> Table:
    rows = []
    for label, (name, row) in enumerate(zip(subject.class_names, measured.evaluation.confusion, strict=True)):
        right, images = _share(row, label)
        accuracy = percent(right / images if images else None)
        rows.append((name, f"{right:,}", f"{images:,}", accuracy, span(wilson_interval(right, images))))
    found = measured.evaluation
    total = ("all", f"{found.correct:,}", f"{found.images:,}", percent(found.accuracy), span(found.interval))
    return Table("Right answers by class", ("class", "right", "images", "accuracy", "95 % interval"), rows, total)


def worst_figure(subject: Subject, measured: Measurements) -> PageFigure:
    """Show the images whose label has the lowest probability, each with its three most probable classes."""
    cards = Markup().join(_card(subject, image) for image in measured.worst)
    caption = (
        f"The {len(measured.worst)} images whose label has the lowest probability, the lowest first, each with its "
        "label, its index and its three most probable classes."
    )
    picture = Markup('<div class="worst">{}</div>').format(cards)
    return PageFigure("worst", picture, caption, _image_table(subject, measured.worst, "The worst images"))


def mistakes_figure(subject: Subject, measured: Measurements) -> PageFigure:
    """Show the other misclassified images, small."""
    cards = Markup().join(_small_card(subject, image) for image in measured.mistakes)
    caption = (
        f"{len(measured.mistakes)} more of the {measured.wrong:,} misclassified images, each with its label, its "
        "answer and the answer's probability. Those whose label has the lowest probability come first."
    )
    picture = Markup('<div class="mistakes">{}</div>').format(cards)
    return PageFigure("mistakes", picture, caption, _image_table(subject, measured.mistakes, "Further mistakes"))


def _card(subject: Subject, image: ScoredImage) -> Markup:
    names = subject.class_names
    bars = Markup().join(_bar(names[label], share, right=label == image.label) for label, share in image.top_classes)
    words = Markup("<p><b>{}</b>, image {}</p>").format(names[image.label], image.index)
    return Markup('<div class="card">{}{}<ol>{}</ol></div>').format(_picture(subject, image), words, bars)


def _bar(name: str, share: float, *, right: bool) -> Markup:
    bar = Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/><rect class="{}" width="{:.1f}" height="6"/></svg>'
    ).format("right" if right else "wrong", 100 * share)
    return Markup("<li><span>{}</span>{}<span>{}</span></li>").format(name, bar, percent(share, 1))


def _small_card(subject: Subject, image: ScoredImage) -> Markup:
    label, answer = (subject.class_names[number] for number in (image.label, image.predicted))
    share = percent(image.top_classes[0][1], 1)
    words = Markup("<p>{} \N{RIGHTWARDS ARROW} <b>{}</b><br>{}</p>").format(label, answer, share)
    return Markup('<div class="card">{}{}</div>').format(_picture(subject, image), words)


def _picture(subject: Subject, image: ScoredImage) -> Markup:
    pixels = subject.images.pixels[image.index].numpy()
    names = subject.class_names
    words = f"Image {image.index}, labelled {names[image.label]}, read as {names[image.predicted]}"
    kind = "ink" if len(pixels) != 3 else "photo"
    return Markup('<img class="{} pixels" src="{}" alt="{}">').format(kind, photo(pixels), words)


def _image_table(subject: Subject, images: Sequence[ScoredImage], caption: str) -> Table:
    names = subject.class_names
    heads = ("index", "label", "answer", "its probability", "probability of the label")
    rows = [
        (
            str(image.index),
            names[image.label],
            names[image.predicted],
            percent(image.top_classes[0][1]),
            percent(image.label_probability),
        )
        for image in images
    ]
    return Table(caption, heads, rows, words=0)
