"""One self-contained HTML page that recognises drawn digits; JavaScript executes the integer network.

The page is assembled from the files beside this one. It fetches nothing, and its Content-Security-Policy allows only
the scripts and the style sheet that are written here.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import kilonet
from kilonet.export.integer import IntegerConvolution, IntegerNetwork, IntegerOperation
from kilonet.export.manifest import operation_as_json
from kilonet.network.operations import Shape
from kilonet.utils.errors import KilonetError

PAGE_FILE = "index.html"
SCRIPTS = ("integer.js", "centring.js", "drawing.js", "local_reader.js", "app.js")

FIELD_SIZE = "28 \N{MULTIPLICATION SIGN} 28"

_FIELD = (1, 28, 28)
_DIGITS = 10


@dataclass(frozen=True)
class PageFacts:
    """The figures of a network on its page."""

    name: str
    parameters: int
    accuracy: float | None = None
    """Fraction of the test images; None if it is not known."""


@dataclass(frozen=True)
class PageContent:
    """The content of a page. Plain texts are escaped; fields of HTML and scripts are inserted as they are."""

    name: str
    """Name of the model."""
    lead: str
    """The sentence under the heading."""
    caption: str
    """The text beside the network's view of the drawing."""
    facts: Sequence[tuple[str, str]]
    """Name and HTML of each fact in the footer."""
    scripts: Sequence[str]
    """The scripts in order. The last is `app.js`; one before it defines `makeReader`."""
    style: str
    """The style sheet."""
    tools: str = ""
    """HTML of further buttons beside Undo and Clear."""
    data: str = ""
    """JSON of the element `network`, which the scripts read."""
    requests: bool = False
    """Whether the scripts may send requests to the page's own server."""


def page_html(network: IntegerNetwork, facts: PageFacts) -> str:
    """Return the whole page.

    Raises:
        KilonetError: the network does not read the ten digits in 28x28 grey pixels.
    """
    check_draws_digits(network.input_shape, network.classes)
    return _page_of_size(network, facts, len(_page_of_size(network, facts, 0).encode()))


def check_draws_digits(shape: Shape, classes: int) -> None:
    """Check that a network reads the page's drawings.

    Raises:
        KilonetError: it has another input shape or another number of classes.
    """
    if shape != _FIELD or classes != _DIGITS:
        found = f"{'x'.join(map(str, shape))} pixels and {classes} classes"
        raise KilonetError(f"the page draws digits, 1x28x28 pixels and 10 classes, but this network has {found}")


def network_as_json(network: IntegerNetwork) -> dict[str, Any]:
    """Return the network as the JSON object that `integer.js` reads."""
    return {
        "input": network.input_shape,
        "fraction_bits": network.fraction_bits,
        "operations": [_compact_operation(operation) for operation in network.operations],
    }


def page_source(name: str) -> str:
    """Return the text of one of the files that the page is made of."""
    return (files("kilonet.export.html") / name).read_text(encoding="utf-8")


def _compact_operation(operation: IntegerOperation) -> dict[str, Any]:
    """Return an operation as in `model.json`, but with its weights in base64, which is a third as long."""
    if isinstance(operation, IntegerConvolution):
        return operation_as_json(operation) | {"weights": base64.b64encode(operation.weights.tobytes()).decode()}
    return operation_as_json(operation)


def assemble_page(content: PageContent) -> str:
    """Return the HTML of a page."""
    return Template(page_source("page.html")).substitute(
        policy=content_security_policy(content),
        version=kilonet.__version__,
        name=escape(content.name),
        lead=escape(content.lead),
        style=content.style,
        tools=content.tools,
        bars="".join(map(_bar, range(_DIGITS))),
        caption=escape(content.caption),
        facts="".join(f"<div><dt>{name}</dt><dd>{html}</dd></div>" for name, html in content.facts),
        data=f'<script id="network" type="application/json">{content.data}</script>' if content.data else "",
        scripts="\n".join(f"<script>{script}</script>" for script in content.scripts),
    )


def content_security_policy(content: PageContent) -> str:
    """Return a page's Content-Security-Policy: only its own scripts and style, data URLs and its own requests."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(hash_source, content.scripts))}",
            f"style-src {hash_source(content.style)}",
            "img-src data:",
            *(["connect-src 'self'"] if content.requests else []),
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def footer_facts(facts: PageFacts) -> list[tuple[str, str]]:
    """Return the facts about a network for the footer of a page: names and HTML."""
    accuracy = [] if facts.accuracy is None else [("Test accuracy", f"{100 * facts.accuracy:.2f} %")]
    return [("Model", escape(facts.name)), ("Parameters", f"{facts.parameters:,}"), *accuracy]


def _page_of_size(network: IntegerNetwork, facts: PageFacts, size: int) -> str:
    content = PageContent(
        name=facts.name,
        lead=f"A neural network of {facts.parameters:,} parameters reads it as you draw, here in this page.",
        caption=f"Your ink in {FIELD_SIZE} grey pixels, scaled and centred like the digits it was trained on.",
        facts=[*footer_facts(facts), ("This page", f"{size / 1000:.0f} kB, works offline")],
        scripts=[page_source(name) for name in SCRIPTS],
        style=page_source("page.css"),
        data=json.dumps(network_as_json(network), separators=(",", ":")),
    )
    return assemble_page(content)


def hash_source(text: str) -> str:
    """Return the source expression that allows an inline script or style in a Content-Security-Policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bar(digit: int) -> str:
    return f'<li><span class="track" aria-hidden="true"></span>{digit} <span class="percent"></span></li>'
