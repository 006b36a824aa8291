"""The routes, and what they say of themselves."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from kilonet.models.model import Classifier
from kilonet.serve import pages
from kilonet.serve.answering import Answering, Image, from_file, from_pixels
from kilonet.serve.gate import Gate
from kilonet.serve.limits import Limits
from kilonet.serve.metrics import Metrics
from kilonet.serve.refusal import Refusal, refused_image
from kilonet.serve.schema import Answer, Answers, Card, Error, Health, batch_schema, pixels_schema
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
    from starlette.datastructures import Headers, UploadFile
    from starlette.exceptions import HTTPException

IMAGES = ("image/png", "image/jpeg")
JSON = "application/json"
FORM = "multipart/form-data"
_LINES = {
    400: "What was sent is malformed",
    408: "The body was too slow",
    413: "The body is too long",
    415: "Not a media type that is read here",
    422: "The image cannot be read: damaged, over a limit, of another size, or no image",
    500: "A fault of the service",
    503: "Too many requests at once, or no answer in time; try again",
}
_ALWAYS = (408, 413, 500, 503)
_READING = (400, 415, 422)
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def application(engine: Classifier, card: Card, limits: Limits, metrics: Metrics) -> Gate:
    """Return the whole service as an ASGI application.

    Args:
        engine: what computes logits, from several threads at once.
        card: what is known of the model.
        limits: what a request may cost.
        metrics: where it counts.
    """
    app = FastAPI(
        title=f"Kilonet: {card.name}",
        version=card.kilonet,
        description=_description(card, limits),
        docs_url=None,
        redoc_url=None,
        exception_handlers={Refusal: _refused, HTTPException: _failed, Exception: _broken},
    )
    _add_prediction(app, Answering(engine, limits, metrics))
    _add_knowledge(app, card, metrics)
    _add_pages(app, card)
    return Gate(app, limits, metrics, (route.path for route in app.routes if hasattr(route, "path")))


def _add_prediction(app: FastAPI, answering: Answering) -> None:
    limits, shape = answering.limits, answering.engine.section.input_shape
    single, several = pixels_schema(shape), batch_schema(shape, limits.images)

    def image_of(kind: str, content: bytes) -> list[Image]:
        return [from_file(content, limits) if kind in IMAGES else from_pixels(_only(single, content))]

    def images_of(content: bytes) -> list[Image]:
        return [from_pixels(rows) for rows in _only(several, content)]

    @app.post("/predict", **_documented(Answer, _ALWAYS + _READING, _body(dict.fromkeys(IMAGES, _BINARY), single)))
    async def predict(request: Request) -> Response:
        """Classify one image: the bytes of a PNG or JPEG file, or grey levels as JSON."""
        kind = _kind(request, (*IMAGES, JSON))
        content = await request.body()
        json = await answering.json(partial(image_of, kind, content), len(content), is_batch=False)
        return Response(json, media_type=JSON)

    @app.post("/predict/batch", **_documented(Answers, _ALWAYS + _READING, _body(_form(limits), several)))
    async def predict_batch(request: Request) -> Response:
        """Classify several images: files in a form, or grey levels as JSON. All are answered, or none."""
        content = await request.body()
        if _kind(request, (FORM, JSON)) == JSON:
            images = partial(images_of, content)
        else:
            files = [from_file(content, limits, name) for name, content in await _files(request, limits)]
            images = partial(list, files)
        return Response(await answering.json(images, len(content), is_batch=True), media_type=JSON)


def _add_knowledge(app: FastAPI, card: Card, metrics: Metrics) -> None:
    @app.get("/health", **_documented(Health, _ALWAYS))
    async def health() -> Response:
        """Tell that the service answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/model", **_documented(Card, _ALWAYS))
    async def model() -> Response:
        """Tell what is known of the model."""
        return Response(card.model_dump_json(), media_type=JSON)

    text: dict[int | str, dict[str, Any]] = {
        200: {"description": "All counts", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @app.get("/metrics", response_class=Response, responses=text | _errors(_ALWAYS))
    async def counts(request: Request) -> Response:
        """Tell what was counted, as Prometheus reads it."""
        content, media_type = metrics.shown(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": media_type})


def _add_pages(app: FastAPI, card: Card) -> None:
    drawing = pages.drawing_page(card) if card.reads_digits else None
    docs = pages.docs_page("/openapi.json", app.title)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _shown(drawing) if drawing else RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def interface() -> Response:
        return _shown(docs)

    for name, media_type in pages.SWAGGER_FILES.items():
        file = partial(FileResponse, pages.SWAGGER / name, media_type=media_type)
        app.add_route(f"/docs/{name}", _sender(file), include_in_schema=False)


def _sender(file: Any) -> Any:
    async def send(_: Request) -> Response:
        response: Response = file()
        return response

    return send


def _shown(page: pages.Page) -> Response:
    return HTMLResponse(page.html, headers={"content-security-policy": page.policy, "cache-control": "no-cache"})


def _kind(request: Request, allowed: tuple[str, ...]) -> str:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in allowed:
        named = f"'{kind[:100]}'" if kind else "missing"
        line = f"the content type is {named}; send {', '.join(allowed[:-1])} or {allowed[-1]}"
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, line)
    return kind


async def _files(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Return name and content of each file in a form."""
    async with request.form(max_files=limits.images, max_fields=0, max_part_size=limits.bytes) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise refused_image("no file in the form; send at least one")
        return [(f"'{(file.filename or '')[:100]}'", await file.read()) for file in files]


def _only(schema: type[BaseModel], content: bytes) -> Any:
    """Return the value of a schema's one field, or raise pydantic's ValidationError."""
    (name,) = schema.model_fields
    return getattr(schema.model_validate_json(content), name)


def _documented(model: type[Any], refusals: tuple[int, ...], body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "response_model": model,
        "responses": _errors(refusals),
        "openapi_extra": None if body is None else {"requestBody": body},
    }


def _errors(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error, "description": _LINES[status]} for status in sorted(statuses)}


def _body(content: Mapping[str, Any], schema: type[Any]) -> dict[str, Any]:
    return {"required": True, "content": {**content, JSON: {"schema": schema.model_json_schema()}}}


def _form(limits: Limits) -> dict[str, Any]:
    files = {"type": "array", "items": _BINARY["schema"], "minItems": 1, "maxItems": limits.images}
    schema = {
        "type": "object",
        "properties": {"files": files},
        "required": ["files"],
        "additionalProperties": False,
    }
    return {FORM: {"schema": schema}}


def _description(card: Card, limits: Limits) -> str:
    channels, rows, columns = card.input
    return (
        f"Reads images with a network of {card.parameters:,} parameters, which takes {rows}x{columns} pixels in "
        f"{channels} channel(s). Bodies have at most {limits.bytes:,} bytes, images {limits.pixels:,} pixels, batches "
        f"{limits.images} images; {limits.requests} requests are answered at once, each within {limits.seconds:g} s."
    )


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)  # noqa: S101 - narrows the type that it is registered for
    return JSONResponse({"error": refusal.line}, refusal.status, refusal.headers)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - narrows the type that it is registered for
    line, path = str(error.detail), request.url.path[:100]
    if error.status_code == HTTPStatus.NOT_FOUND:
        line = f"there is no {path}; /docs lists what there is"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        line = f"{path} takes no {request.method}; send {Headers(error.headers or {})['allow']}"
    return JSONResponse({"error": line}, error.status_code, error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"a fault of the service: {type(error).__name__}"}, HTTPStatus.INTERNAL_SERVER_ERROR)
