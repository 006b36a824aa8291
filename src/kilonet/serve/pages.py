"""The pages of the service: one to draw a digit on or one that takes pictures, and the interactive API."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from kilonet.data.preprocessing import PreprocessingFacts
from kilonet.export.html.page import (
    FIELD_SIZE,
    PageContent,
    PageFacts,
    assemble_page,
    class_facts,
    content_security_policy,
    footer_facts,
    hash_source,
    page_data,
    page_source,
    picture_page,
)
from kilonet.serve.schema import ModelFacts
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import fastapi_offline
    from fastapi.openapi.docs import get_swagger_ui_html

SWAGGER = Path(fastapi_offline.__file__).parent / "static"
"""The folder of Swagger UI's script and style sheet, served from here instead of from another host."""
SWAGGER_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
DRAWING_SCRIPTS = ("drawing.js", "request.js", "served.js", "app.js")
"""The scripts of the page to draw on, in order."""
PICTURE_SCRIPTS = ("request.js", "served_picture_reader.js", "picture.js")
"""The scripts of the page that takes pictures, in order."""
_OWN = frozenset({"request.js", "served.js", "served_picture_reader.js"})
_NOT_IN_FRAMES = "frame-ancestors 'none'"


@dataclass(frozen=True)
class Page:
    """A page and its Content-Security-Policy."""

    html: str
    policy: str
    """The value of the header Content-Security-Policy."""


def front_page(model: ModelFacts) -> Page | None:
    """Return the page to draw digits on or the one that takes pictures; None for a network that takes no pictures.

    Both send what they are given to this service.
    """
    if model.preprocessing is None:
        return None
    content = _drawing_page(model) if model.reads_digits else _picture_page(model, model.preprocessing)
    return Page(assemble_page(content), f"{content_security_policy(content)}; {_NOT_IN_FRAMES}")


def _picture_page(model: ModelFacts, preprocessing: PreprocessingFacts) -> PageContent:
    scripts = _sources(PICTURE_SCRIPTS)
    content = picture_page(_figures(model), model.classes, model.input, preprocessing, scripts, place="in this service")
    data = page_data({"input": model.input, "names": model.classes})
    return replace(content, facts=_footer(model, *class_facts(model.classes)), data=data, requests=True)


def _drawing_page(model: ModelFacts) -> PageContent:
    return PageContent(
        name=model.name,
        lead=f"Or choose a photo of one. A neural network of {model.parameters:,} parameters reads it.",
        caption=f"The digit in {FIELD_SIZE} grey pixels, scaled and centred like the digits of MNIST.",
        facts=_footer(model),
        scripts=_sources(DRAWING_SCRIPTS),
        style=page_source("page.css") + _own("served.css"),
        tools=_own("tools.html"),
        requests=True,
    )


def _figures(model: ModelFacts) -> PageFacts:
    return PageFacts(model.name, model.parameters, None if model.accuracy is None else model.accuracy.share)


def _footer(model: ModelFacts, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [*footer_facts(_figures(model)), *more, ("Interface", '<a href="docs">OpenAPI</a>')]


def _sources(names: Sequence[str]) -> list[str]:
    return [_own(name) if name in _OWN else page_source(name) for name in names]


def docs_page(openapi: str, title: str) -> Page:
    """Return Swagger UI's page about an API.

    Args:
        openapi: the address of the OpenAPI document.
        title: the title of the page.
    """
    response = get_swagger_ui_html(
        openapi_url=openapi,
        title=title,
        # Relative to /docs, so that it works below a path of a proxy too.
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    html = bytes(response.body).decode()
    scripts = " ".join(map(hash_source, re.findall(r"<script>(.*?)</script>", html, re.DOTALL)))
    # Swagger UI writes inline styles.
    allowed = f"script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'"
    return Page(html, f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'; {_NOT_IN_FRAMES}")


def _own(name: str) -> str:
    return (files("kilonet.serve") / "page" / name).read_text(encoding="utf-8")
