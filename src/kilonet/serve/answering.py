"""From the content of a request to the JSON of its response, in threads; the answers are those of `kilonet predict`."""

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
from kilonet.models.prediction import Prediction, predictions_of, prepare_images
from kilonet.serve.batching import BatchingPool
from kilonet.serve.limits import RequestLimits
from kilonet.serve.metrics import Metrics
from kilonet.serve.refusal import Refusal, timed_out, unreadable
from kilonet.utils.environment import cores
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from
from kilonet.utils.schema import first_complaint

with needed_from("serve"):
    import orjson

LazyImage = Callable[[], Picture]
"""Decodes an image when it is called, which happens in a thread."""
_SMALL = 16 << 10
"""Requests of at most so many bytes may be computed together: each of them waits for the whole batch."""
_MAX_BATCH = 16


def from_file(content: bytes, limits: RequestLimits, name: str = "the image") -> LazyImage:
    """Return an image that will be decoded from the bytes of a PNG or JPEG file; error messages call it by the name."""
    return lambda: decode(content, name, limits.decoding)


def from_pixels(rows: Sequence[Sequence[float]]) -> LazyImage:
    """Return an image of grey levels, 0 to 255, in rows of one length."""
    grey = np.array(rows, np.uint8)
    return lambda: Picture(grey.astype(np.float32)[:, :, None], grey)


@dataclass(frozen=True)
class _Job:
    """The images of one request."""

    images: Callable[[], Sequence[LazyImage]]
    size: int
    is_batch: bool
    deadline: float


class Answering:
    """Answers the requests for predictions with one model, in threads."""

    def __init__(self, classifier: Classifier, limits: RequestLimits, metrics: Metrics) -> None:
        """Start no thread yet.

        Args:
            classifier: computes logits; used by several threads at once.
            limits: the time that an answer may take.
            metrics: counts the answers.
        """
        self.classifier, self.limits = classifier, limits
        self._metrics = metrics
        self._threads = BatchingPool(self._answer, lambda job: job.size <= _SMALL, cores(), _MAX_BATCH)

    async def json(self, images: Callable[[], Sequence[LazyImage]], size: int, *, is_batch: bool) -> bytes:
        """Return the JSON of the answer to one image, or of the answers to a batch.

        Args:
            images: returns the images of the request; called in a thread, because parsing takes time too.
            size: the bytes of the request's body.
            is_batch: whether to return a list of answers.

        Raises:
            Refusal: an image cannot be read, or the answer takes too long.
        """
        return await self._threads.run(_Job(images, size, is_batch, monotonic() + self.limits.seconds))

    def _answer(self, jobs: Sequence[_Job]) -> list[bytes | Exception]:
        prepared = [self._prepare(job) for job in jobs]
        readable = [image for images in prepared if isinstance(images, list) for image in images]
        predictions = iter(self._predict(readable))
        return [
            images if isinstance(images, Exception) else _json(list(islice(predictions, len(images))), job.is_batch)
            for images, job in zip(prepared, jobs, strict=True)
        ]

    def _prepare(self, job: _Job) -> list[PreparedImage] | Refusal:
        """Return the network's inputs for a job, or why there are none."""
        prepared: list[PreparedImage] = []
        try:
            for image in job.images():
                # The request was refused at its deadline, but a thread cannot be stopped from outside.
                if monotonic() > job.deadline:
                    return timed_out(self.limits.seconds)
                prepared += prepare_images(image(), self.classifier, "the image")
        except ValidationError as error:
            return unreadable(first_complaint(error))
        except KilonetError as error:
            return unreadable(str(error))
        return prepared

    def _predict(self, images: Sequence[PreparedImage]) -> list[Prediction]:
        if not images:
            return []
        pixels = np.stack([image.pixels for image in images]).reshape(-1, *self.classifier.section.input_shape)
        logits: NDArray[np.float32] = self.classifier.logits(torch.from_numpy(pixels)).numpy()
        predictions = predictions_of(logits, images, self.classifier.metadata, digits=self.classifier.reads_digits)
        for prediction in predictions:
            self._metrics.prediction(prediction.name)
        return predictions


def _json(predictions: Sequence[Prediction], is_batch: bool) -> bytes:
    plain = [one.as_json() | {"seen": np.ascontiguousarray(one.pixels)} for one in predictions]
    return orjson.dumps({"answers": plain} if is_batch else plain[0], option=orjson.OPT_SERIALIZE_NUMPY)
