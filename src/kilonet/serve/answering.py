"""From the content of a request to the JSON of its answer, in a pool of threads, as `kilonet predict` answers."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from kilonet.errors import KilonetError
from kilonet.model import Classifier
from kilonet.preprocess.decode import Picture, decode
from kilonet.preprocess.sight import Sight
from kilonet.reading import Answer, answers, sights_of
from kilonet.serve.limits import Limits
from kilonet.serve.metrics import Metrics
from kilonet.serve.refusal import late, refused_image
from kilonet.ship.extras import needed_from

with needed_from("serve"):
    import orjson

Image = Callable[[], Picture]
"""Decodes when it is called, which is in the pool."""
_Schema = TypeVar("_Schema", bound=BaseModel)


def from_file(content: bytes, limits: Limits, name: str = "the image") -> Image:
    """Read an image from the bytes of a PNG or JPEG file; messages call it by the name."""
    return lambda: decode(content, name, limits.decoding)


def from_pixels(rows: Sequence[Sequence[int]]) -> Image:
    """Read an image from grey levels, 0 to 255, rows of one length."""
    grey = np.array(rows, np.uint8)
    return lambda: Picture(grey.astype(np.float32)[:, :, None], grey)


class Answering:
    """One model, its pool of threads, and what it counts."""

    def __init__(self, engine: Classifier, limits: Limits, metrics: Metrics) -> None:
        """Start no thread yet.

        Args:
            engine: what computes logits, from several threads at once.
            limits: how long an answer may take.
            metrics: where answers are counted.
        """
        self.engine, self.limits = engine, limits
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(os.cpu_count(), "kilonet-answering")

    def close(self) -> None:
        """Wait for what is being answered."""
        self._pool.shutdown()

    async def one(self, image: Callable[[], Image]) -> bytes:
        """Return the JSON of one answer.

        Args:
            image: makes the image of the request's content; called in the pool, as all that takes time is.

        Raises:
            Refusal: the image cannot be read, or not in time.
        """
        deadline = monotonic() + self.limits.seconds
        return await self._in_pool(lambda: _json(self._answers([image()], deadline)[0]))

    async def batch(self, images: Callable[[], Sequence[Image]]) -> bytes:
        """Return the JSON of the answers to several images, all or none.

        Raises:
            Refusal: one of them cannot be read, or not in time.
        """
        deadline = monotonic() + self.limits.seconds
        return await self._in_pool(lambda: _json({"answers": self._answers(images(), deadline)}))

    async def _in_pool(self, job: Callable[[], bytes]) -> bytes:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, job)
        except ValidationError as error:
            raise refused_image(_first_complaint(error)) from None
        except KilonetError as error:
            raise refused_image(str(error)) from None

    def _answers(self, images: Sequence[Image], deadline: float) -> list[Answer]:
        sights: list[Sight] = []
        for image in images:
            # Nobody waits any more for what is late, and a thread cannot be stopped from outside.
            if monotonic() > deadline:
                raise late(self.limits.seconds)
            sights += sights_of(image(), self.engine, "the image")
        pixels = np.stack([sight.pixels for sight in sights]).reshape(-1, *self.engine.section.input_shape)
        logits: NDArray[np.float32] = self.engine.logits(torch.from_numpy(pixels)).numpy()
        said = answers(sights, logits, self.engine.notes, digits=self.engine.reads_digits)
        for answer in said:
            self._metrics.prediction(answer.name)
        return said


def parsed(schema: type[_Schema], content: bytes) -> _Schema:
    """Read JSON.

    Raises:
        ValidationError: it is none, or does not fit the schema.
    """
    return schema.model_validate_json(content)


def _json(value: object) -> bytes:
    return orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS)


def _plain(answer: object) -> dict[str, object]:
    if not isinstance(answer, Answer):
        raise TypeError
    return answer.as_json() | {"seen": np.ascontiguousarray(answer.seen)}


def _first_complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
