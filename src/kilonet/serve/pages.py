"""The pages that the service shows: one to draw on and to give photos to, and the one of its interface."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kilonet.export.html.page import FIELD, Claim, Parts, assemble, facts, part, policy, source_of
from kilonet.serve.schema import Card
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import fastapi_offline
    from fastapi.openapi.docs import get_swagger_ui_html

SWAGGER = Path(fastapi_offline.__file__).parent / "static"
"""Swagger UI's script and style, so that no page asks another host for them."""
SWAGGER_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
SCRIPTS = ("drawing.js", "served.js", "app.js")
_NEVER_FRAMED = "frame-ancestors 'none'"


@dataclass(frozen=True)
class Page:
    """A page, and what it may do."""

    html: str
    policy: str
    """The value of its header Content-Security-Policy."""


def drawing_page(card: Card) -> Page:
    """Return the page to draw on; its reader is this service."""
    accuracy = None if card.accuracy is None else card.accuracy.share
    parts = Parts(
        name=card.name,
        lead=f"Or choose a photo of one. A neural network of {card.parameters:,} parameters reads it.",
        caption=f"The digit as the service lays it out: {FIELD} grey pixels, like those it learnt from.",
        facts=[*facts(Claim(card.name, card.parameters, accuracy)), ("Interface", '<a href="docs">OpenAPI</a>')],
        scripts=[_own(name) if name == "served.js" else part(name) for name in SCRIPTS],
        style=part("page.css") + _own("served.css"),
        tools=_own("tools.html"),
        requests=True,
    )
    return Page(assemble(parts), f"{policy(parts)}; {_NEVER_FRAMED}")


def docs_page(openapi: str, title: str) -> Page:
    """Return Swagger UI's page of an interface.

    Args:
        openapi: where its description is.
        title: what the page is called.
    """
    response = get_swagger_ui_html(
        openapi_url=openapi,
        title=title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    html = bytes(response.body).decode()
    scripts = " ".join(map(source_of, re.findall(r"<script>(.*?)</script>", html, re.DOTALL)))
    # Swagger UI writes styles into its elements.
    allowed = f"script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'"
    return Page(html, f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'; {_NEVER_FRAMED}")


def _own(name: str) -> str:
    return (files("kilonet.serve") / "page" / name).read_text(encoding="utf-8")
