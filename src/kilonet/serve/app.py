"""The routes of the service and their OpenAPI descriptions."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kilonet.models.model import Classifier
from kilonet.serve import pages
from kilonet.serve.access import ANYBODY, Access
from kilonet.serve.answering import Answering, Answers
from kilonet.serve.bodies import IMAGES, JSON, BodyReader
from kilonet.serve.forms import FORM
from kilonet.serve.gate import HEALTH, Gate
from kilonet.serve.limits import RequestLimits
from kilonet.serve.metrics import Metrics
from kilonet.serve.refusal import Refusal
from kilonet.serve.schema import (
    BatchResponse,
    ErrorResponse,
    HealthResponse,
    ModelFacts,
    PredictionResponse,
)
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
    from starlette.datastructures import Headers
    from starlette.exceptions import HTTPException

_DESCRIPTIONS = {
    400: "The request is malformed",
    408: "The body arrived too slowly",
    413: "The body is too long",
    415: "The media type is not supported",
    421: "The request names a host that this service does not answer to",
    422: "The image cannot be read: damaged, over a limit, of another size, or not an image",
    500: "The service failed",
    503: "Too many requests at once, or no answer in time; try again",
}
_ANY_ROUTE = (408, 413, 421, 500, 503)
_WITH_BODY = (400, 415, 422)
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def application(
    classifier: Classifier, facts: ModelFacts, limits: RequestLimits, metrics: Metrics, access: Access = ANYBODY
) -> Gate:
    """Return the whole service as an ASGI application.

    Args:
        classifier: computes logits; used by several threads at once.
        facts: what the service says about the model.
        limits: the limits of a request.
        metrics: counts requests and answers.
        access: who is answered.
    """
    app = FastAPI(
        title=f"Kilonet: {facts.name}",
        version=facts.kilonet,
        description=_description(facts, limits),
        docs_url=None,
        redoc_url=None,
        # Relative to the document's own address, which a proxy may have moved below a path.
        servers=[{"url": "."}],
        exception_handlers={Refusal: _refused, HTTPException: _http_error, Exception: _failed},
    )
    _add_predictions(app, Answering(classifier, limits, metrics))
    _add_information(app, facts, metrics)
    _add_pages(app, facts)
    return Gate(app, limits, metrics, (route.path for route in app.routes if hasattr(route, "path")), access)


def _add_predictions(app: FastAPI, answering: Answering) -> None:
    limits = answering.limits
    reader = BodyReader(answering.classifier.section.input_shape, limits)
    one = _either(reader.pixels.model_json_schema(), reader.file.model_json_schema())
    several = reader.several.model_json_schema()

    @app.post(
        "/predict",
        **_documented(
            PredictionResponse,
            _ANY_ROUTE + _WITH_BODY,
            _body({**dict.fromkeys(IMAGES, _BINARY), **_form(1)}, one),
        ),
    )
    async def predict(request: Request) -> Response:
        """Classify one image: an image file as it is, in a form or as a data URL in JSON; or grey levels."""
        body = reader.image(request.headers.get("content-type", ""), await request.body())
        return Response(await answering.json(body), media_type=JSON)

    if answering.classifier.reads_digits:

        @app.post(
            "/predict/page",
            **_documented(
                BatchResponse,
                _ANY_ROUTE + _WITH_BODY,
                _body({**dict.fromkeys(IMAGES, _BINARY), **_form(1)}, reader.file.model_json_schema()),
            ),
        )
        async def predict_page(request: Request) -> Response:
            """Read all digits of a page or form, row by row: an image file as it is, in a form or in JSON."""
            body = reader.file_body(request.headers.get("content-type", ""), await request.body())
            return Response(await answering.json(body, answers=Answers.PAGE), media_type=JSON)

    @app.post(
        "/predict/batch", **_documented(BatchResponse, _ANY_ROUTE + _WITH_BODY, _body(_form(limits.images), several))
    )
    async def predict_batch(request: Request) -> Response:
        """Classify several images: files in a form, or grey levels as JSON. All of them are answered or none is."""
        body = reader.images(request.headers.get("content-type", ""), await request.body())
        return Response(await answering.json(body, answers=Answers.BATCH), media_type=JSON)


def _add_information(app: FastAPI, facts: ModelFacts, metrics: Metrics) -> None:
    @app.get(HEALTH, **_documented(HealthResponse, _ANY_ROUTE))
    async def health() -> Response:
        """Confirm that the service answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/model", **_documented(ModelFacts, _ANY_ROUTE))
    async def model() -> Response:
        """Describe the model."""
        return Response(facts.model_dump_json(), media_type=JSON)

    text: dict[int | str, dict[str, Any]] = {
        200: {"description": "All metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @app.get("/metrics", response_class=Response, responses=text | _errors(_ANY_ROUTE))
    async def prometheus(request: Request) -> Response:
        """Return all metrics in a text format of Prometheus."""
        content, media_type = metrics.render(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": media_type})


def _add_pages(app: FastAPI, facts: ModelFacts) -> None:
    front = pages.front_page(facts)
    docs = pages.docs_page("openapi.json", app.title)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _page_response(front) if front else RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    async def interface() -> Response:
        return _page_response(docs)

    for name, media_type in pages.SWAGGER_FILES.items():
        app.add_route(f"/docs/{name}", _file_route(pages.SWAGGER / name, media_type), include_in_schema=False)


def _file_route(path: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return FileResponse(path, media_type=media_type)

    return send


def _page_response(page: pages.Page) -> Response:
    return HTMLResponse(page.html, headers={"content-security-policy": page.policy, "cache-control": "no-cache"})


def _documented(model: type[Any], errors: tuple[int, ...], body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "response_model": model,
        "responses": _errors(errors),
        "openapi_extra": None if body is None else {"requestBody": body},
    }


def _errors(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": _DESCRIPTIONS[status]} for status in sorted(statuses)}


def _body(content: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {**content, JSON: {"schema": schema}}}


def _either(*schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with the property of one of several objects, which tools handle best."""
    properties = {name: schema for one in schemas for name, schema in one["properties"].items()}
    counts = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    return {"type": "object", "properties": properties, **counts}


def _form(most: int) -> dict[str, Any]:
    files = {"type": "array", "items": _BINARY["schema"], "minItems": 1, "maxItems": most}
    schema = {
        "type": "object",
        "properties": {"files": files},
        "required": ["files"],
        "additionalProperties": False,
    }
    return {FORM: {"schema": schema}}


def _description(facts: ModelFacts, limits: RequestLimits) -> str:
    channels, rows, columns = facts.input
    return (
        f"Classifies images by a network of {facts.parameters:,} parameters with an input of {rows}x{columns} pixels "
        f"in {channels} channel(s). Limits: {limits.bytes:,} bytes a body, {limits.pixels:,} pixels an image, "
        f"{limits.images} images a batch, {limits.requests} requests at once, {limits.seconds:g} s an answer."
    )


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)  # noqa: S101 - narrows the type that it is registered for
    return JSONResponse({"error": refusal.line}, refusal.status, refusal.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - narrows the type that it is registered for
    line, path = str(error.detail), request.url.path[:100]
    if error.status_code == HTTPStatus.NOT_FOUND:
        line = f"there is no {path}; /docs lists all paths"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        line = f"{path} does not take {request.method}; send {Headers(error.headers or {})['allow']}"
    return JSONResponse({"error": line}, error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the service failed: {type(error).__name__}"}, HTTPStatus.INTERNAL_SERVER_ERROR)
