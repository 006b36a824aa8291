"""One self-contained HTML page that recognises drawn digits or pictures; JavaScript executes the integer network.

The page is assembled from the files beside this one. It fetches nothing, and its Content-Security-Policy allows only
the scripts and the style sheet that are written here.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import kilonet
from kilonet.data.preprocessing import PreprocessingFacts, preprocessing_facts
from kilonet.export.integer import IntegerConvolution, IntegerNetwork, IntegerOperation
from kilonet.export.manifest import operation_as_json
from kilonet.models.calibration import UNFITTED
from kilonet.models.classes import class_names
from kilonet.models.metadata import NO_METADATA, Metadata
from kilonet.network.operations import Shape
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable

PAGE_FILE = "index.html"
DRAWING_SCRIPTS = ("integer.js", "answer.js", "centring.js", "drawing.js", "local_reader.js", "app.js")
"""The scripts of a page to draw digits on, in order."""
PICTURE_SCRIPTS = ("integer.js", "answer.js", "preprocessing.js", "local_picture_reader.js", "picture.js")
"""The scripts of a page that takes pictures, in order."""

FIELD_SIZE = "28 \N{MULTIPLICATION SIGN} 28"

_DIGITS = tuple(map(str, range(10)))
_SHOWN_CLASSES = 5
"""The most classes whose probabilities the page for pictures shows."""
_LISTED_CLASSES = 20
"""The most classes that the footer of the page for pictures lists."""
_CHANNELS = (1, 3)
_OTHER_SHAPES = {
    "crop": "Of a picture of another shape the middle is taken.",
    "pad": "A picture of another shape is padded with the mean colour of the training images.",
    "squash": "A picture of another shape is squashed into this one.",
}


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
    """The scripts in order. One before the last defines `makeReader` for `app.js`, `makePictureReader` for
    `picture.js`."""
    style: str
    """The style sheet."""
    tools: str = ""
    """HTML of further buttons beside Undo and Clear."""
    title: str = "Draw a digit"
    sections: str = "drawing.html"
    """The file with the HTML between heading and footer."""
    bars: Sequence[str] = _DIGITS
    """The name of each bar."""
    data: str = ""
    """JSON of the element `network`, which the scripts read."""
    requests: bool = False
    """Whether the scripts may send requests to the page's own server."""


def page_html(
    network: IntegerNetwork, section: ModelSection, facts: PageFacts, metadata: Metadata = NO_METADATA
) -> str:
    """Return the whole page: one to draw on for a network that reads digits, else one that takes pictures.

    Args:
        network: the integer network.
        section: the network that it was made from, which says how a picture becomes its input.
        facts: the figures that the page states.
        metadata: the model's metadata; the page shows the classes' names and follows the calibration.

    Raises:
        KilonetError: the network takes images of neither one nor three channels.
    """
    check_takes_pictures(network.input_shape)
    content = _page_content(network, section, facts, metadata)
    return _page_of_size(content, len(_page_of_size(content, 0).encode()))


def check_takes_pictures(shape: Shape) -> None:
    """Check that a page can show a network pictures.

    Raises:
        KilonetError: the network takes images of neither one nor three channels.
    """
    if shape[0] not in _CHANNELS:
        raise KilonetError(f"a page reads pictures of 1 or 3 channels, but this network takes {shape[0]}")


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
    sections = Template(page_source(content.sections)).substitute(
        tools=content.tools, bars="".join(map(_bar, content.bars)), caption=escape(content.caption)
    )
    return Template(page_source("page.html")).substitute(
        policy=content_security_policy(content),
        version=kilonet.__version__,
        title=escape(content.title),
        name=escape(content.name),
        lead=escape(content.lead),
        style=content.style,
        sections=sections,
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


def _page_of_size(content: PageContent, size: int) -> str:
    return assemble_page(
        replace(content, facts=[*content.facts, ("This page", f"{size / 1000:.0f} kB, works offline")])
    )


def _page_content(network: IntegerNetwork, section: ModelSection, facts: PageFacts, metadata: Metadata) -> PageContent:
    digits = metadata.reads_digits(network.input_shape, network.classes)
    preprocessing = preprocessing_facts(section, reads_digits=digits)
    assert preprocessing  # noqa: S101 - it takes pictures, which was checked
    names = list(map(printable, class_names(metadata, network.classes)))
    if digits:
        content = _drawing_page(facts, names)
    else:
        scripts = [page_source(name) for name in PICTURE_SCRIPTS]
        content = picture_page(facts, names, network.input_shape, preprocessing, scripts)
    table = {
        **network_as_json(network),
        "digits": digits,
        "names": names,
        "calibration": (metadata.calibration or UNFITTED).model_dump(mode="json"),
        "preprocessing": preprocessing.model_dump(mode="json"),
    }
    return replace(content, data=page_data(table), facts=[*footer_facts(facts), *class_facts(metadata.names or ())])


def _drawing_page(facts: PageFacts, names: Sequence[str]) -> PageContent:
    return PageContent(
        name=facts.name,
        lead=f"A neural network of {facts.parameters:,} parameters reads it as you draw, here in this page.",
        caption=f"Your ink in {FIELD_SIZE} grey pixels, scaled and centred like the digits it was trained on.",
        facts=(),
        scripts=[page_source(name) for name in DRAWING_SCRIPTS],
        style=page_source("page.css"),
        bars=names,
    )


def picture_page(
    facts: PageFacts,
    names: Sequence[str],
    shape: Shape,
    preprocessing: PreprocessingFacts,
    scripts: Sequence[str],
    *,
    place: str = "here in this page",
) -> PageContent:
    """Return a page that takes pictures, without its data and the facts in its footer.

    Args:
        facts: the figures of the network.
        names: the names of its classes.
        shape: the shape of its input.
        preprocessing: how a picture becomes the input.
        scripts: the scripts in order: one defines `makePictureReader`, and the last is `picture.js`.
        place: where the network is computed, in words.
    """
    channels, rows, columns = shape
    size = f"{columns} \N{MULTIPLICATION SIGN} {rows} {'grey' if channels == 1 else 'coloured'} pixels"
    return PageContent(
        name=facts.name,
        lead=f"A neural network of {facts.parameters:,} parameters tells {len(names):,} classes apart, {place}.",
        caption=f"{size}. {_OTHER_SHAPES[preprocessing.resize or 'crop']}",
        facts=(),
        scripts=scripts,
        style=page_source("page.css") + page_source("picture.css"),
        title="Classify a picture",
        sections="picture.html",
        bars=[""] * min(_SHOWN_CLASSES, len(names)),
    )


def page_data(table: Mapping[str, Any]) -> str:
    """Return the JSON of the element `network`."""
    # A name must not end the element.
    return json.dumps(table, separators=(",", ":")).replace("<", "\\u003c")


def class_facts(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names of the classes for the footer of a page, the first of many; nothing for no names."""
    more = len(names) - _LISTED_CLASSES
    listed = [*names[:_LISTED_CLASSES], *([f"and {more:,} more"] if more > 0 else [])]
    return [("Classes", escape(printable(", ".join(listed))))] if listed else []


def hash_source(text: str) -> str:
    """Return the source expression that allows an inline script or style in a Content-Security-Policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bar(name: str) -> str:
    name = f'<span class="name">{escape(name)}</span>'
    return f'<li><span class="track" aria-hidden="true"></span>{name} <span class="percent"></span></li>'
