"""The pages of the service: one to draw a digit or upload a photo, and the interactive documentation of the API."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kilonet.export.html.page import (
    FIELD_SIZE,
    PageContent,
    PageFacts,
    assemble_page,
    content_security_policy,
    footer_facts,
    hash_source,
    page_source,
)
from kilonet.serve.schema import ModelFacts
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import fastapi_offline
    from fastapi.openapi.docs import get_swagger_ui_html

SWAGGER = Path(fastapi_offline.__file__).parent / "static"
"""The folder of Swagger UI's script and style sheet, served from here instead of from another host."""
SWAGGER_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
SCRIPTS = ("drawing.js", "served.js", "app.js")
_NOT_IN_FRAMES = "frame-ancestors 'none'"


@dataclass(frozen=True)
class Page:
    """A page and its Content-Security-Policy."""

    html: str
    policy: str
    """The value of the header Content-Security-Policy."""


def drawing_page(model: ModelFacts) -> Page:
    """Return the page to draw on, which sends its drawings to this service."""
    accuracy = None if model.accuracy is None else model.accuracy.share
    content = PageContent(
        name=model.name,
        lead=f"Or choose a photo of one. A neural network of {model.parameters:,} parameters reads it.",
        caption=f"The digit in {FIELD_SIZE} grey pixels, scaled and centred like the digits of MNIST.",
        facts=[
            *footer_facts(PageFacts(model.name, model.parameters, accuracy)),
            ("Interface", '<a href="docs">OpenAPI</a>'),
        ],
        scripts=[_own(name) if name == "served.js" else page_source(name) for name in SCRIPTS],
        style=page_source("page.css") + _own("served.css"),
        tools=_own("tools.html"),
        requests=True,
    )
    return Page(assemble_page(content), f"{content_security_policy(content)}; {_NOT_IN_FRAMES}")


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
