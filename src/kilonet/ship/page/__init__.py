"""One self-contained HTML page that recognises what is drawn on it, by the integer specification in JavaScript.

The page is assembled from the files beside this one. Nothing in it is fetched, and its Content-Security-Policy lets
nothing run but the very scripts and the style sheet that were written here.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import kilonet
from kilonet.errors import KilonetError
from kilonet.operations import Shape
from kilonet.ship.description import entry
from kilonet.ship.integer import IntegerConvolution, IntegerNetwork, IntegerOperation

PAGE_FILE = "index.html"
SCRIPTS = ("integer.js", "centring.js", "drawing.js", "app.js")

_FIELD = (1, 28, 28)
_DIGITS = 10


@dataclass(frozen=True)
class Claim:
    """What the page says of its network."""

    name: str
    parameters: int
    accuracy: float | None = None
    """Of the integer network on test images, a fraction; None where it is not known."""


def page_html(network: IntegerNetwork, claim: Claim) -> str:
    """Return the whole page.

    Raises:
        KilonetError: it is no network of digits in 28x28 grey pixels, which is what the page draws.
    """
    check_draws_digits(network.input_shape, network.classes)
    return _assemble(network, claim, len(_assemble(network, claim, 0).encode()))


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
    return (files(__name__) / name).read_text(encoding="utf-8")


def _entry(operation: IntegerOperation) -> dict[str, Any]:
    """Return an operation as in `model.json`, but its weights in base64, a third as long."""
    if isinstance(operation, IntegerConvolution):
        return entry(operation) | {"weights": base64.b64encode(operation.weights.tobytes()).decode()}
    return entry(operation)


def _assemble(network: IntegerNetwork, claim: Claim, size: int) -> str:
    style, scripts = part("page.css"), [part(name) for name in SCRIPTS]
    return Template(part("page.html")).substitute(
        policy=_policy(style, scripts),
        version=kilonet.__version__,
        name=escape(claim.name),
        parameters=f"{claim.parameters:,}",
        style=style,
        bars="".join(map(_bar, range(_DIGITS))),
        facts="".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in _facts(claim, size)),
        network=json.dumps(describe(network), separators=(",", ":")),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _policy(style: str, scripts: Iterable[str]) -> str:
    """Allow these very texts and the icon, which is a data URL; nothing else, and no request."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_source, scripts))}",
            f"style-src {_source(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bar(digit: int) -> str:
    return f'<li><span class="track" aria-hidden="true"></span>{digit} <span class="percent"></span></li>'


def _facts(claim: Claim, size: int) -> list[tuple[str, str]]:
    accuracy = [] if claim.accuracy is None else [("Test accuracy", f"{100 * claim.accuracy:.2f} %")]
    return [
        ("Model", claim.name),
        ("Parameters", f"{claim.parameters:,}"),
        *accuracy,
        ("This page", f"{size / 1000:.0f} kB, works offline"),
    ]
