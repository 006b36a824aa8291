"""From the content of a request to the JSON of its answer, in threads, as `kilonet predict` answers."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from kilonet.data.decode import Picture, decode
from kilonet.data.digits.prepare import PreparedImage
from kilonet.models.model import Classifier
from kilonet.models.prediction import Answer, answers, prepare_images
from kilonet.serve.limits import Limits
from kilonet.serve.metrics import Metrics
from kilonet.serve.refusal import Refusal, late, refused_image
from kilonet.serve.together import Together
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.schema import first_complaint

with needed_from("serve"):
    import orjson

Image = Callable[[], Picture]
"""Decodes when it is called, which is in a thread."""
_SMALL = 16 << 10
"""Bytes of a request that may be answered together with others: those wait for it."""
_MOST_TOGETHER = 16


def from_file(content: bytes, limits: Limits, name: str = "the image") -> Image:
    """Read an image from the bytes of a PNG or JPEG file; messages call it by the name."""
    return lambda: decode(content, name, limits.decoding)


def from_pixels(rows: Sequence[Sequence[float]]) -> Image:
    """Read an image from grey levels, 0 to 255, rows of one length."""
    grey = np.array(rows, np.uint8)
    return lambda: Picture(grey.astype(np.float32)[:, :, None], grey)


@dataclass(frozen=True)
class _Request:
    images: Callable[[], Sequence[Image]]
    size: int
    is_batch: bool
    deadline: float


class Answering:
    """One model, its threads, and what it counts."""

    def __init__(self, engine: Classifier, limits: Limits, metrics: Metrics) -> None:
        """Start no thread yet.

        Args:
            engine: what computes logits, from several threads at once.
            limits: how long an answer may take.
            metrics: where answers are counted.
        """
        self.engine, self.limits = engine, limits
        self._metrics = metrics
        self._threads = Together(self._answer, lambda one: one.size <= _SMALL, os.cpu_count() or 1, _MOST_TOGETHER)

    async def json(self, images: Callable[[], Sequence[Image]], size: int, *, is_batch: bool) -> bytes:
        """Return the JSON of the answer to one image, or to all images of a batch.

        Args:
            images: makes the images of the request's content; called in a thread, as all that takes time is.
            size: bytes of that content.
            is_batch: whether the answers are to stand in a list.

        Raises:
            Refusal: an image cannot be read, or not in time.
        """
        return await self._threads.result(_Request(images, size, is_batch, monotonic() + self.limits.seconds))

    def _answer(self, requests: Sequence[_Request]) -> list[bytes | Exception]:
        seen = [self._seen(request) for request in requests]
        said = iter(self._said([sight for sights in seen if isinstance(sights, list) for sight in sights]))
        return [
            sights if isinstance(sights, Exception) else _json(list(islice(said, len(sights))), request.is_batch)
            for sights, request in zip(seen, requests, strict=True)
        ]

    def _seen(self, request: _Request) -> list[PreparedImage] | Refusal:
        """Return what is shown to the network, or why nothing is."""
        sights: list[PreparedImage] = []
        try:
            for image in request.images():
                # Nobody waits any more for what is late, and a thread cannot be stopped from outside.
                if monotonic() > request.deadline:
                    return late(self.limits.seconds)
                sights += prepare_images(image(), self.engine, "the image")
        except ValidationError as error:
            return refused_image(first_complaint(error))
        except KilonetError as error:
            return refused_image(str(error))
        return sights

    def _said(self, sights: Sequence[PreparedImage]) -> list[Answer]:
        if not sights:
            return []
        pixels = np.stack([sight.pixels for sight in sights]).reshape(-1, *self.engine.section.input_shape)
        logits: NDArray[np.float32] = self.engine.logits(torch.from_numpy(pixels)).numpy()
        said = answers(sights, logits, self.engine.metadata, digits=self.engine.reads_digits)
        for answer in said:
            self._metrics.prediction(answer.name)
        return said


def _json(said: Sequence[Answer], is_batch: bool) -> bytes:
    plain = [answer.as_json() | {"seen": np.ascontiguousarray(answer.seen)} for answer in said]
    return orjson.dumps({"answers": plain} if is_batch else plain[0], option=orjson.OPT_SERIALIZE_NUMPY)
