"""Charts by matplotlib, rewritten so that the page's style sheet has the say.

Stand-in colours become the page's variables, style attributes become presentation attributes, which a strict
Content-Security-Policy lets pass, text stays text, and ids are kept only where something in the chart points at them.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, ACCENT, SECOND, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    PAPER: "var(--paper)",
}

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kilonet",
    "font.size": 8.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.35,
    "lines.linewidth": 1.4,
}


class Chart:
    """A figure that is being drawn; `picture` is what became of it."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.picture = Markup()

    def axes(self) -> Axes:
        """Return the figure's only axes, made now."""
        return self.figure.add_subplot()


@contextmanager
def chart(key: str, width: float, height: float, alternative: str) -> Iterator[Chart]:
    """Draw within this context, in points; afterwards `picture` holds the themed SVG.

    Args:
        key: makes ids in the SVG the chart's own.
        width: points; the page scales it.
        height: points.
        alternative: the text alternative.
    """
    with mpl.rc_context(_STYLE):
        drawing = Chart(Figure(figsize=(width / 72, height / 72), layout="constrained"))
        yield drawing
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    drawing.picture = _themed(stream.getvalue(), key, alternative)


def _themed(svg: str, key: str, alternative: str) -> Markup:
    root = ET.fromstring(svg)  # noqa: S314 - matplotlib's own, made a line ago
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    for element in root.iter():
        _present(element)
        _name_apart(element, key)
    pointed = set(re.findall(rf"(?<=#){key}-\w+", ET.tostring(root, "unicode")))
    for element in root.iter():
        if element.get("id") not in pointed:
            element.attrib.pop("id", None)
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": f"chart {key}",
        "role": "img",
        "aria-label": alternative,
    }
    return Markup(ET.tostring(root, "unicode"))  # noqa: S704 - serialised, hence escaped


def _present(element: ET.Element) -> None:
    """Turn the style attribute into presentation attributes."""
    for rule in filter(str.strip, element.attrib.pop("style", "").split(";")):
        name, value = (part.strip() for part in rule.split(":", 1))
        if name == "font":
            found = re.search(r"([\d.]+)px", value)
            element.set("font-size", found[1] if found else "8")
        else:
            element.set(name, _VARIABLES.get(value, value))


def _name_apart(element: ET.Element, key: str) -> None:
    """Put the chart's key before every id, and before what points at one."""
    if "id" in element.attrib:
        element.set("id", f"{key}-{element.get('id')}")
    if _LINK in element.attrib:
        element.set("href", element.attrib.pop(_LINK).replace("#", f"#{key}-"))
    for name, value in element.attrib.items():
        if "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{key}-"))
