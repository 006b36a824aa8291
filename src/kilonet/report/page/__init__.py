"""The report: one HTML page about a model and its run, by matplotlib and Jinja.

`page.html` is the template, `page.css` its style. The page is self-contained, runs no script, and is the same bytes for
the same subject. Its policy allows inline styles, which matplotlib's SVG needs, and nothing from elsewhere; names of
classes and runs are escaped by Jinja, markupsafe and matplotlib.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import kilonet
from kilonet.evaluation.metrics import are_unequal
from kilonet.evaluation.statistics import mean_and_std, mean_interval
from kilonet.report.page import activations, learning_curves, mistakes, reliability
from kilonet.report.page.figures import PageFigure, count, percent, span
from kilonet.report.page.measurements import Measurements, measure
from kilonet.report.page.tables import exported_table, layer_table, recipe_tables
from kilonet.report.subject import Subject

REPORT_MARK = '<meta name="generator" content="kilonet '
"""What all reports hold."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report_html(subject: Subject) -> str:
    """Return the whole page."""
    measured = measure(subject)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_read), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, span=span, count=count)
    return environment.get_template("page.html").render(
        subject=subject,
        measured=measured,
        figures=_numbered(_figures(subject, measured)),
        claim=_claim(subject, measured),
        tables={"layers": layer_table(subject), "exported": exported_table(subject)},
        recipe_tables=recipe_tables(subject.record.result.recipe) if subject.record else [],
        statistics=learning_curves.statistics_tables(subject.records),
        style=Markup(_read("page.css")),  # noqa: S704 - our own file
        policy=_POLICY,
        version=kilonet.__version__,
    )


def _read(name: str) -> str:
    return (files("kilonet.report.page") / name).read_text(encoding="utf-8")


def _figures(subject: Subject, measured: Measurements) -> list[PageFigure]:
    """Return the figures in the order of the page."""
    figures = [activations.receptive_field_figure(subject)]
    if subject.record and subject.record.history:
        repeated = [record for record in subject.repetitions if record != subject.record and record.history]
        figures.append(learning_curves.curves_figure(subject.record, repeated))
    if subject.others:
        figures.append(learning_curves.runs_figure(subject.records))
    figures += [mistakes.confusion_figure(subject, measured), mistakes.class_figure(subject, measured)]
    figures.append(mistakes.worst_figure(subject, measured))
    if measured.mistakes:
        figures.append(mistakes.mistakes_figure(subject, measured))
    figures.append(reliability.reliability_figure(measured))
    if subject.robustness:
        figures.append(reliability.robustness_figure(subject.robustness))
    inside = activations.filter_figure(subject), activations.map_figure(subject, measured)
    return [*figures, *(figure for figure in inside if figure)]


def _numbered(figures: list[PageFigure]) -> Mapping[str, tuple[int, PageFigure]]:
    return {figure.key: (number, figure) for number, figure in enumerate(figures, 1)}


def _claim(subject: Subject, measured: Measurements) -> dict[str, Any]:
    """Return what the page claims: the mean over seeds where there are several, otherwise the run's own accuracy."""
    result = subject.record.result if subject.record else None
    evaluation = measured.evaluation
    correct, images = (result.correct, result.scored_images) if result else (evaluation.correct, evaluation.images)
    accuracies = [record.accuracy for record in subject.repetitions]
    several = len(accuracies) > 1
    mean, deviation = mean_and_std(accuracies) if several else (correct / images, 0.0)
    return {
        "several": several,
        "n": len(accuracies),
        "mean": mean,
        "deviation": deviation,
        "interval": mean_interval(accuracies) if several else None,
        "unequal": are_unequal([sum(row) for row in evaluation.confusion]),
        "correct": correct,
        "images": images,
        "accuracy": correct / images,
        "own_interval": result.interval if result else evaluation.interval,
        "scored": (result.scored if result else evaluation.scored).lower(),
    }
