"""From the images of a request to the JSON of its response, in threads; the answers are those of `kilonet predict`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from queue import LifoQueue
from threading import Lock
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray

from kilonet.data.decode import Picture, decode
from kilonet.data.digits.page import PAGE_SIDE
from kilonet.data.digits.prepare import PreparedImage
from kilonet.models.model import Classifier
from kilonet.models.prediction import Prediction, predictions_of, prepare_images
from kilonet.serve.batching import BatchingPool
from kilonet.serve.bodies import Body, hint_for
from kilonet.serve.decoding import Decoder, ImageFile
from kilonet.serve.limits import MOST_DECODERS, RequestLimits
from kilonet.serve.metrics import Metrics
from kilonet.serve.refusal import Refusal, timed_out, unreadable
from kilonet.utils.capacity import cores
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    import orjson

_MAX_BATCH = 16


class Answers(Enum):
    """What a request is answered with."""

    ONE = "the answer to its one image"
    BATCH = "an answer to each of its images"
    PAGE = "an answer to each digit of its one image"


@dataclass(frozen=True)
class _Job:
    """The images of one request."""

    body: Body
    answers: Answers
    deadline: float


class Answering:
    """Answers the requests for predictions with one model.

    Quick requests share batches in threads of their own, so that they never wait for others, whose files are decoded in
    processes.
    """

    def __init__(self, classifier: Classifier, limits: RequestLimits, metrics: Metrics) -> None:
        """Start no thread and no process yet.

        Args:
            classifier: computes logits; used by several threads at once.
            limits: the limits of a request.
            metrics: counts the answers.
        """
        self.classifier, self.limits = classifier, limits
        self._metrics = metrics
        decoders = min(cores(), MOST_DECODERS)
        self._quick = BatchingPool(self._answer, cores(), _MAX_BATCH)
        self._long = BatchingPool(self._answer, decoders, max_batch=1)
        # As many as threads that need one; the latest used first, so that no more are started than are needed at once.
        self._decoders: LifoQueue[Decoder] = LifoQueue()
        # Large files are decoded one at a time, which bounds the memory of them all.
        self._large = Lock()
        for _ in range(decoders):
            self._decoders.put(Decoder(limits.decoding, evenly=not classifier.reads_digits))

    async def json(self, body: Body, answers: Answers = Answers.ONE) -> bytes:
        """Return the JSON of the answer to one image, or of the answers to a batch or a page.

        Args:
            body: the images of the request.
            answers: what to answer.

        Raises:
            Refusal: an image cannot be read, or the answer takes too long.
        """
        threads = self._quick if body.is_quick else self._long
        return await threads.run(_Job(body, answers, monotonic() + self.limits.seconds))

    def _answer(self, jobs: Sequence[_Job]) -> list[bytes | Exception]:
        prepared = [self._prepare(job) for job in jobs]
        logits = self._logits([image for images in prepared if isinstance(images, list) for image in images])
        answers: list[bytes | Exception] = []
        for images, job in zip(prepared, jobs, strict=True):
            if isinstance(images, Exception):
                answers.append(images)
                continue
            own, logits = logits[: len(images)], logits[len(images) :]
            answers.append(self._predict(own, images, is_list=job.answers is not Answers.ONE))
        return answers

    def _prepare(self, job: _Job) -> list[PreparedImage] | Exception:
        """Return the network's inputs for a job, or why there are none."""
        prepared: list[PreparedImage] = []
        try:
            for image in job.body.images():
                picture = image if isinstance(image, Picture) else self._decode(image, job)
                # The request was refused at its deadline, but a thread cannot be stopped from outside.
                if picture is None or monotonic() > job.deadline:
                    return timed_out(self.limits.seconds)
                prepared += prepare_images(picture, self.classifier, page=job.answers is Answers.PAGE)
        except KilonetError as error:
            return unreadable(str(error))
        except Exception as fault:  # noqa: BLE001 - the fault of this job alone, whose request raises it
            return fault
        return prepared

    def _decode(self, file: ImageFile, job: _Job) -> Picture | None:
        try:
            evenly = not self.classifier.reads_digits
            if job.answers is Answers.PAGE:
                file = replace(file, side=PAGE_SIDE)
            if job.body.is_quick:
                return decode(file.content, file.name, self.limits.decoding, evenly=evenly)
            if not file.is_large(evenly=evenly):
                return self._decode_apart(file, job.deadline)
            if not self._large.acquire(timeout=max(0.0, job.deadline - monotonic())):
                return None
            try:
                return self._decode_apart(file, job.deadline)
            finally:
                self._large.release()
        except KilonetError as error:
            raise KilonetError(f"{error}{hint_for(file.content)}") from None

    def _decode_apart(self, file: ImageFile, deadline: float) -> Picture | None:
        decoder = self._decoders.get()
        try:
            return decoder.decode(file, deadline)
        finally:
            self._decoders.put(decoder)

    def _logits(self, images: Sequence[PreparedImage]) -> NDArray[np.float32]:
        section = self.classifier.section
        if not images:
            return np.empty((0, section.classes), np.float32)
        pixels = np.stack([image.pixels for image in images]).reshape(-1, *section.input_shape)
        logits: NDArray[np.float32] = self.classifier.logits(torch.from_numpy(pixels)).numpy()
        return logits

    def _predict(
        self, logits: NDArray[np.float32], images: Sequence[PreparedImage], *, is_list: bool
    ) -> bytes | Refusal:
        metadata, reads_digits = self.classifier.metadata, self.classifier.reads_digits
        try:
            predictions = predictions_of(logits, images, metadata, digits=reads_digits)
        except KilonetError as error:
            return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        for prediction in predictions:
            self._metrics.prediction(prediction.name)
        return _json(predictions, is_list=is_list)


def _json(predictions: Sequence[Prediction], *, is_list: bool) -> bytes:
    plain = [one.as_json() | {"seen": np.ascontiguousarray(one.pixels)} for one in predictions]
    return orjson.dumps({"answers": plain} if is_list else plain[0], option=orjson.OPT_SERIALIZE_NUMPY)
