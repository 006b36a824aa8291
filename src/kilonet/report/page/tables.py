"""The recipe, the network and the exported sizes as tables."""

from typing import Any

from kilonet.recipe import SECTIONS, Recipe
from kilonet.report.page.figures import TIMES, Row, Table
from kilonet.report.subject import Subject
from kilonet.utils.terminal import printable


def recipe_tables(recipe: Recipe) -> list[Table]:
    """Return one table per section of the recipe, every key with its value; `layer_table` shows the layers."""
    return [_section_table(name, getattr(recipe, name)) for name in SECTIONS]


def _section_table(name: str, section: Any) -> Table:
    rows: list[Row] = [
        (key.replace("_", " "), _value(value))
        for key, value in section.model_dump(mode="json", exclude_none=True).items()
        if key != "layers"
    ]
    return Table(name, ("key", "value"), rows, words=2)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f" {TIMES} ".join(map(printable, value))
    return f"{value:,}" if isinstance(value, int) else printable(value)


def layer_table(subject: Subject) -> Table:
    """Return the layers with the cost of each."""
    cost = subject.cost
    heads = ("layer", "output", "parameters", "MACs", "map, bytes", "kernel", "field", "jump")
    rows = [
        (
            layer.layer,
            f" {TIMES} ".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            f"{layer.macs:,}",
            f"{layer.activation_bytes:,}",
            f"{layer.kernel} {TIMES} {layer.kernel}",
            f"{layer.receptive_field}",
            f"{layer.jump}",
        )
        for layer in cost.layers
    ]
    total = ("total", "", f"{cost.parameters:,}", f"{cost.macs:,}", "")
    return Table("The layers", heads, rows, (*total, "", "", ""), words=2)


FORM_NAMES = {
    "c": "C99, integers, for a microcontroller",
    "html": "one HTML page, integers",
    "onnx": "ONNX, float32",
    "onnx-int8": "ONNX, int8",
}


def exported_table(subject: Subject) -> Table | None:
    """Return the sizes of every exported form; None where nothing was exported."""
    if subject.exported is None:
        return None
    rows: list[Row] = [
        (FORM_NAMES.get(form, form), _size(figures, "bytes", "flash"), _size(figures, "ram"))
        for form, figures in subject.exported.forms.items()
    ]
    return Table("Bytes of every exported form", ("form", "file, or flash", "RAM"), rows)


def _size(figures: Any, *names: str) -> str:
    found = next((figures[name] for name in names if figures.get(name) is not None), None)
    return "" if found is None else f"{found:,}"
