"""A report that people look at: one HTML page on a model and its run, by matplotlib and Jinja.

`page.html` is the template, `page.css` its style. The page is self-contained, runs no script, and is the same bytes for
the same subject.
"""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import kilonet
from kilonet.evaluation.statistics import mean_and_std, mean_interval
from kilonet.report.page import activations as inside
from kilonet.report.page import learning_curves as learning
from kilonet.report.page import mistakes
from kilonet.report.page import reliability as sureness
from kilonet.report.page.figures import Figure, count, percent, span
from kilonet.report.page.measurements import Measured, measure
from kilonet.report.page.tables import layer_table, recipe_tables, shipped_table
from kilonet.report.subject import Subject


def report_html(subject: Subject) -> str:
    """Return the whole page."""
    measured = measure(subject)
    style = _part("page.css")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_part), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, span=span, count=count)
    page = environment.get_template("page.html")
    return page.render(
        subject=subject,
        measured=measured,
        figures=_numbered(_figures(subject, measured)),
        claim=_claim(subject, measured),
        tables={"layers": layer_table(subject), "shipped": shipped_table(subject)},
        recipe_tables=recipe_tables(subject.record.result.recipe) if subject.record else [],
        statistics=learning.statistics(subject.records),
        style=Markup(style),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src {_source(style)}; base-uri 'none'; form-action 'none'",
        version=kilonet.__version__,
    )


def _part(name: str) -> str:
    return (files("kilonet.report.page") / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _figures(subject: Subject, measured: Measured) -> list[Figure]:
    """Return the figures in the order of the page."""
    found = [inside.receptive_field(subject)]
    if subject.record and subject.record.history:
        repeated = [record for record in subject.repetitions if record != subject.record and record.history]
        found.append(learning.curves(subject.record, repeated))
    if subject.companions:
        found.append(learning.side_by_side(subject.records))
    found += [mistakes.confusion(subject, measured), mistakes.classes(subject, measured)]
    found += [mistakes.worst(subject, measured), *([mistakes.mistakes(subject, measured)] if measured.mistakes else [])]
    found.append(sureness.reliability(measured))
    if subject.robustness:
        found.append(sureness.robustness(subject.robustness))
    last = inside.maps(subject, measured)
    return [*found, inside.filters(subject), *([last] if last else [])]


def _numbered(found: list[Figure]) -> Mapping[str, tuple[int, Figure]]:
    return {figure.key: (number, figure) for number, figure in enumerate(found, 1)}


def _claim(subject: Subject, measured: Measured) -> dict[str, Any]:
    """Return what the page claims: the mean over seeds where there are several, else the run's figure."""
    result = subject.record.result if subject.record else None
    found = measured.evaluation
    correct, images = (result.correct, result.scored_images) if result else (found.correct, found.images)
    accuracies = [record.accuracy for record in subject.repetitions]
    several = len(accuracies) > 1
    mean, deviation = mean_and_std(accuracies) if several else (correct / images, 0.0)
    return {
        "several": several,
        "n": len(accuracies),
        "mean": mean,
        "deviation": deviation,
        "interval": mean_interval(accuracies) if several else None,
        "correct": correct,
        "images": images,
        "accuracy": correct / images,
        "own_interval": result.interval if result else found.interval,
        "scored": (result.scored if result else found.scored).lower(),
    }
