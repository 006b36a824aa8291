"""One self-contained HTML page that recognises what is drawn on it, by the integer specification in JavaScript.

The page is assembled from the files beside this one. Nothing in it is fetched, and its Content-Security-Policy lets
nothing run but the very scripts and the style sheet that were written here.
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
from kilonet.export.manifest import entry
from kilonet.network.operations import Shape
from kilonet.utils.errors import KilonetError

PAGE_FILE = "index.html"
SCRIPTS = ("integer.js", "centring.js", "drawing.js", "here.js", "app.js")

FIELD = "28 \N{MULTIPLICATION SIGN} 28"

_FIELD = (1, 28, 28)
_DIGITS = 10


@dataclass(frozen=True)
class Claim:
    """What the page says of its network."""

    name: str
    parameters: int
    accuracy: float | None = None
    """Of the integer network on test images, a fraction; None where it is not known."""


@dataclass(frozen=True)
class Parts:
    """What differs between one page and another. Texts are escaped, what is HTML says so."""

    name: str
    """What the model is called."""
    lead: str
    """The sentence under the heading."""
    caption: str
    """What is said of what the network sees."""
    facts: Sequence[tuple[str, str]]
    """Name and HTML of each, at the foot."""
    scripts: Sequence[str]
    """The scripts, in order; the last ones are one that defines `makeReader`, and `app.js`."""
    style: str
    """The style sheet."""
    tools: str = ""
    """HTML of further tools beside undo and clear."""
    data: str = ""
    """JSON that the scripts find in the element `network`."""
    requests: bool = False
    """Whether the scripts may ask the server that the page came from."""


def page_html(network: IntegerNetwork, claim: Claim) -> str:
    """Return the whole page.

    Raises:
        KilonetError: it is no network of digits in 28x28 grey pixels, which is what the page draws.
    """
    check_draws_digits(network.input_shape, network.classes)
    return _exported(network, claim, len(_exported(network, claim, 0).encode()))


def check_draws_digits(shape: Shape, classes: int) -> None:
    """Make sure that a network takes what the page draws.

    Raises:
        KilonetError: it does not.
    """
    if shape != _FIELD or classes != _DIGITS:
        found = f"{'x'.join(map(str, shape))} pixels and {classes} classes"
        raise KilonetError(f"the page draws digits, 1x28x28 pixels and 10 classes, but this network has {found}")


def describe(network: IntegerNetwork) -> dict[str, Any]:
    """Return the network as `integer.js` reads it, from JSON."""
    return {
        "input": network.input_shape,
        "fraction_bits": network.fraction_bits,
        "operations": [_entry(operation) for operation in network.operations],
    }


def part(name: str) -> str:
    """Return one of the files that the page is made of."""
    return (files("kilonet.export.html") / name).read_text(encoding="utf-8")


def _entry(operation: IntegerOperation) -> dict[str, Any]:
    """Return an operation as in `model.json`, but its weights in base64, a third as long."""
    if isinstance(operation, IntegerConvolution):
        return entry(operation) | {"weights": base64.b64encode(operation.weights.tobytes()).decode()}
    return entry(operation)


def assemble(parts: Parts) -> str:
    """Return a whole page."""
    return Template(part("page.html")).substitute(
        policy=policy(parts),
        version=kilonet.__version__,
        name=escape(parts.name),
        lead=escape(parts.lead),
        style=parts.style,
        tools=parts.tools,
        bars="".join(map(_bar, range(_DIGITS))),
        caption=escape(parts.caption),
        facts="".join(f"<div><dt>{name}</dt><dd>{html}</dd></div>" for name, html in parts.facts),
        data=f'<script id="network" type="application/json">{parts.data}</script>' if parts.data else "",
        scripts="\n".join(f"<script>{script}</script>" for script in parts.scripts),
    )


def policy(parts: Parts) -> str:
    """Return a page's Content-Security-Policy: these very texts, data URLs, its own requests."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(source_of, parts.scripts))}",
            f"style-src {source_of(parts.style)}",
            "img-src data:",
            *(["connect-src 'self'"] if parts.requests else []),
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def facts(claim: Claim) -> list[tuple[str, str]]:
    """Return what the foot of a page says of its network, names and HTML."""
    accuracy = [] if claim.accuracy is None else [("Test accuracy", f"{100 * claim.accuracy:.2f} %")]
    return [("Model", escape(claim.name)), ("Parameters", f"{claim.parameters:,}"), *accuracy]


def _exported(network: IntegerNetwork, claim: Claim, size: int) -> str:
    parts = Parts(
        name=claim.name,
        lead=f"A neural network of {claim.parameters:,} parameters reads it as you draw, here in this page.",
        caption=f"Your ink in {FIELD} grey pixels, scaled and centred like the digits it learnt from.",
        facts=[*facts(claim), ("This page", f"{size / 1000:.0f} kB, works offline")],
        scripts=[part(name) for name in SCRIPTS],
        style=part("page.css"),
        data=json.dumps(describe(network), separators=(",", ":")),
    )
    return assemble(parts)


def source_of(text: str) -> str:
    """Return what allows an inline script or style in a Content-Security-Policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bar(digit: int) -> str:
    return f'<li><span class="track" aria-hidden="true"></span>{digit} <span class="percent"></span></li>'
