"""From the body of a request to images: files as they are, in a form or in JSON, and grey levels in JSON.

Clients often send no content type, or a wrong one, so that the content decides wherever it can.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from math import prod
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from kilonet.data.decode import READABLE, Picture
from kilonet.network.operations import Shape
from kilonet.serve.decoding import ImageFile
from kilonet.serve.forms import FORM, files_of, malformed
from kilonet.serve.limits import RequestLimits
from kilonet.serve.refusal import Refusal, unreadable
from kilonet.serve.schema import COLOURS, batch_schema, file_schema, pixels_schema
from kilonet.utils.extras import needed_from
from kilonet.utils.schema import first_complaint

with needed_from("serve"):
    import orjson

JSON = "application/json"
IMAGES = ("image/png", "image/jpeg", "application/octet-stream")
"""The content types of a file that are documented; all of `image/` are taken."""

_UNSAID = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
"""Content types that say nothing: curl sends the last one with any body."""
_MORE_VALUES, _MOST_QUOTES = 32, 64
"""The most values in JSON beside the pixels, and the most quotes: two for each key and each text."""
_SMALL = 16 << 10

Images = Callable[[], Sequence[ImageFile | Picture]]


@dataclass(frozen=True)
class Body:
    """The images of a request."""

    images: Images
    """Returns them. To be called in a thread, as parsing takes time; raises Refusal."""
    is_quick: bool
    """Whether parsing and decoding take little time, whatever they are."""


class BodyReader:
    """Reads the bodies that a network can answer; `one` and `several` are the schemas of its JSON."""

    def __init__(self, shape: Shape, limits: RequestLimits) -> None:
        """Take bodies for a network of an input shape (channels, rows, columns)."""
        self.limits = limits
        self.pixels, self.file = pixels_schema(shape), file_schema()
        self.several = batch_schema(shape, limits.images)
        self._values = prod(shape)

    def image(self, content_type: str, content: bytes) -> Body:
        """Return the one image of a body.

        Raises:
            Refusal: the content type is none of those that are taken.
        """
        kind = _kind(content_type, content)
        if kind == FORM:
            return Body(lambda: [self._only(files_of(content_type, content, self.limits.images))], is_quick=False)
        if kind == JSON:
            # A file in JSON has a key of its own, so what has not the key has no file.
            is_quick = len(content) <= _SMALL and b'"image"' not in content and b"\\u" not in content
            return Body(partial(self._json_image, content), is_quick)
        file = ImageFile(content)
        return Body(lambda: [file], file.is_quick)

    def file_body(self, content_type: str, content: bytes) -> Body:
        """Return the one file of a body, for an answer that takes a while.

        Raises:
            Refusal: the content type is none of those that are taken.
        """
        if _kind(content_type, content) != JSON:
            return replace(self.image(content_type, content), is_quick=False)
        known = '{"image": "data:image/png;base64,..."}'
        return Body(lambda: [_from_text(_validate(self.file, _parse(content, 1, 1, known)).image)], is_quick=False)

    def images(self, content_type: str, content: bytes) -> Body:
        """Return the images of a body.

        Raises:
            Refusal: the content type is none of those that are taken.
        """
        kind = _kind(content_type, content)
        if kind == FORM:
            return Body(lambda: files_of(content_type, content, self.limits.images), is_quick=False)
        if kind == JSON:
            return Body(partial(self._json_images, content), is_quick=False)
        line = f"one file goes to /predict; send several here as {FORM}, or pixels as {JSON}"
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, line)

    @staticmethod
    def _only(files: Sequence[ImageFile]) -> ImageFile:
        if len(files) > 1:
            raise malformed(f"{len(files)} files in the form; /predict takes one, /predict/batch several")
        return files[0]

    def _json_image(self, content: bytes) -> Sequence[ImageFile | Picture]:
        known = '{"pixels": rows} or {"image": "data:image/png;base64,..."}'
        fields = _parse(content, 1, self._values, known)
        if "image" in fields:
            return [_from_text(_validate(self.file, fields).image)]
        return [from_pixels(_validate(self.pixels, fields).pixels)]

    def _json_images(self, content: bytes) -> Sequence[ImageFile | Picture]:
        known = f'{{"images": [rows, ...]}}, or files as {FORM}'
        fields = _parse(content, self.limits.images, self._values, known)
        return [from_pixels(rows) for rows in _validate(self.several, fields).images]


def from_pixels(rows: Sequence[Any]) -> Picture:
    """Return the picture of levels, 0 to 255: rows of grey ones, rows of colours, or three channels of rows.

    Raises:
        Refusal: the levels are from 0 to 1.
    """
    levels = np.array(rows, np.uint8)
    if levels.max() == 1:
        raise unreadable(f"no level in pixels is over 1; {_LEVELS}")
    if levels.ndim == 2:
        return Picture(levels.astype(np.float32)[:, :, None], levels)
    return Picture(levels if levels.shape[2] == COLOURS else levels.transpose(1, 2, 0), None)


_LEVELS = "levels are whole numbers from 0 to 255: multiply those from 0 to 1 by 255 and round them"


def _kind(content_type: str, content: bytes) -> str:
    """Return FORM, JSON or, for a file, 'image'."""
    media_type = content_type.split(";", maxsplit=1)[0].strip().lower()
    if media_type == FORM:
        return FORM
    if media_type in (JSON, "text/json") or (media_type in _UNSAID and content.lstrip()[:1] == b"{"):
        return JSON
    if media_type in _UNSAID or media_type.startswith("image/"):
        return "image"
    line = (
        f"the content type is '{media_type[:100]}'; send a {READABLE} file as image/png and so on, "
        f"files in a form as {FORM}, or pixels as {JSON}"
    )
    raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, line)


def _parse(content: bytes, images: int, values: int, known: str) -> dict[str, Any]:
    """Return the fields of a JSON object with at most so many images of so many values; `known` shows what to send."""
    if content.count(b",") > images * values + _MORE_VALUES or content.count(b'"') > _MOST_QUOTES:
        # Before it is parsed, which takes many times the memory of the text.
        raise unreadable(f"more values or keys than at most {images} image(s) of {values} pixels have; send {known}")
    try:
        fields = orjson.loads(content)
    except ValueError as error:
        raise unreadable(f"not JSON: {error}; send {known}") from None
    if not isinstance(fields, dict) or not fields:
        raise unreadable(f"not an object with a key; send {known}")
    return fields


def _validate(schema: type[BaseModel], fields: dict[str, Any]) -> Any:
    unknown = [key for key in fields if key not in schema.model_fields]
    if unknown:
        raise unreadable(f"{unknown[0][:100]}: unknown key; send {', '.join(schema.model_fields)} alone")
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        level = error.errors(include_url=False)[0]["input"]
        hint = f"; {_LEVELS}" if isinstance(level, float) and 0 < level < 1 else ""
        raise unreadable(f"{first_complaint(error)}{hint}") from None


def _from_text(text: str) -> ImageFile:
    """Return the file in a data URL, or in base64 alone."""
    head, comma, data = text.partition(",") if text.startswith("data:") else (";base64", ",", text)
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return ImageFile(base64.b64decode("".join(data.split()), validate=True))
    except ValueError:
        raise unreadable("image: not a data URL in base64, such as data:image/png;base64,...") from None


def hint_for(content: bytes) -> str:
    """Return the end of the message about a file that is no image: what it seems to be, and how to send that."""
    start = content[:100].lstrip()
    if not content:
        return "; the body is empty: send the file's bytes, as curl --data-binary @photo.png does"
    if start.startswith(b"\x89PNG") and not start.startswith(b"\x89PNG\r\n"):
        return "; its line ends were changed on the way: curl needs --data-binary instead of -d"
    if start.startswith((b"{", b"[")):
        return f"; it looks like JSON: send it as {JSON}"
    if start.startswith(b"--"):
        return f"; it looks like a form: send it as {FORM}, with its boundary"
    if start.startswith(b"data:") or re.fullmatch(rb"[A-Za-z0-9+/]{40,}={0,2}\s*", content[:100]):
        return '; it looks like a file as text: send it as JSON, {"image": "data:image/png;base64,..."}'
    return ""
